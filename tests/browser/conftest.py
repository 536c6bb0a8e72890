"""A real Chromium, the fake site, and pages that may not complain.

Playwright's loop counts as running in this thread for as long as it is
started, and pytest-asyncio would stumble over it: everything of it lives for
one module only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.browser.fake_site import PASSWORD
from tests.browser.steps import Chat

DESKTOP = (1280, 800)
PHONE = (390, 844)
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


def _chromium() -> str:
    """The browser's path. Skips where there is none; on CI that is a failure."""
    named = os.environ.get("CHROMIUM")
    # The headless shell is the same engine without the browser around it: half the processor time for a page.
    known = ("chromium-headless-shell", "chromium", "chromium-browser")
    for candidate in (named,) if named else map(shutil.which, known):
        if candidate and Path(candidate).exists():
            return candidate
    message = "no Chromium: install the package chromium, or name one in CHROMIUM"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A Chromium without windows."""
    path = _chromium()
    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_FLAGS))
        yield browser
        browser.close()


@dataclass(frozen=True)
class Site:
    """The fake site, running."""

    url: str

    def fake(self, action: str, **parameters: object) -> bytes:
        """Break something; see ``fake_site.py``."""
        address = f"{self.url}/_fake/{action}?{urlencode(parameters)}"
        with urllib.request.urlopen(address, timeout=10) as answer:
            return bytes(answer.read())


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """The fake site in a process of its own; it ends with its input."""
    command = [sys.executable, "-m", "tests.browser.fake_site"]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://"), "the fake site did not start"
        yield Site(address)
        process.stdin.close()
        process.wait(timeout=10)


@dataclass
class Visitors:
    """Opens pages, and keeps what they complain of."""

    browser: Browser
    site: Site
    name: str
    contexts: list[BrowserContext]
    complaints: list[str]

    def page(
        self, size: tuple[int, int] = DESKTOP, *, phone: bool = False, context: BrowserContext | None = None
    ) -> Page:
        """A page that has not been anywhere; in ``context`` it shares that one's sign-in."""
        if context is None:
            width, height = size
            context = self.browser.new_context(
                viewport={"width": width, "height": height}, has_touch=phone, is_mobile=phone
            )
            context.set_default_timeout(10_000)
            self.contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on(
            "console",
            lambda message: self._complain(message.text) if message.type in ("error", "warning") else None,
        )
        return page

    def chat(self, size: tuple[int, int] = DESKTOP, *, phone: bool = False) -> Chat:
        """A page of a user of this test alone, signed in and ready to write."""
        page = self.page(size, phone=phone)
        page.goto(self.site.url)
        page.get_by_test_id("sign-in-user").fill(self.name)
        page.get_by_test_id("sign-in-password").fill(PASSWORD)
        page.get_by_test_id("sign-in-submit").click()
        return Chat(page).ready()

    def second_tab(self, chat: Chat) -> Chat:
        """The same chat in another tab of the same browser."""
        page = self.page(context=chat.page.context)
        page.goto(chat.page.url)
        return Chat(page).ready()

    def _complain(self, text: str) -> None:
        # The browser itself tells of refused requests and sockets; tests cause those on purpose.
        if not text.startswith(("Failed to load resource", "WebSocket connection to")):
            self.complaints.append(f"console: {text}")


@pytest.fixture
def visitors(chromium: Browser, site: Site, request: pytest.FixtureRequest) -> Iterator[Visitors]:
    """Whoever opens pages in this test; at its end they are closed and must not have complained."""
    name = "".join(letter for letter in request.node.name if letter.isalnum() or letter in "_-")[-60:]
    found = Visitors(chromium, site, f"u{name}", [], [])
    yield found
    for context in found.contexts:
        context.close()
    assert found.complaints == []


@pytest.fixture(scope="module")
def bare(chromium: Browser, site: Site) -> Iterator[Visitors]:
    """A page without anything, for all tests of a module that only evaluate."""
    found = Visitors(chromium, site, "nobody", [], [])
    found.page().goto(f"{site.url}/_fake/nothing")
    yield found
    found.contexts[0].close()


@pytest.fixture
def core(bare: Visitors) -> Iterator[Callable[[str], object]]:
    """Evaluate JavaScript in a bare page; ``load("core/x.js")`` gives a module of the web UI."""
    (page,) = bare.contexts[0].pages
    bare.complaints.clear()

    def evaluate(script: str) -> object:
        return page.evaluate(f"async () => {{ const load = (p) => import('/' + p); {script} }}")

    yield evaluate
    assert bare.complaints == []
