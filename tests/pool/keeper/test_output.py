"""Every byte that an instance prints reaches the server exactly once, whatever happens to the server."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from pool.keeper.client import KeeperError
from pool.keeper.wire import DEFAULT_WINDOW_BYTES
from tests.pool.keeper.rig import ECHO, Collector, Rig, python, start
from tests.waiting import eventually

COUNTER = """
import sys, time
count, pause = int(sys.argv[1]), float(sys.argv[2])
for index in range(count):
    sys.stdout.write(f'{index:08d} ' + 'x' * (index % 300) + chr(10))
    if index % 50 == 0:
        sys.stdout.flush()
        time.sleep(pause)
"""

ROOT = Path(__file__).parents[3]


def counted(count: int) -> bytes:
    return b"".join(b"%08d " % index + b"x" * (index % 300) + b"\n" for index in range(count))


def attacher(rig: Rig, epoch: int, instance: str, path: Path) -> subprocess.Popen[bytes]:
    socket = str(rig.runtime / "keeper.sock")
    command = [sys.executable, "-m", "tests.pool.keeper.attacher", socket, str(epoch), instance, str(path)]
    return subprocess.Popen(command, cwd=ROOT)


def peak_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def has_come_to(path: Path, size: int, server: subprocess.Popen[bytes]) -> bool:
    return server.poll() is not None or (path.exists() and path.stat().st_size >= size)


async def test_no_byte_is_lost_or_repeated_over_kills_of_the_server(
    rig: Rig, wrapper: str, short_dir: Path
) -> None:
    await rig.keeper(segment=50_000)
    client = await rig.client(1)
    await start(client, wrapper, "counter", python(COUNTER, "12000", "0.005"))
    client.close()
    expected, received = counted(12000), short_dir / "received"
    chance = random.Random(7)
    for epoch in range(2, 40):
        server = attacher(rig, epoch, "counter", received)
        target = (received.stat().st_size if received.exists() else 0) + chance.randrange(1, 400_000)
        await eventually(partial(has_come_to, received, target, server), 30)
        server.kill()
        server.wait()
        if received.stat().st_size == len(expected):
            break
    assert received.read_bytes() == expected
    assert epoch > 3


async def test_an_exited_instance_can_be_read_from_any_offset_until_it_is_forgotten(
    rig: Rig, wrapper: str
) -> None:
    await rig.keeper(segment=10_000)
    client = await rig.client()
    _, collector = await start(client, wrapper, "counter", python(COUNTER, "1000", "0"))
    assert await collector.exit() == (0, None, "")
    expected = counted(1000)
    assert collector.data == expected
    for offset in (0, 1, 9_999, 123_456, len(expected)):
        again = Collector(offset)
        await client.attach("counter", offset, again)
        assert (await again.exit())[0] == 0
        assert again.data == expected[offset:]
    assert await client.read("counter", 77, 1000) == (77, expected[77:1077])
    client.tell("trim", instance="counter", offset=50_000)
    begin, data = await client.read("counter", 0, 100)
    assert 20_000 < begin <= 50_000
    assert data == expected[begin : begin + 100]
    await client.request("forget", instance="counter")
    await client.request("forget", instance="counter")
    with pytest.raises(KeeperError) as refusal:
        await client.read("counter", 0, 100)
    assert refusal.value.code == "not_found"
    assert os.listdir(rig.data / "spool") == []
    assert os.listdir(rig.data / "keeper" / "instances") == []


async def test_a_line_of_twenty_megabytes_goes_both_ways(rig: Rig) -> None:
    await rig.keeper()
    client = await rig.client()
    attached, collector = await start(client, "shim", "echo", python(ECHO))
    line = b'{"type":"keep_alive","x":"' + b"y" * 20_000_000 + b'"}\n'
    await client.write(attached.handle, line)
    await eventually(lambda: len(collector.data) >= len(line), 40)
    assert collector.data == line


async def test_uncommitted_output_is_bounded_and_goes_on_after_a_commit(rig: Rig) -> None:
    await rig.keeper(spool_max=2_000_000)
    client = await rig.client()
    program = "import sys\nfor i in range(200): sys.stdout.write('z' * 99_999 + chr(10)); sys.stdout.flush()"
    _, collector = await start(client, "shim", "chatty", python(program))
    await eventually(lambda: len(collector.data) > 2_000_000)
    bound = 2_000_000 + 2 * 1024 * 1024
    seen = 0
    while len(collector.data) < 20_000_000:
        await eventually(lambda before=seen: len(collector.data) > before)  # type: ignore[misc]
        seen = len(collector.data)
        [facts] = (await client.request("list"))["instances"]
        assert facts["end_offset"] <= bound
        client.tell("commit", instance="chatty", offset=seen)
        bound = max(bound, seen + 2_000_000 + 2 * 1024 * 1024)
    assert (await collector.exit())[0] == 0


async def test_a_server_that_grants_nothing_is_sent_no_more_than_its_window(rig: Rig) -> None:
    await rig.keeper()
    client = await rig.client()
    _, collector = await start(client, "shim", "counter", python(COUNTER, "2000", "0"))
    await collector.exit()
    answer = await client.request("attach", instance="counter", offset=0, window=1000)
    [facts] = (await client.request("list"))["instances"]
    assert facts["end_offset"] == len(counted(2000))
    # neither output nor the exit came for the handle: the client would have no sink for it
    assert not [event for event in rig.events if event.get("handle") == answer["handle"]]
    client.tell("credit", handle=answer["handle"], bytes=10_000_000)
    await eventually(lambda: [event for event in rig.events if event.get("handle") == answer["handle"]])


async def test_output_that_is_held_waits_in_the_spool_and_comes_whole(rig: Rig) -> None:
    await rig.keeper()
    client = await rig.client()
    program = "import sys\nfor i in range(300): sys.stdout.write(f'{i:06d}' + 'z' * 99_993 + chr(10))"
    attached, collector = await start(client, "shim", "held", python(program))
    client.hold(attached.handle, True)

    async def is_printed() -> bool:
        [facts] = (await client.request("list"))["instances"]
        return bool(facts["end_offset"] == 30_000_000)

    await eventually(is_printed)
    await client.request("list")
    assert len(collector.data) <= DEFAULT_WINDOW_BYTES, "no more than was on its way"
    client.hold(attached.handle, False)
    assert (await collector.exit())[0] == 0
    assert [int(line[:6]) for line in bytes(collector.data).splitlines()] == list(range(300))


async def test_a_server_that_is_stopped_costs_no_memory_and_misses_nothing(rig: Rig, short_dir: Path) -> None:
    keeper = await rig.keeper()
    client = await rig.client(1)
    program = "import sys\nsys.stdin.readline()\nfor i in range(400): print('s' * 99_999, flush=True)"
    attached, _ = await start(client, "shim", "chatty", python(program))
    await client.write(attached.handle, b'{"type":"keep_alive"}')
    received = short_dir / "received"
    server = attacher(rig, 2, "chatty", received)
    await eventually(partial(has_come_to, received, 1, server), 30)
    server.send_signal(signal.SIGSTOP)
    try:
        spool = rig.data / "spool" / "chatty"
        await eventually(lambda: sum(path.stat().st_size for path in spool.iterdir()) == 40_000_000, 30)
        assert peak_kib(keeper.pid) < 60_000
        server.send_signal(signal.SIGCONT)
        await eventually(partial(has_come_to, received, 40_000_000, server), 30)
    finally:
        server.kill()
        server.wait()
    assert received.stat().st_size == 40_000_000


async def test_a_flood_of_stderr_is_drained_cut_and_delays_nobody(rig: Rig) -> None:
    keeper = await rig.keeper()
    client = await rig.client()
    flood = "import os\nfor i in range(3000): os.write(2, b'e' * 65535 + b'%d' % (i % 10))\nprint('done')"
    _, flooder = await start(client, "shim", "flooder", python(flood))
    attached, echo = await start(client, "shim", "echo", python(ECHO))
    for index in range(20):
        await client.write(attached.handle, b'{"type":"keep_alive","n":%d}' % index)
        await echo.line_count(index + 1, 5)
    code, _signal, tail = await flooder.exit(40)
    assert code == 0
    assert flooder.data == b"done\n"
    assert 60_000 < len(tail) <= 65_536
    assert peak_kib(keeper.pid) < 60_000


async def test_the_end_of_stderr_is_kept_from_a_lines_beginning(rig: Rig) -> None:
    await rig.keeper()
    client = await rig.client()
    program = "import sys\nfor i in range(20000): print(f'warning {i:06d}', file=sys.stderr)\nsys.exit(3)"
    _, collector = await start(client, "shim", "warner", python(program))
    code, _signal, tail = await collector.exit()
    assert code == 3
    lines = tail.splitlines()
    assert lines[-1] == "warning 019999"
    assert all(len(line) == 14 for line in lines)
    assert (await client.request("stderr", instance="warner"))["stderr_tail"] == tail


async def test_of_a_flood_the_very_end_is_kept_without_a_hole(rig: Rig) -> None:
    """However much is dropped unseen at a time, what is shown is one piece of what was written."""
    await rig.keeper()
    client = await rig.client()
    program = (
        "import os\n"
        "for first in range(0, 3_000_000, 50_000):\n"
        "    text = b''.join(b'%08d\\n' % n for n in range(first, first + 50_000))\n"
        "    while text: text = text[os.write(2, text):]\n"
    )
    _, flooder = await start(client, "shim", "flooder", python(program))
    code, _signal, tail = await flooder.exit(40)
    assert code == 0
    numbers = [int(line) for line in tail.splitlines()]
    assert numbers == list(range(3_000_000 - len(numbers), 3_000_000))
    assert 65_536 - 9 < len(tail) <= 65_536


async def test_a_grandchild_that_holds_stdout_does_not_delay_the_exit(rig: Rig, wrapper: str) -> None:
    await rig.keeper()
    client = await rig.client()
    program = "import os\nos.fork() or (os.setsid(), os.execv('/bin/sleep', ['sleep', '600']))\nprint('bye')"
    _, collector = await start(client, wrapper, "holder", python(program))
    assert await collector.exit(5) == (0, None, "")
    assert collector.data == b"bye\n"
    assert rig.nothing_left("holder")


async def test_output_of_the_last_moment_comes_before_the_exit(rig: Rig, wrapper: str) -> None:
    await rig.keeper()
    client = await rig.client()
    program = "import os\nos.write(1, b'a' * 50_000 + b' no newline')\nos.kill(os.getpid(), 9)"
    _, collector = await start(client, wrapper, "crasher", python(program))
    assert (await collector.exit())[:2] == (None, "SIGKILL")
    assert collector.data.endswith(b" no newline")
    assert len(collector.data) == 50_011


async def test_an_instance_that_closes_its_stdout_lives_on(rig: Rig, wrapper: str) -> None:
    await rig.keeper()
    client = await rig.client()
    program = "import os, time\nprint('up', flush=True)\nos.close(1)\ntime.sleep(600)"
    _, collector = await start(client, wrapper, "mute", python(program))
    await collector.line_count(1)
    [facts] = (await client.request("list"))["instances"]
    assert facts["exit"] is None
    assert (await client.request("stop", instance="mute", graces=[0, 0.5, 5]))["gone"]
    assert await collector.exit() == (None, "SIGTERM", "")
