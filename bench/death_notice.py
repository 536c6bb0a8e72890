"""``python -m bench.death_notice``: how long after a CLI's death it is known, as a distribution.

Measured from KILL to two moments: the keeper lets go of the CLI's stdin (it
saw the pidfd), and the server has the exit (the whole tree is gone and all
output is stored). On stdin's side the kernel is the witness: the read end
sees the end of file when the keeper, the only writer, closes it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from pathlib import Path
from statistics import quantiles
from time import perf_counter

from pool.keeper.client import KeeperClient
from pool.keeper.starter import KeeperCommand, start_keeper

COUNT = 200
LIMIT_MS = 20.0

_SLEEPER = "import time\nprint('up', flush=True)\ntime.sleep(600)"


class _Watch:
    """One instance's sink: when it printed, when its exit came."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.up, self.ended = loop.create_future(), loop.create_future()

    def data_received(self, _offset: int, _data: bytes) -> None:
        if not self.up.done():
            self.up.set_result(None)

    def exited(self, *_told: object) -> None:
        self.ended.set_result(perf_counter())

    def launcher_lost(self) -> None:
        self.ended.cancel()


async def _one(client: KeeperClient, number: int) -> tuple[float, float]:
    watch = _Watch()
    name = f"i{number}"
    argv = [sys.executable, "-I", "-S", "-c", _SLEEPER]
    request = {"instance": name, "wrapper": "shim", "argv": argv, "env": {"PATH": "/usr/bin:/bin"}}
    attached = await client.start(request, watch)
    await watch.up
    pid = int(attached.facts["identity"]["pid"])
    # a copy of the read end of its stdin, which outlives it
    stdin = os.open(f"/proc/{pid}/fd/0", os.O_RDONLY | os.O_NONBLOCK)
    loop = asyncio.get_running_loop()
    noticed = loop.create_future()
    loop.add_reader(stdin, _settle, noticed)
    begin = perf_counter()
    os.kill(pid, signal.SIGKILL)
    seen, told = await noticed, await watch.ended
    loop.remove_reader(stdin)
    os.close(stdin)
    await client.request("forget", instance=name)
    return (seen - begin) * 1000, (told - begin) * 1000


def _settle(moment: asyncio.Future[float]) -> None:
    if not moment.done():
        moment.set_result(perf_counter())


def _row(name: str, values: list[float]) -> str:
    cuts = quantiles(values, n=100)
    share = sum(value <= LIMIT_MS for value in values) / len(values)
    figures = (min(values), cuts[49], cuts[89], cuts[98], max(values))
    return f"{name:34}" + "".join(f"{figure:9.2f}" for figure in figures) + f"{share:9.1%}"


async def _measure(directory: Path) -> None:
    command = KeeperCommand(
        program=(sys.executable, "-I", "-m", "pool.keeper"),
        data_dir=directory / "d",
        runtime_dir=directory / "r",
        lease_seconds=30,
        spool_max_bytes=1 << 29,
        segment_bytes=1 << 26,
        gateway=None,
    )
    await start_keeper(command, os.environ)
    client = await KeeperClient.connect(directory / "r" / "keeper.sock", 1, lambda _epoch: None)
    try:
        pairs = [await _one(client, number) for number in range(COUNT)]
    finally:
        client.expect_end()
        await client.request("shutdown")
        await client.wait_closed()
    print(f"{COUNT} deaths, ms: {'':13}{'least':>9}{'p50':>9}{'p90':>9}{'p99':>9}{'most':>9}{'<=20 ms':>9}")
    print(_row("the keeper sees it", [pair[0] for pair in pairs]))
    print(_row("the server has exit and output", [pair[1] for pair in pairs]))


def main() -> int:
    """Print the distribution; 0."""
    with tempfile.TemporaryDirectory(prefix="cp-") as directory:
        asyncio.run(_measure(Path(directory)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
