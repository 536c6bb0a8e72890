"""What the demo model answers to what; the words are its contract with tests and demonstrations."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.gateway.demo.answer import Failure, Reply, Text, Thinking, ToolUse
from server.gateway.demo.conversation import Conversation, ToolOutcome
from server.gateway.demo.pieces import MAX_PIECES, in_pieces
from server.gateway.demo.planner import plan

EMPTY = Conversation(
    asked=(),
    outcomes=(),
    answered="",
    tools=frozenset({"Bash", "Write", "Read"}),
    cwd="/workspace",
    thinking=False,
    json_schema=None,
    max_tokens=100_000,
    system="",
)


def reply_to(text: str, **more: Any) -> Reply:
    reply = plan(replace(EMPTY, asked=(text,), **more))
    assert isinstance(reply, Reply)
    return reply


def text_of(reply: Reply) -> str:
    return "".join(block.text for block in reply.blocks if isinstance(block, Text))


def use_of(reply: Reply) -> ToolUse:
    assert reply.stop_reason == "tool_use"
    [use] = [block for block in reply.blocks if isinstance(block, ToolUse)]
    return use


@pytest.mark.parametrize(
    ("asked", "path", "content"),
    [
        ("create a file a.txt with hello you", "/workspace/a.txt", "hello you\n"),
        ("Please create a new file called a.txt with the text hello", "/workspace/a.txt", "hello\n"),
        ('create a file "my notes.txt" containing x', "/workspace/my notes.txt", "x\n"),
        ("create file /tmp/abs.txt with x", "/tmp/abs.txt", "x\n"),
        ("create a file sub/a.py", "/workspace/sub/a.py", "Made by the demo model of Claude Pool.\n"),
        ("create a file a.txt.", "/workspace/a.txt", "Made by the demo model of Claude Pool.\n"),
    ],
)
def test_create_a_file_uses_write(asked: str, path: str, content: str) -> None:
    use = use_of(reply_to(asked))
    assert (use.name, use.input) == ("Write", {"file_path": path, "content": content})


def test_without_a_working_directory_the_name_stays_relative() -> None:
    assert use_of(reply_to("create a file a.txt with x", cwd=None)).input["file_path"] == "a.txt"


@pytest.mark.parametrize(
    ("asked", "command"), [("run `date -u`", "date -u"), ("run make all", "make all"), ("Run `ls`.", "ls")]
)
def test_run_uses_bash(asked: str, command: str) -> None:
    use = use_of(reply_to(asked))
    assert (use.name, use.input["command"]) == ("Bash", command)


@pytest.mark.parametrize(
    ("tools", "name"), [({"Bash", "LS", "Glob"}, "Bash"), ({"LS", "Glob"}, "LS"), ({"Glob"}, "Glob")]
)
def test_list_my_files_takes_what_there_is(tools: set[str], name: str) -> None:
    assert use_of(reply_to("list my files", tools=frozenset(tools))).name == name


def test_read_uses_read() -> None:
    assert use_of(reply_to("read notes.txt")).input == {"file_path": "/workspace/notes.txt"}


def test_a_missing_tool_is_named() -> None:
    reply = reply_to("run ls", tools=frozenset())
    assert "Bash" in text_of(reply)
    assert reply.stop_reason == "end_turn"


def test_an_outcome_is_told_in_closing() -> None:
    good = ToolOutcome("Bash", {"command": "date"}, "Monday", is_error=False)
    assert text_of(reply_to("run `date`", outcomes=(good,))) == "`date` printed:\n```\nMonday\n```"
    bad = ToolOutcome("Write", {}, "The user said no.", is_error=True)
    closing = text_of(reply_to("create a file a.txt", outcomes=(bad,)))
    assert closing == "That did not work. Write said:\n```\nThe user said no.\n```"


def test_a_todo_list_is_made_with_the_tool_there_is() -> None:
    asked = "make a todo list of tea, cake and music"
    reply = reply_to(asked, tools=frozenset({"TaskCreate"}))
    uses = [block for block in reply.blocks if isinstance(block, ToolUse)]
    assert [use.input["subject"] for use in uses] == ["tea", "cake", "music"]
    use = use_of(reply_to(asked, tools=frozenset({"TodoWrite"})))
    assert [todo["content"] for todo in use.input["todos"]] == ["tea", "cake", "music"]
    assert use_of(reply_to(asked, tools=frozenset({"ToolSearch"}))).input["query"] == "select:TaskCreate"
    assert "TaskCreate" in text_of(reply_to(asked, tools=frozenset()))


@given(st.text(min_size=1).filter(lambda text: bool(text.strip())))
def test_say_says_exactly_that(words: str) -> None:
    said = words.strip()
    assert text_of(reply_to(f"say {said}")) == said


@given(st.text(max_size=5000))
def test_pieces_are_the_text_and_not_too_many(text: str) -> None:
    pieces = in_pieces(text)
    assert "".join(pieces) == text
    assert len(pieces) <= MAX_PIECES
    assert all(pieces)


def test_count_gives_a_number_a_delta() -> None:
    [block] = reply_to("count to 4").blocks
    assert isinstance(block, Text)
    assert block.pieces == ("1", "\n2", "\n3", "\n4")
    assert text_of(reply_to("count to 1000")) == "\n".join(map(str, range(1, 1001)))
    assert text_of(reply_to("count to 0")) == "0"


@pytest.mark.parametrize(
    ("asked", "pause"),
    [("count to 9 slowly", 0.2), ("count to 9 every 30 ms", 0.03), ("count to 9 every 99999 ms", 5.0)],
)
def test_count_takes_a_pace(asked: str, pause: float) -> None:
    assert reply_to(asked).pause_seconds == pause


def test_earlier_messages_are_recalled() -> None:
    before = ("hello", "my cat is called Tom")
    recalled = plan(replace(EMPTY, asked=(*before, "What did I say?")))
    assert isinstance(recalled, Reply)
    assert text_of(recalled) == "You said:\n1. hello\n2. my cat is called Tom"
    first = plan(replace(EMPTY, asked=(*before, "what was my first message")))
    assert isinstance(first, Reply)
    assert text_of(first) == "Your first message was: hello"
    assert "first message" in text_of(reply_to("what was my first message?"))


def test_thinking_is_shown_only_where_the_request_wants_it() -> None:
    assert [type(block) for block in reply_to("think about tea", thinking=True).blocks] == [Thinking, Text]
    assert [type(block) for block in reply_to("think about tea").blocks] == [Text]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (529, "overloaded_error"),
        (429, "rate_limit_error"),
        (400, "invalid_request_error"),
        (500, "api_error"),
    ],
)
def test_fail_with_fails_with(status: int, kind: str) -> None:
    failure = plan(replace(EMPTY, asked=(f"fail with {status}",)))
    assert isinstance(failure, Failure)
    assert (failure.status, failure.kind) == (status, kind)
    assert (failure.retry_after is not None) == (status == 429)


@pytest.mark.parametrize("size", [0, 1, 64, 100_000])
def test_echo_gives_so_many_bytes(size: int) -> None:
    assert len(text_of(reply_to(f"echo {size} bytes")).encode()) == size


def test_everything_else_gets_a_short_honest_answer() -> None:
    said = text_of(reply_to("write me a poem about the sea"))
    assert "demo model" in said
    assert "write me a poem about the sea" in said
    assert "create a file" in said
    assert len(text_of(reply_to("x" * 10_000))) < 1500


def test_max_tokens_cut_the_answer() -> None:
    reply = reply_to("count to 1000", max_tokens=5)
    assert reply.stop_reason == "max_tokens"
    assert text_of(reply) == "1\n2\n3\n4\n5\n6\n7\n8\n9\n10"[:20]


def test_a_quota_probe_gets_one_token() -> None:
    reply = reply_to("quota", max_tokens=1)
    assert (text_of(reply), reply.stop_reason) == ("Demo", "max_tokens")


def test_a_title_request_gets_json_that_fits() -> None:
    schema = {
        "type": "object",
        "properties": {"title": {"type": "string"}, "ok": {"type": "boolean"}, "sort": {"enum": ["a", "b"]}},
    }
    asked = "<session>\nplease sort my photos by year and place\n</session>\nWrite the title."
    made = json.loads(text_of(reply_to(asked, json_schema=schema, tools=frozenset())))
    assert made == {"title": "Please sort my photos by", "ok": False, "sort": "a"}


def test_a_summary_keeps_what_was_said() -> None:
    order = "Your task is to create a detailed summary of the conversation so far."
    made = plan(replace(EMPTY, asked=("hello\nyou", order)))
    assert isinstance(made, Reply)
    assert text_of(made) == "<summary>\nSummary by the demo model. The user said:\n- hello you\n</summary>"


def test_an_answer_that_was_cut_is_continued() -> None:
    assert text_of(reply_to("count to 3", answered="1\n2")) == "\n3"
    assert text_of(reply_to("count to 3", answered="other words")) == "1\n2\n3"
