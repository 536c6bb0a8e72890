"""A database server that dies and comes back: what streams streams on, and nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.site import Client, Site, client, get, live_pid, serving
from tests.postgresql import Cluster, running_cluster
from tests.procfs import is_alive
from tests.waiting import eventually

ALL = " ".join(f"w{n}" for n in range(100))


@pytest.fixture
async def cluster(short_dir: Path) -> AsyncIterator[Cluster]:
    async with running_cluster(short_dir) as it:
        yield it


@dataclass(frozen=True)
class Streaming:
    """A turn that streams, and who looks at it."""

    site: Site
    token: str
    viewer: Client
    turn: str
    pid: int

    async def succeeds(self) -> None:
        """It ends well, and what the viewer saw was in order."""
        assert (await self.viewer.ended(self.turn))["state"] == "succeeded"
        self.viewer.check_order()

    async def is_where_it_was(self) -> bool:
        """Does the session have the same live process?"""
        return is_alive(self.pid) and await live_pid(self.site, self.token) == self.pid


@asynccontextmanager
async def streaming_on(cluster: Cluster, directory: Path, cli: Path) -> AsyncIterator[Streaming]:
    async with serving(directory, cli, storage__url=cluster.url) as site:
        token = await site.add_user("alice")
        async with client(site, token) as viewer:
            await viewer.subscribe()
            turn = await viewer.send("stream 100 30", message_id="long")
            await eventually(lambda: "w3" in viewer.streamed())
            yield Streaming(site, token, viewer, turn, await live_pid(site, token))


async def eventually_unready(site: Site, token: str) -> None:
    async def told() -> bool:
        page = await get(site, token, "/readyz")
        return any("database" in reason for reason in page["reasons"])

    await eventually(told, 60, what="the server says that it admits nothing")


async def sent_until_taken(viewer: Client, message_id: str) -> str:
    """Send the message as a client does that was told to come back; its turn."""
    async with asyncio.timeout(60):
        while not (taken := [f for f in viewer.of_type("accepted") if f["message_id"] == message_id]):
            await viewer.put(type="send", session_id="default", content="hello", message_id=message_id)
            await asyncio.sleep(1)
    assert len({frame["turn_id"] for frame in taken}) == 1
    return str(taken[0]["turn_id"])


@pytest.mark.acceptance
async def test_a_database_that_dies_in_mid_stream_and_comes_back_costs_nothing(
    cluster: Cluster, short_dir: Path, fake_claude: Path
) -> None:
    async with streaming_on(cluster, short_dir, fake_claude) as it:
        await cluster.end()
        seen = len(it.viewer.streamed().split())
        await eventually(lambda: len(it.viewer.streamed().split()) > seen + 20)
        # A message is not lost without a word: it waits, or is refused and can be sent again.
        await it.viewer.put(type="send", session_id="default", content="hello", message_id="meanwhile")
        assert (await get(it.site, it.token, "/livez"))["status"] == "ok"
        await eventually_unready(it.site, it.token)
        await cluster.start()
        await it.succeeds()
        later = await sent_until_taken(it.viewer, "meanwhile")
        assert (await it.viewer.ended(later))["state"] == "succeeded"
        assert it.viewer.streamed().startswith(ALL)
        assert await it.is_where_it_was()
        async with client(it.site, it.token) as newcomer:
            await newcomer.subscribe(cursor="0")
            await eventually(lambda: newcomer.endings(later))
            assert [len(newcomer.endings(one)) for one in (it.turn, later)] == [1, 1]
            assert newcomer.answer().startswith(ALL)


@pytest.mark.acceptance
async def test_a_server_killed_while_its_database_is_away_goes_on_where_it_was(
    cluster: Cluster, short_dir: Path, fake_claude: Path
) -> None:
    async with streaming_on(cluster, short_dir, fake_claude) as it:
        await cluster.end(signal.SIGKILL)
        await eventually(lambda: "w30" in it.viewer.streamed())
        await it.site.kill()
        await cluster.start()
        await it.site.start()
        await it.viewer.resume()
        await it.succeeds()
        assert it.viewer.streamed() == ALL
        assert await it.is_where_it_was()


@pytest.mark.acceptance
async def test_a_server_ends_without_its_database_and_the_next_one_has_everything(
    cluster: Cluster, short_dir: Path, fake_claude: Path
) -> None:
    async with streaming_on(cluster, short_dir, fake_claude) as it:
        await cluster.end()
        assert await it.site.stop() == 0
        assert not is_alive(it.pid)
        await cluster.start()
        await it.site.start()
        await it.viewer.resume()
        await it.succeeds()
        async with client(it.site, it.token) as newcomer:
            await newcomer.subscribe(cursor="0")
            await eventually(lambda: newcomer.endings(it.turn))
            assert newcomer.answer() == ALL
