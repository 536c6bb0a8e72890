"""One session under everything that can happen between two steps."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from pool import errors
from pool.model import InstanceState, SessionState
from tests.pool.runtime.conftest import World, follow, manual, say, session_of, soon


async def test_a_message_for_an_instance_that_is_leaving_runs_on_the_next_one_once(world: World) -> None:
    pool = await world.start()
    screen = await follow(pool)
    await screen.ended(await say(pool, "m0"))
    gate = world.host.hold("stop")
    session_of(pool).idleness.park("a test")
    turn = await say(pool, "m1")
    assert world.host.cli().runs[1:] == []
    gate.set()
    assert (await screen.ended(turn))["state"] == "succeeded"
    assert [turn in cli.runs for cli in world.host.clis.values()] == [False, True]


async def test_a_message_that_is_refused_by_the_host_is_not_waited_for(world: World) -> None:
    pool = await world.start()
    screen = await follow(pool)
    await screen.ended(await say(pool, "m0"))
    # The CLI lives and answers; this one line does not get to it.
    world.host.fail("write", errors.BadRequest("bad_line"))
    ending = await screen.ended(await say(pool, "m1"))
    assert ending["state"] == "lost"
    assert (await screen.ended(await say(pool, "m2")))["state"] == "succeeded"


async def test_parking_and_a_message_at_once_lose_and_double_nothing(world: World) -> None:
    pool = await world.start()
    screen = await follow(pool)
    turns = []
    for number in range(60):
        await pool.get_or_create_instance("alice")
        message = asyncio.create_task(say(pool, f"m{number}"))
        for _ in range(number % 15):
            await asyncio.sleep(0)
        session_of(pool).idleness._over()
        turns.append(await message)
        assert (await screen.ended(turns[-1]))["state"] == "succeeded"
    runs = [run for cli in world.host.clis.values() for run in cli.runs]
    assert sorted(runs) == sorted(turns)
    assert len(world.host.living) <= 1


async def test_who_took_too_much_memory_reads_that(world: World) -> None:
    world.host.prepare = manual
    pool = await world.start()
    screen = await follow(pool)
    turn = await say(pool, "m1")
    await soon(lambda: "running" in screen.turn_states(turn))
    world.host.cli().die(signal="SIGKILL", cause="out_of_memory")
    ending = await screen.ended(turn)
    assert (ending["state"], ending["reason"]["code"]) == ("lost", "out_of_memory")
    assert "out of memory" in ending["reason"]["message"]


async def test_a_crash_in_a_turn_loses_it_and_not_the_one_behind(world: World) -> None:
    world.host.prepare = manual
    pool = await world.start()
    screen = await follow(pool)
    first, second = await say(pool, "m1"), await say(pool, "m2")
    await soon(lambda: "running" in screen.turn_states(first))
    world.host.prepare = lambda _cli: None
    world.host.cli().die(signal="SIGSEGV")
    ending = await screen.ended(first)
    assert (ending["state"], ending["reason"]["signal"]) == ("lost", "SIGSEGV")
    assert (await screen.ended(second))["state"] == "succeeded"
    states = [frame["state"] for frame in screen.of_type("session")]
    assert states == ["waking", "live", "cooling", "waking", "live"]


async def test_more_messages_in_the_cooling_time_all_run_in_order(world: World) -> None:
    world.host.prepare = manual
    pool = await world.start()
    screen = await follow(pool)
    first, second = await say(pool, "m1"), await say(pool, "m2")
    await soon(lambda: "running" in screen.turn_states(first))
    world.host.prepare = lambda _cli: None
    world.host.cli().die(1)
    await screen.ended(first)
    assert session_of(pool).state is SessionState.COOLING
    third = await say(pool, "m3")
    for turn in (second, third):
        assert (await screen.ended(turn))["state"] == "succeeded"
    assert [run for cli in world.host.clis.values() for run in cli.runs] == [first, second, third]


@pytest.mark.parametrize("when", ["waking", "cooling"])
async def test_an_interrupt_without_a_running_turn_withdraws_the_queue(world: World, when: str) -> None:
    world.host.prepare = manual
    pool = await world.start()
    screen = await follow(pool)
    first = await say(pool, "m1")
    if when == "cooling":
        second = await say(pool, "m2")
        await soon(lambda: "running" in screen.turn_states(first))
        world.host.cli().die(1)
        await screen.ended(first)
    else:
        second = first
    world.host.prepare = lambda _cli: None
    await pool.interrupt("alice", "default")
    assert (await screen.ended(second))["state"] == "withdrawn"
    assert (await screen.ended(await say(pool, "m3")))["state"] == "succeeded"


async def test_a_crash_loop_faults_the_session_until_the_next_message(world: World) -> None:
    pool = await world.start()
    screen = await follow(pool)
    for number in range(3):
        await screen.ended(await say(pool, f"m{number}"))
        world.host.cli().die(1)
        await soon(lambda: session_of(pool).instance is None)
    assert session_of(pool).state is SessionState.FAULTED
    assert (await screen.ended(await say(pool, "m9")))["state"] == "succeeded"


async def test_a_deaf_cli_is_stopped_and_the_next_message_is_not_given_to_it(world: World) -> None:
    pool = await world.start()
    await pool.get_or_create_instance("alice")
    screen = await follow(pool)
    cli = world.host.cli()
    cli.is_deaf = True
    first = await say(pool, "m1")
    await pool.interrupt("alice", "default")
    second = await say(pool, "m2")
    assert (await screen.ended(first))["state"] == "interrupted"
    assert (await screen.ended(second))["state"] == "succeeded"


async def test_two_results_in_one_turn_are_one_end_and_the_last_one_decides(world: World) -> None:
    world.host.prepare = manual
    pool = await world.start()
    screen = await follow(pool)
    turn = await say(pool, "m1")
    await soon(lambda: "running" in screen.turn_states(turn))
    world.host.cli().result(is_error=True, result="at first")
    world.host.cli().finish()
    assert (await screen.ended(turn))["state"] == "succeeded"
    assert screen.turn_states(turn) == ["queued", "running", "succeeded"]


async def test_a_turn_of_the_cli_can_ask_and_be_answered(world: World) -> None:
    pool = await world.start()
    await pool.get_or_create_instance("alice")
    screen = await follow(pool)
    cli = world.host.cli()
    cli.begin_own()
    cli.ask("r1")
    (ask,) = await _asks(screen, 1)
    own = screen.of_type("turn")[0]
    assert own["origin"] == "cli"
    status = await pool.status("alice", "default")
    assert status["turn"].turn_id == own["turn_id"]
    await pool.answer_permission("alice", "default", ask["request_id"], "allow", answered_by="alice")
    await soon(lambda: "r1" in cli.answers)
    cli.finish()
    assert (await screen.ended(own["turn_id"]))["state"] == "succeeded"


async def test_a_turn_of_the_cli_that_never_ends_can_be_interrupted(world: World) -> None:
    pool = await world.start()
    await pool.get_or_create_instance("alice")
    screen = await follow(pool)
    cli = world.host.cli()
    cli.ignores_interrupts = True
    cli.begin_own()
    await soon(lambda: screen.of_type("turn"))
    await pool.interrupt("alice", "default")
    ending = await screen.ended(screen.of_type("turn")[0]["turn_id"])
    assert ending["state"] == "interrupted"
    assert (await screen.ended(await say(pool, "m1")))["state"] == "succeeded"


async def test_a_turn_of_the_cli_folded_with_a_users_does_not_block_the_session(world: World) -> None:
    """The CLI begins its own turn just before our message comes; one result ends both."""
    world.host.prepare = manual
    pool = await world.start()
    await pool.get_or_create_instance("alice")
    screen = await follow(pool)
    cli = world.host.cli()
    cli.emit({"type": "system", "subtype": "init", "session_id": cli.session_id})
    turn = await say(pool, "m1")
    await soon(lambda: screen.of_type("turn"))
    if "running" not in screen.turn_states(turn):
        cli._message(turn)
    await soon(lambda: "running" in screen.turn_states(turn))
    cli.finish()
    assert (await screen.ended(turn))["state"] == "succeeded"
    world.host.cli().is_manual = False
    assert (await screen.ended(await say(pool, "m2")))["state"] == "succeeded"
    own = [frame for frame in screen.of_type("turn") if frame["origin"] == "cli"]
    if own:
        await screen.ended(own[0]["turn_id"])


async def test_an_instance_that_dies_under_an_answer_harms_nobody(world: World) -> None:
    world.host.prepare = manual
    pool = await world.start()
    screen = await follow(pool)
    turn = await say(pool, "m1")
    await soon(lambda: "running" in screen.turn_states(turn))
    cli = world.host.cli()
    cli.ask("r1")
    await _asks(screen, 1)
    gate = world.host.hold("write")
    world.host.prepare = lambda _cli: None
    answer = asyncio.create_task(
        pool.answer_permission("alice", "default", "r1", "allow", answered_by="alice"), name="answer"
    )
    await soon(lambda: world.host.calls["write"] >= 3)
    cli.die(signal="SIGKILL")
    gate.set()
    await answer
    assert (await screen.ended(turn))["state"] == "lost"
    assert (await screen.ended(await say(pool, "m2")))["state"] == "succeeded"
    assert not any(frame["type"] == "control_response" for frame in world.host.cli().input)


async def test_half_an_emoji_in_a_tools_input_reaches_the_user_and_ends_nothing(world: World) -> None:
    world.host.prepare = manual
    pool = await world.start()
    screen = await follow(pool)
    turn = await say(pool, "m1")
    await soon(lambda: "running" in screen.turn_states(turn))
    cli = world.host.cli()
    tool_input = {"text": "\ud83d", "n": 10**30}
    request = {"subtype": "can_use_tool", "tool_name": "Wri\ud83dte", "input": tool_input}
    cli.asks["r1"] = {"type": "control_request", "request_id": "r1", "request": request}
    cli.emit_raw(json.dumps(cli.asks["r1"]).encode() + b"\n")
    (ask,) = await _asks(screen, 1)
    assert ask["input"]["text"] == "\ud83d"
    late = await follow(pool)
    assert late.frames[0]["pending_permissions"][0]["request_id"] == "r1"
    await pool.answer_permission("alice", "default", "r1", "allow", answered_by="alice")
    await soon(lambda: "r1" in cli.answers)
    cli.finish()
    assert (await screen.ended(turn))["state"] == "succeeded"


async def test_what_the_reader_cannot_bear_stops_that_instance_only(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = await world.start()
    mine, other = await follow(pool), await follow(pool, "other")
    await mine.ended(await say(pool, "m1"))
    await other.ended(await say(pool, "m2", "other"))

    def broken(*_: Any) -> None:
        raise RuntimeError("nobody expected this")

    monkeypatch.setattr(session_of(pool)._reader, "_one", broken)
    world.host.cli().emit({"type": "system", "subtype": "hello"})
    await soon(lambda: session_of(pool).instance is None)
    monkeypatch.undo()
    assert (await mine.ended(await say(pool, "m3")))["state"] == "succeeded"
    assert (await other.ended(await say(pool, "m4", "other")))["state"] == "succeeded"


async def test_a_session_id_that_is_none_is_not_kept(world: World) -> None:
    pool = await world.start()
    screen = await follow(pool)
    await screen.ended(await say(pool, "m1"))
    kept = session_of(pool).record.cli_session
    world.host.cli().emit({"type": "system", "subtype": "init", "session_id": "--dangerous \ud800"})
    world.host.cli().result(session_id="../../x")
    await soon(lambda: len(screen.of_type("event")) > 8)
    assert session_of(pool).record.cli_session == kept
    await pool.destroy_instance("alice")
    assert (await screen.ended(await say(pool, "m2")))["state"] == "succeeded"


async def test_a_dead_keeper_loses_what_ran_and_keeps_what_waited(world: World) -> None:
    world.host.prepare = manual
    pool = await world.start()
    screen = await follow(pool)
    first, second = await say(pool, "m1"), await say(pool, "m2")
    await soon(lambda: "running" in screen.turn_states(first))
    world.host.prepare = lambda _cli: None
    cli = world.host.cli()
    cli.follow(None)
    cli.finish()
    world.host.lose_keeper()
    third = await say(pool, "m3")
    assert (await screen.ended(first))["state"] == "succeeded", "its end was in the spool"
    assert (await screen.ended(second))["state"] == "succeeded"
    assert (await screen.ended(third))["state"] == "succeeded"
    assert len(world.host.living) == 1


async def test_the_session_is_ready_for_eviction_only_when_it_is(world: World) -> None:
    pool = await world.start()
    instance = await pool.get_or_create_instance("alice")
    assert instance.state is InstanceState.READY
    (facts,) = pool._around.hosts.first.slots.candidates()
    assert not facts.has_open_turn
    assert not facts.is_pinned
    with pytest.raises(errors.NotFound):
        await pool.answer_permission("alice", "default", "r1", "allow", answered_by="alice")


async def _asks(screen: Any, count: int) -> list[dict[str, Any]]:
    await soon(lambda: len(screen.of_type("permission_request")) >= count)
    found: list[dict[str, Any]] = screen.of_type("permission_request")
    return found


async def test_a_message_sent_again_before_the_first_is_stored_runs_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = await world.start()
    await pool.get_or_create_instance("alice")
    screen = await follow(pool)
    store, gate = pool._around.store, asyncio.Event()
    commit = store.commit

    async def slow(operations: Any) -> None:
        await gate.wait()
        await commit(operations)

    monkeypatch.setattr(store, "commit", slow)
    first = asyncio.create_task(say(pool, "m1"), name="first")
    await soon(lambda: session_of(pool).message_ids.may_have("m1"))
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    again = asyncio.create_task(say(pool, "m1"), name="again")
    await asyncio.sleep(0.05)
    gate.set()
    turn = await again
    assert (await screen.ended(turn))["state"] == "succeeded"
    assert world.host.cli().runs == [turn]
    assert {frame["turn_id"] for frame in screen.of_type("turn")} == {turn}


async def test_a_locked_database_only_delays_another_keeper(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = await world.start()
    screen = await follow(pool)
    await screen.ended(await say(pool, "m1"))
    store = pool._around.store
    claim = store.claim_epoch
    failures = [errors.StoreUnavailable("locked")]

    async def flaky(at_least: int) -> int:
        if failures:
            raise failures.pop()
        return await claim(at_least)

    monkeypatch.setattr(store, "claim_epoch", flaky)
    world.host.lose_keeper()
    assert (await screen.ended(await say(pool, "m2")))["state"] == "succeeded"
    assert not failures
