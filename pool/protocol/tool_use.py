"""Which tools the model has called, with what, and which have answered, read from complete frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from pool.protocol.encoding import decode


class _Block(msgspec.Struct):
    type: str = ""
    id: str | None = None
    tool_use_id: str | None = None


class _Message(msgspec.Struct):
    content: list[_Block] | str = ""


class _Frame(msgspec.Struct):
    message: _Message


@dataclass(frozen=True, slots=True)
class ToolUse:
    """One call of a tool. ``input`` is what the model gave."""

    id: str
    name: str
    input: Any


_decoder = msgspec.json.Decoder(_Frame)


def tools_called(raw: bytes) -> list[str]:
    """The ids of the calls in an ``assistant`` frame."""
    return [block.id for block in _blocks(raw, b'"tool_use"') if block.type == "tool_use" and block.id]


def tool_uses(raw: bytes) -> list[ToolUse]:
    """The calls in an ``assistant`` frame, with what each was given."""
    if b'"tool_use"' not in raw:
        return []
    try:
        content = decode(raw)["message"]["content"]
        blocks = [block for block in content if block.get("type") == "tool_use"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    return [ToolUse(str(block.get("id")), str(block.get("name")), block.get("input")) for block in blocks]


def tools_answered(raw: bytes) -> list[str]:
    """The ids of the calls whose results are in a ``user`` frame."""
    blocks = _blocks(raw, b'"tool_result"')
    return [block.tool_use_id for block in blocks if block.type == "tool_result" and block.tool_use_id]


def _blocks(raw: bytes, word: bytes) -> list[_Block]:
    if word not in raw:
        return []
    try:
        content = _decoder.decode(raw).message.content
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return []
    return content if isinstance(content, list) else []
