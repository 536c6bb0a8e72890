"""One run: warm up, trouble, quiet, accounts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.accounts import Standing, account_for, fill_pools, standing
from tests.chaos.kit import build_kit, make_real
from tests.chaos.machine import Machine, instances_of, stopped
from tests.chaos.person import Person
from tests.chaos.record import entry_of
from tests.chaos.story import Story
from tests.e2e.site import Site
from tests.waiting import eventually

SETTINGS = {
    "pool.idle_timeout_seconds": 20,
    "pool.max_age_seconds": 90,
    "pool.turn_timeout_seconds": 40,
    "pool.turn_stall_seconds": 5,
    "pool.start_timeout_seconds": 30,
    "pool.stop_grace_seconds": 2,
    "pool.approval_hold_seconds": 15,
    "pool.queue_timeout_seconds": 60,
    "pool.disk_reserve_bytes": 0,
    "quotas.default": {"turns_per_minute": None, "max_queued_turns": 20},
    "logging.level": "warning",
}
_QUIET_SECONDS = 150.0
_LAST_SECONDS = 90.0
# The server pings every 30 s and waits half of that: then a half open connection is gone.
_HALF_OPEN_SECONDS = 60.0
_CANCEL_AGAIN_SECONDS = 5.0
_LOOKS = 5
_CALM_SHARE = 0.35


@dataclass(frozen=True, slots=True)
class Plan:
    """How large a run is. ``seconds`` is the time of trouble."""

    seed: int
    seconds: float
    fakes: int = 30
    reals: int = 3
    with_disk: bool = True
    half_open: bool = True

    @property
    def limit(self) -> int:
        """Fewer slots than users: they wait for each other, and idle ones make room."""
        return max(2, (self.fakes + self.reals) * 3 // 4)


class Run:
    """Everything of one run below one short directory."""

    def __init__(self, plan: Plan, directory: Path, real_cli: Path | None) -> None:
        self.plan = plan
        self.story = Story(plan.seed)
        self.counted: Counter[str] = Counter()
        self.figures: list[str] = []
        cli = build_kit(directory, real_cli)
        self.site = Site(directory, cli, **SETTINGS, **{"pool.max_instances": plan.limit})
        self._admin = ""
        self._people: list[Person] = []

    async def play(self) -> list[str]:
        """The failures; none is what is wanted."""
        with Machine(self.site, self.story, with_disk=self.plan.with_disk) as machine:
            began = time.monotonic()
            try:
                await self.site.start()
                await self._arrive()
                start = await self._warm_up()
                self.figures.append(f"ready after {time.monotonic() - began:.1f} s")
                await self._trouble(machine)
                machine.recover()
                await self._quiet()
                await self._last_messages()
                await self._compare()
                await self._come_back_to(start)
            except Exception as error:  # noqa: BLE001 - told with the seed and the story, like any failure
                self.story.fail("machine", f"the run was cut short: {error!r}")
            finally:
                await asyncio.gather(*(person.leave() for person in self._people))
                await self._end()
        return self.story.failures

    async def _arrive(self) -> None:
        for number in range(self.plan.fakes + self.plan.reals):
            is_real = number >= self.plan.fakes
            name = f"{'real' if is_real else 'fake'}{number}"
            if is_real:
                make_real(self.site.data / "workspaces" / name)
            token = await self.site.add_user(name)
            self._people.append(Person(name, self.site.url, token, self.story, is_real=is_real))
            self._people[-1].leaves_half_open = self.plan.half_open
        self._admin = await self.site.admin()

    async def _warm_up(self) -> Standing:
        """Everybody says a word and leaves; what the server holds then is what it may hold in the end."""
        for viewer in (viewer for person in self._people for viewer in person.viewers):
            viewer.start()
        await asyncio.gather(*(self._says(person, "hello", tries=1) for person in self._people))
        await self._empty()
        await fill_pools(self.site, self._admin)
        return await standing(self.site, self._admin)

    async def _says(self, person: Person, text: str, *, tries: int) -> None:
        """Say it until it succeeds. A CLI that is found dead or deaf by a message costs that message."""
        outcome: set[str] = set()
        for number in range(tries):
            self.counted["tried again"] += number
            message = await person.say(text)
            if not await person.ended(message, _LAST_SECONDS):
                self.story.fail(person.name, f"{text!r} has no end; refused {message.refusals}")
                return
            outcome = person.outcomes[next(iter(message.turn_ids))]
            if outcome == {"succeeded"}:
                return
        self.story.fail(person.name, f"{text!r} did not succeed: {outcome}")

    async def _empty(self) -> None:
        """Nobody is connected and nothing runs."""
        await asyncio.gather(*(viewer.leave() for person in self._people for viewer in person.viewers))
        for person in self._people:
            await person.request("DELETE", "/api/v1/sessions/default")
        await eventually(lambda: not instances_of(self.site), 30, what="all instances have ended")

    async def _trouble(self, machine: Machine) -> None:
        machine.calm_after = time.monotonic() + self.plan.seconds * (1 - _CALM_SHARE)
        lives = [asyncio.create_task(person.live(), name=person.name) for person in self._people]
        host = asyncio.create_task(machine.trouble_the_host(), name="host")
        processes = asyncio.create_task(machine.trouble_the_processes(), name="processes")
        everything = {*lives, host, processes}
        await asyncio.wait(everything, timeout=self.plan.seconds, return_when=asyncio.FIRST_EXCEPTION)
        # What it is about must not be cut short: a server that is being started, a drain without its end.
        machine.is_over.set()
        await _cancelled(*lives, processes)
        for result in await asyncio.gather(*lives, host, processes, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def _quiet(self) -> None:
        """No new trouble: every turn comes to its end, every viewer follows again."""
        began = time.monotonic()
        for person in self._people:
            person.answer_everything()
        await asyncio.gather(*(person.finish() for person in self._people))
        deadline = began + _QUIET_SECONDS
        while any(person.open_turns for person in self._people) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        for person in self._people:
            for turn in person.open_turns:
                self.story.fail(person.name, f"turn {turn} has no end after {_QUIET_SECONDS} s of quiet")
        self.figures.append(f"quiet after {time.monotonic() - began:.1f} s")

    async def _last_messages(self) -> None:
        began = time.monotonic()
        await asyncio.gather(
            *(self._says(person, "hello for the last time", tries=2) for person in self._people)
        )
        self.figures.append(f"last messages answered after {time.monotonic() - began:.1f} s")

    async def _compare(self) -> None:
        await asyncio.gather(*(self._compare_one(person) for person in self._people))

    async def _compare_one(self, person: Person) -> None:
        """Wait until both viewers have what the history ends with, then compare."""
        history = await person.history()
        last = history[-1]["cursor"]
        with contextlib.suppress(AssertionError):
            await eventually(lambda: all(v.record.has_reached(last) for v in person.viewers), 30)
        for _ in range(_LOOKS):
            history = await person.history()
            newest = entry_of(history[-1]).cursor
            # What came while the pages were read (a session that is parked as idle) is not lost.
            if all(cursor <= newest for viewer in person.viewers for cursor in viewer.record.durable):
                break
        self.counted += account_for(person, history, self.story)

    async def _come_back_to(self, start: Standing) -> None:
        await self._empty()
        now = await standing(self.site, self._admin)
        deadline = time.monotonic() + _HALF_OPEN_SECONDS
        while now.exceeds(start) and time.monotonic() < deadline:
            await asyncio.sleep(1)
            now = await standing(self.site, self._admin)
        self.figures.append(f"server at the start: {start}")
        self.figures.append(f"server at the end:   {now}")
        for what in now.exceeds(start):
            self.story.fail("machine", f"the server holds more than at the start: {what}")

    async def _end(self) -> None:
        self.counted["processes left"] = await stopped(self.site, self.story)


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancel them until they have ended: a request that ends in the same moment may swallow it once."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _done, left = await asyncio.wait(left, timeout=_CANCEL_AGAIN_SECONDS)


async def chaos(plan: Plan, directory: Path, real_cli: Path | None) -> Run:
    """Play a plan to its end."""
    run = Run(plan, directory, real_cli)
    await run.play()
    return run
