"""A server that runs short of something: descriptors, the database. What runs goes on, and it recovers."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from tests.e2e.site import Site, client, get, live_pid, serving
from tests.procfs import is_alive
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("forked_servers")


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@asynccontextmanager
async def silent_callers(site: Site, count: int, words: bytes = b"") -> AsyncIterator[None]:
    """So many connections that say only ``words``."""
    writers = []
    try:
        for _ in range(count):
            _reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            writer.write(words)
            writers.append(writer)
        yield
    finally:
        for writer in writers:
            writer.transport.abort()


@pytest.mark.acceptance
async def test_a_server_without_descriptors_serves_who_is_there_and_recovers(
    short_dir: Path, fake_claude: Path
) -> None:
    async with serving(short_dir, fake_claude) as site:
        token = await site.add_user("alice")
        newcomer = await site.add_user("bob")
        async with client(site, token) as viewer:
            await viewer.subscribe()
            await viewer.ended(await viewer.send("hello"))
            used = open_files(site.pid)
            soft, hard = resource.prlimit(site.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(site.pid, resource.RLIMIT_NOFILE, (used + 4, hard))
            async with silent_callers(site, 30, b"GET /livez HTTP/1.1\r\nHost: 127"):
                await eventually(lambda: open_files(site.pid) >= used + 4)
                # Whoever is connected is served; the log says what is wrong.
                assert (await viewer.ended(await viewer.send("hello")))["state"] == "succeeded"
                await eventually(lambda: "Too many open files" in site.log())
            assert (await viewer.ended(await viewer.send("hello")))["state"] == "succeeded"
            resource.prlimit(site.pid, resource.RLIMIT_NOFILE, (soft, hard))
            await eventually(lambda: open_files(site.pid) <= used + 4)
            async with client(site, newcomer) as other:
                await other.subscribe()
                assert (await other.ended(await other.send("hello")))["state"] == "succeeded"
            assert site.log().count("Too many open files") < 10


async def test_a_turn_streams_on_while_the_database_is_locked(short_dir: Path, fake_claude: Path) -> None:
    async with serving(short_dir, fake_claude) as site:
        token = await site.add_user("alice")
        async with client(site, token) as viewer:
            await viewer.subscribe()
            turn = await viewer.send("stream 60 30")
            await eventually(lambda: "w3" in viewer.streamed())
            pid = await live_pid(site, token)
            database = sqlite3.connect(site.data / "claude-pool.db", isolation_level=None)
            with closing(database):
                database.execute("BEGIN EXCLUSIVE")
                seen = len(viewer.streamed().split())
                await eventually(lambda: len(viewer.streamed().split()) > seen + 20)
                queued = asyncio.create_task(viewer.send("hello"), name="queued")
                assert (await get(site, token, "/livez"))["status"] == "ok"
                database.execute("ROLLBACK")
            assert (await viewer.ended(turn))["state"] == "succeeded"
            assert (await viewer.ended(await queued))["state"] == "succeeded"
            assert viewer.streamed().startswith(" ".join(f"w{n}" for n in range(60)))
            viewer.check_order()
            assert is_alive(pid)
            assert await live_pid(site, token) == pid


@pytest.mark.parametrize("count", [150, pytest.param(3000, marks=pytest.mark.acceptance)])
@pytest.mark.parametrize(
    "words",
    [pytest.param(b"", marks=pytest.mark.acceptance), b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "],
)
async def test_callers_that_say_nothing_hold_up_nobody(
    short_dir: Path, fake_claude: Path, count: int, words: bytes
) -> None:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files[1] < count + 500:
        pytest.skip(f"the limit of open files is {files[1]}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (files[1], files[1]))
    try:
        async with serving(short_dir, fake_claude) as site:
            token = await site.add_user("alice")
            used = open_files(site.pid)
            async with silent_callers(site, count, words):
                # A few that were open before may be closed meanwhile.
                await eventually(lambda: open_files(site.pid) >= used + count - 5, 30)
                async with client(site, token) as viewer:
                    await viewer.subscribe()
                    assert (await viewer.ended(await viewer.send("hello")))["state"] == "succeeded"
            await eventually(lambda: open_files(site.pid) <= used + 4, 30, what="callers forgotten")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, files)
