"""What a person does and sees at the chat page, in one word each."""

from __future__ import annotations

from typing import Self

from playwright.sync_api import Locator, Page, expect


class Chat:
    """A signed-in page."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def at(self, testid: str) -> Locator:
        """The parts of this name."""
        return self.page.get_by_test_id(testid)

    def ready(self) -> Self:
        """Wait until the chat can be used and its history is shown."""
        expect(self.at("composer")).to_be_visible()
        expect(self.page.get_by_text("Loading…")).to_have_count(0)
        return self

    def anew(self) -> Self:
        """Begin a new chat. An empty one is as good as a new one."""
        before = self.page.url
        is_empty = self.at("message").count() == 0 and self.at("pending").count() == 0
        self.at("session-new").click(timeout=3_000)
        if not is_empty:
            expect(self.page).not_to_have_url(before)
        expect(self.at("message")).to_have_count(0)
        expect(self.at("permission-card")).to_have_count(0)
        self.at("composer").fill("")
        return self.ready()

    def send(self, words: str) -> Self:
        """Write a message and send it."""
        self.at("composer").fill(words)
        self.at("send").click()
        return self

    def ask(self, words: str) -> Self:
        """Send a message and wait for the turn's end."""
        before = self.at("outcome").count()
        self.send(words)
        expect(self.at("outcome")).to_have_count(before + 1, timeout=20_000)
        return self

    @property
    def answers(self) -> Locator:
        """What Claude said."""
        return self.page.locator('[data-testid="message"][data-role="assistant"]')

    @property
    def streaming(self) -> Locator:
        """The answer that is still being said."""
        return self.page.locator('[data-testid="message"][data-role="assistant"][data-state="streaming"]')

    @property
    def own(self) -> Locator:
        """What the user said and Claude has got."""
        return self.page.locator('[data-testid="message"][data-role="user"] .bubble-text')

    def answer_text(self) -> str:
        """The last answer's words."""
        return self.answers.last.locator(".prose").text_content() or ""

    def settle(self) -> Self:
        """Let the time pass in which a new card is deaf."""
        expect(self.at("permission-card")).to_be_visible()
        self.page.wait_for_timeout(450)
        return self

    def scroll_width(self) -> int:
        """How wide the page's content is, in pixels."""
        return int(self.page.evaluate("document.documentElement.scrollWidth"))
