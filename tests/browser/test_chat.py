"""Talking: messages, streams, tools, outcomes, sessions."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Site, Visitors
from tests.browser.fake_texts import INERT

pytestmark = pytest.mark.browser


def test_a_message_is_answered_and_still_there_after_a_reload(visitors: Visitors) -> None:
    chat = visitors.chat().ask("hello there")
    assert chat.answer_text() == "You said: hello there"
    expect(chat.at("title")).to_have_text("hello there")
    chat.page.reload()
    chat.ready()
    expect(chat.own).to_have_text(["hello there"])
    assert chat.answer_text() == "You said: hello there"


def test_enter_sends_and_shift_enter_does_not(visitors: Visitors) -> None:
    chat = visitors.chat()
    box = chat.at("composer")
    box.press_sequentially("one")
    box.press("Shift+Enter")
    box.press_sequentially("two")
    box.press("Enter")
    expect(chat.own).to_have_text(["one\ntwo"])
    expect(box).to_have_value("")


@pytest.mark.acceptance
def test_enter_that_ends_a_composition_does_not_send(visitors: Visitors) -> None:
    chat = visitors.chat()
    box = chat.at("composer")
    box.fill("にほん")
    box.evaluate(
        """node => node.dispatchEvent(new KeyboardEvent("keydown",
            {key: "Enter", keyCode: 229, isComposing: true, bubbles: true, cancelable: true}))"""
    )
    expect(box).to_have_value("にほん")
    expect(chat.at("pending")).to_have_count(0)


def test_a_stream_grows_while_it_comes(visitors: Visitors) -> None:
    chat = visitors.chat().send("stream 240")
    streaming = chat.page.locator('[data-testid="message"][data-state="streaming"]')
    expect(streaming).to_contain_text("word3")
    expect(chat.at("outcome")).to_have_count(1, timeout=20_000)
    expect(streaming).to_have_count(0)
    assert chat.answer_text() == " ".join(f"word{number}" for number in range(1, 241))
    expect(chat.at("usage")).to_contain_text("1,204 tokens in")


def test_escape_stops_and_queued_messages_are_withdrawn(visitors: Visitors) -> None:
    chat = visitors.chat().send("slow")
    expect(chat.answers.last).to_contain_text("5")
    chat.send("and then this")
    expect(chat.at("pending-note")).to_have_text("Queued, 1 before it")
    chat.page.keyboard.press("Escape")
    expect(chat.at("outcome").last).to_have_attribute("data-state", "interrupted")
    expect(chat.page.get_by_text("Not run: withdrawn")).to_be_visible()
    expect(chat.at("stop")).not_to_be_visible()
    chat.ask("usable")
    assert chat.answer_text() == "You said: usable"


@pytest.mark.acceptance
def test_a_refused_message_can_be_edited(visitors: Visitors) -> None:
    chat = visitors.chat().send("refuse me")
    expect(chat.at("pending-note")).to_have_text("Not sent: the queue is full")
    chat.page.get_by_role("button", name="Edit").click()
    expect(chat.at("composer")).to_have_value("refuse me")
    expect(chat.at("pending")).to_have_count(0)


@pytest.mark.parametrize(
    ("words", "state", "told"),
    [
        ("fail", "failed", "The model refused the request (400)."),
        ("lose", "lost", "The process was ended by SIGKILL."),
    ],
)
def test_a_bad_outcome_is_told_with_its_reason(visitors: Visitors, words: str, state: str, told: str) -> None:
    chat = visitors.chat().ask(words)
    expect(chat.at("outcome")).to_have_attribute("data-state", state)
    expect(chat.at("outcome")).to_contain_text(told)


def test_a_cut_attempt_is_void_and_the_retry_is_told(visitors: Visitors) -> None:
    chat = visitors.chat().send("retry")
    expect(chat.at("activity")).to_contain_text(
        "The model is overloaded. Trying again in 1 s (attempt 1 of 5)."
    )
    expect(chat.page.get_by_text("This attempt")).to_have_count(0)
    expect(chat.at("outcome")).to_have_count(1)
    assert [chat.answer_text()] == ["The second attempt holds."]
    expect(chat.answers).to_have_count(1)


def test_a_gap_is_closed_by_the_whole_text(visitors: Visitors) -> None:
    chat = visitors.chat().ask("gap")
    expect(chat.answers).to_have_count(1)
    assert chat.answer_text() == "one two three four "


@pytest.mark.acceptance
def test_tools_show_what_they_did(visitors: Visitors) -> None:
    chat = visitors.chat().ask("tools")
    read, failed = chat.at("tool-card").nth(0), chat.at("tool-card").nth(1)
    expect(read).to_contain_text("Read")
    expect(read.locator(".tool-target")).to_have_text("projects/app/main.py")
    expect(read.get_by_test_id("tool-status")).to_have_text("Done")
    read.locator("summary").click()
    read.get_by_role("button", name="Show all (59 lines)").click()
    expect(read).to_contain_text("print(59)")
    expect(failed.get_by_test_id("tool-status")).to_have_text("Failed")
    expect(failed).to_contain_text("No rule to make target")


@pytest.mark.acceptance
def test_the_to_do_list_follows_the_tools(visitors: Visitors) -> None:
    chat = visitors.chat().ask("todo")
    expect(chat.at("todo-list")).to_contain_text("To do: 1 of 3 · Write a test")
    chat.at("todo-list").locator("summary").click()
    expect(chat.at("todo-list").locator("li")).to_have_text(
        ["☑Read the code", "◐Write a test", "☐Mend the bug"]
    )
    chat.page.reload()
    expect(chat.at("todo-list")).to_contain_text("To do: 1 of 3")


def test_markdown_is_drawn_and_code_can_be_copied(visitors: Visitors) -> None:
    chat = visitors.chat()
    chat.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chat.ask("markdown")
    last = chat.answers.last
    expect(last.locator("h3.level-1")).to_have_text("A plan for the parser")
    expect(last.locator("ol > li")).to_have_count(3)
    expect(last.locator("table tbody tr")).to_have_count(2)
    expect(last.locator("a").first).to_have_attribute("rel", "noopener noreferrer")
    last.get_by_role("button", name="Copy code").click()
    expect(last.get_by_role("button", name="Copy code")).to_contain_text("Copied")
    copied = chat.page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("def parse(lines: list[str])")


@pytest.mark.parametrize(
    "texts", [("\n\n".join(INERT),), pytest.param(INERT, marks=pytest.mark.acceptance)], ids=["one", "each"]
)
def test_text_of_a_model_is_inert(visitors: Visitors, texts: Sequence[str]) -> None:
    chat = visitors.new_chat()
    asked: list[str] = []
    chat.page.on("request", lambda request: asked.append(request.url))
    for text in texts:
        chat.ask(f"verbatim {text}")
    assert chat.page.evaluate("window.pwned") is None
    prose = chat.answers.locator(".prose")
    expect(prose.filter(has_text="</div></article><script>window.pwned=1</script>")).to_have_count(1)
    assert prose.locator("script, img, iframe, svg:not(.icon), style, object").count() == 0
    for href in prose.locator("a").evaluate_all("links => links.map((link) => link.getAttribute('href'))"):
        assert href.startswith(("https://good.example/", "https://evil.example/")), href
    marked = "[...node.attributes].some((one) => one.name.startsWith('on'))"
    assert prose.locator("*").evaluate_all(f"nodes => nodes.filter((node) => {marked}).length") == 0
    assert not [url for url in asked if ".example" in url]


@pytest.mark.acceptance
def test_sessions_are_listed_opened_renamed_and_archived(visitors: Visitors, site: Site) -> None:
    chat = visitors.new_chat().ask("the first chat")
    first = chat.page.url
    chat.at("session-new").click()
    expect(chat.at("message")).to_have_count(0)
    chat.ask("the second chat")
    expect(chat.at("session-item")).to_have_count(2)
    chat.at("session-item").filter(has_text="the first chat").locator("a").click()
    expect(chat.own).to_have_text(["the first chat"])
    assert chat.page.url == first
    chat.page.get_by_role("button", name="Rename").click()
    chat.page.get_by_label("Title").fill("renamed")
    chat.page.keyboard.press("Enter")
    expect(chat.at("title")).to_have_text("renamed")
    row = chat.at("session-item").filter(has_text="renamed")
    row.get_by_test_id("session-archive").click()
    row.get_by_test_id("session-archive-confirm").click()
    expect(chat.at("session-item")).to_have_count(1)
    expect(chat.own).to_have_text(["the second chat"])


def test_two_tabs_show_the_same(visitors: Visitors) -> None:
    one = visitors.chat()
    other = visitors.second_tab(one)
    one.send("stream 300")
    streaming = other.page.locator('[data-testid="message"][data-state="streaming"]')
    expect(streaming).to_contain_text("word2")
    expect(other.at("outcome")).to_have_count(1, timeout=20_000)
    other.ask("from the other tab")
    expect(one.own).to_have_text(["stream 300", "from the other tab"])
    expect(one.at("outcome")).to_have_count(2)
    assert one.answers.all_text_contents() == other.answers.all_text_contents()


@pytest.mark.acceptance
def test_drafts_are_kept_for_each_session(visitors: Visitors) -> None:
    chat = visitors.new_chat().ask("one")
    chat.at("composer").fill("draft of the first")
    chat.at("session-new").click()
    expect(chat.at("composer")).to_have_value("")
    chat.page.reload()
    chat.ready()
    chat.page.go_back()
    expect(chat.at("composer")).to_have_value("draft of the first")


def test_what_the_server_is_short_of_is_shown(visitors: Visitors) -> None:
    chat = visitors.chat()
    expect(chat.at("banner-isolation")).to_contain_text("Bubblewrap is missing: apt install bubblewrap.")
    expect(chat.at("banner-demo")).to_contain_text("Demo model")


@pytest.mark.acceptance
def test_mode_and_model_are_chosen_and_seen_by_the_other_tab(visitors: Visitors) -> None:
    one = visitors.new_chat()
    other = visitors.second_tab(one)
    one.at("mode-select").select_option("plan")
    expect(other.at("mode-select")).to_have_value("plan")
    one.at("model-select").select_option("opus")
    one.ask("hello")
    expect(other.at("model-select")).to_have_value("opus")
    one.at("model-select").select_option("default")
    one.ask("hello again")
    expect(other.at("model-select")).to_have_value("default")
