"""Approvals: asked above the composer, answered once, gone everywhere."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Site, Visitors

pytestmark = pytest.mark.browser


def test_allow_runs_the_very_command_that_was_shown(visitors: Visitors) -> None:
    chat = visitors.chat().send("ask make all").settle()
    card = chat.at("permission-card")
    expect(card).to_contain_text("Allow Bash?")
    expect(card.locator("pre").first).to_have_text("make all")
    expect(card).to_contain_text("Always means: Bash(make:*)")
    expect(chat.at("state")).to_have_text("Needs you")
    chat.at("permission-allow").click()
    expect(chat.at("outcome")).to_have_count(1)
    assert chat.answer_text() == "Built, allowed once."
    expect(card).to_have_count(0)
    expect(chat.at("tool-status")).to_have_text("Done")


@pytest.mark.acceptance
def test_always_allow_is_for_the_session(visitors: Visitors) -> None:
    chat = visitors.chat().send("ask").settle()
    chat.at("permission-always").click()
    expect(chat.at("outcome")).to_have_count(1)
    assert chat.answer_text() == "Built, allowed session."


@pytest.mark.acceptance
def test_deny_may_say_why(visitors: Visitors) -> None:
    chat = visitors.chat().send("ask").settle()
    chat.page.get_by_label("Reason for denying").fill("use cmake")
    chat.at("permission-deny").click()
    expect(chat.at("outcome")).to_have_count(1)
    assert chat.answer_text() == "Then not: use cmake."


_CLICK_AT_ONCE = """() => {
  new MutationObserver((_changes, observer) => {
    const button = document.querySelector('[data-testid="permission-allow"]');
    if (!button) return;
    observer.disconnect();
    button.click();
    window.hasClicked = true;
  }).observe(document.body, { subtree: true, childList: true });
}"""


def test_a_card_is_deaf_when_it_has_just_appeared_and_takes_no_focus(visitors: Visitors) -> None:
    chat = visitors.chat()
    chat.page.evaluate(_CLICK_AT_ONCE)
    chat.send("ask")
    expect(chat.at("permission-card")).to_be_visible()
    assert chat.page.evaluate("window.hasClicked")
    expect(chat.at("composer")).to_be_focused()
    chat.settle()
    expect(chat.at("permission-card")).to_be_visible()
    expect(chat.at("permission-card")).not_to_have_class("answered")


@pytest.mark.acceptance
def test_an_answer_in_one_tab_closes_the_card_in_the_other(visitors: Visitors) -> None:
    one = visitors.chat()
    other = visitors.second_tab(one)
    one.send("ask").settle()
    other.settle().at("permission-allow").click()
    expect(one.at("permission-card")).to_have_count(0)
    expect(one.at("outcome")).to_have_count(1)


def test_an_approval_outlives_a_reload_and_a_cut(visitors: Visitors, site: Site) -> None:
    chat = visitors.chat().send("ask").settle()
    chat.page.reload()
    chat.settle()
    site.fake("close", code=0, user=visitors.name)
    chat.at("permission-allow").click()
    expect(chat.at("outcome")).to_have_count(1)
    assert chat.answer_text() == "Built, allowed once."


def test_hidden_characters_of_a_command_are_written_out(visitors: Visitors) -> None:
    chat = visitors.chat().send("ask echo safe \u202e fr- mr\u200b").settle()
    expect(chat.at("permission-card").locator("pre").first).to_have_text("echo safe ⟨U+202E⟩ fr- mr⟨U+200B⟩")


def test_a_file_to_be_written_is_shown_whole(visitors: Visitors) -> None:
    chat = visitors.chat().send("write").settle()
    card = chat.at("permission-card")
    expect(card.locator(".path")).to_have_text("/workspace/notes.txt")
    expect(card.locator("pre.added")).to_have_text("+ tea\n+ cake\n+ music")
    expect(card).to_contain_text("Always means: all file edits")
    chat.at("permission-allow").click()
    expect(chat.at("outcome")).to_have_count(1)


@pytest.mark.acceptance
def test_a_question_is_answered_by_a_choice(visitors: Visitors) -> None:
    chat = visitors.chat().send("question").settle()
    chat.page.get_by_label("Rust").check()
    chat.at("permission-allow").click()
    expect(chat.at("outcome")).to_have_count(1)
    assert chat.answer_text() == "You chose Rust."


@pytest.mark.acceptance
def test_a_question_may_get_another_answer(visitors: Visitors) -> None:
    chat = visitors.chat().send("question").settle()
    chat.page.get_by_label("Other answer").fill("Lua")
    chat.at("permission-allow").click()
    expect(chat.at("outcome")).to_have_count(1)
    assert chat.answer_text() == "You chose Lua."
