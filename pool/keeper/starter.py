"""Starts a keeper that outlives its starter, and waits for a keeper's end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pool.keeper.gateway import GATEWAY_ENVIRONMENT

# a keeper waits for its predecessor's lock and ends what that one left before it listens
START_SECONDS = 60.0


class KeeperNotStarted(Exception):
    """The keeper did not come to listen; the text is its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperCommand:
    """How to start a keeper; ``program`` is the command without options.

    ``gateway_shown`` is what the gateway is to see wherever it lies, see ``service_user``. With
    ``service_uid`` the keeper serves a server that is not root, within ``bounds``; ``uid_range`` is the
    first and the last uid of the pool then, and the gateway's has to be that last one.
    """

    program: Sequence[str]
    data_dir: Path
    runtime_dir: Path
    lease_seconds: float
    spool_max_bytes: int
    segment_bytes: int
    gateway: Sequence[str] | None
    cgroup: str = "auto"
    gateway_uid: int | None = None
    gateway_shown: Sequence[Path] = ()
    service_uid: int | None = None
    uid_range: tuple[int, int] | None = None

    def argv(self) -> list[str]:
        """The whole command line."""
        gateway = [] if self.gateway is None else ["--gateway-command", json.dumps(list(self.gateway))]
        if self.gateway_uid is not None:
            gateway += ["--gateway-uid", str(self.gateway_uid)]
        if self.gateway_shown:
            gateway += ["--gateway-shown", json.dumps([str(path) for path in self.gateway_shown])]
        bounds = [] if self.service_uid is None else ["--service-uid", str(self.service_uid)]
        if self.uid_range is not None:
            bounds += ["--uid-range", ":".join(map(str, self.uid_range))]
        return [
            *self.program,
            *("--data", str(self.data_dir), "--runtime", str(self.runtime_dir)),
            *("--lease", str(self.lease_seconds)),
            *("--spool-max", str(self.spool_max_bytes), "--segment", str(self.segment_bytes)),
            *("--cgroup", self.cgroup),
            *gateway,
            *bounds,
            "--detach",
        ]


async def start_keeper(command: KeeperCommand, environment: Mapping[str, str]) -> None:
    """As ``run_keeper``, without blocking the loop."""
    await asyncio.to_thread(run_keeper, command, environment)


def run_keeper(command: KeeperCommand, environment: Mapping[str, str]) -> None:
    """Start a keeper in a session of its own; returns when it listens. Raises ``KeeperNotStarted``.

    It gets what a program needs of ``environment`` and nothing else.
    """
    try:
        done = subprocess.run(
            command.argv(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={key: environment[key] for key in GATEWAY_ENVIRONMENT if key in environment},
            cwd="/",
            check=False,
            timeout=START_SECONDS,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KeeperNotStarted(str(error)) from error
    if done.returncode != 0:
        text = done.stderr.decode(errors="replace").strip()[-2000:]
        raise KeeperNotStarted(text or f"it exited with {done.returncode}")


class HeldKeeper(Protocol):
    """A running keeper, here or elsewhere."""

    pid: int

    async def wait(self, seconds: float) -> bool:
        """Wait until it has ended; False when it has not after ``seconds``."""

    def kill(self, send: Callable[[int], None]) -> None:
        """End it by ``send``; all its instances end with it."""

    def close(self) -> None:
        """Let go of it."""


class KeeperProcess:
    """A running keeper of this machine, held by its pidfd."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd: int | None = None
        with contextlib.suppress(ProcessLookupError):
            self._fd = os.pidfd_open(pid)

    async def wait(self, seconds: float) -> bool:
        """Wait until it has ended; False when it has not after ``seconds``."""
        if self._fd is None:
            return True
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        loop.add_reader(self._fd, _settle, ended)
        try:
            await asyncio.wait_for(ended, seconds)
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self._fd)
        return True

    def kill(self, send: Callable[[int], None]) -> None:
        """End it by ``send``, which is given the pidfd; all its instances end with it."""
        if self._fd is not None:
            send(self._fd)

    def close(self) -> None:
        """Let go of the pidfd."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
