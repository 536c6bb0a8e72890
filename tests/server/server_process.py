"""``claude-pool`` as processes: the server under test, and commands beside it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import known_clis
from tests.forking import Forked, forker

_START_SECONDS = 120.0
_COMMAND_SECONDS = 120.0


def environment(**more: str) -> dict[str, str]:
    """What a server of a test gets: nothing of ours that would configure it."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    return kept | {"PYTHONWARNINGS": "default"} | more


@dataclass
class ServerProcess:
    """A running ``serve``; ``url`` and ``code`` are what it printed."""

    process: asyncio.subprocess.Process | Forked
    data: Path
    url: str
    code: str

    @property
    def pid(self) -> int:
        return self.process.pid

    async def end(self, number: int = signal.SIGTERM) -> int:
        """Signal it and wait for its exit code."""
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 40)


def arguments(data: Path, *command: str) -> list[str]:
    return [sys.executable, "-m", "server", *command, "--data", str(data)]


async def run(data: Path, *command: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """A command, to its end."""
    if (forked := forker()) is not None:
        words = (*command, "--data", str(data))
        return await asyncio.to_thread(forked.run, words, environment(**more), stdin, _COMMAND_SECONDS)
    return await asyncio.to_thread(
        subprocess.run,
        arguments(data, *command),
        capture_output=True,
        text=True,
        input=stdin,
        env=environment(**more),
        timeout=_COMMAND_SECONDS,
        check=False,
    )


@asynccontextmanager
async def serving(data: Path, *options: str, **more: str) -> AsyncIterator[ServerProcess]:
    """A server until the end of the block, where it is ended if it still runs."""
    process = await _started(data, ("serve", "--port", "0", *options), environment(**more))
    try:
        assert process.stdout is not None
        url = code = ""
        async with asyncio.timeout(_START_SECONDS):
            async for raw in process.stdout:
                line = raw.decode().strip()
                if line.startswith("listening on "):
                    url = line.removeprefix("listening on ")
                if "#signin=" in line:
                    code = line.rpartition("=")[2]
                    break
        assert url, _log(data).read_text()
        yield ServerProcess(process, data, url, code)
        known_clis.learn(data)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await asyncio.wait_for(process.wait(), 40)
        if isinstance(process, asyncio.subprocess.Process):
            transport = process._transport  # type: ignore[attr-defined]
            transport.close()


async def _started(
    data: Path, words: Sequence[str], env: Mapping[str, str]
) -> asyncio.subprocess.Process | Forked:
    with _log(data).open("ab") as log:
        if (forked := forker()) is not None:
            known_clis.tell(data)
            return await forked.start((*words, "--data", str(data)), env, log.fileno())
        return await asyncio.create_subprocess_exec(
            *arguments(data, *words), stdout=asyncio.subprocess.PIPE, stderr=log, env=env
        )


def _log(data: Path) -> Path:
    return data.parent / f"{data.name}.log"
