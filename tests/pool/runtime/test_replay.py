"""Reading back gives what was shown, in order, once; or says what is missing."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pool.errors import KeeperUnavailable
from pool.model import BEGINNING, Cursor, InstanceId
from tests.pool.runtime.tape import MAX_LINE, Paper, Tape

DELTA = b'{"type":"stream_event","event":{"type":"content_block_delta"}}'
WHOLE = b'{"type":"assistant","message":{"content":[]}}'
LINES = {
    "delta": DELTA + b"\n",
    "whole": WHOLE + b"\n",
    "carriage return": WHOLE + b"\r\n",
    "control": b'{"type":"control_response","response":{"request_id":"1-1"}}\n',
    "noise": b"this is no frame\n",
    "empty": b"\n",
    "above the bound": b'{"type":"assistant","x":"' + b"x" * MAX_LINE + b'"}\n',
    "bad utf-8": b'{"type":"system","subtype":"\xff"}\n',
    "cut delta": DELTA,
    "cut whole": WHOLE,
    "half": b'{"type":"assi',
}
CUT = ("cut delta", "cut whole", "half")
STEP = st.one_of(
    st.sampled_from(sorted(set(LINES) - set(CUT))).map(lambda name: ("output", name)),
    st.sampled_from(["own", "settle"]).map(lambda name: (name, None)),
)
LIFE = st.tuples(st.lists(STEP, max_size=12), st.sampled_from([None, *CUT]))
DAMAGE = st.tuples(st.sampled_from(["trim", "forget"]), st.integers(1, 3))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(LIFE, min_size=1, max_size=3),
    st.lists(DAMAGE, max_size=2),
    st.sampled_from([1, 64, 100_000]),
)
def test_from_any_cursor_on_everything_comes_once_or_a_gap_tells(
    lives: list[tuple[list[tuple[str, Any]], str | None]], damage: list[tuple[str, int]], chunk_bytes: int
) -> None:
    steps: list[tuple[str, Any]] = []
    for own_steps, last_line in lives:
        steps += [("begin", None), *own_steps]
        steps += [("output", last_line)] if last_line is not None else []
    asyncio.run(_play([*steps, *damage], chunk_bytes))


async def _play(steps: list[tuple[str, Any]], chunk_bytes: int) -> None:
    tape = Tape(chunk_bytes=chunk_bytes)
    for kind, argument in steps:
        await _step(tape, kind, argument)
    await tape.log.settled()
    shown = tape.live.frames
    assert tape.live.cursors == sorted(set(tape.live.cursors))
    for place, start in enumerate([BEGINNING, *tape.live.cursors]):
        await _check_from(tape, start, shown[place:])
    await tape.log.aclose()


async def _step(tape: Tape, kind: str, argument: Any) -> None:
    if kind == "begin":
        await tape.begin()
    if kind == "output":
        tape.output(LINES[argument])
    elif kind == "own":
        tape.own()
    elif kind == "settle":
        await tape.log.settled()
    elif kind == "trim":
        tape.trim(argument, 0.6)
    elif kind == "forget":
        tape.forget(argument)


async def _check_from(tape: Tape, start: Cursor, expected: list[dict[str, Any]]) -> None:
    paper = Paper()
    subscription = tape.follow(paper, start)
    for _ in range(10_000):
        if subscription._task is None:
            break
        await asyncio.sleep(0)
    assert subscription._task is None, "reading always moves on"
    subscription.close()
    got = [frame for frame in paper.frames if frame["type"] != "gap"]
    gaps = [
        (Cursor.parse(frame["from"]), Cursor.parse(frame["to"]))
        for frame in paper.frames
        if frame["type"] == "gap"
    ]
    missing = [frame for frame in expected if frame not in got]
    assert got == [frame for frame in expected if frame in got], "in order, nothing twice, nothing new"
    for frame in missing:
        cursor = Cursor.parse(frame["cursor"])
        assert cursor not in tape.durable, "what is durable always comes"
        assert any(gap[0] < cursor <= gap[1] for gap in gaps), "a hole that no gap tells of"
    assert all(left[1] <= right[0] for left, right in pairwise(gaps)), "no gap twice"


async def test_a_line_longer_than_any_chunk_is_read_whole() -> None:
    tape = Tape(chunk_bytes=7)
    await tape.begin()
    tape.output(LINES["whole"] + LINES["above the bound"] + LINES["delta"])
    await tape.log.settled()
    await _check_from(tape, BEGINNING, tape.live.frames)
    assert len(tape.live.frames) == 2


async def test_an_instance_without_a_word_leaves_no_gap() -> None:
    tape = Tape()
    for _ in range(2):
        await tape.begin()
    tape.forget(1)
    tape.output(LINES["delta"])
    await tape.log.settled()
    paper = Paper()
    subscription = tape.follow(paper, BEGINNING)
    while subscription._task is not None:
        await asyncio.sleep(0)
    assert paper.frames == tape.live.frames


async def test_without_a_keeper_the_durable_frames_come_all_the_same() -> None:
    tape = Tape()
    await tape.begin()
    tape.output(LINES["whole"] + LINES["delta"] + LINES["whole"])
    await tape.log.settled()

    async def gone(_instance: InstanceId, _offset: int, _limit: int) -> tuple[int, bytes]:
        raise KeeperUnavailable("the keeper is gone")

    tape.replay._read_spool = gone
    paper = Paper()
    subscription = tape.follow(paper, BEGINNING)
    while subscription._task is not None:
        await asyncio.sleep(0)
    assert [frame["type"] for frame in paper.frames] == ["gap", "event", "event"]
    assert tape.replay.spools, "the spool is not given up for good"


async def test_every_cursor_that_was_shown_is_known() -> None:
    tape = Tape()
    await tape.begin()
    tape.output(LINES["whole"] + LINES["delta"] + LINES["carriage return"])
    tape.own()
    tape.output(LINES["cut whole"])
    await tape.begin()
    tape.own()
    await tape.log.settled()
    for cursor in tape.live.cursors:
        assert await tape.replay.is_known(cursor, tape.channel.head), cursor
    assert not await tape.replay.is_known(Cursor(1, 3, 0), tape.channel.head)
    assert not await tape.replay.is_known(Cursor(9, 0, 0), tape.channel.head)
