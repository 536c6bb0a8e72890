"""The demo model's answers that need no tool. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from server.gateway.demo.answer import Answer, Failure, Reply, Text, Thinking
from server.gateway.demo.conversation import SUMMARY_HEAD, Conversation
from server.gateway.demo.pieces import MAX_PIECES, in_pieces

MODEL_ID = "claude-pool-demo"
CHARS_PER_TOKEN = 4
CAN_DO = (
    "create a file notes.txt with some text",
    "list my files",
    "read notes.txt",
    "run `date`",
    "make a todo list of tea, cake, music",
    "count to 10 slowly",
    "say anything",
    "think about something",
    "what did I say",
)
_SLOW_SECONDS = 0.2
_MAX_PAUSE_SECONDS = 5.0
_MAX_COUNT = 100_000
_MAX_ECHO_BYTES = 32 * 1024 * 1024
_SHOWN_CHARS = 200
_ERROR_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def say(match: re.Match[str], _conversation: Conversation) -> Answer:
    """``say TEXT``: exactly TEXT."""
    return _reply(match["text"])


def count(match: re.Match[str], _conversation: Conversation) -> Answer:
    """``count to N [slowly | every M ms]``: one number a line, one delta a number."""
    number = min(int(match["number"]), _MAX_COUNT)
    pieces = tuple(f"\n{n}" if n > 1 else "1" for n in range(1, number + 1)) or ("0",)
    if match["slowly"]:
        return Reply((Text(pieces),), pause_seconds=_SLOW_SECONDS)
    if match["ms"]:
        return Reply((Text(pieces),), pause_seconds=min(int(match["ms"]) / 1000, _MAX_PAUSE_SECONDS))
    return Reply((Text(pieces if number <= MAX_PIECES else in_pieces("".join(pieces))),))


def recall_all(_match: re.Match[str], conversation: Conversation) -> Answer:
    """``what did I say``: quotes everything that the user said before."""
    before = conversation.asked[:-1]
    if not before:
        return _reply("You have said nothing before this. (I am the demo model.)")
    return _reply("You said:\n" + "\n".join(f"{i}. {text}" for i, text in enumerate(before, 1)))


def recall_first(_match: re.Match[str], conversation: Conversation) -> Answer:
    """``what was my first message``: quotes it."""
    if len(conversation.asked) < 2:
        return _reply("This is your first message. (I am the demo model.)")
    return _reply(f"Your first message was: {conversation.asked[0]}")


def think_about(match: re.Match[str], conversation: Conversation) -> Answer:
    """``think about X``: a thinking block where the request allows one, then an answer."""
    subject = _short(match["subject"])
    words = f"I thought about {subject}. As the demo model I have no opinion on it."
    if not conversation.thinking:
        return _reply(words)
    thoughts = (
        f"The user wants me to think about {subject}. I am the demo model: my thoughts are always these."
    )
    return Reply((Thinking(in_pieces(thoughts)), Text(in_pieces(words))))


def fail(match: re.Match[str], _conversation: Conversation) -> Answer:
    """``fail with 429``: that HTTP status, shaped as the API shapes it."""
    status = int(match["status"])
    return Failure(
        status,
        _ERROR_KINDS.get(status, "invalid_request_error" if status < 500 else "api_error"),
        f"The demo model was asked to fail with {status}.",
        retry_after=1 if status == 429 else None,
    )


def echo_bytes(match: re.Match[str], _conversation: Conversation) -> Answer:
    """``echo N bytes``: a text of exactly N bytes (at most 32 MiB)."""
    size = min(int(match["bytes"]), _MAX_ECHO_BYTES)
    line = "The demo model repeats this line of sixty-four characters over.\n"
    return _reply((line * (size // len(line) + 1))[:size])


def introduce(conversation: Conversation) -> Answer:
    """For everything else: who answers, what was asked, what can be asked."""
    asked = f' You wrote: "{_short(conversation.last)}".' if conversation.last else ""
    examples = "\n".join(f"- {phrase}" for phrase in CAN_DO)
    return _reply(
        "Hello! I am the demo model of Claude Pool: no model key is configured, so I answer by fixed rules."
        f"{asked}\n\nTry one of these:\n{examples}"
    )


def side_request(conversation: Conversation) -> Answer | None:
    """The CLI's own requests, which no user typed: quota probes, titles, summaries; else None."""
    if conversation.json_schema is not None and not conversation.tools:
        text = json.dumps(_fitting(conversation.json_schema, _title(conversation)))
        return Reply((Text(in_pieces(text)),))
    if conversation.max_tokens == 1:
        return Reply((Text(("Demo",)),), stop_reason="max_tokens")
    if "detailed summary of the conversation" in conversation.last:
        said = "\n".join(f"- {' '.join(text.split())}" for text in conversation.asked[:-1])
        return _reply(f"<summary>\n{SUMMARY_HEAD}\n{said}\n</summary>")
    if not conversation.tools and "title" in conversation.system.lower():
        return _reply(_title(conversation))
    return None


def _reply(words: str) -> Reply:
    return Reply((Text(in_pieces(words)),))


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _SHOWN_CHARS else words[: _SHOWN_CHARS - 1] + "…"


def _title(conversation: Conversation) -> str:
    """The first words of what is to be named."""
    inside = re.search(r"<session>(.*?)</session>", conversation.last, re.DOTALL)
    words = (inside[1] if inside else conversation.last).split()
    return " ".join(words[:5]).capitalize() or "Conversation"


def _fitting(schema: Mapping[str, Any], words: str) -> Any:
    """The simplest value that fits a JSON schema; ``words`` where text is wanted."""
    choices = schema.get("enum")
    if isinstance(choices, list) and choices:
        return choices[0]
    kind = schema.get("type")
    if kind == "object":
        properties = schema.get("properties")
        names = properties if isinstance(properties, Mapping) else {}
        return {name: _fitting(inner, words) for name, inner in names.items() if isinstance(inner, Mapping)}
    simple: dict[object, Any] = {"array": [], "boolean": False, "integer": 0, "number": 0, "null": None}
    return simple.get(kind, words)
