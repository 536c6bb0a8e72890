"""Conversations over the front door: turns, approvals, viewers, failures."""

from __future__ import annotations

import asyncio
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pool import ClaudeInstancePool, errors
from tests.pool.conftest import MakePool, Screen
from tests.waiting import eventually


def shows(screen: Screen, frames: list[dict[str, Any]]) -> bool:
    return screen.frames[1:] == frames


async def follow(pool: ClaudeInstancePool, user: str = "alice", cursor: str | None = None) -> Screen:
    screen = Screen()
    await pool.subscribe(user, "default", cursor, screen)
    return screen


async def run(pool: ClaudeInstancePool, text: str, message_id: str, user: str = "alice") -> str:
    return (await pool.submit(user, "default", text, message_id=message_id)).turn_id


async def test_a_turn_runs_from_queued_to_succeeded(pool: ClaudeInstancePool) -> None:
    screen = await follow(pool)
    turn = await run(pool, "stream 20", "m1")
    await screen.ended(turn)
    assert screen.turn_states(turn) == ["queued", "running", "succeeded"]
    assert screen.text().split() == [f"w{n}" for n in range(20)]
    assert screen.frames[0]["type"] == "subscribed"
    assert screen.of_type("turn")[0]["content"] == "stream 20"


async def test_cursors_only_grow_and_a_later_viewer_sees_the_same(pool: ClaudeInstancePool) -> None:
    screen = await follow(pool)
    await screen.ended(await run(pool, "stream 20", "m1"))
    cursors = [tuple(map(int, frame["cursor"].split("."))) for frame in screen.frames[1:]]
    assert cursors == sorted(set(cursors))
    late = await follow(pool, cursor="0")
    await eventually(lambda: late.frames[1:] == screen.frames[1:])
    for index in (3, 10, len(screen.frames) - 2):
        middle = await follow(pool, cursor=screen.frames[index]["cursor"])
        await eventually(partial(shows, middle, screen.frames[index + 1 :]))


async def test_turns_of_a_session_run_in_order_one_at_a_time(pool: ClaudeInstancePool) -> None:
    screen = await follow(pool)
    turns = [await run(pool, f"stream 5 {n}", f"m{n}") for n in range(4)]
    for turn in turns:
        await screen.ended(turn)
    steps = [
        (frame["turn_id"], frame["state"]) for frame in screen.of_type("turn") if frame["state"] != "queued"
    ]
    assert steps == [step for turn in turns for step in ((turn, "running"), (turn, "succeeded"))]


async def test_a_repeated_message_runs_once(pool: ClaudeInstancePool) -> None:
    screen = await follow(pool)
    first = await pool.submit("alice", "default", "stream 3", message_id="m1")
    again = await pool.submit("alice", "default", "stream 3", message_id="m1")
    assert again.turn_id == first.turn_id
    await screen.ended(first.turn_id)
    late = await pool.submit("alice", "default", "stream 3", message_id="m1")
    assert late.turn_id == first.turn_id
    with pytest.raises(errors.KeyReused):
        await pool.submit("alice", "default", "stream 4", message_id="m1")
    assert screen.turn_states(first.turn_id) == ["queued", "running", "succeeded"]


async def test_an_approval_lets_the_tool_run(pool: ClaudeInstancePool) -> None:
    screen = await follow(pool)
    turn = await run(pool, "write note.txt hello", "m1")
    (ask,) = await eventually(lambda: screen.of_type("permission_request"))
    assert ask["tool"] == "Write"
    assert [info.request_id for info in await pool.permissions("alice", "default")] == [ask["request_id"]]
    await pool.answer_permission("alice", "default", ask["request_id"], "allow", answered_by="alice")
    with pytest.raises(errors.AlreadyResolved):
        await pool.answer_permission("alice", "default", ask["request_id"], "deny", answered_by="bob")
    assert (await screen.ended(turn))["state"] == "succeeded"
    note = pool.config.data_dir / "workspaces/alice/note.txt"
    assert "hello" in note.read_text()
    assert screen.of_type("permission_resolved")[0]["decision"] == "allow"
    with pytest.raises(errors.AlreadyResolved):
        await pool.answer_permission("alice", "default", ask["request_id"], "deny", answered_by="bob")
    with pytest.raises(errors.NotFound):
        await pool.answer_permission("alice", "default", "no-such", "deny", answered_by="bob")


async def test_a_denied_tool_does_not_run(pool: ClaudeInstancePool) -> None:
    screen = await follow(pool)
    turn = await run(pool, "write note.txt hello", "m1")
    (ask,) = await eventually(lambda: screen.of_type("permission_request"))
    await pool.answer_permission(
        "alice", "default", ask["request_id"], "deny", message="not now", answered_by="alice"
    )
    await screen.ended(turn)
    assert not (pool.config.data_dir / "workspaces/alice/note.txt").exists()


async def test_an_interrupt_ends_the_turn_and_withdraws_the_queue(pool: ClaudeInstancePool) -> None:
    screen = await follow(pool)
    running = await run(pool, "stream 1000 20", "m1")
    queued = await run(pool, "hello", "m2")
    await eventually(lambda: "w3" in screen.text())
    await pool.interrupt("alice", "default")
    assert (await screen.ended(running))["state"] == "interrupted"
    assert (await screen.ended(queued))["state"] == "withdrawn"
    assert (await screen.ended(await run(pool, "stream 2", "m3")))["state"] == "succeeded"
    await pool.interrupt("alice", "default")
    assert len(screen.of_type("turn")) == 3 + 2 + 3


async def test_an_interrupt_withdraws_an_open_approval(pool: ClaudeInstancePool) -> None:
    screen = await follow(pool)
    turn = await run(pool, "write note.txt hello", "m1")
    await eventually(lambda: screen.of_type("permission_request"))
    await pool.interrupt("alice", "default")
    assert (await screen.ended(turn))["state"] == "interrupted"
    (resolved,) = await eventually(lambda: screen.of_type("permission_resolved"))
    assert resolved["decision"] == "withdrawn"
    assert await pool.permissions("alice", "default") == []


async def test_a_killed_cli_loses_the_turn_and_the_next_one_remembers(pool: ClaudeInstancePool) -> None:
    screen = await follow(pool)
    await screen.ended(await run(pool, "the first words", "m0"))
    turn = await run(pool, "stream 1000 20", "m1")
    await eventually(lambda: "w3" in screen.text())
    (info,) = pool.instances()
    assert info.pid is not None
    os.kill(info.pid, signal.SIGKILL)
    ending = await screen.ended(turn)
    assert ending["state"] == "lost"
    assert ending["reason"]["signal"] == "SIGKILL"
    assert "SIGKILL" in ending["reason"]["message"]
    history = await run(pool, "history", "m2")
    await screen.ended(history)
    assert "the first words" in screen.text()


async def test_an_api_error_fails_the_turn_and_not_the_session(pool: ClaudeInstancePool) -> None:
    screen = await follow(pool)
    ending = await screen.ended(await run(pool, "hello !api-error 400", "m1"))
    assert ending["state"] == "failed"
    assert "400" in ending["reason"]["message"]
    assert (await screen.ended(await run(pool, "hello", "m2")))["state"] == "succeeded"


async def test_a_line_above_the_bound_fails_the_turn_and_not_the_reader(make_pool: MakePool) -> None:
    pool = await make_pool(max_line_bytes=100_000)
    screen = await follow(pool)
    ending = await screen.ended(await run(pool, "hello !huge 300000", "m1"))
    assert (ending["state"], ending["reason"]["code"]) == ("failed", "frame_too_large")
    assert (await screen.ended(await run(pool, "hello", "m2")))["state"] == "succeeded"


@pytest.mark.parametrize(
    "words", ["!noise", "!nul", "!unknown", "!glued", "!bad-utf8", "!stderr 5000000", "!split 7 0"]
)
async def test_odd_output_harms_nobody(pool: ClaudeInstancePool, words: str) -> None:
    screen = await follow(pool)
    ending = await screen.ended(await run(pool, f"stream 5 {words}", "m1"))
    assert ending["state"] == "succeeded"
    assert screen.text().split() == [f"w{n}" for n in range(5)]


async def test_a_turn_that_the_cli_begins_has_its_own_origin(pool: ClaudeInstancePool) -> None:
    screen = await follow(pool)
    await screen.ended(await run(pool, "hello !idle !turn", "m1"))
    own = await eventually(lambda: [frame for frame in screen.of_type("turn") if frame["origin"] == "cli"])
    assert own[0]["state"] == "running"
    await screen.ended(own[0]["turn_id"])
    assert (await screen.ended(await run(pool, "hello", "m2")))["state"] == "succeeded"


async def test_a_clear_is_followed_to_the_new_conversation(pool: ClaudeInstancePool) -> None:
    screen = await follow(pool)
    await screen.ended(await run(pool, "the first words", "m1"))
    await screen.ended(await run(pool, "/clear", "m2"))
    await screen.ended(await run(pool, "the second words", "m3"))
    await pool.destroy_instance("alice")
    await screen.ended(await run(pool, "history", "m4"))
    assert "the second words" in screen.text().split("echo: the second words", 1)[1]
    assert "the first words" not in screen.text().split("echo: the second words", 1)[1]


async def test_a_slow_viewer_holds_up_nobody_and_misses_nothing(pool: ClaudeInstancePool) -> None:
    fast, slow = Screen(), Screen()
    await pool.subscribe("alice", "default", None, fast)
    subscription = await pool.subscribe("alice", "default", None, slow)
    slow.backlog_bytes = 1 << 30
    turn = await run(pool, "stream 3000", "m1")
    await fast.ended(turn)
    assert len(slow.frames) < 100
    slow.backlog_bytes = 0
    while slow.frames[-1].get("cursor") != fast.frames[-1]["cursor"]:
        subscription.drained()
        await asyncio.sleep(0.01)
    assert slow.frames[1:] == fast.frames[1:]


async def test_bad_and_unknown_cursors(pool: ClaudeInstancePool) -> None:
    screen = await follow(pool)
    await screen.ended(await run(pool, "stream 3", "m1"))
    for text in ("", "x", "1.2", "-1.0.0", "1.2.3.4", "0.0.0.0", "１.2.3"):
        with pytest.raises(errors.BadCursor):
            await pool.subscribe("alice", "default", text, Screen())
    ahead = await follow(pool, cursor="99.0.0")
    await eventually(lambda: len(ahead.frames) > 3)
    assert [frame["type"] for frame in ahead.frames[:2]] == ["subscribed", "gap"]
    head = screen.frames[-1]["cursor"]
    await eventually(lambda: ahead.frames[-1]["cursor"] == head)


async def test_history_pages_forwards_and_backwards(pool: ClaudeInstancePool) -> None:
    screen = await follow(pool)
    for n in range(5):
        await screen.ended(await run(pool, f"words {n}", f"m{n}"))
    newest, _next, previous = await pool.history("alice", "default", limit=10)
    assert len(newest) == 10
    everything: list[bytes] = list(newest)
    while previous is not None:
        page, _next, previous = await pool.history("alice", "default", before=previous, limit=10)
        everything = page + everything
    forwards: list[bytes] = []
    cursor: str | None = "0"
    while cursor is not None:
        page, cursor, _previous = await pool.history("alice", "default", after=cursor, limit=7)
        forwards += page
    # the CLI's last word on its state may come between the two
    assert forwards[: len(everything)] == everything
    assert len(forwards) - len(everything) <= 1


async def test_one_user_does_not_see_the_other(pool: ClaudeInstancePool) -> None:
    alice, bob = await follow(pool), await follow(pool, "bob")
    await alice.ended(await run(pool, "secret words", "m1"))
    await bob.ended(await run(pool, "other words", "m1", user="bob"))
    assert "secret" not in str(bob.frames)
    with pytest.raises(errors.NotFound):
        await pool.get_session("bob", "nothing")


async def test_draining_refuses_new_work(pool: ClaudeInstancePool) -> None:
    screen = await follow(pool)
    turn = await run(pool, "stream 30 10", "m1")
    pool.drain()
    with pytest.raises(errors.Draining):
        await run(pool, "more", "m2")
    again = await pool.submit("alice", "default", "stream 30 10", message_id="m1")
    assert again.turn_id == turn
    assert (await screen.ended(turn))["state"] == "succeeded"
    pool.resume()
    assert (await screen.ended(await run(pool, "more", "m2")))["state"] == "succeeded"


async def test_the_model_and_the_mode_survive_a_new_instance(pool: ClaudeInstancePool) -> None:
    screen = await follow(pool)
    await screen.ended(await run(pool, "hello", "m1"))
    await pool.set_permission_mode("alice", "default", "acceptEdits")
    await pool.set_model("alice", "default", "some-model")
    with pytest.raises(errors.Forbidden):
        await pool.set_permission_mode("alice", "default", "bypassPermissions")
    await pool.destroy_instance("alice")
    await screen.ended(await run(pool, "argv", "m2"))
    assert "acceptEdits" in screen.text()
    assert "some-model" in screen.text()


async def test_an_archived_session_comes_back_with_a_message(pool: ClaudeInstancePool) -> None:
    screen = await follow(pool)
    await screen.ended(await run(pool, "hello", "m1"))
    await pool.archive_session("alice", "default")
    await eventually(lambda: pool.instances() == [])
    assert await pool.list_sessions("alice") == []
    await screen.ended(await run(pool, "hello", "m2"))
    assert len(await pool.list_sessions("alice")) == 1


async def test_files_stay_in_the_users_own_directory(pool: ClaudeInstancePool) -> None:
    screen = await follow(pool)
    turn = await run(pool, "cwd", "m1")
    await screen.ended(turn)
    assert Path(pool.config.data_dir, "workspaces/alice/README.md").is_file()


async def test_a_forgotten_user_leaves_neither_files_nor_memory(pool: ClaudeInstancePool) -> None:
    screen = await follow(pool)
    await screen.ended(await run(pool, "the first words", "m1"))
    await pool.forget_user("alice")
    assert pool.instances("alice") == []
    assert not any((pool.config.data_dir / name / "alice").exists() for name in ("workspaces", "homes"))
    await pool.accounts.create_user("alice", None, [])
    await pool.accounts.delete_user("alice")
    again = await follow(pool)
    await again.ended(await run(pool, "history", "m1"))
    assert "the first words" not in again.text()
