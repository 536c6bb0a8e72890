"""A full disk stops an instance and loses nothing of it."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pool.keeper.rig import ECHO, Rig, python, start
from tests.waiting import eventually

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def tiny_spool(short_dir: Path) -> Iterator[Path]:
    """A spool directory on a file system of one megabyte."""
    spool = short_dir / "d" / "spool"
    spool.mkdir(parents=True)
    if _libc.mount(b"tmpfs", os.fsencode(spool), b"tmpfs", 0, b"size=1m") != 0:
        pytest.skip(f"cannot mount a tmpfs: {os.strerror(ctypes.get_errno())}")
    yield spool
    assert _libc.umount2(os.fsencode(spool), 2) == 0


PRINTER = """
import sys
for i in range(40):
    sys.stdout.write(f'{i:04d}' + 'd' * 99_995 + chr(10))
    sys.stdout.flush()
"""
EXPECTED = b"".join(b"%04d" % index + b"d" * 99_995 + b"\n" for index in range(40))


async def test_nothing_is_lost_when_the_disk_fills_up(tiny_spool: Path, rig: Rig, wrapper: str) -> None:
    await rig.keeper(segment=100_000)
    client = await rig.client()
    _, collector = await start(client, wrapper, "printer", python(PRINTER))
    seen = 0
    while len(collector.data) < len(EXPECTED):
        # full: a trim makes room
        await eventually(lambda before=seen: len(collector.data) > before, 20)  # type: ignore[misc]
        seen = len(collector.data)
        client.tell("trim", instance="printer", offset=seen)
    assert await collector.exit() == (0, None, "")
    assert collector.data == EXPECTED


async def test_an_exit_waits_for_the_last_bytes_to_be_stored(tiny_spool: Path, rig: Rig) -> None:
    await rig.keeper()
    ballast = tiny_spool / "ballast"
    ballast.write_bytes(b"b" * 900_000)
    client = await rig.client()
    # It is seen before it ends: of a shorter life start and exit are told together, after the last bytes.
    printer = python("import os, time\ntime.sleep(1)\nos.write(1, b'e' * 300_000)")
    _, collector = await start(client, "shim", "printer", printer)
    await eventually(lambda: rig.nothing_left("printer"))
    # other instances are served meanwhile, and start
    attached, echo = await start(client, "shim", "echo", python(ECHO))
    assert collector.exits == []
    ballast.unlink()
    assert await collector.exit() == (0, None, "")
    assert collector.data == b"e" * 300_000
    await client.write(attached.handle, b'{"type":"keep_alive"}')
    await echo.line_count(1)


async def test_a_keeper_that_is_told_to_leave_does_not_wait_for_a_full_disk(
    tiny_spool: Path, rig: Rig
) -> None:
    await rig.keeper()
    (tiny_spool / "ballast").write_bytes(b"b" * 1_000_000)
    client = await rig.client()
    await start(client, "shim", "printer", python("import os\nos.write(1, b'e' * 300_000)"))
    await eventually(lambda: rig.nothing_left("printer"))
    await client.request("shutdown", graces=[0, 0, 0.5])
    assert await rig.wait(10) == 0
    assert "output_abandoned" in rig.log()


async def test_files_above_a_size_limit_count_as_a_full_disk(rig: Rig, short_dir: Path) -> None:
    # without root there is no tiny file system, but a limit on file sizes acts alike
    await rig.keeper()
    client = await rig.client()
    assert rig.process is not None
    resource.prlimit(rig.process.pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    program = "import os\nos.write(1, b'f' * 150_000)"
    _, collector = await start(client, "shim", "printer", python(program))
    await eventually(lambda: rig.nothing_left("printer"))
    assert collector.exits == []
    assert len(collector.data) <= 100_000
    resource.prlimit(rig.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert (await collector.exit())[0] == 0
    assert collector.data == b"f" * 150_000
