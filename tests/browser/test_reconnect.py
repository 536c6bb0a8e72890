"""A connection that breaks loses nothing and repeats nothing."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Site, Visitors

pytestmark = pytest.mark.browser

WORDS = 250
WHOLE = " ".join(f"word{number}" for number in range(1, WORDS + 1))


@pytest.mark.parametrize(
    "code", [0, *(pytest.param(code, marks=pytest.mark.acceptance) for code in (1012, 1011))]
)
def test_a_stream_that_was_cut_is_exact(visitors: Visitors, site: Site, code: int) -> None:
    chat = visitors.chat().send(f"stream {WORDS}")
    for word in ("word20 ", "word60 ", "word110 "):
        expect(chat.answers.last).to_contain_text(word)
        site.fake("close", code=code, user=visitors.name)
    expect(chat.at("outcome")).to_have_count(1, timeout=20_000)
    assert chat.answer_text() == WHOLE
    expect(chat.own).to_have_count(1)


def test_a_stream_joined_in_the_middle_is_shown_from_its_beginning(visitors: Visitors) -> None:
    chat = visitors.chat().send(f"stream {WORDS}")
    expect(chat.answers.last).to_contain_text("word30 ")
    chat.page.reload()
    chat.ready()
    expect(chat.answers.last).to_contain_text("word1 word2")
    expect(chat.at("outcome")).to_have_count(1, timeout=20_000)
    assert chat.answer_text() == WHOLE
    expect(chat.own).to_have_text([f"stream {WORDS}"])


@pytest.mark.acceptance
def test_a_message_written_while_offline_goes_out_once(visitors: Visitors, site: Site) -> None:
    chat = visitors.chat().ask("hello")
    site.fake("refuse", on=1)
    try:
        site.fake("close", code=0, user=visitors.name)
        expect(chat.at("connection-banner")).to_be_visible()
        chat.send("written offline")
        expect(chat.at("pending-note")).to_have_text("Sending…")
    finally:
        site.fake("refuse", on=0)
    chat.page.get_by_role("button", name="Retry now").click()
    expect(chat.at("outcome")).to_have_count(2, timeout=20_000)
    expect(chat.own).to_have_text(["hello", "written offline"])
    expect(chat.at("connection-banner")).not_to_be_visible()


def test_a_message_whose_receipt_was_lost_runs_once(visitors: Visitors, site: Site) -> None:
    chat = visitors.new_chat()
    site.fake("deaf", on=1)
    try:
        chat.send("only once")
        expect(chat.at("outcome")).to_have_count(1)
    finally:
        site.fake("deaf", on=0)
    site.fake("close", code=1012, user=visitors.name)
    chat.ask("and another")
    expect(chat.own).to_have_text(["only once", "and another"])
    sessions = json.loads(site.fake("sessions", user=visitors.name))
    assert [session["turns"] for session in sessions] == [2]


@pytest.mark.acceptance
def test_a_message_on_its_way_survives_a_reload(visitors: Visitors, site: Site) -> None:
    chat = visitors.chat().ask("hello")
    site.fake("refuse", on=1)
    try:
        site.fake("close", code=0, user=visitors.name)
        chat.send("on its way")
        expect(chat.at("pending")).to_have_count(1)
        chat.page.reload()
        expect(chat.at("pending")).to_have_count(1)
    finally:
        site.fake("refuse", on=0)
    expect(chat.at("outcome")).to_have_count(2, timeout=20_000)
    expect(chat.own).to_have_text(["hello", "on its way"])
    expect(chat.at("pending")).to_have_count(0)
