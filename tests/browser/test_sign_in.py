"""The way in and out."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Site, Visitors

pytestmark = pytest.mark.browser


def test_a_wrong_password_is_told_and_a_good_one_lets_in(visitors: Visitors, site: Site) -> None:
    page = visitors.page()
    page.goto(site.url)
    page.get_by_test_id("sign-in-user").fill("ann")
    page.get_by_test_id("sign-in-password").fill("wrong")
    page.get_by_test_id("sign-in-submit").click()
    expect(page.get_by_test_id("sign-in-error")).to_have_text("The user name or the password is wrong.")
    page.get_by_test_id("sign-in-password").fill("open-sesame")
    page.get_by_test_id("sign-in-password").press("Enter")
    expect(page.get_by_test_id("composer")).to_be_focused()
    expect(page.get_by_test_id("user-name")).to_have_text("ann")


def test_a_one_time_link_is_redeemed_by_a_button_and_leaves_the_address(
    visitors: Visitors, site: Site
) -> None:
    page = visitors.page()
    page.goto(f"{site.url}/#signin=let-me-in")
    expect(page.get_by_test_id("sign-in-redeem")).to_be_visible()
    assert "let-me-in" not in page.url
    expect(page.get_by_test_id("composer")).not_to_be_visible()
    page.get_by_test_id("sign-in-redeem").click()
    expect(page.get_by_test_id("user-name")).to_have_text("local")


@pytest.mark.acceptance
def test_a_used_link_is_told(visitors: Visitors, site: Site) -> None:
    page = visitors.page()
    page.goto(f"{site.url}/#signin=long-gone")
    page.get_by_test_id("sign-in-redeem").click()
    expect(page.get_by_test_id("sign-in-error")).to_contain_text("This link was used before")


@pytest.mark.acceptance
def test_signing_out_in_one_tab_signs_out_the_other(visitors: Visitors) -> None:
    one = visitors.new_chat()
    other = visitors.second_tab(one)
    one.at("composer").fill("a draft that nobody else should find")
    one.at("sign-out").click()
    expect(one.at("sign-in-user")).to_be_visible()
    expect(other.at("sign-in-user")).to_be_visible()
    assert one.page.evaluate("Object.keys(localStorage).length") == 0


def test_a_session_that_ended_asks_to_sign_in_and_keeps_the_draft(visitors: Visitors, site: Site) -> None:
    chat = visitors.new_chat()
    chat.ask("hello")
    chat.at("composer").fill("not sent yet")
    site.fake("close", code=4401, user=visitors.name)
    expect(chat.at("sign-in-user")).to_be_visible()
    chat.at("sign-in-user").fill(visitors.name)
    chat.at("sign-in-password").fill("open-sesame")
    chat.at("sign-in-submit").click()
    expect(chat.at("composer")).to_have_value("not sent yet")
    chat.ask("still here?")
    expect(chat.own).to_have_text(["hello", "still here?"])
