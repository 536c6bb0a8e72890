"""A CLI that hangs, stops, goes mute or deaf in the middle of things: a real process below a real keeper."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from pool import ClaudeInstancePool, errors
from tests.pool.conftest import OUTCOMES, MakePool, Screen, plan
from tests.procfs import is_alive, look_at, marked_processes
from tests.waiting import eventually


async def follow(pool: ClaudeInstancePool, user: str = "alice") -> Screen:
    screen = Screen()
    await pool.subscribe(user, "default", None, screen)
    return screen


async def say(pool: ClaudeInstancePool, text: str, message_id: str, user: str = "alice") -> str:
    return (await pool.submit(user, "default", text, message_id=message_id)).turn_id


def the_pid(pool: ClaudeInstancePool) -> int:
    (info,) = pool.instances("alice")
    assert info.pid is not None
    return info.pid


def endings(screen: Screen, turn: str) -> list[str]:
    return [state for state in screen.turn_states(turn) if state in OUTCOMES]


# --- the stop button ------------------------------------------------------------------------------

MOMENTS = {
    "before the first token": "hello !hang",
    "in a stream": "stream 1000 20",
    "in a tool": "bash sleep 600",
    "in an approval": "write note.txt hello",
}


@pytest.mark.parametrize("moment", MOMENTS)
async def test_the_stop_button_ends_a_turn_once_and_the_session_goes_on(
    pool: ClaudeInstancePool, moment: str
) -> None:
    screen = await follow(pool)
    turn = await say(pool, MOMENTS[moment], "m1")
    await eventually(lambda: "running" in screen.turn_states(turn))
    if moment == "in a stream":
        await eventually(lambda: "w3" in screen.text())
    if moment.startswith(("in a tool", "in an approval")):
        (ask,) = await eventually(lambda: screen.of_type("permission_request"))
        if moment == "in a tool":
            await pool.answer_permission("alice", "default", ask["request_id"], "allow", answered_by="alice")
            (info,) = pool.instances()
            await eventually(
                lambda: [p for p in marked_processes(info.id) if p.argv[-2:] == ["sleep", "600"]]
            )
    for _ in range(3):
        await pool.interrupt("alice", "default")
    assert (await screen.ended(turn))["state"] == "interrupted"
    await pool.interrupt("alice", "default")
    following = await say(pool, "hello", "m2")
    assert (await screen.ended(following))["state"] == "succeeded"
    assert endings(screen, turn) == ["interrupted"]
    assert len(pool.instances()) == 1


# --- hangs ----------------------------------------------------------------------------------------


async def test_a_cli_that_hangs_after_its_result_keeps_the_outcome_and_is_replaced(
    make_pool: MakePool,
) -> None:
    """The result has come, the end of the turn never does: the user has the answer and can go on."""
    pool = await make_pool(turn_stall_seconds=0.3, stop_grace_seconds=0.5)
    screen = await follow(pool)
    turn = await say(pool, "hello !after !freeze", "m1")
    await eventually(lambda: [f for f in screen.of_type("event") if f["event"].get("type") == "result"])
    pid = the_pid(pool)
    ending = await _ended_while_looking(pool, screen, turn)
    assert ending["state"] == "succeeded", ending
    following = await say(pool, "hello again", "m2")
    assert (await screen.ended(following))["state"] == "succeeded"
    assert the_pid(pool) != pid
    assert not is_alive(pid)


async def _ended_while_looking(pool: ClaudeInstancePool, screen: Screen, turn: str) -> dict[str, Any]:
    async def ended() -> bool:
        await pool._watches.look_at_instances()
        return bool(endings(screen, turn))

    await eventually(ended, 20, what=f"an end of {turn}")
    return await screen.ended(turn)


async def test_what_a_cli_says_after_its_turn_belongs_to_no_other_turn(pool: ClaudeInstancePool) -> None:
    screen = await follow(pool)
    turn = await say(pool, "hello !idle !sleep 0.2 !unknown", "m1")
    await screen.ended(turn)
    following = await say(pool, "hello", "m2")
    assert (await screen.ended(following))["state"] == "succeeded"
    late = await eventually(
        lambda: [f for f in screen.of_type("event") if f["event"].get("subtype") == "wombat_seen"]
    )
    assert len(late) == 1
    assert endings(screen, turn) == endings(screen, following) == ["succeeded"]


@pytest.mark.parametrize("words", ["close-stdout !sleep 600", "freeze"])
async def test_a_turn_that_says_nothing_more_does_not_keep_its_user(make_pool: MakePool, words: str) -> None:
    pool = await make_pool(turn_stall_seconds=0.3, stop_grace_seconds=0.5)
    screen = await follow(pool)
    turn = await say(pool, f"hello !{words}", "m1")
    await eventually(lambda: "running" in screen.turn_states(turn))
    ending = await _ended_while_looking(pool, screen, turn)
    assert ending["state"] in ("interrupted", "lost")
    following = await say(pool, "hello", "m2")
    assert (await screen.ended(following))["state"] == "succeeded"
    assert len(pool.instances()) == 1


async def test_half_a_line_before_death_is_no_frame_and_no_trouble(pool: ClaudeInstancePool) -> None:
    screen = await follow(pool)
    turn = await say(pool, "hello !half-line", "m1")
    ending = await screen.ended(turn)
    assert (ending["state"], ending["reason"]["exit_code"]) == ("lost", 1)
    following = await say(pool, "hello", "m2")
    assert (await screen.ended(following))["state"] == "succeeded"
    assert not [f for f in screen.of_type("event") if f["event"].get("message", {}).get("role") == "assi"]


# --- stopped, deaf, many children --------------------------------------------------------------------


async def test_a_stopped_cli_is_not_believed_dead_and_can_be_ended(make_pool: MakePool) -> None:
    pool = await make_pool(stop_grace_seconds=0.3)
    instance = await pool.get_or_create_instance("alice")
    pid = the_pid(pool)
    os.kill(pid, signal.SIGSTOP)
    await eventually(lambda: (p := look_at(pid)) is not None and p.state == "T")
    assert not await instance.health_check(timeout_seconds=0.3)
    assert is_alive(pid)
    assert [info.id for info in pool.instances()] == [instance.id]
    assert await pool.destroy_instance("alice")
    assert not is_alive(pid)
    assert not marked_processes(instance.id)
    assert (await pool.get_or_create_instance("alice")).id != instance.id


async def test_a_hung_turn_keeps_nobody_from_ending_its_instance(make_pool: MakePool) -> None:
    """Deaf to its input, to interrupts and to TERM, with a message of 1 MiB half way into its pipe."""
    pool = await make_pool(max_instances=1, stop_grace_seconds=0.3)
    plan(pool, "alice", start="!ignore-term !ignore-eof")
    screen = await follow(pool)
    turn = await say(pool, "hello !freeze", "m1")
    await eventually(lambda: "running" in screen.turn_states(turn))
    (info,) = pool.instances()
    behind = await say(pool, "x" * (1 << 20), "m2")
    waiting = await follow(pool, "bob")
    waiter = await say(pool, "hello", "m3", "bob")
    assert await pool.stop_instance(info.id)
    assert not marked_processes(info.id)
    assert (await screen.ended(turn))["state"] in ("interrupted", "lost")
    assert (await screen.ended(behind))["state"] == "withdrawn"
    assert (await waiting.ended(waiter))["state"] == "succeeded"


async def test_a_message_of_a_megabyte_to_a_deaf_cli_holds_up_nobody(make_pool: MakePool) -> None:
    pool = await make_pool()
    screen, other = await follow(pool), await follow(pool, "bob")
    await screen.ended(await say(pool, "hello !idle !deaf", "m1"))
    turn = await say(pool, "x" * (1 << 20), "m2")
    for number in range(5):
        assert (await other.ended(await say(pool, "hello", f"b{number}", "bob")))["state"] == "succeeded"
    await pool.interrupt("alice", "default")
    assert (await screen.ended(turn))["state"] in ("interrupted", "lost")
    assert (await screen.ended(await say(pool, "hello", "m3")))["state"] == "succeeded"


# --- programs that cannot be started -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "mode"),
    [(None, 0), (b"\x7fELF no program", 0o755), (b"#!/nonexistent/interpreter\n", 0o755), (b"", 0o644)],
    ids=["missing", "no program", "no interpreter", "not executable"],
)
async def test_a_program_that_is_none_is_told_at_once_and_tried_once(
    make_pool: MakePool, content: bytes | None, mode: int
) -> None:
    pool = await make_pool()
    cli = pool.config.data_dir / "broken"
    if content is not None:
        cli.write_bytes(content)
        cli.chmod(mode)
    object.__setattr__(pool.config, "cli_path", cli)
    screen = await follow(pool)
    with pytest.raises(errors.LaunchFailed) as failure:
        await pool.get_or_create_instance("alice")
    assert failure.value.details["step"] in ("cli", "exec", "sandbox", "initialize")
    turn = await say(pool, "hello", "m1")
    ending = await screen.ended(turn)
    assert (ending["state"], ending["reason"]["code"]) == ("failed", "launch_failed")
    assert pool.instances() == []
    records = len(list((pool.config.data_dir / "spool").iterdir()))
    assert records == 0, "nothing is left, and nothing tries again by itself"


@pytest.mark.parametrize("start", ["!noise !noise", "!stderr 200000 !exit 5", "!exit 0", "!close-stdout"])
async def test_a_start_with_odd_words_is_a_start_or_a_told_failure(make_pool: MakePool, start: str) -> None:
    pool = await make_pool(start_timeout_seconds=3)
    plan(pool, "alice", start=start)
    if start.startswith("!noise"):
        assert (await pool.get_or_create_instance("alice")).id
        return
    with pytest.raises(errors.LaunchFailed) as failure:
        await pool.get_or_create_instance("alice")
    assert failure.value.details["step"] == "initialize"
    if "stderr" in start:
        assert failure.value.details["exit_code"] == 5
        assert 0 < len(failure.value.details["stderr"]) <= 2000
    assert pool.instances() == []
    plan(pool, "alice")
    assert (await pool.get_or_create_instance("alice")).id


# --- work that goes on after the turn -------------------------------------------------------------


async def test_background_work_outlives_the_idle_time_and_its_end_reaches_the_user(
    make_pool: MakePool,
) -> None:
    pool = await make_pool(idle_timeout_seconds=0.5)
    screen = await follow(pool)
    await screen.ended(await say(pool, "hello !idle !task 2", "m1"))
    pid = the_pid(pool)
    own = await eventually(lambda: [f for f in screen.of_type("turn") if f["origin"] == "cli"])
    assert (await screen.ended(own[0]["turn_id"]))["state"] == "succeeded"
    told = [f["event"].get("subtype") for f in screen.of_type("event")]
    assert "task_notification" in told
    # With nothing left to do it rests.
    await eventually(lambda: not is_alive(pid) and not pool.instances())
