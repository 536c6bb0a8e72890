"""The fake speaks as the real CLI was measured to speak."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.host import Host, kinds, result

ALLOW = {"behavior": "allow"}


@pytest.fixture
def host(fake_claude: Path, tmp_path: Path) -> Iterator[Host]:
    with Host(fake_claude, tmp_path) as host:
        yield host


def test_nothing_is_printed_before_the_host_writes(host: Host) -> None:
    with pytest.raises(TimeoutError):
        host.line(0.2)
    assert host.request("get_binary_version")["response"] == {"version": "2.1.329"}


def test_a_plain_turn_has_the_frames_of_the_real_one_in_order(host: Host) -> None:
    answer = host.request("initialize", hooks={})["response"]
    assert answer["pid"] == host.process.pid
    assert answer["session_state"] == "idle"
    frames = host.turn("hello there")
    assert kinds(frames) == [
        "system/session_state_changed/running",
        "command_lifecycle/queued",
        "command_lifecycle/started",
        "system/init",
        "system/status",
        "stream_event/message_start",
        "stream_event/content_block_start",
        "stream_event/content_block_delta",
        "assistant",
        "stream_event/content_block_stop",
        "stream_event/message_delta",
        "stream_event/message_stop",
        "result/success",
        "command_lifecycle/completed",
        "system/session_state_changed/idle",
    ]
    assert result(frames)["result"] == "echo: hello there"
    assert next(iter(result(frames))) == "duration_api_ms", "a reader that sniffs for the type must fail"


def test_deltas_are_exact_and_add_up_to_the_assistant_frame(host: Host) -> None:
    frames = host.turn("stream 50 1")
    deltas = [f["event"]["delta"]["text"] for f in frames if f.get("event", {}).get("delta", {}).get("text")]
    text = "".join(deltas)
    assert text.split() == [f"w{number}" for number in range(50)]
    assert [f["message"]["content"][0]["text"] for f in frames if f["type"] == "assistant"] == [text]


def test_a_write_is_asked_and_really_done_with_the_updated_input(host: Host) -> None:
    host.say("write a.txt hello world")
    ask = host.until_ask()
    assert ask["request"]["tool_name"] == "Write"
    assert not (host.workspace / "a.txt").exists()
    host.answer(ask, {**ALLOW, "updatedInput": {**ask["request"]["input"], "content": "changed"}})
    frames = host.until_idle()
    assert (host.workspace / "a.txt").read_text() == "changed"
    assert kinds(frames)[:3] == ["system/session_state_changed/running", "user", "system/status"]
    host.answer(ask, {"behavior": "deny", "message": "too late"})
    assert result(host.turn("still fine"))["is_error"] is False


def test_a_denied_tool_is_told_to_the_model_and_listed(host: Host) -> None:
    host.say("write a.txt hello")
    host.answer(host.until_ask(), {"behavior": "deny", "message": "no thanks"})
    frames = host.until_idle()
    block = next(f for f in frames if f["type"] == "user")["message"]["content"][0]
    assert (block["content"], block["is_error"]) == ("no thanks", True)
    assert result(frames)["permission_denials"][0]["tool_name"] == "Write"
    assert not (host.workspace / "a.txt").exists()


def test_open_asks_are_handed_over_by_a_second_initialize(host: Host) -> None:
    assert "pending_permission_requests" not in host.request("initialize", hooks={})
    host.say("write a.txt hello")
    ask = host.until_ask()
    again = host.request("initialize", hooks={})
    assert again["pending_permission_requests"] == [ask]
    assert again["response"]["session_state"] == "requires_action"
    host.answer(ask, ALLOW)
    assert result(host.until_idle())["is_error"] is False
    assert host.request("initialize", hooks={})["pending_permission_requests"] == []


def test_an_interrupt_in_mid_stream_closes_the_message_and_cancels_the_command(host: Host) -> None:
    host.say("stream 1000 20")
    host.until(lambda frame: frame.get("event", {}).get("type") == "content_block_delta")
    assert host.request("interrupt", cancel_queued=True)["response"] == {"still_queued": [], "cancelled": []}
    frames = host.until_idle()
    assert kinds(
        [
            f
            for f in frames
            if "delta" not in f.get("event", {}) or f["event"]["type"] != "content_block_delta"
        ]
    ) == [
        "assistant",
        "user",
        "stream_event/content_block_stop",
        "stream_event/message_delta",
        "stream_event/message_stop",
        "result/error_during_execution",
        "command_lifecycle/cancelled",
        "system/session_state_changed/idle",
    ]
    assert result(frames)["terminal_reason"] == "aborted_streaming"
    assert result(host.turn("again"))["result"] == "echo: again"


def test_an_interrupt_withdraws_the_open_ask(host: Host) -> None:
    host.say("write a.txt hello")
    ask = host.until_ask()
    before = len(host.seen)
    host.request("interrupt", cancel_queued=True)
    frames = host.seen[before:] + host.until_idle()
    assert kinds(frames) == [
        "control_cancel_request",
        "control_response",
        "system/session_state_changed/running",
        "user",
        "result/error_during_execution",
        "command_lifecycle/cancelled",
        "system/session_state_changed/idle",
    ]
    assert frames[0]["request_id"] == ask["request_id"]
    assert result(frames)["terminal_reason"] == "aborted_tools"
    host.answer(ask, ALLOW)
    assert result(host.turn("hello"))["is_error"] is False
    assert not (host.workspace / "a.txt").exists()


def test_messages_that_wait_become_one_turn(host: Host) -> None:
    host.say("stream 30 10")
    host.until(lambda frame: frame.get("event"))
    second, third = host.say("second"), host.say("third")
    frames = host.until_idle()
    assert result(frames)["user_message_uuids"] == [second, third]
    assert len([f for f in frames if f["type"] == "result"]) == 2
    assert len([f for f in frames if f.get("state") in ("running", "idle")]) == 1


def test_cancel_queued_withdraws_what_waits(host: Host) -> None:
    host.say("stream 1000 20")
    host.until(lambda frame: frame.get("event"))
    waiting = host.say("never")
    host.until(lambda frame: frame.get("command_uuid") == waiting)
    assert host.request("interrupt", cancel_queued=True)["response"]["cancelled"] == [waiting]
    assert "echo: never" not in json.dumps(host.until_idle())


def test_a_repeated_uuid_runs_once_also_after_a_resume(fake_claude: Path, tmp_path: Path) -> None:
    with Host(fake_claude, tmp_path) as host:
        message_id = host.say("only once")
        host.until_idle()
        host.say("only once", message_id)
        assert kinds(host.until_idle()) == ["system/session_state_changed/idle"]
        assert host.end()[0] == 0
    with Host(fake_claude, tmp_path, resume=host.session) as again:
        again.say("only once", message_id)
        told = kinds(again.until_idle())
        assert told == ["command_lifecycle/completed", "system/session_state_changed/idle"]
        assert result(again.turn("history"))["result"] == "only once\nhistory"


def test_a_message_cut_off_by_death_runs_again_after_the_resume(fake_claude: Path, tmp_path: Path) -> None:
    with Host(fake_claude, tmp_path) as host:
        message_id = host.say("stream 1000 20")
        host.until(lambda frame: frame.get("event"))
        host.process.kill()
    with Host(fake_claude, tmp_path, resume=host.session) as again:
        again.say("short", message_id)
        assert result(again.until_idle())["result"] == "echo: short"


def test_ids_that_do_not_fit_the_transcripts_end_the_start(fake_claude: Path, tmp_path: Path) -> None:
    with Host(fake_claude, tmp_path) as first:
        first.turn("hello")
        with Host(fake_claude, tmp_path, session=first.session) as second:
            assert second.end() == (1, f"Error: Session ID {first.session} is already in use.\n")
    nowhere = "00000000-0000-4000-8000-000000000000"
    with Host(fake_claude, tmp_path, resume=nowhere) as third:
        frames = third.until(lambda frame: frame["type"] == "result")
        assert frames[0]["subtype"] == "error_during_execution"
        assert third.end() == (1, f"No conversation found with session ID: {nowhere}\n")


def test_clear_changes_the_session(host: Host) -> None:
    host.turn("remember me")
    frames = host.turn("/clear")
    reset = next(frame for frame in frames if frame["type"] == "conversation_reset")
    assert reset["session_id"] == host.session
    assert result(host.turn("history"))["result"] == "history"
    assert host.seen[-1]["session_id"] not in (host.session, reset["new_conversation_id"])


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"not json\n", "Error parsing streaming input line"),
        (b"\0\0\n", "Error parsing streaming input line"),
        (b"null\n", "4 chars): TypeError"),
        (b'{"type":"user"}\n', "Expected message role 'user', got 'undefined'"),
        (b'{"type":"control_request","request_id":"q"}\n', "Missing request on control_request"),
    ],
)
def test_a_bad_line_ends_the_process(host: Host, line: bytes, complaint: str) -> None:
    host.write(line)
    assert host.process.wait(10) == 1
    assert complaint in host.end()[1]


def test_harmless_lines_are_ignored(host: Host) -> None:
    for line in (
        b"\r\n",
        b"[]\n",
        b"7\n",
        b'{"type":"keep_alive"}\n',
        b'{"type":"control_response"}\n',
        b"{}\n",
    ):
        host.write(line)
    assert host.request("get_binary_version")["subtype"] == "success"
    refused = host.request("ping")
    assert refused["error_code"] == "unsupported_request"
    assert (
        host.request("set_permission_mode", mode="bypassPermissions")["error_code"] == "bypass_not_launched"
    )


def test_the_end_of_input_lets_the_turn_finish(host: Host) -> None:
    host.say("stream 20 10")
    host.until(lambda frame: frame.get("event"))
    assert host.process.stdin is not None
    host.process.stdin.close()
    assert result(host.until_idle())["is_error"] is False
    assert host.process.wait(10) == 0


def test_a_hook_is_asked_before_every_tool(host: Host) -> None:
    host.request("initialize", hooks={"PreToolUse": [{"hookCallbackIds": ["gate"], "timeout": 30}]})
    host.say("read nothing.txt")
    ask = host.until_ask()
    assert ask["request"]["subtype"] == "hook_callback"
    assert ask["request"]["input"]["tool_name"] == "Read"
    output = {
        "hookEventName": "PreToolUse",
        "permissionDecision": "deny",
        "permissionDecisionReason": "not here",
    }
    host.answer(ask, {"hookSpecificOutput": output})
    assert result(host.until_idle())["result"] == "not here"
    host.say("write a.txt x")
    output = {"hookEventName": "PreToolUse", "permissionDecision": "allow"}
    host.answer(host.until_ask(), {"hookSpecificOutput": output})
    assert "File created" in result(host.until_idle())["result"]


def test_a_tool_of_the_host_is_called_over_mcp(host: Host) -> None:
    host.request("initialize", sdkMcpServers=["calc"])
    for reply in ({"serverInfo": {"name": "calc"}}, {}, {"tools": [{"name": "add"}]}):
        ask = host.until_ask()
        identity = ask["request"]["message"].get("id")
        host.answer(ask, {"mcp_response": {"jsonrpc": "2.0", "id": identity, "result": reply}})
    host.say('mcp calc add {"a": 2, "b": 40}')
    host.answer(host.until_ask(), ALLOW)
    call = host.until_ask()
    assert call["request"]["message"]["params"] == {"name": "add", "arguments": {"a": 2, "b": 40}}
    content = [{"type": "text", "text": "42"}]
    host.answer(call, {"mcp_response": {"jsonrpc": "2.0", "id": 2, "result": {"content": content}}})
    assert result(host.until_idle())["result"] == "42"


def test_bash_really_runs_as_a_session_of_its_own(host: Host) -> None:
    host.say("bash echo $$ && ps -o sid= -p $$")
    host.answer(host.until_ask(), ALLOW)
    pid, session = result(host.until_idle())["result"].split()
    assert pid == session


def test_the_script_itself_serves_beside_its_parts(tmp_path: Path) -> None:
    with Host(Path(__file__).with_name("fake_claude.py"), tmp_path) as host:
        assert result(host.turn("hello"))["result"] == "echo: hello"
