"""A day's work in short: turns, parking and waking, subscribing and leaving, against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import msgspec

from tests.chaos.accounts import fill_pools, metric, metrics
from tests.e2e.site import OUTCOMES, Site
from tests.soak.holdings import Holdings, resident_kib

SETTINGS = {
    "quotas.default": {"turns_per_minute": None, "max_queued_turns": None},
    "pool.max_instances": 40,
    "logging.level": "warning",
}
_WARM_UP_SHARE = 0.1
_LOOKS = 10
_LOOKS_AT_HOLDINGS = 5
_SETTLE_SECONDS = 30.0
_ANSWER_SECONDS = 60.0


@dataclass
class Result:
    """``resident_kib``: of the server, after the warm-up and after each tenth of the rest."""

    seconds: float
    done: Counter[str]
    left: list[str]
    resident_kib: list[int]

    @property
    def growth_kib(self) -> int:
        """How much more memory it has than after the warm-up."""
        return self.resident_kib[-1] - self.resident_kib[0]


class Worker:
    """One user with one socket; keeps nothing of what it is sent but the last cursor."""

    def __init__(self, site: Site, token: str, seed: str, done: Counter[str]) -> None:
        self._site, self._token, self._done = site, token, done
        self._headers = {"Authorization": f"Bearer {token}"}
        self._random = Random(seed)
        self._cursor = "0"

    async def work(self, numbers: Iterator[int]) -> None:
        """Cycles until there are no more."""
        async with aiohttp.ClientSession(headers=self._headers) as http:
            for _number in numbers:
                kind = self._random.choices(("turn", "look in", "park"), (70, 28, 2))[0]
                if kind == "turn":
                    await self._turn(http)
                elif kind == "look in":
                    await self._look_in(http)
                else:
                    await self._park(http)
                self._done[kind] += 1

    async def _turn(self, http: aiohttp.ClientSession) -> None:
        message = uuid.uuid4().hex
        while not await self._has_run(http, message):
            # A worker that had no processor for long has not answered the server's pings.
            self._done["cut"] += 1

    async def _has_run(self, http: aiohttp.ClientSession, message: str) -> bool:
        """Send the message, or send it again, and follow its turn; False when it was cut off."""
        socket = await self._socket(http)
        with contextlib.suppress(ConnectionError):
            await socket.send_json({"type": "send", "content": "hello there", "message_id": message})
            async for frame in self._frames(socket):
                assert frame["type"] != "error", frame
                if frame.get("message_id") == message and frame.get("state") in OUTCOMES:
                    assert frame["state"] == "succeeded", frame
                    return True
        self._open = None
        return False

    async def _look_in(self, http: aiohttp.ClientSession) -> None:
        """Leave the session, or the server, and come back with the cursor."""
        socket = await self._socket(http)
        if self._random.random() < 0.3:
            await socket.close()
            self._open = None
            await self._socket(http)
            return
        with contextlib.suppress(ConnectionError):
            await socket.send_json({"type": "unsubscribe", "session_id": "default"})
            await self._subscribe(socket)
            return
        self._open = None

    async def _park(self, http: aiohttp.ClientSession) -> None:
        async with http.get(f"{self._site.url}/api/v1/instances") as answer:
            instances = (await answer.json())["instances"]
        admin = {"Authorization": f"Bearer {await self._site.admin()}"}
        for instance in instances:
            url = f"{self._site.url}/api/v1/admin/instances/{instance['id']}/stop"
            async with aiohttp.ClientSession(headers=admin) as room, room.post(url, json={}) as answer:
                assert answer.status in (202, 204, 200, 404), await answer.text()
        await self._turn(http)

    _open: aiohttp.ClientWebSocketResponse | None = None

    async def _socket(self, http: aiohttp.ClientSession) -> aiohttp.ClientWebSocketResponse:
        if self._open is None:
            self._open = await http.ws_connect(f"{self._site.url}/ws", max_msg_size=0)
            await self._subscribe(self._open)
        return self._open

    async def _subscribe(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        await socket.send_json({"type": "subscribe", "session_id": "default", "cursor": self._cursor})
        async for frame in self._frames(socket):
            if frame["type"] == "subscribed":
                return

    async def _frames(self, socket: aiohttp.ClientWebSocketResponse) -> Any:
        while True:
            message = await asyncio.wait_for(socket.receive(), _ANSWER_SECONDS)
            if message.type is not aiohttp.WSMsgType.TEXT:
                raise ConnectionError(message)
            frame = msgspec.json.decode(message.data)
            if "cursor" in frame and frame["type"] != "subscribed":
                self._cursor = frame["cursor"]
            yield frame


class Day:
    """Some users at work until the cycles are done."""

    def __init__(self, site: Site, users: int, seed: int) -> None:
        self._site, self._users, self._seed = site, users, seed
        self._done: Counter[str] = Counter()

    async def run(self, cycles: int) -> Result:
        """All cycles; the first tenth of them is the warm-up."""
        tokens = [await self._site.add_user(f"user{n}") for n in range(self._users)]
        warm_up = max(int(cycles * _WARM_UP_SHARE), 1)
        await self._work(tokens, warm_up, 0)
        start = await self._least_holdings()
        memory = [resident_kib(self._site.server_pid)]
        began = time.monotonic()
        for look in range(1, _LOOKS + 1):
            await self._work(tokens, (cycles - warm_up) // _LOOKS, look)
            memory.append(resident_kib(self._site.server_pid))
            print(f"  {sum(self._done.values())} cycles, {memory[-1]} KiB", flush=True)
        seconds = time.monotonic() - began
        left = (await self._settled(start)).above(start)
        return Result(seconds, self._done, left, memory)

    async def _work(self, tokens: list[str], cycles: int, part: int) -> None:
        numbers = iter(range(cycles))
        workers = [
            Worker(self._site, token, f"{self._seed}:{part}:{n}", self._done)
            for n, token in enumerate(tokens)
        ]
        await asyncio.gather(*(worker.work(numbers) for worker in workers))

    async def _least_holdings(self) -> Holdings:
        """What the server holds for good, with all its connections to the database open.

        The directory that a walk through the workspaces is at, and a connection
        that is not quite closed, are there in one look and gone in the next.
        """
        await fill_pools(self._site, await self._site.admin())
        looks = []
        for _look in range(_LOOKS_AT_HOLDINGS):
            await asyncio.sleep(1)
            looks.append(await self._holdings())
        return Holdings.least(looks)

    async def _settled(self, start: Holdings) -> Holdings:
        """What it holds now; what is above ``start`` gets some time to go."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while (now := await self._holdings()).above(start) and time.monotonic() < deadline:
            await asyncio.sleep(1)
        return now

    async def _holdings(self) -> Holdings:
        """What the server holds while nobody is connected."""
        text = await metrics(self._site, await self._site.admin())
        return Holdings.of(self._site.server_pid, [], int(metric(text, "process_asyncio_tasks")))


async def day(directory: Path, cli: Path, cycles: int, users: int, seed: int) -> Result:
    """A server, its day, and its end."""
    site = Site(directory, cli, **SETTINGS)
    await site.start()
    try:
        return await Day(site, users, seed).run(cycles)
    finally:
        await site.stop()
