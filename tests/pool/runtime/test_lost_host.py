"""The way to a host is lost and found: unknown is not dead, and nothing is told or run twice."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from pool import ClaudeInstancePool, errors
from pool.model import InstanceId, InstanceState, SessionState
from pool.policy.health import Health
from tests.fakes.fake_cli import FakeCli
from tests.pool.conftest import Screen
from tests.pool.runtime.conftest import World, follow, manual, say, session_of, soon


async def running(far: World, **settings: Any) -> tuple[ClaudeInstancePool, Screen, str, FakeCli]:
    """A pool whose session has a running turn on a host that can be lost."""
    far.host.prepare = manual
    pool = await far.start(**settings)
    screen = await follow(pool)
    turn = await say(pool, "m1")
    await soon(lambda: "running" in screen.turn_states(turn))
    return pool, screen, turn, far.host.cli()


def reached(pool: ClaudeInstancePool) -> bool:
    return pool._around.hosts.first.is_reached


def instance_id(pool: ClaudeInstancePool) -> InstanceId | None:
    instance = session_of(pool).instance
    return instance.id if instance is not None and not instance.is_lost else None


async def test_a_running_turn_goes_on_after_the_return_with_no_gap_and_no_repeat(far: World) -> None:
    pool, screen, turn, cli = await running(far)
    cli.delta("one")
    await soon(lambda: screen.text() == "one")
    far.host.cut()
    cli.delta(" two")
    assert session_of(pool).state is SessionState.LIVE
    assert session_of(pool).doubt.health is Health.UNKNOWN
    assert pool.health()["instances"]["busy"] == 1
    assert not pool.health()["checks"]["hosts"]["ok"]
    assert pool.unready_reasons() == ["no keeper"]
    far.host.mend()
    await soon(lambda: screen.text() == "one two")
    cli.delta(" three")
    cli.finish()
    assert (await screen.ended(turn))["state"] == "succeeded"
    assert screen.text() == "one two three"
    assert (cli.runs, list(far.host.clis)) == ([turn], [cli.id])
    assert pool.health()["checks"]["hosts"]["ok"]
    assert not pool.unready_reasons()


async def test_a_turn_that_ended_meanwhile_ends_once_and_the_next_one_runs_in_the_same_process(
    far: World,
) -> None:
    pool, screen, turn, cli = await running(far)
    far.host.cut()
    cli.is_manual = False
    cli.finish()
    far.host.mend()
    assert (await screen.ended(turn))["state"] == "succeeded"
    second = await say(pool, "m2")
    assert (await screen.ended(second))["state"] == "succeeded"
    assert cli.runs == [turn, second]


async def test_whoever_wants_something_of_a_host_that_is_lost_is_told_so(far: World) -> None:
    pool, screen, turn, cli = await running(far)
    far.host.cut()
    with pytest.raises(errors.HostUnavailable) as refusal:
        await say(pool, "m2")
    assert "far" not in refusal.value.message
    assert refusal.value.retry_after_seconds
    with pytest.raises(errors.HostUnavailable):
        await pool.get_or_create_instance("alice")
    with pytest.raises(errors.HostUnavailable):
        await pool.get_or_create_instance("alice", "another")
    with pytest.raises(errors.HostUnavailable):
        await pool.get_or_create_instance("bob")
    # what was said is told all the same
    frames, _, _ = await pool.history("alice", "default")
    assert frames
    assert (await pool.status("alice", "default"))["state"] == "live"
    assert far.host.calls["start"] == 1
    far.host.mend()
    cli.is_manual = False
    cli.finish()
    assert (await screen.ended(turn))["state"] == "succeeded"
    assert (await screen.ended(await say(pool, "m2")))["state"] == "succeeded"


async def test_an_instance_that_died_meanwhile_is_told_with_its_real_end(far: World) -> None:
    pool, screen, turn, cli = await running(far)
    far.host.cut()
    cli.die(signal="SIGSEGV")
    far.host.prepare = lambda _cli: None
    await asyncio.sleep(0.01)
    assert session_of(pool).instance is not None
    far.host.mend()
    ending = await screen.ended(turn)
    assert (ending["state"], ending["reason"]["signal"]) == ("lost", "SIGSEGV")
    await soon(lambda: session_of(pool).instance is None)
    assert (await screen.ended(await say(pool, "m2")))["state"] == "succeeded"


async def test_a_keeper_that_died_meanwhile_took_everything_with_it(far: World) -> None:
    pool, screen, turn, cli = await running(far)
    far.host.cut()
    cli.die()
    far.host.clis.clear()
    far.host.prepare = lambda _cli: None
    far.host.mend()
    ending = await screen.ended(turn)
    assert (ending["state"], ending["reason"]["code"]) == ("lost", "instance_stopped")
    assert (await screen.ended(await say(pool, "m2")))["state"] == "succeeded"
    assert len(far.host.living) == 1


@pytest.mark.parametrize("was_written", [False, True])
async def test_a_message_under_way_at_the_loss_runs_once(far: World, was_written: bool) -> None:
    far.host.prepare = manual
    pool = await far.start()
    screen = await follow(pool)
    await pool.get_or_create_instance("alice")
    cli = far.host.cli()
    cli.is_deaf = not was_written
    far.host.hold("write")
    turn = await say(pool, "m1")
    await soon(lambda: far.host.calls["write"] == 2)
    if was_written:
        far.host.gates.pop("write").set()
        await soon(lambda: cli.runs == [turn])
    far.host.cut()
    cli.is_deaf = False
    far.host.gates.clear()
    far.host.mend()
    await soon(lambda: cli.runs == [turn])
    await soon(lambda: "running" in screen.turn_states(turn))
    cli.finish()
    assert (await screen.ended(turn))["state"] == "succeeded"
    assert cli.runs == [turn]


async def test_approvals_are_kept_and_an_answer_given_meanwhile_arrives(far: World) -> None:
    pool, screen, turn, cli = await running(far)
    for name in ("open", "answered"):
        cli.ask(name)
    await soon(lambda: len(screen.of_type("permission_request")) == 2)
    far.host.cut()
    await pool.answer_permission("alice", "default", "answered", "allow", answered_by="a")
    assert "answered" not in cli.answers
    cli.ask("late")
    far.host.mend()
    await soon(lambda: "answered" in cli.answers)
    await soon(lambda: len(screen.of_type("permission_request")) == 3)
    assert [one.request_id for one in await pool.permissions("alice", "default")] == ["open", "late"]
    for name in ("open", "late"):
        await pool.answer_permission("alice", "default", name, "deny", answered_by="a")
    await soon(lambda: {"open", "late"} <= cli.answers.keys())
    cli.finish()
    assert (await screen.ended(turn))["state"] == "succeeded"
    assert len(screen.of_type("permission_resolved")) == 3


async def test_an_interrupt_arrives_with_the_return_and_costs_no_process(far: World) -> None:
    pool, screen, turn, cli = await running(far)
    far.host.cut()
    await pool.interrupt("alice", "default")
    await asyncio.sleep(0.3)  # longer than the grace that a CLI has to listen
    far.host.mend()
    assert (await screen.ended(turn))["state"] == "interrupted"
    assert cli.is_alive
    assert far.host.calls["stop"] == 0


async def test_an_instance_that_was_to_end_ends_when_its_host_is_found(far: World) -> None:
    pool, screen, turn, cli = await running(far)
    far.host.cut()
    assert not await pool.destroy_instance("alice")
    instance = session_of(pool).instance
    assert instance is not None
    assert instance.state is InstanceState.STOPPING
    assert cli.is_alive
    far.host.mend()
    assert (await screen.ended(turn))["state"] == "interrupted"
    await soon(lambda: not cli.is_alive and session_of(pool).instance is None)
    assert not pool._around.hosts.first.slots.holders


@pytest.mark.parametrize("step", ["start", "started"])
async def test_a_launch_under_way_at_the_loss_leaves_one_process_and_the_message_runs(
    far: World, step: str
) -> None:
    pool = await far.start()
    screen = await follow(pool)
    gate = far.host.hold(step)
    turn = await say(pool, "m1")
    await soon(lambda: far.host.calls[step] == 1)
    far.host.cut()
    gate.set()
    far.host.gates.clear()
    await asyncio.sleep(0.05)
    assert len(far.host.living) <= 1
    far.host.mend()
    assert (await screen.ended(turn))["state"] == "succeeded"
    assert len(far.host.living) == 1
    assert sum(turn in cli.runs for cli in far.host.clis.values()) == 1


async def test_a_link_that_flaps_while_an_instance_is_taken_over(far: World) -> None:
    pool, screen, turn, cli = await running(far)
    for call in ("list", "attach", "write"):
        far.host.cut()
        gate, before = far.host.hold(call), far.host.calls[call]
        cli.delta(call)
        far.host.mend()
        await soon(lambda: far.host.calls[call] > before, call)  # noqa: B023
        far.host.cut()
        gate.set()
        far.host.gates.clear()
        far.host.mend()
        await soon(lambda: instance_id(pool) == cli.id, call)
    cli.finish()
    assert (await screen.ended(turn))["state"] == "succeeded"
    assert screen.text() == "listattachwrite"
    assert cli.runs == [turn]
    assert cli.is_alive


# --- a server that starts while a host cannot be reached -----------------------------------------------


async def test_a_server_starts_without_the_host_and_takes_over_when_it_appears(
    far: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pool.runtime.taking_over._OTHERS_SECONDS", 0.05)
    pool, screen, turn, cli = await running(far)
    queued = await say(pool, "m2")
    cli.ask("open")
    await soon(lambda: screen.of_type("permission_request"))
    await far.crash(pool)
    far.host.cut()
    again = await far.start()
    assert not reached(again)
    session = session_of(again)
    assert (session.state, session.doubt.health) == (SessionState.LIVE, Health.UNKNOWN)
    assert [one.request_id for one in await again.permissions("alice", "default")] == ["open"]
    assert [key.session_id for key in again._around.hosts.first.slots.holders] == ["default"]
    later = await follow(again, cursor=screen.frames[-1]["cursor"])
    await again.answer_permission("alice", "default", "open", "allow", answered_by="a")
    with pytest.raises(errors.HostUnavailable):
        await say(again, "m3")
    cli.delta("meanwhile")
    far.host.mend()
    await soon(lambda: later.text() == "meanwhile")
    await soon(lambda: "open" in cli.answers)
    cli.is_manual = False
    cli.finish()
    assert (await later.ended(turn))["state"] == "succeeded"
    assert (await later.ended(queued))["state"] == "succeeded"
    assert (cli.runs, far.host.calls["start"]) == ([turn, queued], 1)


async def test_work_of_somebody_whose_place_was_not_noted_keeps_no_server_from_starting(
    far: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pool.runtime.taking_over._OTHERS_SECONDS", 0.05)
    pool, screen, turn, cli = await running(far, max_instances=1)
    bob = Screen()
    await pool.subscribe("bob", "default", None, bob)
    queued = (await pool.submit("bob", "default", "words", message_id="m1")).turn_id
    await far.crash(pool)
    with closing(sqlite3.connect(next(far.directory.glob("*.db")))) as database, database:
        database.execute("DELETE FROM placements")
    far.host.cut()
    again = await far.start()
    assert await again._around.store.placements() == {"alice": "far", "bob": "far"}
    later = await follow(again, cursor=screen.frames[-1]["cursor"])
    await again.subscribe("bob", "default", "0", bob)
    far.host.mend()
    far.host.prepare = lambda _cli: None
    cli.finish()
    assert (await later.ended(turn))["state"] == "succeeded"
    assert (await bob.ended(queued))["state"] == "succeeded"


async def test_a_host_that_appears_late_is_searched_for_what_nobody_knows(
    far: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pool.runtime.taking_over._OTHERS_SECONDS", 0.05)
    pool = await far.start()
    await pool.get_or_create_instance("alice")
    cli = far.host.cli()
    await far.crash(pool)
    stranger = FakeCli(cli.spec)
    stranger.id = InstanceId("stranger")
    far.host.clis[stranger.id] = stranger
    far.host.cut()
    await far.start()
    assert stranger.is_alive
    far.host.mend()
    await soon(lambda: not stranger.is_alive)
    assert cli.is_alive


async def test_a_pool_ends_without_a_host_that_cannot_be_reached(far: World) -> None:
    pool, _screen, _turn, cli = await running(far)
    far.host.cut()
    await pool.shutdown(drain_timeout_seconds=0)
    assert cli.is_alive, "it ends by the lease of its own keeper"
    assert not pool._around.tasks._tasks
