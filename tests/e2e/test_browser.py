"""A newcomer's first minutes: the real server, the real CLI, a real Chromium, two users at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests import known_clis
from tests.browser.conftest import chromium as chromium
from tests.browser.steps import Chat
from tests.e2e.site import Site, free_port
from tests.forking import Forker

pytestmark = [pytest.mark.browser, pytest.mark.real_cli, pytest.mark.timeout(180)]

SHOTS = os.environ.get("CLAUDE_POOL_SCREENSHOTS")


@dataclass
class Running:
    """A server that runs, and the link that it printed."""

    url: str
    link: str
    data: Path


@contextmanager
def running(directory: Path) -> Iterator[Running]:
    """``serve`` as ``make run`` starts it: no settings at all but the port and the data directory."""
    data, port = directory / "data", free_port()
    known_clis.tell(data)
    words = [sys.executable, "-m", "server", "serve", "--port", str(port), "--data", str(data)]
    with (
        (directory / "log").open("w") as log,
        subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=log, text=True, env=Site(directory).environment()
        ) as process,
    ):
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.strip())
            if "#signin=" in line:
                break
        try:
            assert lines[0].startswith("listening on http://127.0.0.1:"), lines
            link = re.search(r"http\S+#signin=\S+", lines[-1])
            assert link is not None
            yield Running(f"http://127.0.0.1:{port}", link[0], data)
        finally:
            known_clis.learn(data)
            process.terminate()
            process.stdout.read()
            assert process.wait(60) == 0


@pytest.fixture
def newcomer(short_dir: Path) -> Iterator[Running]:
    """A fresh server."""
    with running(short_dir) as it:
        yield it


def open_page(browser: Browser, address: str) -> Page:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(30_000)
    page = context.new_page()
    page.goto(address)
    return page


def shoot(page: Page, name: str) -> None:
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"))


def write_a_file(chat: Chat, name: str, words: str) -> None:
    before = chat.at("outcome").count()
    chat.send(f"create a file {name} with {words}")
    chat.settle()
    expect(chat.at("permission-card")).to_contain_text(name)
    shoot(chat.page, "approval")
    chat.at("permission-allow").click()
    expect(chat.at("outcome")).to_have_count(before + 1)
    expect(chat.at("permission-card")).to_have_count(0)


def test_two_people_chat_at_once_and_write_into_their_own_workspaces(
    newcomer: Running, chromium: Browser, forker: Forker
) -> None:
    page = open_page(chromium, newcomer.link)
    page.get_by_test_id("sign-in-redeem").click()
    admin = Chat(page).ready()
    add = ("user", "add", "bob", "--password-stdin", "--data", str(newcomer.data))
    done = forker.run(add, os.environ, "correct horse battery", 60)
    assert done.returncode == 0, done.stderr
    other = open_page(chromium, newcomer.url)
    other.get_by_test_id("sign-in-user").fill("bob")
    other.get_by_test_id("sign-in-password").fill("correct horse battery")
    other.get_by_test_id("sign-in-submit").click()
    bob = Chat(other).ready()

    for chat in (admin, bob):
        chat.send("count to 400 every 50 ms")
    for chat in (admin, bob):
        expect(chat.streaming).to_contain_text("5")
        shoot(chat.page, "streaming")
    for chat in (admin, bob):
        chat.at("stop").click()
        expect(chat.at("outcome")).to_have_attribute("data-state", "interrupted")
        chat.ask("say the whole of it")
        expect(chat.answers.last).to_contain_text("the whole of it")
    write_a_file(admin, "hello.txt", "words of admin")
    write_a_file(bob, "hello.txt", "words of bob")
    shoot(admin.page, "after")
    for name in ("admin", "bob"):
        assert f"words of {name}" in (newcomer.data / "workspaces" / name / "hello.txt").read_text()
    for chat in (admin, bob):
        chat.page.context.close()
