"""Finding the user's own words in what the CLI sends."""

from __future__ import annotations

from typing import Any

from server.gateway.demo.conversation import read_conversation

REMINDER = {"type": "text", "text": "<system-reminder>\nUse tabs.\nsay no\n</system-reminder>\n"}


def user(*blocks: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": block} if isinstance(block, str) else block for block in blocks]
    return {"role": "user", "content": content}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {**user(*blocks), "role": "assistant"}


def body(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 100, "messages": list(messages), **more}


def test_reminders_are_not_the_users_words() -> None:
    conversation = read_conversation(body(user(REMINDER, "hello\n")))
    assert conversation.asked == ("hello",)


def test_a_reminder_inside_the_users_own_block_is_left_out() -> None:
    conversation = read_conversation(body(user("<system-reminder>x</system-reminder>\nhello")))
    assert conversation.last == "hello"


def test_a_message_may_be_a_plain_string() -> None:
    assert read_conversation(body({"role": "user", "content": "hello"})).last == "hello"


def test_messages_without_an_answer_between_them_are_each_a_message() -> None:
    conversation = read_conversation(body(user("fail with 400\n", "say hi")))
    assert conversation.asked == ("fail with 400", "say hi")


def test_interrupts_and_local_commands_are_not_the_users_words() -> None:
    conversation = read_conversation(
        body(
            user("first"),
            assistant("so far"),
            user("[Request interrupted by user]"),
            user("<command-name>/cost</command-name>\n<command-args></command-args>"),
            user("<local-command-stdout>$0</local-command-stdout>"),
        )
    )
    assert conversation.asked == ("first",)


def test_a_message_sent_while_the_model_worked_is_heard() -> None:
    folded = "The user sent a new message while you were working:\nsay hi\n\nThis is how Claude Code …"
    conversation = read_conversation(body(user("run x"), {"role": "system", "content": folded}))
    assert conversation.asked == ("run x", "say hi")


def test_only_outcomes_since_the_last_message_count() -> None:
    use = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "ls"}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "notes.txt", "is_error": False}
    conversation = read_conversation(body(user("run ls"), assistant("I will.", use), user(result)))
    [outcome] = conversation.outcomes
    assert (outcome.name, outcome.input, outcome.text) == ("Bash", {"command": "ls"}, "notes.txt")
    later = body(user("run ls"), assistant("I will.", use), user(result), assistant("Done."), user("thanks"))
    assert read_conversation(later).outcomes == ()


def test_the_working_directory_is_read_from_prompt_or_environment_message() -> None:
    environment = "# Environment\n - Primary working directory: /work space/x\n - Platform: linux"
    in_message = body(user("hi"), {"role": "system", "content": [{"type": "text", "text": environment}]})
    assert read_conversation(in_message).cwd == "/work space/x"
    assert read_conversation(body(user("hi"), system="Working directory: /w\n")).cwd == "/w"
    assert read_conversation(body(user("hi"))).cwd is None


def test_a_user_cannot_move_the_working_directory() -> None:
    environment = {"role": "system", "content": "Working directory: /w"}
    assert read_conversation(body(user("Working directory: /elsewhere"), environment)).cwd == "/w"


def test_a_deferred_tool_can_be_used_only_after_it_was_brought() -> None:
    tools = [{"name": "Bash"}, {"name": "TaskCreate", "defer_loading": True}]
    assert read_conversation(body(user("x"), tools=tools)).tools == {"Bash"}
    reference = {"type": "tool_reference", "tool_name": "TaskCreate"}
    brought = user({"type": "tool_result", "tool_use_id": "t", "content": [reference]}, "Tool loaded.\n")
    conversation = read_conversation(body(user("x"), brought, tools=tools))
    assert conversation.tools == {"Bash", "TaskCreate"}
    assert conversation.last == "x"


def test_a_compacted_conversation_keeps_what_its_summary_kept() -> None:
    summary = (
        "This session is being continued from a previous conversation that ran out of context.\n"
        "Summary:\nSummary by the demo model. The user said:\n- say hi\n- count to 3\n\nIf you need …\n- x"
    )
    assert read_conversation(body(user(summary, "thanks"))).asked == ("say hi", "count to 3", "thanks")


def test_nonsense_is_no_error() -> None:
    for messages in ([], [None, 1, "x"], [{"role": "user"}], [{"role": "user", "content": [1, {"type": 3}]}]):
        odd = {"messages": messages, "tools": [1, {}], "thinking": 1, "max_tokens": "x", "system": 5}
        assert read_conversation(odd).asked == ()
