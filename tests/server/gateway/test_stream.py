"""The wire shape of the demo model's answers."""

from __future__ import annotations

import json
from typing import Any

from server.gateway.demo.answer import Reply, Text, Thinking, ToolUse
from server.gateway.demo.stream import events, message_body

REPLY = Reply(
    (Thinking(("I ", "think")), Text(("Hello ", "you")), ToolUse("Bash", {"command": "date '+%d %m' é"})),
    stop_reason="tool_use",
    pause_seconds=0.25,
)


def decoded(reply: Reply) -> list[tuple[float, dict[str, Any]]]:
    found = []
    for pause, raw in events(reply, "msg_x", 7):
        event, data, rest = raw.decode().split("\n", 2)
        body = json.loads(data.removeprefix("data: "))
        assert event == f"event: {body['type']}"
        assert rest == "\n"
        found.append((pause, body))
    return found


def test_the_events_come_in_the_apis_order() -> None:
    kinds = [body["type"] for _, body in decoded(REPLY)]
    assert kinds[:2] == ["message_start", "ping"]
    assert kinds[-2:] == ["message_delta", "message_stop"]
    blocks = "".join(kind.removeprefix("content_block_")[:3] + " " for kind in kinds[2:-2])
    assert blocks == "sta del del del sto sta del del sto sta del del sto "


def test_only_deltas_wait() -> None:
    assert {(body["type"] == "content_block_delta", pause) for pause, body in decoded(REPLY)} == {
        (True, 0.25),
        (False, 0.0),
    }


def test_the_stream_and_the_whole_message_say_the_same() -> None:
    whole = message_body(REPLY, "msg_x", 7)
    thoughts, words, inputs = "", "", ""
    ids = []
    for _, body in decoded(REPLY):
        delta = body.get("delta", {})
        thoughts += delta.get("thinking", "")
        words += delta.get("text", "")
        inputs += delta.get("partial_json", "")
        ids.append(body.get("content_block", {}).get("id"))
    thinking, text, use = whole["content"]
    assert thoughts == thinking["thinking"]
    assert words == text["text"] == "Hello you"
    assert json.loads(inputs) == use["input"] == {"command": "date '+%d %m' é"}
    assert use["id"] in ids


def test_usage_is_told_at_both_ends() -> None:
    bodies = [body for _, body in decoded(REPLY)]
    assert bodies[0]["message"]["usage"]["input_tokens"] == 7
    assert bodies[0]["message"]["model"] == "claude-pool-demo"
    assert bodies[-2]["usage"]["output_tokens"] == message_body(REPLY, "m", 7)["usage"]["output_tokens"] > 1
    assert bodies[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
