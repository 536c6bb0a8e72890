"""The log as it is written: in order, committed before it is shown, whatever the store does."""

from __future__ import annotations

import asyncio

import pytest

from pool.errors import Conflict, StoreUnavailable
from pool.model import BEGINNING, Cursor
from pool.store.base import AppendEvents, PatchInstance, PatchSession
from tests.pool.runtime.conftest import ALICE
from tests.pool.runtime.tape import Tape
from tests.pool.runtime.test_replay import LINES


async def test_a_servers_event_is_shown_only_when_it_is_stored() -> None:
    tape = Tape()
    await tape.begin()
    tape.store.gate.clear()
    tape.own()
    tape.log.flush()
    await asyncio.sleep(0)
    assert tape.live.frames == []
    tape.store.gate.set()
    await tape.log.settled()
    assert [frame["type"] for frame in tape.live.frames] == ["turn"]
    assert tape.store.events


async def test_nothing_is_shown_before_what_stands_before_it() -> None:
    tape = Tape()
    await tape.begin()
    tape.output(LINES["delta"])
    tape.store.gate.clear()
    tape.own()
    tape.output(LINES["delta"])
    tape.own()
    tape.output(LINES["whole"])
    await asyncio.sleep(0)
    assert [frame["type"] for frame in tape.live.frames] == ["event"]
    tape.store.gate.set()
    await tape.log.settled()
    assert [frame["type"] for frame in tape.live.frames] == ["event", "turn", "event", "turn", "event"]
    assert tape.live.cursors == sorted(tape.live.cursors)


async def test_durable_lines_and_the_offset_are_in_the_same_commit_as_the_event_behind_them() -> None:
    tape = Tape()
    await tape.begin()
    tape.output(LINES["whole"])
    tape.own()
    await tape.log.settled()
    (commit,) = [commit for commit in tape.store.commits if any(isinstance(o, AppendEvents) for o in commit)]
    (entries,) = [operation.entries for operation in commit if isinstance(operation, AppendEvents)]
    end = len(LINES["whole"])
    assert [entry.cursor for entry in entries] == [Cursor(1, end, 0), Cursor(1, end, 1)]
    assert PatchInstance(tape.instance_id, {"offset": end}) in commit
    assert PatchSession(ALICE, {"position": Cursor(1, end, 1)}) in commit


async def test_a_store_that_fails_and_then_works_loses_nothing() -> None:
    tape = Tape()
    await tape.begin()
    tape.store.fail(3)
    tape.own()
    tape.output(LINES["delta"])
    await tape.log.settled()
    assert [frame["type"] for frame in tape.live.frames] == ["turn", "event"]
    assert len(tape.store.events) == 1


async def test_one_operation_that_contradicts_the_store_does_not_stop_the_others() -> None:
    tape = Tape()
    await tape.begin()
    tape.store.failures = [Conflict("twice"), StoreUnavailable("locked"), Conflict("twice")]
    tape.own()
    tape.own()
    async with asyncio.timeout(30):
        await tape.log.settled()
    assert len(tape.live.frames) == 2


async def test_while_the_store_stands_still_the_host_is_not_told_to_let_go() -> None:
    tape = Tape()
    await tape.begin()
    await tape.log.settled()
    tape.committed.clear()
    tape.store.gate.clear()
    for _ in range(40_000):
        tape.output(LINES["delta"])
    await asyncio.sleep(0.01)
    assert tape.committed == []
    tape.store.gate.set()
    tape.own()
    await tape.log.settled()
    assert tape.committed[-1] == (tape.instance_id, tape.log.position.offset)


async def test_a_long_stream_of_deltas_is_acknowledged_in_steps() -> None:
    tape = Tape()
    await tape.begin()
    for _ in range(5):
        for _ in range(10_000):
            tape.output(LINES["delta"])
        for _ in range(5):
            await asyncio.sleep(0)
    await tape.log.settled()
    assert len(tape.committed) >= 2
    assert tape.log.position.offset - tape.committed[-1][1] <= 1 << 20


async def test_an_offset_of_the_last_instance_is_never_told_of_the_next() -> None:
    tape = Tape()
    await tape.begin()
    first = tape.instance_id
    tape.store.gate.clear()
    tape.output(LINES["whole"] * 50)
    await asyncio.sleep(0)
    tape.ordinal += 1
    tape.log.begin_instance(tape.instance_id, tape.ordinal)
    tape.store.gate.set()
    tape.own()
    await tape.log.settled()
    assert (tape.instance_id, len(LINES["whole"]) * 50) not in tape.committed
    told = [
        operation.changes["offset"]
        for commit in tape.store.commits
        for operation in commit
        if isinstance(operation, PatchInstance) and operation.instance_id != first
    ]
    assert set(told) == {0}


async def test_settled_returns_at_once_when_nothing_waits_and_not_before_when_something_does() -> None:
    tape = Tape()
    await asyncio.wait_for(tape.log.settled(), 0.1)
    tape.store.gate.clear()
    tape.log.change(PatchSession(ALICE, {"title": "x"}))
    waiter = asyncio.create_task(tape.log.settled())
    await asyncio.sleep(0.01)
    assert not waiter.done()
    late = asyncio.create_task(tape.log.settled())
    await asyncio.sleep(0)
    tape.store.gate.set()
    await asyncio.gather(waiter, late)
    assert len(tape.store.commits) == 1


async def test_after_its_end_the_log_stores_nothing_and_says_so() -> None:
    tape = Tape()
    await tape.begin()
    await tape.log.aclose()
    count = len(tape.store.commits)
    tape.output(LINES["delta"] * 100)
    tape.own()
    tape.log.flush()
    with pytest.raises(StoreUnavailable):
        await tape.log.settled()
    assert len(tape.store.commits) == count
    assert tape.log._task is None
    assert all(frame["type"] == "event" for frame in tape.live.frames)


async def test_what_is_called_before_a_frame_is_called_just_before_it() -> None:
    tape = Tape()
    await tape.begin()
    seen: list[int] = []
    tape.own()
    tape.log.own({"type": "turn", "n": 2}, before=lambda: seen.append(len(tape.live.frames)))
    await tape.log.settled()
    assert seen == [1]
    assert tape.log.position > BEGINNING


async def test_a_caller_that_fails_when_it_is_told_does_not_stop_the_log() -> None:
    tape = Tape()
    await tape.begin()

    def broken() -> None:
        raise RuntimeError("the caller is gone")

    tape.log.own({"type": "turn"}, before=broken)
    async with asyncio.timeout(30):
        await tape.log.settled()
    assert len(tape.live.frames) == 1
