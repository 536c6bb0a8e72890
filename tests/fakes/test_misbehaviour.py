"""Every word of misbehaviour does what the fake's docstring says."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import fake_claude as script
from tests.fakes.claude.words import WORDS
from tests.fakes.host import Frame, Host, kinds, result
from tests.procfs import Process, process_tree, processes
from tests.waiting import eventually_sync

Starter = Any


@pytest.fixture
def start(fake_claude: Path, tmp_path: Path) -> Iterator[Starter]:
    """Start fakes with a plan; they and all that they started are ended after the test."""
    hosts: list[Host] = []

    def starter(**plan: str) -> Host:
        (tmp_path / "work").mkdir(exist_ok=True)
        (tmp_path / "work" / ".fake-claude.json").write_text(json.dumps(plan))
        hosts.append(Host(fake_claude, tmp_path))
        return hosts[-1]

    yield starter
    for host in hosts:
        host.__exit__()
        for process in sleepers(host):
            os.kill(process.pid, signal.SIGKILL)
        eventually_sync(lambda host=host: not sleepers(host))  # type: ignore[misc]


def sleepers(host: Host) -> list[Process]:
    """The sleeping children and orphans of a fake, which work in its workspace."""
    here = str(host.workspace)
    return [p for p in processes() if p.argv[:1] == ["sleep"] and p.cwd == here and not p.is_zombie]


def text_delta(frame: Frame) -> bool:
    return bool(frame.get("event", {}).get("type") == "content_block_delta")


def answers(host: Host) -> bool:
    """Does it answer a ping soon?"""
    host.write({"type": "control_request", "request_id": "1", "request": {"subtype": "get_binary_version"}})
    try:
        return bool(host.until(lambda frame: frame["type"] == "control_response", 0.3))
    except TimeoutError:
        return False


def test_every_word_is_documented() -> None:
    missing = [word for word in WORDS if f"  {word} " not in f"  {script.__doc__} "]
    assert missing == []


def test_a_slow_start_and_one_that_is_never_ready(start: Starter) -> None:
    slow = start(start="!sleep 0.3")
    assert slow.request("initialize", hooks={})["subtype"] == "success"
    mute = start(start="!mute")
    mute.write({"type": "control_request", "request_id": "1", "request": {"subtype": "initialize"}})
    with pytest.raises(TimeoutError):
        mute.line(0.3)
    assert mute.process.poll() is None


def test_an_exit_at_the_start_and_crashes_that_end(start: Starter) -> None:
    assert start(start="!exit 3").end()[0] == 3
    assert [start(start="!crashes 2").end()[0] for _ in range(3)] == [1, 1, 0]


def test_noise_comes_before_the_first_frame(start: Starter) -> None:
    host = start(start="!noise !nul")
    host.write({"type": "control_request", "request_id": "1", "request": {"subtype": "get_binary_version"}})
    lines = [host.line() for _ in range(5)]
    assert lines[0].startswith(b"Warning")
    assert lines[3] == b"\0\0\0\0"
    assert json.loads(lines[4])["type"] == "control_response"


@pytest.mark.parametrize(("word", "code"), [("!exit 7", 7), ("!signal 9", -9), ("!half-line", 1)])
def test_death_at_a_certain_delta(start: Starter, word: str, code: int) -> None:
    host = start()
    host.say(f"stream 10 !at 4 {word}")
    frames = host.until(lambda _: False, end_is_fine=True)
    assert len([f for f in frames if text_delta(f)]) == 4
    assert host.process.wait(10) == code


def test_a_hang_answers_pings_and_ends_by_an_interrupt(start: Starter) -> None:
    host = start()
    host.say("stream 10 !at 3 !hang")
    host.until(lambda frame: frame.get("event", {}).get("delta", {}).get("text") == " w2")
    assert host.request("get_binary_version")["subtype"] == "success"
    host.request("interrupt", cancel_queued=True)
    frames = host.until_idle()
    assert result(frames)["terminal_reason"] == "aborted_streaming"
    assert next(f for f in frames if f["type"] == "assistant")["message"]["content"][0]["text"] == "w0 w1 w2"


def test_a_freeze_after_the_result_answers_nothing_but_ends_by_term(start: Starter) -> None:
    host = start()
    host.say("hello !after !freeze")
    host.until(lambda frame: frame["type"] == "result")
    eventually_sync(lambda: not answers(host))
    host.signal(signal.SIGTERM)
    assert host.process.wait(10) == 143


def test_one_deaf_to_term_and_to_the_end_of_input_ends_by_kill_only(start: Starter) -> None:
    host = start(start="!ignore-term !ignore-eof")
    host.turn("hello")
    host.signal(signal.SIGTERM)
    assert host.request("get_binary_version")["subtype"] == "success"
    assert host.process.stdin is not None
    host.process.stdin.close()
    with pytest.raises(TimeoutError):
        host.line(0.3)
    assert host.process.poll() is None


def test_one_that_does_not_read_fills_its_pipe(start: Starter) -> None:
    host = start(start="!freeze")
    assert host.process.stdin is not None
    os.set_blocking(host.process.stdin.fileno(), False)
    written = host.process.stdin.write(b"x" * (1 << 20))
    assert written is not None
    assert written <= 1 << 16


def test_a_closed_stdout_leaves_a_living_process(start: Starter) -> None:
    host = start()
    host.say("hello !close-stdout")
    host.until(lambda _: False, end_is_fine=True)
    assert host.process.poll() is None


def test_a_stopped_process_is_alive_and_silent(start: Starter) -> None:
    host = start()
    host.say("stream 10 !at 2 !signal 19")
    eventually_sync(lambda: [p.state for p in process_tree(host.process.pid)][:1] == ["T"])


def test_children_hold_stdout_beyond_the_death_of_the_cli(start: Starter) -> None:
    host = start()
    host.turn("hello !child !setsid !double-fork")
    eventually_sync(lambda: len(sleepers(host)) == 3)
    in_group = [p for p in sleepers(host) if os.getpgid(p.pid) == host.process.pid]
    orphans = [p for p in sleepers(host) if p.ppid != host.process.pid]
    assert (len(in_group), len(orphans)) == (1, 1)
    host.process.kill()
    with pytest.raises(TimeoutError):
        host.line(0.3)


def test_lines_in_pieces_and_a_huge_one_arrive_whole(start: Starter) -> None:
    host = start(every="!before !split 5 1")
    assert result(host.turn("hello"))["result"] == "echo: hello"
    big = start()
    frames = big.turn("hello !huge 3000000")
    texts = [f["message"]["content"][0]["text"] for f in frames if f["type"] == "assistant"]
    assert texts == ["x" * 3000000, "echo: hello"]


def test_spoiled_lines_do_not_end_the_turn(start: Starter) -> None:
    host = start()
    host.say("hello !noise !nul !bad-utf8 !glued !unknown")
    frames: list[Frame] = []
    bad: list[bytes] = []
    while not frames or frames[-1].get("state") != "idle":
        line = host.line()
        try:
            frame = json.loads(line)
            frames += [frame] if isinstance(frame, dict) else []
        except ValueError:
            bad.append(line)
    assert any(b"\xff\xfe" in line for line in bad)
    assert {"wombat", "result"} <= {str(frame.get("type")) for frame in frames}


def test_a_flood_of_stderr_needs_somebody_to_drain_it(start: Starter) -> None:
    host = start()
    host.say("hello !stderr 1000000")
    assert host.process.stderr is not None
    taken = 0
    while taken < 1000000:
        taken += len(os.read(host.process.stderr.fileno(), 1 << 16))
    assert result(host.until_idle())["is_error"] is False


def test_memory_and_cpu_are_really_used(start: Starter) -> None:
    host = start()
    host.turn("hello !memory 50000000 !spin 0.1")
    pages = int(Path(f"/proc/{host.process.pid}/statm").read_text().split()[1])
    assert pages * os.sysconf("SC_PAGE_SIZE") > 50000000


def test_a_storm_asks_at_once_and_answers_are_told_apart(start: Starter) -> None:
    host = start()
    host.say("hello !storm 5 2")
    asks = [host.until_ask() for _ in range(5)]
    assert len({ask["request_id"] for ask in asks}) == 5
    assert len({ask["request"]["tool_use_id"] for ask in asks}) == 4
    for number, ask in reversed(list(enumerate(asks))):
        deny = {"behavior": "deny", "message": "no"}
        host.answer(ask, deny if number == 1 else {"behavior": "allow"})
    assert result(host.until_idle())["result"] == "allow deny allow allow allow"


def test_a_cut_stream_begins_again_and_the_assistant_frame_is_right(start: Starter) -> None:
    frames = start().turn("stream 6 !at 3 !retry")
    assert len([f for f in frames if text_delta(f)]) == 9
    assert kinds(frames).count("system/api_retry") == 1
    assert result(frames)["result"] == "w0 w1 w2 w3 w4 w5"


def test_an_error_of_the_api_has_the_subtype_success(start: Starter) -> None:
    host = start()
    frames = host.turn("hello !api-error 529")
    end = result(frames)
    assert (end["subtype"], end["is_error"], end["api_error_status"]) == ("success", True, 529)
    assert "command_lifecycle/cancelled" in kinds(frames)
    assert host.end()[0] == 1


def test_turns_and_tasks_that_nobody_asked_for_carry_their_origin(start: Starter) -> None:
    host = start()
    host.turn("hello !idle !turn")
    assert result(host.until_idle())["origin"] == {"kind": "task-notification"}
    host.turn("hello !task 0.1")
    frames = host.until_idle()
    assert "system/task_notification" in kinds(frames)
    assert result(frames)["origin"] == {"kind": "task-notification"}


def test_every_line_of_input_can_be_logged(start: Starter) -> None:
    host = start(log_input="input.jsonl")
    message_id = host.say("hello")
    host.until_idle()
    rows = (host.workspace / "input.jsonl").read_text().splitlines()
    assert [json.loads(row)["uuid"] for row in rows] == [message_id]
