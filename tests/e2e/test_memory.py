"""Floods and viewers that do not read: the server's memory stays flat, and nobody else waits."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.site import Client, Site, client, serving
from tests.soak.holdings import resident_kib

pytestmark = pytest.mark.usefixtures("forked_servers")


MAX_GROWTH_KIB = 16 * 1024
# at 200 MB/s and more where the machine gives it (measured: 282 MB/s on two busy cores)
FLOOD_BYTES = 2_000_000_000
LINES = 100_000
QUOTA = {"turns_per_minute": None}


class Peak:
    """The most resident memory of a process while the block runs, KiB above its begin."""

    def __init__(self, pid: int) -> None:
        self._pid, self._start = pid, resident_kib(pid)
        self.kib = 0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Peak:
        self._task = asyncio.create_task(self._look(), name="peak")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _look(self) -> None:
        while True:
            self.kib = max(self.kib, resident_kib(self._pid) - self._start)
            await asyncio.sleep(0.1)


async def turns_until(viewer: Client, is_over: asyncio.Event) -> int:
    """How many turns of another user go through meanwhile."""
    count = 0
    while not is_over.is_set():
        assert (await viewer.ended(await viewer.send("hello")))["state"] == "succeeded"
        count += 1
    return count


async def flood(site: Site, total: int) -> tuple[float, int, int]:
    """One CLI writes ``total`` bytes to stderr: seconds, growth of the server, turns of the neighbour."""
    tokens = [await site.add_user(name) for name in ("alice", "bob")]
    async with client(site, tokens[0]) as alice, client(site, tokens[1]) as bob:
        for viewer in (alice, bob):
            await viewer.subscribe()
            for _ in range(20):
                await viewer.ended(await viewer.send("hello"))
        is_over = asyncio.Event()
        neighbour = asyncio.create_task(turns_until(bob, is_over), name="neighbour")
        async with Peak(site.server_pid) as peak:
            began = time.monotonic()
            turn = await alice.send(f"hello !stderr {total}")
            assert (await alice.ended(turn, 300))["state"] == "succeeded"
            seconds = time.monotonic() - began
        is_over.set()
        return seconds, peak.kib, await neighbour


@contextmanager
def stalled_viewer(site: Site, token: str) -> Iterator[None]:
    """A viewer that follows from now on and never reads a byte, with next to no room in its kernel."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", site.port))
    key = base64.b64encode(os.urandom(16)).decode()
    raw.sendall(
        f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\nAuthorization: Bearer {token}\r\n"
        f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    text = b'{"type":"subscribe","session_id":"default"}'
    mask = b"\0\0\0\0"
    raw.sendall(bytes([0x81, 0x80 | len(text)]) + mask + text)
    try:
        yield
    finally:
        raw.close()


async def stream(site: Site, viewer: Client, lines: int) -> tuple[float, int]:
    """A turn of so many deltas: seconds, growth of the server."""
    viewer.frames.clear()
    async with Peak(site.server_pid) as peak:
        began = time.monotonic()
        turn = await viewer.send(f"stream {lines} 0")
        assert (await viewer.ended(turn, 400))["state"] == "succeeded"
        seconds = time.monotonic() - began
    assert len(viewer.events("stream_event")) >= lines
    return seconds, peak.kib


async def stalled(site: Site, lines: int) -> tuple[float, float, int]:
    """The same turn without and with a viewer that reads nothing: seconds each, and growth in the second."""
    token = await site.add_user("alice")
    async with client(site, token) as viewer:
        await viewer.subscribe()
        await viewer.ended(await viewer.send("hello"))
        # The first fills what is kept per session.
        await stream(site, viewer, max(lines // 5, 1000))
        alone, _growth = await stream(site, viewer, lines)
        with stalled_viewer(site, token):
            together, growth = await stream(site, viewer, lines)
    return alone, together, growth


@pytest.mark.acceptance
async def test_a_flood_and_a_stalled_viewer_hold_up_nobody(short_dir: Path, fake_claude: Path) -> None:
    async with serving(short_dir, fake_claude, quotas__default=QUOTA) as site:
        _seconds, _growth, turns = await flood(site, 20_000_000)
        assert turns >= 1


@pytest.mark.acceptance
@pytest.mark.timeout(600)
async def test_memory_is_flat_under_a_flood_of_stderr(short_dir: Path, fake_claude: Path) -> None:
    async with serving(short_dir, fake_claude, quotas__default=QUOTA) as site:
        seconds, growth, turns = await flood(site, FLOOD_BYTES)
        rate = FLOOD_BYTES / seconds / 1e6
        print(
            f"\n{rate:.0f} MB/s of stderr for {seconds:.1f} s: server +{growth} KiB, neighbour {turns} turns"
        )
        assert growth < MAX_GROWTH_KIB
        assert turns > 1


@pytest.mark.acceptance
@pytest.mark.timeout(900)
async def test_memory_is_flat_with_a_viewer_that_stops_reading(short_dir: Path, fake_claude: Path) -> None:
    async with serving(short_dir, fake_claude, quotas__default=QUOTA) as site:
        alone, together, growth = await stalled(site, LINES)
        print(
            f"\n{LINES} lines in {alone:.1f} s, with one that stalls {together:.1f} s: server +{growth} KiB"
        )
        assert growth < MAX_GROWTH_KIB
        assert together < 2 * alone + 5
