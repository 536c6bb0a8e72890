"""A seed's world: four sessions of two users on two slots, wilful CLIs, and everything may die.

All of it runs side by side, on one loop whose order the seed gives. In the
end the trouble stops, everybody's last message must be answered, and what
everybody saw, what the CLIs ran and what the database has must be one story.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random
import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pool import errors
from pool.runtime.hub import Subscription
from pool.runtime.session import Session
from pool.store.engines import DATABASE_NAME
from pool.store.tables import OPEN_INSTANCE, OPEN_PERMISSION, OPEN_TURN
from tests.fakes.fake_cli import FakeCli
from tests.pool.runtime.conftest import manual
from tests.simulation.loop import SimulatedLoop
from tests.simulation.person import Person, is_delta
from tests.simulation.world import SimulatedWorld
from tests.traces import illegal_steps

_LAST_SECONDS = 600.0
_LAUNCH_STEPS = ("start", "started", "write")
_DEEDS_SECONDS = 3600.0


@dataclass
class Story:
    """What came of a seed. ``trace`` is the same for the same seed."""

    seed: int
    failures: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    trace: str = ""


def play(seed: int, directory: Path, *, deeds: int = 12) -> Story:
    """Play a seed. Whatever goes wrong is in ``failures``; nothing is raised."""
    story = Story(seed)
    loop = SimulatedLoop(seed)
    with _everything_by(loop):
        try:
            loop.run_until_complete(_Play(story, loop, directory, deeds).run())
        except Exception as error:  # noqa: BLE001 - a stalled loop, an invariant, a defect: all are told
            story.failures.append(f"{type(error).__name__}: {error}")
            for task in asyncio.all_tasks(loop):
                task.cancel()
            with contextlib.suppress(Exception):
                loop.run_until_complete(asyncio.sleep(10))
        finally:
            story.counts |= Counter({"shuffled": loop.shuffled, "seconds": int(loop.time())})
            loop.close()
    return story


@contextmanager
def _everything_by(loop: SimulatedLoop) -> Iterator[None]:
    """Ids, jitter, the time that work takes and the order of sets are the seed's too."""
    originals = uuid.uuid4, time.perf_counter, random.getstate()
    uuid.uuid4 = lambda: uuid.UUID(int=loop.random.getrandbits(128), version=4)
    time.perf_counter = loop.time
    random.seed(loop.random.random())
    for kind in (Session, Subscription):
        kind.__hash__ = lambda one: vars(one).setdefault("_number", next(loop.numbers))  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        for kind in (Session, Subscription):
            kind.__hash__ = object.__hash__  # type: ignore[method-assign]
        uuid.uuid4, time.perf_counter = originals[:2]
        random.setstate(originals[2])


class _Play:
    def __init__(self, story: Story, loop: SimulatedLoop, directory: Path, deeds: int) -> None:
        self._story, self._loop, self._deeds = story, loop, deeds
        self._directory = directory
        self._chance = loop.random

    async def run(self) -> None:
        self._world = world = SimulatedWorld(self._directory, self._loop)
        world.host.prepare = manual
        self._people = [Person(world, user, name) for user in ("alice", "bob") for name in ("a", "b")]
        with _LogWatch(self._story):
            await world.begin()
            going = [self._start(one.look_on()) for one in self._people]
            going.append(self._start(self._watch()))
            trouble = [self._start(work) for work in (self._trouble(), self._clis())]
            try:
                async with asyncio.timeout(_DEEDS_SECONDS):
                    await asyncio.gather(*(one.act(self._deeds) for one in self._people))
                for task in trouble:
                    task.cancel()
                await asyncio.wait(trouble)
                await self._play_to_the_end()
                await self._everybody_can_go_on()
                await self._histories()
            finally:
                for task in (*going, *trouble):
                    task.cancel()
                await asyncio.gather(*going, *trouble, return_exceptions=True)
                if world.pool is not None:
                    await world.pool.shutdown(drain_timeout_seconds=0)
        self._accounts()

    def _start(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        return self._loop.create_task(work)

    # --- what happens ---------------------------------------------------------------------------

    async def _clis(self) -> None:
        """CLIs go on with their turns, ask, end, begin turns of their own, die."""
        while True:
            await asyncio.sleep(self._chance.expovariate(25))
            living = self._world.host.living
            if living:
                self._go_on(self._chance.choice(living))

    def _go_on(self, cli: FakeCli) -> None:
        is_busy = cli.current is not None or cli.own_turn
        if not is_busy:
            if self._chance.random() < 0.02:
                cli.begin_own()
            return
        deeds: dict[str, Callable[[], None]] = {
            "delta": lambda: cli.delta("x"),
            "finish": cli.finish,
            "ask": lambda: cli.ask(f"r{self._loop.random.getrandbits(40)}"),
            "result": lambda: cli.result(is_error=True, result="no"),
            "die": lambda: cli.die(signal="SIGKILL"),
        }
        deed = self._chance.choices(list(deeds), (20, 8, 3, 1, 1))[0]
        if cli.asks and deed in ("finish", "result"):
            return  # it waits for the answer
        self._story.counts[f"cli {deed}"] += 1
        deeds[deed]()

    async def _trouble(self) -> None:
        """Servers and keepers are killed, launches fail, ends take long."""
        host = self._world.host
        while True:
            await asyncio.sleep(self._chance.expovariate(0.8))
            kind = self._chance.choices(("server", "keeper", "launch", "slow", "calm"), (3, 2, 4, 2, 2))[0]
            self._story.counts[f"trouble {kind}"] += 1
            if kind == "server":
                # an order to kill is carried out, whoever gave it
                await asyncio.shield(self._start(self._restart()))
            elif kind == "keeper":
                host.lose_keeper()
            elif kind == "launch":
                host.fail(self._chance.choice(_LAUNCH_STEPS), errors.LaunchFailed("no"))
            elif kind == "slow":
                host.stop_seconds = self._chance.choice((0.0, 0.02, 1.0))
            else:
                await asyncio.sleep(self._chance.choice((1.0, 5.0)))

    async def _restart(self) -> None:
        await self._world.kill()
        await asyncio.sleep(self._chance.choice((0.0, 0.05, 2.0)))
        await self._world.begin()

    # --- what must always be -------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            pool = self._world.pool
            if pool is None:
                continue
            living = Counter(str(cli.spec.key) for cli in self._world.host.living)
            self._must(max(living.values(), default=1) == 1, f"two processes of a session: {dict(living)}")
            holders = {str(key) for key in pool._around.hosts.first.slots.holders}
            self._must(set(living) <= holders, f"without a slot: {set(living) - holders}")
            self._must(len(holders) <= 2, f"more than two slots: {holders}")

    def _must(self, holds: bool, what: str) -> None:
        if not holds:
            self._story.failures.append(f"at {self._loop.time():.3f}: {what}")

    # --- the end ----------------------------------------------------------------------------------

    async def _play_to_the_end(self) -> None:
        """The trouble is over: everything that was accepted ends."""
        host = self._world.host
        host.prepare, host.stop_seconds = (lambda _cli: None), 0.0
        host._faults.clear()
        if self._world.pool is None:
            await self._world.up()
        async with asyncio.timeout(_LAST_SECONDS):
            while pool := self._world.pool:
                for cli in host.living:
                    cli.is_manual = False
                    cli.asks.clear()
                    if cli.current is not None or cli.own_turn:
                        cli.finish()
                if not any(s.turns.open_turn or s.turns.queued for s in pool._supervisor.sessions.values()):
                    break
                await asyncio.sleep(0.1)

    async def _everybody_can_go_on(self) -> None:
        for one in self._people:
            async with asyncio.timeout(_LAST_SECONDS):
                turn = await one.send("last", patient=True)
                while turn is not None and one.outcome(turn) is None:
                    await asyncio.sleep(0.1)
            if turn is not None and one.outcome(turn) != "succeeded":
                self._story.failures.append(f"{one}: the last message ended {one.outcome(turn)}")

    async def _histories(self) -> None:
        """Whoever reads from the beginning sees what was seen live."""
        pool, _died = await self._world.up()
        for session in pool._supervisor.sessions.values():
            await session.log.settled()
        await asyncio.sleep(5)
        for one in self._people:
            reader = Person(self._world, one.user, one.session)
            subscription = await pool.subscribe(one.user, one.session, "0", reader)
            await asyncio.sleep(5)
            subscription.close()
            self._story.failures += reader.failures
            if reader.durable() != one.durable():
                self._story.failures.append(f"{one}: {_difference(reader.durable(), one.durable())}")

    def _accounts(self) -> None:
        for one in self._people:
            self._story.failures += one.failures
            self._story.counts += Counter(
                accepted=len(one.accepted), refused=len(one.refused), frames=len(one.frames)
            )
            self._story.counts["deltas"] += sum(map(is_delta, one.frames))
            restarts = bool(self._story.counts["trouble server"])
            self._story.failures += [f"{one}: {p}" for p in illegal_steps(one.frames, restarts=restarts)]
            ends = one.endings()
            twice = [turn for turn, times in ends.items() if times > 1]
            never = [turn for turn in one.accepted.values() if turn not in ends]
            begun = {f["turn_id"] for f in one.frames if f["type"] == "turn"}
            self._must(not twice, f"{one}: ended twice: {twice}")
            self._must(not never, f"{one}: accepted and never ended: {never}")
            self._must(begun == set(ends), f"{one}: shown and never ended: {begun - set(ends)}")
        runs = Counter(run for cli in self._world.host.clis.values() for run in cli.runs)
        self._must(max(runs.values(), default=1) == 1, f"ran twice: {[r for r, n in runs.items() if n > 1]}")
        self._must(not self._world.host.living, "a process outlived the server's stop")
        left = [t.get_name() for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        self._must(not left, f"tasks are left: {left}")
        with closing(sqlite3.connect(self._directory / DATABASE_NAME)) as database:
            for table, condition in (
                ("turns", OPEN_TURN),
                ("permissions", OPEN_PERMISSION),
                ("instances", OPEN_INSTANCE),
            ):
                (count,) = database.execute(f"SELECT count(*) FROM {table} WHERE {condition}").fetchone()
                self._must(not count, f"{count} rows of {table} are open")
        told = [(f["type"], f["cursor"], f.get("state")) for one in self._people for f in one.frames]
        self._story.trace = hashlib.sha256(repr(told).encode()).hexdigest()[:16]


class _LogWatch(logging.Handler):
    """What the program itself calls a defect is one."""

    def __init__(self, story: Story) -> None:
        super().__init__(logging.ERROR)
        self._story = story

    def __enter__(self) -> None:
        logging.getLogger("pool").addHandler(self)

    def __exit__(self, *_: object) -> None:
        logging.getLogger("pool").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, errors.PoolError | TimeoutError):
            self._story.failures.append(f"logged: {record.getMessage()}: {type(error).__name__}: {error}")


def _difference(history: list[dict[str, object]], live: list[dict[str, object]]) -> str:
    for index, (one, other) in enumerate(zip(history, live, strict=False)):
        if one != other:
            return f"frame {index} is {one} in the history and was {other} live"
    return f"{len(history)} frames in the history, {len(live)} were seen live"
