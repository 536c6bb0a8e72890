"""The wire shape of an answer: a message object, or its server-sent events with their pauses. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from server.gateway.demo.answer import Block, Reply, Text, Thinking
from server.gateway.demo.pieces import in_pieces
from server.gateway.demo.speech import CHARS_PER_TOKEN, MODEL_ID

_SIGNATURE = "ZGVtbyBtb2RlbA=="


def tokens_in(size: int) -> int:
    """About how many tokens ``size`` characters are; at least 1."""
    return max(1, size // CHARS_PER_TOKEN)


def message_body(reply: Reply, message_id: str, input_tokens: int) -> dict[str, Any]:
    """The whole message, for a request that does not stream."""
    content = [_whole(block, message_id, index) for index, block in enumerate(reply.blocks)]
    return {
        **_envelope(message_id, input_tokens, _output_tokens(reply)),
        "content": content,
        "stop_reason": reply.stop_reason,
    }


def events(reply: Reply, message_id: str, input_tokens: int) -> Iterator[tuple[float, bytes]]:
    """The stream of a reply: (seconds to wait before it, encoded event), to message_stop."""
    yield 0.0, _event({"type": "message_start", "message": _envelope(message_id, input_tokens, 1)})
    yield 0.0, _event({"type": "ping"})
    for index, block in enumerate(reply.blocks):
        yield (
            0.0,
            _event(
                {
                    "type": "content_block_start",
                    "index": index,
                    "content_block": _opening(block, message_id, index),
                }
            ),
        )
        for delta in _deltas(block):
            body = {"type": "content_block_delta", "index": index, "delta": delta}
            yield reply.pause_seconds, _event(body)
        yield 0.0, _event({"type": "content_block_stop", "index": index})
    ending = {"stop_reason": reply.stop_reason, "stop_sequence": None}
    usage = {"output_tokens": _output_tokens(reply)}
    yield 0.0, _event({"type": "message_delta", "delta": ending, "usage": usage})
    yield 0.0, _event({"type": "message_stop"})


def _event(body: Mapping[str, Any]) -> bytes:
    return f"event: {body['type']}\ndata: {json.dumps(body, ensure_ascii=False)}\n\n".encode()


def _envelope(message_id: str, input_tokens: int, output_tokens: int) -> dict[str, Any]:
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": MODEL_ID,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": input_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": output_tokens,
        },
    }


def _opening(block: Block, message_id: str, index: int) -> dict[str, Any]:
    if isinstance(block, Text):
        return {"type": "text", "text": ""}
    if isinstance(block, Thinking):
        return {"type": "thinking", "thinking": "", "signature": ""}
    return {"type": "tool_use", "id": _tool_use_id(message_id, index), "name": block.name, "input": {}}


def _whole(block: Block, message_id: str, index: int) -> dict[str, Any]:
    opening = _opening(block, message_id, index)
    if isinstance(block, Text):
        return {**opening, "text": block.text}
    if isinstance(block, Thinking):
        return {**opening, "thinking": block.text, "signature": _SIGNATURE}
    return {**opening, "input": dict(block.input)}


def _deltas(block: Block) -> Iterator[dict[str, Any]]:
    if isinstance(block, Text):
        yield from ({"type": "text_delta", "text": piece} for piece in block.pieces)
    elif isinstance(block, Thinking):
        yield from ({"type": "thinking_delta", "thinking": piece} for piece in block.pieces)
        yield {"type": "signature_delta", "signature": _SIGNATURE}
    else:
        for piece in in_pieces(json.dumps(block.input, ensure_ascii=False)):
            yield {"type": "input_json_delta", "partial_json": piece}


def _tool_use_id(message_id: str, index: int) -> str:
    return f"toolu_{message_id.removeprefix('msg_')}_{index}"


def _output_tokens(reply: Reply) -> int:
    size = 0
    for block in reply.blocks:
        size += len(block.text) if isinstance(block, Text | Thinking) else len(json.dumps(block.input))
    return tokens_in(size)
