"""One run: a few are idle, many come and go, the few are idle again; then everybody has left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TypeVar

import aiohttp
import jwt

from tests.chaos.accounts import Standing, account_for, fill_pools, standing
from tests.chaos.machine import instances_of, program_of, stopped
from tests.chaos.record import entry_of
from tests.chaos.story import Story
from tests.crowd.figures import FanOut, Memory, Processor, percentile
from tests.crowd.guest import Guest
from tests.e2e.site import Site
from tests.waiting import eventually

T = TypeVar("T")
R = TypeVar("R")
_DAY = 24 * 3600
_AT_ONCE = 16
_LOOKS = 5
_SETTLE_SECONDS = 30.0
_EVERY_FIFTH = 5


@dataclass(frozen=True, slots=True)
class Plan:
    """How large a run is: ``known`` accounts, ``connected`` of them at a time, ``live`` processes at most.

    ``seconds`` is the time of coming and going, ``visit_seconds`` the mean time that one stays.
    """

    seed: int
    seconds: float
    known: int = 2000
    connected: int = 500
    live: int = 200
    visit_seconds: float = 400.0
    idle_timeout_seconds: float = 150.0
    unload_seconds: float = 60.0
    idle_look_seconds: float = 60.0
    look_seconds: float = 10.0
    words: int = 30
    pause_ms: int = 50


class Crowd:
    """Everything of one run below one short directory."""

    def __init__(self, plan: Plan, directory: Path, cli: Path) -> None:
        self.plan, self.story = plan, Story(plan.seed)
        self.counted: Counter[str] = Counter()
        self.figures: list[str] = []
        self.fan_out = FanOut()
        self.most_live = 0
        self.idle_cpu: list[float] = []
        self.memory = Memory({})
        self._secret = secrets.token_hex(32)
        settings = {
            # Thousands of sign-ins from one address are refused: their tokens come from another issuer.
            "auth.jwt.secret": self._secret,
            "pool.max_instances": plan.live,
            "pool.idle_timeout_seconds": plan.idle_timeout_seconds,
            "pool.unload_seconds": plan.unload_seconds,
            "pool.queue_length": plan.known,
            "pool.queue_timeout_seconds": 240,
            "pool.disk_reserve_bytes": 0,
            "quotas.default": {"turns_per_minute": None},
            "logging.level": "warning",
        }
        self.site = Site(directory, cli, **settings)
        self._rng = Random(plan.seed)
        self._guests: list[Guest] = []
        self._admin = ""

    async def play(self) -> list[str]:
        """The failures; none is what is wanted."""
        try:
            await self.site.start()
            self._admin = await self.site.admin()
            await self._make_known(self.plan.live)
            await self._idle()
            await self._nothing_lives()
            start = await self._stands()
            await self._make_known(self.plan.known)
            await self._come_and_go()
            await self._nothing_lives()
            await _some_at_once(self._guests, self._compare)
            await self._idle()
            await self._nothing_lives()
            await self._come_back_to(start)
        except Exception as error:  # noqa: BLE001 - told with the seed and the story, like any failure
            self.story.fail("machine", f"the run was cut short: {error!r}")
        finally:
            await asyncio.gather(*(viewer.leave() for guest in self._guests for viewer in guest.viewers))
            await self._end()
        return self.story.failures

    def tell(self, text: str) -> None:
        """Print what happens, and keep it for the report."""
        self.figures.append(text)
        print(f"  {time.strftime('%H:%M:%S')} {text}", flush=True)

    async def _make_known(self, count: int) -> None:
        async def make(number: int) -> Guest:
            name = f"guest{number}"
            await self._post("/api/v1/admin/users", {"user_id": name})
            token = jwt.encode({"sub": name, "exp": int(time.time()) + _DAY}, self._secret, "HS256")
            viewers = 2 if number % _EVERY_FIFTH == 0 else 1
            return Guest(name, self.site.url, token, self.story, self.fan_out, viewers=viewers)

        self._guests += await _some_at_once(range(len(self._guests), count), make)
        self.tell(f"{len(self._guests)} accounts")

    async def _post(self, path: str, body: object) -> None:
        headers = {"Authorization": f"Bearer {self._admin}"}
        async with (
            aiohttp.ClientSession(headers=headers) as http,
            http.post(f"{self.site.url}{path}", json=body) as response,
        ):
            assert response.status == 201, await response.text()

    async def _idle(self) -> None:
        """As many as may live have a process each, and nobody says anything: what does that cost?"""
        few = self._guests[: self.plan.live]

        async def wake(guest: Guest) -> None:
            await guest.arrive()
            await guest.hears_the_end_of(await guest.say("hello"))

        await _some_at_once(few, wake)
        live = await self._awaited(len(few))
        pids = await self._pids()
        before = {name: Processor.of(pid) for name, pid in pids.items()}
        began = time.monotonic()
        await asyncio.sleep(self.plan.idle_look_seconds)
        minutes = (time.monotonic() - began) / 60
        cost = {name: (Processor.of(pid) - before[name]).seconds / minutes for name, pid in pids.items()}
        still = len(await asyncio.to_thread(instances_of, self.site))
        self.idle_cpu.append(cost["server"])
        told = ", ".join(f"{name} {seconds:.2f}" for name, seconds in cost.items())
        known = len(self._guests)
        self.tell(f"idle, {known} known, {live} to {still} live: processor seconds a minute: {told}")
        if (live, still) != (len(few), len(few)):
            self.story.fail("machine", f"{live}, then {still} live where {len(few)} were awaited")
        await _some_at_once(few, Guest.leave)

    async def _awaited(self, count: int) -> int:
        """How many live; waits for ``count``: a new server runs a CLI for itself, to try it out."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while (live := len(await asyncio.to_thread(instances_of, self.site))) != count:
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.5)
        return live

    async def _pids(self) -> dict[str, int]:
        pids = {"server": self.site.pid}
        for name, module in (("keeper", "pool.keeper"), ("gateway", "server.gateway")):
            process = await asyncio.to_thread(program_of, self.site, module)
            if process is not None:
                pids[name] = process.pid
        return pids

    async def _nothing_lives(self) -> None:
        """Whoever is idle for long enough is parked; nobody helps."""
        began = time.monotonic()
        seconds = self.plan.idle_timeout_seconds * 2 + 60

        async def is_empty() -> bool:
            await asyncio.sleep(1)
            return not await asyncio.to_thread(instances_of, self.site)

        await eventually(is_empty, seconds, what="everybody idle is parked")
        self.tell(f"all parked after {time.monotonic() - began:.0f} s")

    async def _stands(self) -> Standing:
        """What the server holds with nobody there, nothing alive and no session in memory."""
        await asyncio.sleep(self.plan.unload_seconds)
        await fill_pools(self.site, self._admin)
        return await standing(self.site, self._admin)

    async def _come_and_go(self) -> None:
        plan = self.plan
        self.memory = Memory(await self._pids())
        absent = deque(self._rng.sample(self._guests, len(self._guests)))
        is_over = asyncio.Event()
        seats = [
            asyncio.create_task(self._seat(absent, is_over), name="crowd-seat") for _ in range(plan.connected)
        ]
        watch = asyncio.create_task(self._watch(), name="crowd-watch")
        try:
            await asyncio.wait(seats, timeout=plan.seconds, return_when=asyncio.FIRST_EXCEPTION)
            is_over.set()
            await asyncio.gather(*seats)
        finally:
            for task in (watch, *seats):
                task.cancel()
            await asyncio.wait({watch, *seats})
        self._tell_of_the_crowd()

    async def _seat(self, absent: deque[Guest], is_over: asyncio.Event) -> None:
        """One connected user after the other; the first ones do not come all at once."""
        plan, rng = self.plan, self._rng
        await asyncio.sleep(rng.uniform(0, min(plan.visit_seconds, plan.seconds) / 4))
        while not is_over.is_set():
            guest = absent.popleft()
            seconds = plan.visit_seconds * rng.uniform(0.5, 1.5)
            await guest.visit(seconds, plan.words, plan.pause_ms, is_over)
            absent.append(guest)

    async def _watch(self) -> None:
        """Look at memory and at who lives until cancelled; a line for every six looks."""
        pids = self.memory.pids | {"clients": os.getpid()}
        ended, before = 0, {name: Processor.of(pid) for name, pid in pids.items()}
        for look in range(1, 1 << 30):
            await asyncio.sleep(self.plan.look_seconds)
            self.memory.look()
            live = len(await asyncio.to_thread(instances_of, self.site))
            self.most_live = max(self.most_live, live)
            if look % 6:
                continue
            recent, turns = self.fan_out.recent(), self.story.counts["turn-succeeded"]
            now = {name: Processor.of(pid) for name, pid in pids.items()}
            load = os.getloadavg()[0]
            spent = ", ".join(f"{name} {now[name] - before[name]}" for name in pids)
            there = self.story.counts["arrives"] - self.story.counts["leaves"]
            print(
                f"  {time.strftime('%H:%M:%S')} {there} there, {live} live, {turns - ended} endings told,"
                f" words ms p50 {percentile(recent, 0.5) * 1e3:.1f} p99 {percentile(recent, 0.99) * 1e3:.1f}"
                f" of {len(recent)}; MiB: {self.memory.now()};"
                f" processor s (and waited for one): {spent}; load {load:.1f}",
                flush=True,
            )
            ended, before = turns, now

    def _tell_of_the_crowd(self) -> None:
        words = self.fan_out.all
        shares = ", ".join(f"p{share:g} {percentile(words, share / 100) * 1e3:.1f}" for share in (50, 90, 99))
        self.tell(f"fan-out of {len(words)} words, ms: {shares}, most {max(words, default=0) * 1e3:.0f}")
        self.tell(f"at most {self.most_live} live; {self.story.counts['arrives']} visits")
        for name in self.memory.points:
            first, last = (self.memory.points[name][index][1] for index in (0, -1))
            most = max(mib for _, mib in self.memory.points[name])
            self.tell(
                f"MiB of the {name}: {first:.1f} first, {most:.1f} at most, {last:.1f} last;"
                f" {self.memory.growth(name):+.1f} an hour over the second half"
            )

    async def _compare(self, guest: Guest) -> None:
        """Come once more, be told everything that was missed, and compare."""
        if not guest.messages:
            return
        await guest.arrive()
        for _ in range(_LOOKS):
            history = await guest.history()
            last = history[-1]["cursor"]
            with contextlib.suppress(AssertionError):
                await eventually(_has(guest, last), 30)
            newest = entry_of(history[-1]).cursor
            if all(cursor <= newest for viewer in guest.viewers for cursor in viewer.record.durable):
                break
        else:
            self.story.fail(guest.name, "the history grows all the time")
            return
        self.counted += account_for(guest, history, self.story)
        self.counted["compared"] += 1
        await guest.leave()

    async def _come_back_to(self, start: Standing) -> None:
        now = await self._stands()
        deadline = time.monotonic() + 60
        while now.exceeds(start) and time.monotonic() < deadline:
            await asyncio.sleep(1)
            now = await standing(self.site, self._admin)
        self.tell(f"server at the start: {start}")
        self.tell(f"server at the end:   {now}")
        for what in now.exceeds(start):
            self.story.fail("machine", f"the server holds more than at the start: {what}")

    async def _end(self) -> None:
        self.counted["processes left"] = await stopped(self.site, self.story)


def _has(guest: Guest, cursor: str) -> Callable[[], bool]:
    return lambda: all(viewer.record.has_reached(cursor) for viewer in guest.viewers)


async def _some_at_once(things: Iterable[T], do: Callable[[T], Awaitable[R]]) -> list[R]:
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(thing: T) -> R:
        async with room:
            return await do(thing)

    return list(await asyncio.gather(*(one(thing) for thing in things)))
