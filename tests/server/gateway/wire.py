"""Answers of the Messages API as bytes, with the usage that they tell."""

from __future__ import annotations

import itertools
import json
from typing import Any

from server.gateway.meter import Tokens


def event(body: dict[str, Any], end: str = "\n") -> bytes:
    """One server-sent event."""
    data = json.dumps(body, ensure_ascii=False)
    return f"event: {body['type']}{end}data: {data}{end}{end}".encode()


def usage_of(tokens: Tokens) -> dict[str, int]:
    """The usage object of a message."""
    return {
        "input_tokens": tokens.input,
        "cache_creation_input_tokens": tokens.cache_write,
        "cache_read_input_tokens": tokens.cache_read,
        "output_tokens": tokens.output,
    }


def stream(tokens: Tokens, words: list[str], *, model: str = "claude-x", end: str = "\n") -> list[bytes]:
    """A streamed reply in whole events; its last figures are ``tokens``."""
    first = {**usage_of(tokens), "output_tokens": 1}
    start = {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "usage": first}
    deltas = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}
        for word in words
    ]
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    ending = {"stop_reason": "end_turn", "stop_sequence": None}
    bodies: list[dict[str, Any]] = [
        {"type": "message_start", "message": start},
        {"type": "ping"},
        block,
        *deltas,
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": ending, "usage": {"output_tokens": tokens.output}},
        {"type": "message_stop"},
    ]
    return [event(body, end) for body in bodies]


def message(tokens: Tokens, text: str = "hello", *, model: str = "claude-x") -> dict[str, Any]:
    """A reply that is not streamed."""
    content = [{"type": "text", "text": text}]
    return {"type": "message", "model": model, "content": content, "usage": usage_of(tokens)}


def cut_at(raw: bytes, places: list[int]) -> list[bytes]:
    """``raw`` in pieces with borders at ``places``."""
    borders = sorted({place % (len(raw) + 1) for place in places} | {0, len(raw)})
    return [raw[a:b] for a, b in itertools.pairwise(borders)]
