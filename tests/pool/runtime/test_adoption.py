"""A server dies and the next one takes over: what every session finds."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from pool import errors
from pool.model import InstanceId, SessionState
from pool.runtime.session import Session
from pool.runtime.supervisor import Supervisor
from pool.store.base import SessionRecord
from tests.pool.runtime.conftest import World, follow, manual, say, session_of, soon


def _lives(world: World, expected: bool) -> bool:
    return bool(world.host.living) is expected


async def running(world: World, *more: str) -> tuple[Any, Any, list[str]]:
    """A pool whose session has a running turn, and more in the queue."""
    world.host.prepare = manual
    pool = await world.start()
    screen = await follow(pool)
    turns = [await say(pool, name) for name in ("m1", *more)]
    await soon(lambda: "running" in screen.turn_states(turns[0]))
    return pool, screen, turns


async def test_a_running_turn_goes_on_under_the_next_server(world: World) -> None:
    pool, screen, (turn,) = await running(world)
    cli = world.host.cli()
    cli.delta("one")
    await soon(lambda: screen.text() == "one")
    await world.crash(pool)
    cli.delta(" two")
    again = await world.start()
    later = await follow(again, cursor=screen.frames[-1]["cursor"])
    cli.delta(" three")
    cli.finish()
    assert (await later.ended(turn))["state"] == "succeeded"
    assert screen.text() + later.text() == "one two three"
    assert cli.runs == [turn]


async def test_a_cli_that_does_not_answer_holds_up_its_own_session_only(world: World) -> None:
    pool, screen, (turn,) = await running(world)
    await world.crash(pool)
    gate = world.host.hold("write")
    again = await world.start()
    assert again.health()["instances"]["busy"] == 1
    later = await follow(again, cursor=screen.frames[-1]["cursor"])
    queued = await say(again, "m2")
    assert world.host.cli().runs == [turn]
    gate.set()
    world.host.cli().is_manual = False
    world.host.cli().finish()
    assert (await later.ended(turn))["state"] == "succeeded"
    assert (await later.ended(queued))["state"] == "succeeded"
    assert world.host.cli().runs == [turn, queued]


async def test_a_turn_that_ended_while_nobody_looked_ends_once_and_the_next_runs(world: World) -> None:
    pool, screen, (first, second) = await running(world, "m2")
    await world.crash(pool)
    world.host.cli().is_manual = False
    world.host.cli().finish()
    again = await world.start()
    later = await follow(again, cursor=screen.frames[-1]["cursor"])
    assert (await later.ended(first))["state"] == "succeeded"
    assert (await later.ended(second))["state"] == "succeeded"
    assert world.host.cli().runs == [first, second]


@pytest.mark.parametrize("ended_before", [False, True])
async def test_an_exit_while_nobody_looked_loses_the_turn_and_keeps_the_queue(
    world: World, ended_before: bool
) -> None:
    pool, screen, (first, second) = await running(world, "m2")
    await world.crash(pool)
    dead = world.host.cli()
    if ended_before:
        dead.finish()
    dead.die(signal="SIGKILL")
    world.host.prepare = lambda _cli: None
    again = await world.start()
    later = await follow(again, cursor=screen.frames[-1]["cursor"])
    ending = await later.ended(first)
    assert ending["state"] == ("succeeded" if ended_before else "lost")
    assert (await later.ended(second))["state"] == "succeeded"
    assert dead.runs == [first]


async def test_a_host_that_knows_nothing_any_more_loses_the_turn_and_keeps_the_queue(world: World) -> None:
    pool, screen, (first, second) = await running(world, "m2")
    await world.crash(pool)
    world.host.clis.clear()
    world.host.prepare = lambda _cli: None
    again = await world.start()
    later = await follow(again, cursor=screen.frames[-1]["cursor"])
    assert (await later.ended(first))["state"] == "lost"
    assert (await later.ended(second))["state"] == "succeeded"
    assert len(world.host.living) == 1


async def test_a_message_stored_but_not_written_is_written_once_to_the_same_instance(world: World) -> None:
    pool = await world.start()
    await pool.get_or_create_instance("alice")
    world.host.hold("write")
    turn = await say(pool, "m1")
    await soon(lambda: world.host.calls["write"] == 2)
    await world.crash(pool)
    world.host.gates.clear()
    again = await world.start()
    later = await follow(again, cursor="0")
    assert (await later.ended(turn))["state"] == "succeeded"
    assert world.host.cli().runs == [turn]


async def test_a_crash_in_a_launch_leaves_one_instance_and_the_message_runs(world: World) -> None:
    pool = await world.start()
    world.host.hold("started")
    turn = await say(pool, "m1")
    await soon(lambda: world.host.calls["started"] == 1)
    await world.crash(pool)
    world.host.gates.clear()
    again = await world.start()
    later = await follow(again, cursor="0")
    assert (await later.ended(turn))["state"] == "succeeded"
    assert len(world.host.living) == 1
    assert sum(turn in cli.runs for cli in world.host.clis.values()) == 1


async def test_an_instance_without_a_row_is_ended(world: World) -> None:
    pool = await world.start()
    await pool.get_or_create_instance("alice")
    cli = world.host.cli()
    await world.crash(pool)
    stranger = type(cli)(cli.spec)
    stranger.id = InstanceId("stranger")
    world.host.clis[stranger.id] = stranger
    await world.start()
    await soon(lambda: not stranger.is_alive)
    assert cli.is_alive


@pytest.mark.parametrize("call", ["attach", "write"])
async def test_a_keeper_that_dies_while_instances_are_taken_over(world: World, call: str) -> None:
    pool = await world.start()
    await pool.get_or_create_instance("alice")
    await world.crash(pool)
    gate = world.host.hold(call)
    again = world.make()
    starting = asyncio.create_task(again.start(), name="starting")
    before = world.host.calls[call]
    await soon(lambda: world.host.calls[call] > before)
    world.host.lose_keeper()
    gate.set()
    await starting
    later = await follow(again)
    assert (await later.ended(await say(again, "m1")))["state"] == "succeeded"
    assert len(world.host.living) == 1


async def test_open_approvals_outlive_the_server_and_answered_ones_are_answered_again(world: World) -> None:
    pool, screen, (turn,) = await running(world)
    cli = world.host.cli()
    for name in ("open", "answered", "withdrawn"):
        cli.ask(name)
    await soon(lambda: len(screen.of_type("permission_request")) == 3)
    world.host.hold("write")
    answer = asyncio.create_task(
        pool.answer_permission("alice", "default", "answered", "allow", answered_by="a"), name="answer"
    )
    await soon(lambda: screen.of_type("permission_resolved"))
    answer.cancel()
    await world.crash(pool)
    world.host.gates.clear()
    cli.asks.pop("withdrawn")
    again = await world.start()
    later = await follow(again, cursor=screen.frames[-1]["cursor"])
    assert [info.request_id for info in await again.permissions("alice", "default")] == ["open"]
    assert "answered" in cli.answers
    for name in ("answered", "withdrawn"):
        with pytest.raises(errors.AlreadyResolved):
            await again.answer_permission("alice", "default", name, "deny", answered_by="b")
    await again.answer_permission("alice", "default", "open", "deny", answered_by="b")
    await soon(lambda: "open" in cli.answers)
    cli.finish()
    assert (await later.ended(turn))["state"] == "succeeded"


async def test_a_noted_outcome_outlives_the_server(world: World) -> None:
    pool, screen, (turn,) = await running(world)
    cli = world.host.cli()
    cli.result(is_error=True, result="the API said no")
    await soon(lambda: any(frame["event"]["type"] == "result" for frame in screen.of_type("event")))
    await session_of(pool).log.settled()
    await world.crash(pool)
    again = await world.start()
    later = await follow(again, cursor=screen.frames[-1]["cursor"])
    cli._lifecycle(turn, "completed")
    ending = await later.ended(turn)
    assert (ending["state"], ending["reason"]["message"]) == ("failed", "the API said no")


async def test_the_deadlines_of_a_turn_begin_anew(world: World) -> None:
    pool, _screen, (turn,) = await running(world)
    world.host.cli().ignores_interrupts = True
    await world.crash(pool)
    again = await world.start(turn_timeout_seconds=0.1)
    later = await follow(again, cursor="0")
    ending = await later.ended(turn)
    assert (ending["state"], ending["reason"]["code"]) == ("interrupted", "turn_timeout")


async def test_an_interrupt_that_a_dead_server_wanted_is_seen_through(world: World) -> None:
    pool, _screen, (turn,) = await running(world)
    world.host.cli().ignores_interrupts = True
    await pool.interrupt("alice", "default")
    await world.crash(pool)
    again = await world.start()
    later = await follow(again, cursor="0")
    assert (await later.ended(turn))["state"] == "interrupted"


async def test_an_archived_session_whose_instance_still_lives_is_not_revived_by_a_restart(
    world: World,
) -> None:
    pool = await world.start()
    await pool.get_or_create_instance("alice")
    world.host.hold("stop")
    await pool.archive_session("alice", "default")
    await world.crash(pool)
    world.host.gates.clear()
    again = await world.start()
    await soon(lambda: not world.host.living)
    session = session_of(again)
    assert session.state is SessionState.ARCHIVED
    later = await follow(again)
    assert (await later.ended(await say(again, "m1")))["state"] == "succeeded"


async def test_a_queued_message_does_not_take_the_slot_of_an_instance_that_still_runs(world: World) -> None:
    world.host.prepare = manual
    pool = await world.start(max_instances=1)
    screen = await follow(pool, "runs")
    turn = await say(pool, "m1", "runs")
    await soon(lambda: "running" in screen.turn_states(turn))
    waiting = await say(pool, "m2", "waits")
    await world.crash(pool)
    # The one that waits is read at once, the one that runs takes its time.
    load, gate = Supervisor.load, asyncio.Event()

    async def slowly(self: Supervisor, record: SessionRecord, *live: Any) -> Session:
        if record.key.session_id == "runs":
            await gate.wait()
        return await load(self, record, *live)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Supervisor, "load", slowly)
        again = world.make()
        starting = asyncio.create_task(again.start())
        await soon(lambda: [key.session_id for key in again._supervisor.sessions] == ["waits"])
        for _ in range(20):
            await asyncio.sleep(0)
        gate.set()
        await starting
    assert [key.session_id for key in again._around.hosts.first.slots.holders] == ["runs"]
    assert len(world.host.living) == 1
    world.host.prepare = lambda _cli: None
    world.host.cli("runs").finish()
    later = await follow(again, "waits", "0")
    assert (await later.ended(waiting))["state"] == "succeeded"


async def test_one_session_that_cannot_be_taken_over_does_not_stop_the_server(world: World) -> None:
    pool = await world.start()
    await pool.get_or_create_instance("alice", "one")
    await pool.get_or_create_instance("alice", "two")
    await world.crash(pool)
    for number in (1, 3):
        world.host.fail("attach", RuntimeError("nobody expected this"), on=number)
    before = set(world.host.clis)
    again = await world.start()
    # Unknown is not dead: it is neither ended nor replaced, and asked until it answers.
    for name in ("one", "two"):
        screen = await follow(again, name)
        assert (await screen.ended(await say(again, "m1", name)))["state"] == "succeeded"
    assert set(world.host.clis) == before
    assert len(world.host.living) == 2


async def test_a_host_that_cannot_be_asked_at_a_start_costs_nothing(world: World) -> None:
    pool = await world.start()
    screen = await follow(pool)
    await screen.ended(await say(pool, "m1"))
    (cli,) = world.host.living
    await world.crash(pool)
    for call in ("open", "list"):
        world.host.fail(call, errors.KeeperUnavailable("it does not answer"))
        refused = world.make()
        with pytest.raises(errors.KeeperUnavailable):
            await refused.start()
        world.pools.remove(refused)
    assert cli.is_alive
    again = await world.start()
    later = await follow(again)
    assert (await later.ended(await say(again, "m2")))["state"] == "succeeded"
    assert world.host.living == [cli]


async def test_an_instance_that_does_not_answer_the_next_server_is_stopped(world: World) -> None:
    pool = await world.start()
    await pool.get_or_create_instance("alice")
    cli = world.host.cli()
    await world.crash(pool)
    world.host.fail("write", errors.InputBlocked("it does not read"))
    again = await world.start()
    await soon(lambda: not cli.is_alive)
    later = await follow(again)
    assert (await later.ended(await say(again, "m1")))["state"] == "succeeded"


async def test_ended_instances_are_forgotten_after_a_while(world: World) -> None:
    pool = await world.start(delta_retention_seconds=0.05)
    await pool.get_or_create_instance("alice")
    await pool.destroy_instance("alice")
    await soon(lambda: not world.host.clis)
    assert (await pool.get_or_create_instance("alice")).is_healthy


async def test_a_start_that_is_cancelled_leaves_nothing_running(world: World) -> None:
    pool = await world.start()
    await pool.get_or_create_instance("alice")
    await world.crash(pool)
    world.host.hold("write")
    again = world.make()
    starting = asyncio.create_task(again.start(), name="starting")
    before = world.host.calls["write"]
    await soon(lambda: world.host.calls["write"] > before)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    assert world.host.living, "the instance is not ours to end: the next server may take it over"
    world.host.gates.clear()
    world.pools.remove(again)
    later = await world.start()
    assert (await (await follow(later)).ended(await say(later, "m1")))["state"] == "succeeded"


async def test_a_viewer_warms_a_session_once_in_each_idle_period(world: World) -> None:
    pool = await world.start()
    for number in range(2):
        screen = await follow(pool)
        await screen.ended(await say(pool, f"m{number}"))
        for expected in (True, False):
            await pool.destroy_instance("alice")
            await follow(pool)
            await asyncio.sleep(0.01)
            await soon(partial(_lives, world, expected))
