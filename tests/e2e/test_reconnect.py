"""Connections that break at every event of a turn, also without a word to the server: no gap, no repeat."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.site import Client, Site, client, serving
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("forked_servers")


Frame = dict[str, Any]
AT_ONCE = 8


class Line:
    """A way to the server that can go dead: nothing passes any more, and no end is told to either side."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self._target = port
        self._pumps: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Line]:
        """Listens, until the end."""
        server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            await self.go_dead()
            for writer in self._writers:
                writer.transport.abort()
            server.close()
            await server.wait_closed()

    async def go_dead(self) -> None:
        """Everything that is open now passes nothing more and stays open."""
        pumps, self._pumps = self._pumps, set()
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers += [writer, back]
        for source, target in ((reader, back), (there, writer)):
            self._pumps.add(asyncio.create_task(self._pump(source, target), name="line"))

    @staticmethod
    async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()


def seen(viewer: Client) -> list[Frame]:
    """What was published, in order."""
    return [frame for frame in viewer.frames if "cursor" in frame and frame["type"] != "subscribed"]


async def after(http: aiohttp.ClientSession, url: str, cursor: str, count: int) -> list[Frame]:
    """What a new connection from ``cursor`` on is shown; it is torn off, not closed."""
    socket = await http.ws_connect(f"{url}/ws", max_msg_size=0)
    try:
        await socket.send_str(json.dumps({"type": "subscribe", "session_id": "default", "cursor": cursor}))
        frames: list[Frame] = []
        while len(frames) < count:
            frame = json.loads((await socket.receive(timeout=20)).data)
            assert frame["type"] not in ("error", "gap"), frame
            frames += [frame] if "cursor" in frame and frame["type"] != "subscribed" else []
        return frames
    finally:
        connection = socket._response.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abort()


@pytest.mark.parametrize("deltas", [8, pytest.param(150, marks=pytest.mark.acceptance)])
async def test_from_every_event_on_a_new_connection_sees_the_rest(
    short_dir: Path, fake_claude: Path, deltas: int
) -> None:
    async with serving(short_dir, fake_claude) as site:
        token = await site.add_user("alice")
        async with client(site, token) as viewer:
            await viewer.subscribe()
            for _ in range(2):
                await viewer.ended(await viewer.send(f"stream {deltas}"))
            whole = seen(viewer)
            assert len(whole) > 2 * deltas
        headers = {"Authorization": f"Bearer {token}"}
        gate = asyncio.Semaphore(AT_ONCE)

        async def check(http: aiohttp.ClientSession, index: int) -> None:
            async with gate:
                rest = whole[index + 1 :]
                assert await after(http, site.url, whole[index]["cursor"], len(rest)) == rest

        async with aiohttp.ClientSession(headers=headers) as http:
            await asyncio.gather(*(check(http, index) for index in range(len(whole) - 1)))


@pytest.mark.acceptance
async def test_lines_that_go_dead_at_every_event_cost_nothing(short_dir: Path, fake_claude: Path) -> None:
    async with serving(short_dir, fake_claude) as site, Line(site.port).open() as line:
        token = await site.add_user("alice")
        async with client(site, token) as steady:
            await steady.subscribe()
            shaky = await through(line, site, token)
            await shaky.subscribe()
            turn = await steady.send("stream 60 40")
            heard: list[Frame] = []
            cuts = 0
            while not any(f["type"] == "turn" and f["state"] == "succeeded" for f in heard):
                count = len(heard)
                await eventually(partial(seen, shaky), what=f"something after {count} events")
                await line.go_dead()
                heard += seen(shaky)
                left, shaky = shaky, await through(line, site, token)
                await shaky.subscribe("default", heard[-1]["cursor"])
                cuts += 1
                await forget(left)
            await steady.ended(turn)
            await forget(shaky)
            assert heard == seen(steady)
            assert cuts > 10


async def through(line: Line, site: Site, token: str) -> Client:
    """A client that comes by the line."""
    way = Site(site.data.parent)
    way.url = f"http://127.0.0.1:{line.port}"
    viewer = Client(way, token)
    await viewer.connect()
    return viewer


async def forget(viewer: Client) -> None:
    """Tear the client's own end off; the server hears nothing of it."""
    if viewer._socket is not None and viewer._socket._response.connection is not None:
        transport = viewer._socket._response.connection.transport
        if transport is not None:
            transport.abort()
    await viewer.close()


async def test_three_viewers_see_the_same_and_a_late_close_takes_nobody_with_it(
    short_dir: Path, fake_claude: Path
) -> None:
    async with serving(short_dir, fake_claude) as site:
        token = await site.add_user("alice")
        async with client(site, token) as tab, client(site, token) as phone:
            other = Client(site, token)
            await other.connect()
            for viewer in (tab, phone, other):
                await viewer.subscribe()
            turn = await tab.send("stream 40 20")
            await eventually(lambda: "w5" in other.streamed())
            # It comes back before its old connection is known to have ended.
            successor = Client(site, token)
            await successor.connect()
            await successor.subscribe("default", other.cursors["default"])
            await forget(other)
            for viewer in (tab, phone, successor):
                assert (await viewer.ended(turn))["state"] == "succeeded"
            assert seen(tab) == seen(phone)
            rest = seen(successor)
            assert 0 < len(rest) < len(seen(tab))
            assert seen(tab)[-len(rest) :] == rest
            await successor.close()
            assert (await phone.ended(await phone.send("hello")))["state"] == "succeeded"
