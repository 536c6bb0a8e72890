"""A keeper becomes another image of itself, and neither CLI nor server can tell but by asking."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from pathlib import Path

import pytest

from pool.keeper.client import KeeperClient, KeeperError
from pool.keeper.code_version import code_version
from tests.pool.keeper.rig import ECHO, SLEEPER, Collector, Rig, gone, python, start
from tests.pool.keeper.test_gateway import ask, command, gateway_pid
from tests.pool.keeper.test_input import LATE_READER, numbered
from tests.pool.keeper.test_output import COUNTER, counted
from tests.procfs import is_alive
from tests.waiting import eventually

ROOT = Path(__file__).parents[3]

DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('up', flush=True)
time.sleep(600)
"""


def faulty(rig: Rig, fault: str) -> list[str]:
    """The program of a keeper whose later images run ``fault`` first."""
    path = rig.data.parent / "keeper.py"
    text = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
if '--state-fd' in sys.argv:
    fd = int(sys.argv[sys.argv.index('--state-fd') + 1])
    is_check = '--check' in sys.argv
    {fault}
from pool.keeper.__main__ import main
sys.exit(main())
"""
    path.write_text(text)
    return [str(path)]


def descriptors(pid: int) -> list[str]:
    """What the keeper has open, by kind."""
    kinds = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue
        # a segment is open from the first byte that is written to it
        if not target.endswith(".out"):
            kinds.append(target.partition(":")[0] if ":" in target else target)
    return sorted(kinds)


async def upgrade(client: KeeperClient, **settings: float) -> None:
    answer = await client.request("upgrade", **settings)
    assert client.hello is not None
    assert (answer["pid"], answer["code"]) == (client.hello.pid, code_version())


async def test_in_mid_stream_the_same_processes_go_on_and_no_byte_is_lost_or_repeated(
    rig: Rig, wrapper: str
) -> None:
    await rig.keeper(segment=50_000)
    client = await rig.client()
    attached, collector = await start(client, wrapper, "counter", python(COUNTER, "6000", "0.02"))
    before = await client.request("list")
    await collector.line_count(200)
    await upgrade(client)
    assert (await client.request("list"))["instances"][0]["identity"] == before["instances"][0]["identity"]
    assert is_alive(attached.facts["identity"]["pid"]) or collector.exits, "unless it has come to its end"
    assert await collector.exit(40) == (0, None, "")
    assert collector.data == counted(6000)
    assert rig.lost == []


async def test_no_descriptor_is_lost_or_left_open(rig: Rig, wrapper: str) -> None:
    keeper = await rig.keeper(gateway=command())
    client = await rig.client()
    for index in range(3):
        _, collector = await start(client, wrapper, f"i{index}", python(SLEEPER))
        await collector.line_count(1)
    before = descriptors(keeper.pid)
    for _ in range(3):
        await upgrade(client)
        assert descriptors(keeper.pid) == before
    for index in range(3):
        await client.request("stop", instance=f"i{index}", graces=[0, 0, 5])
    assert len(descriptors(keeper.pid)) < len(before)


@pytest.mark.acceptance
async def test_twenty_upgrades_in_a_row_under_load(rig: Rig) -> None:
    keeper = await rig.keeper(segment=50_000, gateway=command())
    client = await rig.client()
    await start(client, "shim", "silent", python(SLEEPER))
    counters = [
        (await start(client, "shim", f"c{index}", python(COUNTER, "15000", "0.02")))[1] for index in range(3)
    ]
    attached, echo = await start(client, "shim", "echo", python(ECHO))
    gateway = gateway_pid(client)
    open_before = len(descriptors(keeper.pid))
    lines = []
    for number in range(20):
        batch = [numbered(number * 10 + index, 2000) for index in range(10)]
        lines += batch
        writes = [asyncio.create_task(client.write(attached.handle, line)) for line in batch]
        await upgrade(client)
        await asyncio.gather(*writes)
    await echo.line_count(200)
    assert echo.data == b"".join(lines)
    for collector in counters:
        assert await collector.exit(40) == (0, None, "")
        assert collector.data == counted(15000)
    assert f'"pid": {gateway}' in await ask(rig, "silent")
    # three counters have ended since
    assert len(descriptors(keeper.pid)) < open_before
    assert rig.log().count('"keeper_upgraded"') == 20
    assert rig.lost == []


async def test_a_line_of_which_the_cli_has_read_a_part_is_written_to_its_end_once(rig: Rig) -> None:
    await rig.keeper()
    client = await rig.client()
    go = rig.data / "go"
    attached, collector = await start(client, "shim", "late", python(LATE_READER, str(go)))
    await collector.line_count(1)
    big = asyncio.create_task(client.write(attached.handle, numbered(1, 3_000_000)))
    small = asyncio.create_task(client.write(attached.handle, numbered(2)))
    await client.request("list")
    await upgrade(client)
    await upgrade(client)
    assert not big.done()
    assert not small.done()
    go.touch()
    await asyncio.gather(big, small)
    await collector.line_count(3)
    expected = [f"{len(numbered(index, size))} {index:08d}" for index, size in ((1, 3_000_000), (2, 0))]
    assert collector.data.decode().splitlines()[1:] == expected


async def test_a_ladder_goes_on_from_its_rung_and_who_asked_for_the_stop_is_answered(
    rig: Rig, wrapper: str
) -> None:
    await rig.keeper()
    client = await rig.client()
    attached, collector = await start(client, wrapper, "deaf", python(DEAF))
    await collector.line_count(1)
    stop = asyncio.create_task(client.request("stop", instance="deaf", graces=[0.2, 60, 10]))
    await client.request("list")
    await upgrade(client)
    assert is_alive(attached.facts["identity"]["pid"])
    # the rung of TERM is waited on still; a second stop hurries it on to KILL
    assert not stop.done()
    assert (await client.request("stop", instance="deaf", graces=[0.1, 0.1, 10]))["gone"] is True
    assert (await stop)["gone"] is True
    code, name, _ = await collector.exit()
    assert (code, name) == (None, "SIGKILL")
    assert rig.nothing_left("deaf")


async def test_an_exit_and_signals_that_come_meanwhile_are_not_missed(rig: Rig, wrapper: str) -> None:
    await rig.keeper()
    client = await rig.client()
    starts = [await start(client, wrapper, f"i{index}", python(SLEEPER)) for index in range(5)]
    for moment, (attached, collector) in enumerate(starts):
        await collector.line_count(1)
        upgrading = asyncio.create_task(upgrade(client))
        await asyncio.sleep(0.06 * moment)
        os.kill(attached.facts["identity"]["pid"], signal.SIGKILL)
        await upgrading
        assert (await collector.exit())[1] == "SIGKILL"
    last = asyncio.create_task(client.request("upgrade"))
    assert rig.process is not None
    await asyncio.sleep(0.1)
    rig.process.send_signal(signal.SIGTERM)
    await asyncio.gather(last, return_exceptions=True)
    assert await rig.wait() == 0


async def test_stderr_and_the_environment_of_an_instance_are_what_they_were(rig: Rig) -> None:
    await rig.keeper()
    client = await rig.client()
    program = """
import resource, sys
print('before', file=sys.stderr, flush=True); print('up', flush=True); sys.stdin.readline()
print('after', file=sys.stderr)
"""
    limit = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    attached, collector = await start(client, "shim", "talker", python(program))
    _, first = await start(client, "shim", "limits-1", python(limit))
    await collector.line_count(1)
    await upgrade(client)
    await client.write(attached.handle, numbered(1))
    assert await collector.exit() == (0, None, "before\nafter\n")
    _, second = await start(client, "shim", "limits-2", python(limit))
    await first.exit()
    await second.exit()
    assert first.data == second.data


async def test_a_kill_right_after_the_upgrade_ends_everything(rig: Rig, wrapper: str) -> None:
    await rig.keeper(gateway=command())
    client = await rig.client()
    attached, _ = await start(client, wrapper, "one", python(SLEEPER))
    gateway = gateway_pid(client)
    await upgrade(client)
    await rig.kill()
    await gone(attached.facts["identity"]["pid"])
    await gone(gateway)
    await eventually(lambda: rig.nothing_left("one"))


async def test_the_lease_runs_on_and_a_server_that_comes_later_finds_everything(rig: Rig) -> None:
    await rig.keeper(lease=30)
    client = await rig.client(5)
    _, collector = await start(client, "shim", "counter", python(COUNTER, "3000", "0.01"))
    await collector.line_count(100)
    upgrading = asyncio.create_task(client.request("upgrade"))
    await asyncio.sleep(0.05)
    client.close()
    await asyncio.gather(upgrading, return_exceptions=True)
    await eventually(lambda: '"keeper_upgraded"' in rig.log())
    with pytest.raises(KeeperError) as refusal:
        await rig.client(4)
    assert refusal.value.code == "stale_epoch"
    later = await rig.client(6)
    rest = Collector()
    await later.attach("counter", 0, rest)
    assert await rest.exit(40) == (0, None, "")
    assert rest.data == counted(3000)


async def test_a_lease_without_a_server_is_not_made_longer(rig: Rig) -> None:
    await rig.keeper(lease=3)
    client = await rig.client()
    attached, _ = await start(client, "shim", "one", python(SLEEPER))
    # the new lease is in force from the next time that a server goes
    await upgrade(client, lease_seconds=0.5)
    client.close()
    assert await rig.wait() == 0
    assert not is_alive(attached.facts["identity"]["pid"])


async def test_code_that_does_not_start_is_refused_and_nothing_happened(rig: Rig) -> None:
    keeper = await rig.keeper(program=faulty(rig, "sys.exit('SyntaxError: nobody tried this')"))
    client = await rig.client()
    attached, collector = await start(client, "shim", "echo", python(ECHO))
    open_before = descriptors(keeper.pid)
    for _ in range(2):
        with pytest.raises(KeeperError, match="nobody tried this") as refusal:
            await client.request("upgrade")
        assert refusal.value.code == "upgrade_refused"
    assert descriptors(keeper.pid) == open_before
    await client.write(attached.handle, numbered(1))
    await collector.line_count(1)


async def test_a_state_that_the_new_code_cannot_read_is_refused(rig: Rig) -> None:
    await rig.keeper(program=faulty(rig, "import pool.keeper.handover as h; h.READS = (99,)"))
    client = await rig.client()
    attached, _ = await start(client, "shim", "one", python(SLEEPER))
    with pytest.raises(KeeperError, match="a state of version 1"):
        await client.request("upgrade")
    assert is_alive(attached.facts["identity"]["pid"])


async def test_a_new_image_that_cannot_take_over_after_all_ends_everything_and_says_so(
    rig: Rig, wrapper: str
) -> None:
    await rig.keeper(gateway=command(), program=faulty(rig, "is_check or os.ftruncate(fd, 300)"))
    client = await rig.client()
    attached, collector = await start(client, wrapper, "one", python(SLEEPER))
    gateway = gateway_pid(client)
    await collector.line_count(1)
    with pytest.raises(KeeperError):
        await client.request("upgrade")
    assert await rig.wait() == 1
    assert not is_alive(attached.facts["identity"]["pid"])
    assert not is_alive(gateway)
    assert rig.nothing_left("one")
    assert "take_over_failed" in rig.log()
    assert collector.lost == 1
    # the next keeper knows what became of it
    await rig.keeper()
    listed = (await (await rig.client(2)).request("list"))["instances"]
    assert [(one["instance"], one["exit"]) for one in listed] == [("one", {"code": None, "signal": None})]


async def test_a_keeper_of_the_version_before_serves_a_server_of_today(rig: Rig) -> None:
    await rig.keeper(more=["--protocol-max", "1"])
    client = await rig.client()
    assert client.hello is not None
    assert (client.hello.version, client.hello.code) == (1, None)
    attached, collector = await start(client, "shim", "echo", python(ECHO))
    await client.write(attached.handle, numbered(1))
    await collector.line_count(1)
    assert await client.raise_epoch(3) == 3
    with pytest.raises(KeeperError, match="no operation 'upgrade'"):
        await client.request("upgrade")
    await client.request("stop", instance="echo", graces=[5, 5, 5])
    assert (await collector.exit())[0] == 0


async def test_a_server_of_the_version_before_is_served_by_a_keeper_of_today(rig: Rig) -> None:
    await rig.keeper()
    today = await rig.client(1)
    _, collector = await start(today, "shim", "counter", python(COUNTER, "3000", "0.01"))
    await collector.line_count(50)
    old = await rig.client(2, versions=(1, 1))
    assert old.hello is not None
    assert old.hello.version == 1
    rest = Collector()
    await old.attach("counter", 0, rest)
    with pytest.raises(KeeperError, match="no operation"):
        await old.request("replace_gateway")
    assert await rest.exit(40) == (0, None, "")
    assert rest.data == counted(3000)


async def test_the_state_lies_in_no_file_and_old_state_descriptors_are_gone(rig: Rig) -> None:
    keeper = await rig.keeper()
    client = await rig.client()
    await upgrade(client)
    assert not [kind for kind in descriptors(keeper.pid) if "memfd" in kind]
    assert not list(rig.data.rglob("*state*"))
    assert stat.S_IMODE((rig.runtime / "keeper.sock").stat().st_mode) == 0o600
