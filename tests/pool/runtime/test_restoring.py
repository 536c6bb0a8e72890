"""What an earlier server left of one session cannot be taken over: that session faults, the others go on."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import pytest

from pool.model import SessionState
from pool.runtime.session import Session
from pool.runtime.supervisor import Supervisor
from pool.store.base import SessionRecord
from tests.pool.runtime.conftest import World, follow, manual, say, session_of, soon


def spoil(world: World, turn_id: str) -> None:
    """Somebody else's version wrote what it knew of the turn's outcome."""
    with closing(sqlite3.connect(world.directory / "claude-pool.db")) as database, database:
        spoilt = '{"pending": {"state": "succeeded", "reason": {"code": "x", "message": "y", "new": 1}}}'
        database.execute("UPDATE turns SET reason = ? WHERE turn_id = ?", (spoilt, turn_id))


@pytest.mark.parametrize("is_alive", [True, False])
async def test_a_turn_that_cannot_be_restored_faults_its_session_and_leaves_nothing_half_adopted(
    world: World, is_alive: bool
) -> None:
    world.host.prepare = manual
    pool = await world.start()
    turns, cursor = {}, ""
    for name in ("bad", "good"):
        screen = await follow(pool, name)
        turns[name] = await say(pool, "m1", name)
        await soon(lambda: "running" in screen.turn_states(turns[name]))  # noqa: B023
        cursor = screen.frames[-1]["cursor"]
    queued = await say(pool, "m2", "bad")
    world.host.cli("bad").ask("r1")
    await soon(lambda: len(session_of(pool, "bad").approvals) == 1)
    await session_of(pool, "bad").log.settled()
    bad = world.host.cli("bad")
    await world.crash(pool)
    spoil(world, turns["bad"])
    if not is_alive:
        bad.die(signal="SIGKILL")
    world.host.prepare = lambda _cli: None
    again = await world.start()
    # Every turn of it ends once, with the reason; nobody is asked for its approval any more.
    screen = await follow(again, "bad", "0")
    ending = await screen.ended(turns["bad"])
    assert (ending["state"], ending["reason"]["code"]) == ("lost", "not_restored")
    assert (await screen.ended(queued))["state"] == "failed"
    assert await again.permissions("alice", "bad") == []
    # Its process is ended, and only then is its slot free.
    await soon(lambda: not bad.is_alive and session_of(again, "bad").instance is None)
    assert session_of(again, "bad").state is SessionState.FAULTED
    assert [key.session_id for key in again._around.hosts.first.slots.holders] == ["good"]
    # The others go on.
    later = await follow(again, "good", cursor)
    world.host.cli("good").finish()
    assert (await later.ended(turns["good"]))["state"] == "succeeded"
    # The next message begins anew, also after another restart.
    await world.crash(again)
    third = await world.start()
    screen = await follow(third, "bad")
    assert (await screen.ended(await say(third, "m3", "bad")))["state"] == "succeeded"


async def test_a_session_that_cannot_be_loaded_does_not_stop_the_server(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = await world.start()
    for name in ("bad", "good"):
        await pool.get_or_create_instance("alice", name)
    bad = world.host.cli("bad")
    await world.crash(pool)
    load = Supervisor.load

    async def fail(self: Supervisor, record: SessionRecord, *live: Any) -> Session:
        if record.key.session_id == "bad":
            raise RuntimeError("nobody expected this")
        return await load(self, record, *live)

    monkeypatch.setattr(Supervisor, "load", fail)
    again = await world.start()
    await soon(lambda: not bad.is_alive)
    assert [info.session_id for info in again.instances()] == ["good"]
    screen = await follow(again, "good")
    assert (await screen.ended(await say(again, "m1", "good")))["state"] == "succeeded"
