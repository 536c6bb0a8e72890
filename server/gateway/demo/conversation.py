"""What a Messages API request says, as the demo model understands it. No I/O.

The CLI wraps the words of its user in much that the user did not write:
reminders, outputs of local commands, notices of interrupts and of cut
streams, an environment in a message of role ``system``. Everything here is
for finding the user's own words again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_WRAPPER = re.compile(
    r"<(system-reminder|local-command-stdout|local-command-stderr|local-command-caveat"
    r"|command-name|command-message|command-args|bash-stdout|bash-stderr)>"
)
_NOTICES = (
    "[Request interrupted by user",
    "Your response above was cut off mid-stream",
    "Continue from where you left off.",
    "Tool loaded.",
)
_FOLDED = re.compile(
    r"The user sent a new message while you were working:\n(.*?)(?:\n\nThis is how Claude Code|\Z)", re.DOTALL
)
_SUMMARY = "This session is being continued from a previous conversation"
_REMEMBERED = re.compile(r"^- (.+)$", re.MULTILINE)
# The demo model's own summaries have this line, then a line for each message.
SUMMARY_HEAD = "Summary by the demo model. The user said:"
_CWD = re.compile(r"[Ww]orking directory:\s*(/[^\n]*?)\s*(?:\n|$)")


@dataclass(frozen=True, slots=True)
class ToolOutcome:
    """What came back for one tool use of the demo model's previous answer."""

    name: str
    input: Mapping[str, Any]
    text: str
    is_error: bool


@dataclass(frozen=True, slots=True)
class Conversation:
    """A request, reduced to what decides the answer.

    ``asked`` holds all that the user wrote, oldest first; ``outcomes`` the
    results of the tools used since the last of these, ``answered`` the text
    that the model has given since then. ``cwd`` is None when the request does
    not tell it. ``max_tokens`` bounds the answer.
    """

    asked: tuple[str, ...]
    outcomes: tuple[ToolOutcome, ...]
    answered: str
    tools: frozenset[str]
    cwd: str | None
    thinking: bool
    json_schema: Mapping[str, Any] | None
    max_tokens: int
    system: str

    @property
    def last(self) -> str:
        """What the user asked last; empty when nothing was."""
        return self.asked[-1] if self.asked else ""


def read_conversation(body: Mapping[str, Any]) -> Conversation:
    """Understand the body of ``POST /v1/messages``; odd parts are skipped, never an error."""
    messages = [m for m in _sequence(body.get("messages")) if isinstance(m, Mapping)]
    system = _text_of(body.get("system"))
    told = [_text_of(message.get("content")) for message in messages if message.get("role") == "system"]
    asked, turn_start = _asked(messages)
    outcomes, answered = _since(messages[turn_start:])
    cwd = _CWD.search("\n".join([system, *told]))
    max_tokens = body.get("max_tokens")
    return Conversation(
        asked=tuple(asked),
        outcomes=tuple(outcomes),
        answered=answered,
        tools=frozenset(_tool_names(body, messages)),
        cwd=cwd[1] if cwd else None,
        thinking=_mapping(body.get("thinking")).get("type") in ("enabled", "adaptive"),
        json_schema=_json_schema(body),
        max_tokens=max_tokens if isinstance(max_tokens, int) and max_tokens > 0 else 4096,
        system=system,
    )


def _asked(messages: Sequence[Mapping[str, Any]]) -> tuple[list[str], int]:
    """All that the user wrote, and the index of the message after the last of it."""
    asked: list[str] = []
    after = 0
    for index, message in enumerate(messages):
        # A message sent while the model worked comes as a message of role system.
        folded = (m[1] for text in _texts(message.get("content")) for m in [_FOLDED.match(text)] if m)
        texts = _texts(message.get("content")) if message.get("role") == "user" else folded
        # The CLI puts messages that no answer lies between into one, a block each.
        words = [own for text in texts for own in _own_words(text)]
        if words:
            asked.extend(words)
            after = index + 1
    return asked, after


def _since(messages: Sequence[Mapping[str, Any]]) -> tuple[list[ToolOutcome], str]:
    """The tool outcomes and the model's own text in ``messages``."""
    uses: dict[str, Mapping[str, Any]] = {}
    outcomes: list[ToolOutcome] = []
    answered: list[str] = []
    for message in messages:
        if message.get("role") == "assistant":
            answered.extend(_texts(message.get("content")))
        for block in _blocks(message.get("content")):
            if block.get("type") == "tool_use":
                uses[str(block.get("id"))] = block
            elif block.get("type") == "tool_result":
                use = uses.get(str(block.get("tool_use_id")), {})
                outcomes.append(
                    ToolOutcome(
                        name=str(use.get("name", "")),
                        input=_mapping(use.get("input")),
                        text=_text_of(block.get("content")),
                        is_error=block.get("is_error") is True,
                    )
                )
    return outcomes, "".join(answered)


def _own_words(text: str) -> list[str]:
    """What of ``text`` the user wrote; of a compacted conversation, what its summary kept of that."""
    words = _unwrapped(text).strip()
    if words.startswith(_SUMMARY):
        _, _, kept = words.partition(SUMMARY_HEAD)
        return _REMEMBERED.findall(kept.partition("\n\n")[0])
    return [] if not words or words.startswith(_NOTICES) else [words]


def _unwrapped(text: str) -> str:
    """``text`` without the CLI's wrapped parts; linear, whatever a user writes."""
    kept: list[str] = []
    start = 0
    unclosed: set[str] = set()
    for match in _WRAPPER.finditer(text):
        closing = f"</{match[1]}>"
        if match.start() < start or closing in unclosed:
            continue
        end = text.find(closing, match.end())
        if end < 0:
            unclosed.add(closing)
            continue
        kept.append(text[start : match.start()])
        start = end + len(closing)
    return "".join([*kept, text[start:]])


def _tool_names(body: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The tools that can be used now: a deferred one only once ToolSearch has brought it."""
    loaded = set()
    for message in messages:
        for result in _blocks(message.get("content")):
            loaded |= {reference.get("tool_name") for reference in _blocks(result.get("content"))}
    for tool in _blocks(body.get("tools")):
        name = tool.get("name")
        if isinstance(name, str) and (not tool.get("defer_loading") or name in loaded):
            yield name


def _json_schema(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for holder in (_mapping(body.get("output_config")).get("format"), body.get("output_format")):
        schema = _mapping(holder).get("schema")
        if isinstance(schema, Mapping):
            return schema
    return None


def _blocks(content: object) -> Iterator[Mapping[str, Any]]:
    for block in _sequence(content):
        if isinstance(block, Mapping):
            yield block


def _texts(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    for block in _blocks(content):
        if block.get("type") == "text" and isinstance(block.get("text"), str):
            yield block["text"]


def _text_of(content: object) -> str:
    return "\n".join(_texts(content))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sequence(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()
