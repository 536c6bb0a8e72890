"""A real Chromium, the fake site, and pages that may not complain.

Playwright's loop counts as running in this thread for as long as it is
started, and pytest-asyncio would stumble over it: everything of it lives for
one module only. What needs no page needs no browser either: ``core`` is
evaluated by the JavaScript engine that Playwright brings, which is Chromium's.
"""

from __future__ import annotations

import contextlib
import json
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
from playwright._impl._driver import compute_driver_executable
from playwright.sync_api import Browser, BrowserContext, Error, Page, expect, sync_playwright

from tests.browser.fake_site import PASSWORD, WEB
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


@pytest.fixture(scope="session")
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


class Regular:
    """A signed-in page that the tests of a module take over from each other; each begins a new chat in it."""

    def __init__(self, site: Site, browser: Browser, name: str) -> None:
        self.complaints: list[str] = []
        self._visitors = Visitors(browser, site, name, [], self.complaints)
        self.name = name
        self._chat: Chat | None = None

    def chat(self) -> Chat:
        """An empty chat, whatever a test before has left."""
        if self._chat is not None:
            with contextlib.suppress(Error, AssertionError):
                return self._chat.anew()
            self.close()
        self._chat = self._visitors.new_chat()
        return self._chat

    def close(self) -> None:
        """Leave, with all tabs."""
        for context in self._visitors.contexts:
            context.close()
        self._visitors.contexts.clear()
        self._chat = None

    def close_tabs(self) -> None:
        """Leave but one."""
        for context in self._visitors.contexts:
            for page in context.pages[1:]:
                page.close()


@dataclass
class Visitors:
    """Opens pages, and keeps what they complain of."""

    browser: Browser
    site: Site
    name: str
    contexts: list[BrowserContext]
    complaints: list[str]
    regular: Regular | None = None

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

    def chat(self) -> Chat:
        """An empty chat of a user who is signed in already; ``name`` is theirs."""
        assert self.regular is not None
        self.name = self.regular.name
        return self.regular.chat()

    def new_chat(self, size: tuple[int, int] = DESKTOP, *, phone: bool = False) -> Chat:
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


@pytest.fixture(scope="module")
def regular(chromium: Browser, site: Site, request: pytest.FixtureRequest) -> Iterator[Regular]:
    """The one who is there in every test of a module that does not want a stranger."""
    found = Regular(
        site, chromium, f"regular-{request.node.name.removesuffix('.py')[-40:]}".replace("/", "-")
    )
    yield found
    found.close()


@pytest.fixture
def visitors(
    chromium: Browser, site: Site, regular: Regular, request: pytest.FixtureRequest
) -> Iterator[Visitors]:
    """Whoever opens pages in this test; at its end new ones are closed, and none must have complained."""
    name = "".join(letter for letter in request.node.name if letter.isalnum() or letter in "_-")[-60:]
    regular.complaints.clear()
    found = Visitors(chromium, site, f"u{name}", [], [], regular)
    yield found
    for context in found.contexts:
        context.close()
    regular.close_tabs()
    assert found.complaints + regular.complaints == []


# Each line is a script; each answer tells its value or its error, and what it complained of.
_ENGINE = """
const { pathToFileURL } = require("node:url");
const load = (path) => import(pathToFileURL(process.argv[1] + "/" + path));
const AsyncFunction = (async () => {}).constructor;
let complaints = [];
console.warn = console.error = (...words) => complaints.push(words.join(" "));
require("node:readline").createInterface({ input: process.stdin }).on("line", async (line) => {
  const answer = {};
  try {
    answer.value = await new AsyncFunction("load", JSON.parse(line))(load);
  } catch (error) {
    answer.error = String(error.stack);
  }
  process.stdout.write(JSON.stringify({ ...answer, complaints }) + "\\n");
  complaints = [];
});
"""


@pytest.fixture(scope="session")
def engine() -> Iterator[subprocess.Popen[str]]:
    """A JavaScript engine without a browser."""
    node, _ = compute_driver_executable()
    command = [node, "--disable-warning=MODULE_TYPELESS_PACKAGE_JSON", "-e", _ENGINE, str(WEB)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


@pytest.fixture
def core(engine: subprocess.Popen[str]) -> Callable[[str], object]:
    """Evaluate JavaScript; ``load("core/x.js")`` gives a module of the web UI. It may not complain."""

    def evaluate(script: str) -> object:
        assert engine.stdin is not None
        assert engine.stdout is not None
        engine.stdin.write(json.dumps(script) + "\n")
        engine.stdin.flush()
        answer = json.loads(engine.stdout.readline())
        assert "error" not in answer, answer["error"]
        assert answer["complaints"] == []
        return answer.get("value")

    return evaluate
