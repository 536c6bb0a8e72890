"""Ten thousand starts and stops, one of a hundred with a CLI that fails."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from pool import ClaudeInstancePool, PoolConfig, Quota, QuotaBook
from pool.errors import PoolError
from pool.keeper import procfs
from tests.procfs import processes
from tests.soak.holdings import Holdings, resident_kib
from tests.waiting import eventually

QUICK_CLAUDE = Path(__file__).with_name("quick_claude.sh")
Undo = Callable[[], object]
FAULTS = ("spawn", "mute", "exit", "deaf")
_LANES = 4
_WARM_UP = 100
_START_SECONDS = 1.5


@dataclass
class Result:
    """What came of it. ``resident_kib`` was looked at after the warm-up, at half and in the end."""

    cycles: int
    seconds: float
    outcomes: Counter[str]
    left: list[str]
    resident_kib: list[int]


class Cycles:
    """Starts and stops instances of a few users, side by side, each user one after the other."""

    def __init__(self, directory: Path, seed: int, fault_share: float) -> None:
        cli = directory / "quick_claude"
        shutil.copy2(QUICK_CLAUDE, cli)
        self._config = PoolConfig(
            data_dir=directory / "data",
            runtime_dir=directory / "run",
            cli_path=cli,
            gateway_command=(),
            check_cli=False,
            start_timeout_seconds=_START_SECONDS,
            stop_grace_seconds=0.5,
            delta_retention_seconds=1,
            quotas=QuotaBook(default=Quota()),
        )
        self._share = fault_share
        self._random = Random(seed)
        self._outcomes: Counter[str] = Counter()

    async def run(self, cycles: int) -> Result:
        """All cycles, and what is held after them that was not held before."""
        async with ClaudeInstancePool(self._config) as pool:
            await self._lanes(pool, min(_WARM_UP, cycles))
            # Threads of a pool are kept once they were needed.
            await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.05) for _ in range(40)))
            before = await self._settled(pool)
            memory = [resident_kib(os.getpid())]
            began = time.monotonic()
            for _half in range(2):
                await self._lanes(pool, cycles // 2)
                gc.collect()
                memory.append(resident_kib(os.getpid()))
            seconds = time.monotonic() - began
            left = (await self._settled(pool, before)).above(before)
        return Result(cycles, seconds, self._outcomes, left, memory)

    async def _settled(self, pool: ClaudeInstancePool, wanted: Holdings | None = None) -> Holdings:
        """What is held once all spools are forgotten; waits a while for what ``wanted`` has not."""
        data = self._config.data_dir

        def look() -> Holdings:
            places = [data / "spool", data / "tmp", data / "keeper" / "instances", data.parent / "run" / "i"]
            return Holdings.of(os.getpid(), places, len(asyncio.all_tasks()))

        def is_quiet() -> bool:
            site = procfs.site_of(data)
            marked = [one for one in processes() if one.environ.get(procfs.SITE_MARKER) == site]
            return not marked and not pool.instances() and not list((data / "spool").iterdir())

        await eventually(is_quiet, 30, what="every spool is forgotten and nothing runs")
        if wanted is not None:
            deadline = time.monotonic() + 10
            while look().above(wanted) and time.monotonic() < deadline:
                await asyncio.sleep(0.1)
        return look()

    async def _lanes(self, pool: ClaudeInstancePool, cycles: int) -> None:
        numbers = iter(range(cycles))
        await asyncio.gather(*(self._lane(pool, f"user{lane}", numbers) for lane in range(_LANES)))

    async def _lane(self, pool: ClaudeInstancePool, user: str, numbers: Iterator[int]) -> None:
        for _number in numbers:
            fault = self._random.choice(FAULTS) if self._random.random() < self._share else ""
            undo = self._prepare(user, fault)
            try:
                await pool.get_or_create_instance(user)
            except PoolError as error:
                self._outcomes[f"{fault or 'no fault'}: {error.code}"] += 1
            else:
                self._outcomes[f"{fault or 'no fault'}: started"] += 1
            finally:
                undo()
            await pool.destroy_instance(user)

    def _prepare(self, user: str, fault: str) -> Undo:
        """Let the next start of ``user`` fail in this way."""
        workspace = self._config.data_dir / "workspaces" / user
        workspace.mkdir(parents=True, exist_ok=True)
        word = workspace / ".fault"
        if fault == "spawn":
            return self._spoil_home(user)
        if fault:
            word.write_text(f"{fault}\n")
        return lambda: word.unlink(missing_ok=True)

    def _spoil_home(self, user: str) -> Undo:
        """There is a file where the home's directory must be: the step before the process fails."""
        home = self._config.data_dir / "homes" / user
        aside = home.with_name(f".{user}-aside")
        if home.exists():
            home.rename(aside)
        home.parent.mkdir(parents=True, exist_ok=True)
        home.write_text("")

        def undo() -> None:
            home.unlink(missing_ok=True)
            if aside.exists():
                aside.rename(home)

        return undo
