"""What the demo model answers to a conversation: a table of phrases. Pure and deterministic.

The first row whose pattern matches the user's last message decides. A row
whose answer needs a tool looks whether the tool's outcome is already there:
then the closing words follow. Words that no row knows get a short answer that
says what can be asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from server.gateway.demo import errands, speech
from server.gateway.demo.answer import Answer, Block, Reply, Text, Thinking
from server.gateway.demo.conversation import Conversation
from server.gateway.demo.pieces import in_pieces

Rule = Callable[[re.Match[str], Conversation], Answer]

_FLAGS = re.IGNORECASE | re.DOTALL
_BEGIN = r"\s*(?:please\s+|now\s+|then\s+)*"
_NAME = r"(?:`(?P<ticked>[^`]+)`|\"(?P<quoted>[^\"]+)\"|(?P<name>\S+?))"


def _row(pattern: str, rule: Rule) -> tuple[re.Pattern[str], Rule]:
    return re.compile(_BEGIN + pattern + r"\s*", _FLAGS), rule


_RULES: tuple[tuple[re.Pattern[str], Rule], ...] = (
    _row(
        rf"(?:create|write|make)\s+(?:me\s+)?a?\s*(?:new\s+)?file\s+(?:called\s+|named\s+)?{_NAME}[.!]?"
        r"(?:\s+(?:with|containing|saying)\s+(?:(?:the\s+)?(?:text|contents?)\s+)?(?P<text>.+))?",
        errands.create_file,
    ),
    _row(r"(?:list|show)\s+(?:me\s+)?(?:all\s+)?(?:my|the)\s+files[.!?]*", errands.list_files),
    _row(r"read\s+(?:the\s+)?(?:file\s+)?" + _NAME + r"[.!]?", errands.read_file),
    _row(r"run\s+(?:the\s+command\s+)?(?:`(?P<ticked>.+)`[.!]?|(?P<command>.+))", errands.run_command),
    _row(r"make\s+(?:me\s+)?a\s+to-?do\s+list\s+of\s+(?P<things>.+)", errands.make_todo_list),
    _row(r"say\s(?P<text>.+)", speech.say),
    _row(
        r"count\s+(?:from\s+1\s+)?to\s+(?P<number>\d+)"
        r"(?:\s+(?:(?P<slowly>slowly)|every\s+(?P<ms>\d+)\s*(?:ms|milliseconds?)))?[.!]?",
        speech.count,
    ),
    _row(r"what\s+did\s+i\s+say.*", speech.recall_all),
    _row(r"what\s+was\s+my\s+(?:very\s+)?first\s+message.*", speech.recall_first),
    _row(r"think\s+(?:hard\s+)?about\s+(?P<subject>.+)", speech.think_about),
    _row(r"fail\s+with\s+(?:an?\s+|error\s+)?(?P<status>[45]\d\d)\b.*", speech.fail),
    _row(r"echo\s+(?P<bytes>\d+)\s*bytes?[.!]?", speech.echo_bytes),
)


def plan(conversation: Conversation) -> Answer:
    """The whole answer to ``conversation``, within its ``max_tokens``."""
    side = speech.side_request(conversation)
    answer = side if side is not None else _by_rules(conversation)
    if isinstance(answer, Reply):
        return _bounded(_continued(answer, conversation), conversation.max_tokens)
    return answer


def _by_rules(conversation: Conversation) -> Answer:
    for pattern, rule in _RULES:
        match = pattern.fullmatch(conversation.last)
        if match:
            return rule(match, conversation)
    return speech.introduce(conversation)


def _continued(reply: Reply, conversation: Conversation) -> Reply:
    """Leave out what the model has said already when its last stream was cut after a whole block."""
    said = conversation.answered
    if not said or conversation.outcomes:
        return reply
    texts = [block for block in reply.blocks if isinstance(block, Text)]
    if len(texts) == 1 and texts[0].text.startswith(said) and texts[0].text != said:
        return replace(reply, blocks=(Text(in_pieces(texts[0].text[len(said) :])),))
    return reply


def _bounded(reply: Reply, max_tokens: int) -> Reply:
    """Cut the reply's text where its tokens run out, as the API does."""
    room = max_tokens * speech.CHARS_PER_TOKEN
    blocks: list[Block] = []
    for block in reply.blocks:
        if isinstance(block, Text | Thinking):
            if len(block.text) > room:
                kept = block.text[:room]
                cut = Text(in_pieces(kept)) if isinstance(block, Text) else Thinking(in_pieces(kept))
                return replace(reply, blocks=(*blocks, cut), stop_reason="max_tokens")
            room -= len(block.text)
        blocks.append(block)
    return reply
