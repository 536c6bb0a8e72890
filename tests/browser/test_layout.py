"""Every size and colour scheme can be used; so can the keyboard alone."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import PHONE, Visitors

pytestmark = pytest.mark.browser

LONG = "verbatim " + "unbroken" * 60 + " https://example.org/" + "path/" * 60


@pytest.mark.parametrize("size", [PHONE, pytest.param((320, 568), marks=pytest.mark.acceptance)])
def test_a_phone_has_no_sideways_scroll(visitors: Visitors, size: tuple[int, int]) -> None:
    chat = visitors.new_chat(size, phone=True)
    for words in ("markdown", "tools", "todo", LONG):
        chat.ask(words)
    assert chat.scroll_width() <= size[0]
    assert chat.at("transcript").evaluate("node => node.scrollWidth - node.clientWidth") == 0
    chat.send("ask " + "long-command " * 40).settle()
    assert chat.scroll_width() <= size[0]
    for part in ("permission-allow", "permission-deny", "permission-always", "composer"):
        box = chat.at(part).bounding_box()
        assert box is not None
        assert box["y"] >= 0, part
        assert box["y"] + box["height"] <= size[1], part
    chat.at("permission-allow").tap()
    expect(chat.at("permission-card")).to_have_count(0)


@pytest.mark.acceptance
def test_targets_on_a_phone_are_large_enough(visitors: Visitors) -> None:
    chat = visitors.new_chat(PHONE, phone=True).send("ask").settle()
    small = chat.page.evaluate(
        """() => [...document.querySelectorAll("button, select, summary, textarea, a.session-link")]
            .filter((node) => node.checkVisibility({visibilityProperty: true}) && node.className !== "skip")
            .map((node) => [node.outerHTML.slice(0, 80), node.getBoundingClientRect().height])
            .filter(([, height]) => height < 43.5)"""
    )
    assert small == []


@pytest.mark.acceptance
def test_the_list_is_a_drawer_on_a_phone(visitors: Visitors) -> None:
    chat = visitors.new_chat(PHONE, phone=True).ask("hello")
    expect(chat.at("session-new")).not_to_be_visible()
    chat.at("menu").tap()
    expect(chat.at("session-new")).to_be_focused()
    chat.page.keyboard.press("Escape")
    expect(chat.at("session-new")).not_to_be_visible()
    expect(chat.at("menu")).to_be_focused()


@pytest.mark.acceptance
def test_enter_is_a_new_line_on_a_phone(visitors: Visitors) -> None:
    chat = visitors.new_chat(PHONE, phone=True)
    chat.at("composer").press_sequentially("one")
    chat.at("composer").press("Enter")
    expect(chat.at("composer")).to_have_value("one\n")


@pytest.mark.acceptance
def test_reading_above_is_not_disturbed_by_a_stream(visitors: Visitors) -> None:
    chat = visitors.chat().ask("markdown").ask("markdown")
    chat.send("stream 300")
    expect(chat.answers.last).to_contain_text("word5 ")
    log = chat.at("transcript")
    log.hover()
    chat.page.mouse.wheel(0, -400)
    expect(chat.page.get_by_role("button", name="Latest")).to_be_visible()
    place = log.evaluate("node => node.scrollTop")
    expect(chat.answers.last).to_contain_text("word100 ", timeout=20_000)
    assert log.evaluate("node => node.scrollTop") == place
    chat.page.get_by_role("button", name="Latest").click()
    expect(chat.at("outcome")).to_have_count(3, timeout=20_000)
    assert log.evaluate("node => node.scrollHeight - node.scrollTop - node.clientHeight") < 40


def test_what_happens_is_said_to_screen_readers(visitors: Visitors) -> None:
    chat = visitors.chat().send("ask")
    status = chat.at("status")
    expect(status).to_have_text("Claude asks for permission: Bash")
    chat.settle().at("permission-allow").click()
    expect(status).to_have_text("Claude has finished")
    expect(status).to_have_attribute("role", "status")
    expect(chat.at("transcript")).to_have_attribute("aria-live", "off")


def test_every_control_has_a_name(visitors: Visitors) -> None:
    chat = visitors.chat().ask("markdown").ask("tools")
    nameless = chat.page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea, summary, [role=region]")]
            .filter((node) => node.checkVisibility() && !node.textContent.trim() && !node.labels?.length
                && !node.getAttribute("aria-label"))
            .map((node) => node.outerHTML.slice(0, 100))"""
    )
    assert nameless == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(visitors: Visitors, scheme: str) -> None:
    chat = visitors.chat()
    chat.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    pairs = [
        ("text", "bg"), ("quiet", "bg"), ("quiet", "sunken"), ("quiet", "surface"), ("text", "bubble"),
        ("accent", "bg"), ("accent", "surface"), ("on-accent", "accent"), ("warn", "warn-soft"),
        ("error", "error-soft"), ("good", "surface"), ("text", "added"), ("text", "removed"),
        ("text", "accent-soft"), ("error", "surface"),
    ]  # fmt: skip
    ratios = chat.page.evaluate(_CONTRAST, pairs)
    chat.page.emulate_media(color_scheme="null")
    assert {name: ratio for name, ratio in ratios.items() if ratio < 4.5} == {}


_CONTRAST = """pairs => {
  const style = getComputedStyle(document.documentElement);
  const light = (name) => {
    const hex = style.getPropertyValue("--" + name).trim().slice(1);
    const parts = [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  return Object.fromEntries(pairs.map(([front, back]) => {
    const [low, high] = [light(front), light(back)].sort((a, b) => a - b);
    return [front + " on " + back, (high + 0.05) / (low + 0.05)];
  }));
}"""
