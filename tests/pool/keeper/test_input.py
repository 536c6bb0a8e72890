"""What is written to an instance: whole lines in order, acknowledged, from one server only."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from pool.keeper.client import ConnectionLost, KeeperError
from pool.keeper.intake import BUFFER_BYTES
from tests.pool.keeper.rig import ECHO, SLEEPER, Collector, Rig, python, soon, start

LATE_READER = """
import os, sys, time
print('up', flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.02)
for line in sys.stdin.buffer:
    print(len(line), line[-11:-3].decode(), flush=True)
"""


def numbered(index: int, size: int = 0) -> bytes:
    return b'{"type":"keep_alive","x":"' + b"y" * size + b'","n":"%08d"}\n' % index


async def test_many_lines_at_once_arrive_in_order(rig: Rig, wrapper: str) -> None:
    await rig.keeper()
    client = await rig.client()
    attached, collector = await start(client, wrapper, "echo", python(ECHO))
    lines = [numbered(index, index * 37 % 5000) for index in range(500)]
    await asyncio.gather(*(client.write(attached.handle, line) for line in lines))
    await collector.line_count(500)
    assert collector.data == b"".join(lines)


@pytest.mark.parametrize(
    "line", [b"null", b"no JSON", b"", b'{"type":"user"}', b'{"type":"keep_alive"}\n{"type":"keep_alive"}']
)
async def test_a_bad_line_is_refused_and_nothing_of_it_is_written(rig: Rig, line: bytes) -> None:
    await rig.keeper()
    client = await rig.client()
    attached, collector = await start(client, "shim", "echo", python(ECHO))
    with pytest.raises(KeeperError) as refusal:
        await client.write(attached.handle, line)
    assert refusal.value.code == "bad_line"
    await client.write(attached.handle, b'{"type":"keep_alive"}')
    await collector.line_count(1)
    assert collector.data == b'{"type":"keep_alive"}\n'


async def test_a_line_is_acknowledged_only_when_all_of_it_is_in_the_pipe(rig: Rig) -> None:
    await rig.keeper()
    client = await rig.client()
    go = rig.data / "go"
    attached, collector = await start(client, "shim", "late", python(LATE_READER, str(go)))
    await collector.line_count(1)
    big = asyncio.create_task(client.write(attached.handle, numbered(1, 3_000_000)), name="big")
    small = asyncio.create_task(client.write(attached.handle, numbered(2)), name="small")
    # others are served meanwhile
    other, echo = await start(client, "shim", "echo", python(ECHO))
    await client.write(other.handle, numbered(3))
    await echo.line_count(1)
    assert not big.done()
    assert not small.done()
    go.touch()
    await asyncio.wait_for(asyncio.gather(big, small), 20)
    await collector.line_count(3)
    assert collector.data.split()[2::2] == [b"00000001", b"00000002"]


async def test_the_buffer_for_an_instance_that_does_not_read_is_bounded(rig: Rig) -> None:
    await rig.keeper()
    client = await rig.client()
    attached, collector = await start(client, "shim", "deaf", python(SLEEPER))
    await collector.line_count(1)
    lines = [numbered(index, BUFFER_BYTES // 4) for index in range(5)]
    writes = [
        asyncio.create_task(_outcome(client.write(attached.handle, line), 60), name=f"write-{index}")
        for index, line in enumerate(lines)
    ]
    # The answers come in the order of the lines: after the last one's all of them are decided.
    assert await writes[-1] == "full"
    assert await writes[-2] == "full"
    assert [write.done() for write in writes] == [False, False, False, True, True], "the rest waits"
    assert (await client.request("stop", instance="deaf", graces=[0.1, 1, 5]))["gone"]
    assert {await write for write in writes[:3]} <= {"input_closed", "dropped", "gone"}


async def test_a_server_that_takes_over_finds_no_half_line_and_nothing_of_its_predecessor(rig: Rig) -> None:
    await rig.keeper()
    first = await rig.client(1)
    go = rig.data / "go"
    attached, collector = await start(first, "shim", "late", python(LATE_READER, str(go)))
    await collector.line_count(1)
    begun = asyncio.create_task(
        _outcome(first.write(attached.handle, numbered(1, 3_000_000)), 20), name="begun"
    )
    waiting = asyncio.create_task(_outcome(first.write(attached.handle, numbered(2)), 20), name="waiting")
    await soon()
    await first.request("list")
    second = await rig.client(2)
    assert await begun == "connection_lost"
    assert await waiting in ("dropped", "connection_lost")
    again = Collector(len(collector.data))
    taken = await second.attach("late", len(collector.data), again)
    third = asyncio.create_task(second.write(taken.handle, numbered(3)), name="third")
    go.touch()
    await asyncio.wait_for(third, 20)
    await again.line_count(2)
    assert again.data.split()[1::2] == [b"00000001", b"00000003"]
    with pytest.raises(ConnectionLost):
        await first.write(attached.handle, numbered(4))


async def test_a_line_for_an_instance_that_has_ended_or_closed_its_stdin_is_refused(rig: Rig) -> None:
    await rig.keeper()
    client = await rig.client()
    program = "import os, time\nos.close(0)\nprint('up', flush=True)\ntime.sleep(600)"
    attached, collector = await start(client, "shim", "closed", python(program))
    await collector.line_count(1)
    with pytest.raises(KeeperError) as refusal:
        await client.write(attached.handle, numbered(1))
    assert refusal.value.code == "input_closed"
    await client.request("stop", instance="closed", graces=[0, 0, 5])
    await collector.exit()
    with pytest.raises(KeeperError) as refusal:
        await client.write(attached.handle, numbered(1))
    assert refusal.value.code == "gone"
    with pytest.raises(KeeperError) as refusal:
        await client.write(9999, numbered(1))
    assert refusal.value.code == "gone"


async def test_a_stop_lets_a_line_that_was_begun_pass_and_drops_the_rest(rig: Rig) -> None:
    await rig.keeper()
    client = await rig.client()
    go = rig.data / "go"
    attached, collector = await start(client, "shim", "late", python(LATE_READER, str(go)))
    await collector.line_count(1)
    begun = asyncio.create_task(
        _outcome(client.write(attached.handle, numbered(1, 3_000_000)), 20), name="begun"
    )
    waiting = asyncio.create_task(_outcome(client.write(attached.handle, numbered(2)), 20), name="waiting")
    await soon()
    await client.request("list")
    stopped = asyncio.create_task(client.request("stop", instance="late", graces=[20, 1, 5]), name="stop")
    assert await waiting == "dropped"
    go.touch()
    assert await begun == "done"
    assert (await stopped)["gone"]
    assert (await collector.exit())[0] == 0
    assert collector.data.splitlines()[-1].endswith(b"00000001")


async def _outcome(write: Awaitable[None], seconds: float) -> str:
    try:
        async with asyncio.timeout(seconds):
            await write
    except KeeperError as error:
        return error.code
    except TimeoutError:
        return "timeout"
    return "done"
