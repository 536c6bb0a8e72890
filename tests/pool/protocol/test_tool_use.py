"""Which tools are called and answered, whatever a frame holds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.protocol.tool_use import tools_answered, tools_called


def frame(content: Any) -> bytes:
    return json.dumps({"type": "assistant", "message": {"content": content}}).encode()


def test_calls_and_answers_are_found_by_their_ids() -> None:
    called = [
        {"type": "text", "text": "x"},
        {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"id": 3}},
    ]
    assert tools_called(frame([*called, {"type": "tool_use", "id": "t2"}])) == ["t1", "t2"]
    answered = [{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "done"}]}]
    assert tools_answered(frame(answered)) == ["t1"]
    assert tools_called(frame(answered)) == []
    assert tools_called(frame('say "tool_use"')) == []


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b'"tool_use"',
        b'{"message":"tool_use"}',
        frame(None),
        frame(["tool_use"]),
        frame([{"type": "tool_use", "id": 7}]),
        b'{"message":{"content":[{"type":"tool_use","id":"\xff"}]}}',
    ],
)
def test_what_is_no_such_frame_has_no_tools(raw: bytes) -> None:
    assert tools_called(raw) == []
    assert tools_answered(raw) == []


@given(st.binary())
def test_any_bytes_are_taken(raw: bytes) -> None:
    tools_called(b'"tool_use"' + raw)
    tools_answered(raw + b'"tool_result"')
