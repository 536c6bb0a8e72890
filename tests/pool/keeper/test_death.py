"""Deaths of the keeper and of its server: nothing stays behind, nobody else is harmed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pool.keeper import procfs, wire
from pool.keeper.client import KeeperClient, KeeperError
from tests.pool.keeper.rig import ECHO, SLEEPER, Collector, Rig, gone, python, start
from tests.procfs import is_alive, process_tree
from tests.waiting import eventually

STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print('up', flush=True)
    time.sleep(600)
print('up', flush=True)
time.sleep(600)
"""


async def test_a_killed_keeper_takes_everything_with_it(rig: Rig, wrapper: str) -> None:
    await rig.keeper()
    assert rig.process is not None
    client = await rig.client()
    _, collector = await start(client, wrapper, "one", python(STUBBORN))
    await collector.line_count(2)
    tree = [process.pid for process in process_tree(rig.process.pid, root=False)]
    assert len(tree) >= 4
    await rig.kill()
    await eventually(lambda: not [pid for pid in tree if is_alive(pid)])
    await eventually(lambda: rig.lost == [None])
    assert (collector.lost, collector.exits) == (1, [])


async def test_the_next_keeper_ends_what_was_left_and_keeps_the_output(rig: Rig) -> None:
    await rig.keeper()
    client = await rig.client(5)
    _, collector = await start(client, "shim", "one", python(STUBBORN), labels={"a": "b"})
    await collector.line_count(2)
    assert rig.process is not None
    # the shim stopped: it cannot notice its keeper's death, the tree lives on
    [shim] = [p for p in process_tree(rig.process.pid, root=False) if p.ppid == rig.process.pid]
    os.kill(shim.pid, signal.SIGSTOP)
    tree = [process.pid for process in process_tree(shim.pid)]
    await rig.kill()
    assert len([pid for pid in tree if is_alive(pid)]) >= 4
    await rig.keeper()
    assert not [pid for pid in tree if is_alive(pid)]
    with pytest.raises(KeeperError) as refusal:
        await rig.client(4)
    assert (refusal.value.code, refusal.value.details["epoch"]) == ("stale_epoch", 5)
    client = await rig.client(6)
    assert client.hello is not None
    [facts] = client.hello.instances
    assert facts["exit"] == {"code": None, "signal": None}
    assert facts["exited_at"] is not None
    assert facts["end_offset"] == 6
    again = Collector()
    await client.attach("one", 0, again)
    assert await again.exit() == (None, None, "")
    assert again.data == b"up\nup\n"
    await client.request("forget", instance="one")
    # a third one knows nothing of it any more
    await rig.kill()
    await rig.keeper()
    client = await rig.client(7)
    assert client.hello is not None
    assert list(client.hello.instances) == []


async def test_a_foreign_process_with_a_stored_pid_is_never_signalled(rig: Rig) -> None:
    await rig.keeper()
    client = await rig.client()
    _, collector = await start(client, "shim", "one", python(SLEEPER))
    await collector.line_count(1)
    await rig.kill()
    await eventually(lambda: rig.nothing_left("one"))
    # a stranger has the stored pids now, with the very same start time; another one
    # carries the marker of a life before this boot, a third one that of an older instance
    # and a fourth one that of an instance of the same name in a copy of this data directory
    site = procfs.site_of(rig.data)
    strangers = [
        subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-c", SLEEPER], env={**os.environ, **env}, stdout=subprocess.DEVNULL
        )
        for env in ({}, mark("old", site), mark("one-more", site), mark("one", "a copy"))
    ]
    try:
        path = rig.data / "keeper" / "instances" / "one.json"
        record = json.loads(path.read_bytes())
        assert record["exited_at"] is None
        path.write_text(json.dumps(_of(record, "one", strangers[0].pid)))
        old = {**_of(record, "old", strangers[1].pid), "boot_id": "another boot"}
        path.with_name("old.json").write_text(json.dumps(old))
        future = _of(record, "one-more", strangers[2].pid)
        future["shell"]["start_ticks"] += 1_000_000
        path.with_name("one-more.json").write_text(json.dumps(future))
        path.with_name("junk.json").write_text("{")
        await rig.keeper()
        client = await rig.client(2)
        assert client.hello is not None
        assert {facts["instance"] for facts in client.hello.instances} == {"one", "old", "one-more"}
        assert all(facts["exit"] is not None for facts in client.hello.instances)
        assert [stranger.poll() for stranger in strangers] == [None] * 4
        assert "journal_unreadable" in rig.log()
    finally:
        for stranger in strangers:
            stranger.kill()
            stranger.wait()


def mark(instance: str, site: str) -> dict[str, str]:
    return procfs.Mark(instance, site).environment()


def _of(record: dict[str, Any], instance: str, pid: int) -> dict[str, Any]:
    stat = procfs.read_stat(pid)
    assert stat is not None
    identity = {"pid": pid, "start_ticks": stat.start_ticks}
    return {**record, "instance": instance, "shell": dict(identity), "cli": dict(identity)}


async def test_without_a_server_everything_ends_when_the_lease_does(rig: Rig, wrapper: str) -> None:
    await rig.keeper(lease=1.0)
    client = await rig.client()
    attached, collector = await start(client, wrapper, "one", python(ECHO))
    _, stubborn = await start(client, wrapper, "two", python(STUBBORN))
    await stubborn.line_count(2)
    await client.write(attached.handle, b'{"type":"keep_alive"}')
    await collector.line_count(1)
    client.close()
    # a server that comes in time is in time
    second = await rig.client(2)
    assert second.hello is not None
    assert [facts["exit"] for facts in second.hello.instances] == [None, None]
    second.close()
    assert await rig.wait(30) == 0
    assert rig.nothing_left("one")
    assert rig.nothing_left("two")
    assert not (rig.runtime / "keeper.sock").exists()
    await rig.keeper()
    third = await rig.client(3)
    assert third.hello is not None
    exits = {facts["instance"]: facts["exit"] for facts in third.hello.instances}
    assert exits == {"one": {"code": 0, "signal": None}, "two": {"code": None, "signal": "SIGKILL"}}


async def test_term_ends_everything_by_the_ladder(rig: Rig, wrapper: str) -> None:
    process = await rig.keeper()
    client = await rig.client()
    _, collector = await start(client, wrapper, "one", python(ECHO))
    process.send_signal(signal.SIGTERM)
    assert await collector.exit() == (0, None, "")
    assert await rig.wait() == 0
    await eventually(lambda: rig.lost == [None])
    assert rig.nothing_left("one")


async def test_a_second_term_is_at_once(rig: Rig) -> None:
    process = await rig.keeper()
    client = await rig.client()
    _, collector = await start(client, "shim", "one", python(STUBBORN))
    await collector.line_count(2)
    process.send_signal(signal.SIGTERM)
    await eventually(lambda: "keeper_leaves" in rig.log())
    with pytest.raises(KeeperError) as refusal:
        await start(client, "shim", "two", python(ECHO))
    assert refusal.value.code == "shutting_down"
    process.send_signal(signal.SIGTERM)
    assert (await collector.exit(3))[1] == "SIGKILL"
    assert await rig.wait(3) == 0


async def test_a_second_keeper_on_the_data_directory_is_refused(rig: Rig) -> None:
    first = await rig.keeper()
    second = await rig.keeper()
    rig.process = second
    assert await rig.wait() == 3
    assert first.poll() is None
    await rig.client()
    rig.process = first


async def test_a_detached_keeper_is_nobodys_child_and_inherits_nothing(rig: Rig, short_dir: Path) -> None:
    held = os.open(short_dir, os.O_RDONLY)
    os.set_inheritable(held, True)
    options = ["--data", str(rig.data), "--runtime", str(rig.runtime), "--lease", "60"]
    options += ["--spool-max", "1000000", "--segment", "1000000", "--detach"]
    done = subprocess.run(  # noqa: ASYNC221
        [sys.executable, "-I", "-m", "pool.keeper", *options],
        env={"PATH": os.environ["PATH"], "ANTHROPIC_API_KEY": "a secret"},
        check=False,
        timeout=30,
        close_fds=True,
    )
    os.close(held)
    assert done.returncode == 0
    client = await rig.client()
    assert client.hello is not None
    pid = client.hello.pid
    assert os.getsid(pid) == pid
    links = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    assert str(short_dir) not in links
    assert "pool.keeper" in Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    # what the keeper has in its environment reaches no instance
    _, collector = await start(
        client, "shim", "env", python("import os\nprint(sorted(os.environ), flush=True)")
    )
    await collector.exit()
    assert b"ANTHROPIC" not in collector.data
    await client.request("shutdown", graces=[0, 0, 1])
    await gone(pid)


async def test_a_keeper_that_cannot_start_says_why(rig: Rig, short_dir: Path) -> None:
    (short_dir / "r").mkdir(mode=0o777)
    os.chmod(short_dir / "r", 0o777)
    for detach in ([], ["--detach"]):
        done = subprocess.run(  # noqa: ASYNC221
            [
                *(sys.executable, "-I", "-m", "pool.keeper", "--data", str(rig.data)),
                *("--runtime", str(rig.runtime), "--lease", "1", "--spool-max", "1", "--segment", "1"),
                *detach,
            ],
            capture_output=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 1
        assert b"must be a directory of uid" in done.stderr


async def test_a_journal_that_cannot_be_written_fails_the_start_and_nothing_runs(rig: Rig) -> None:
    await rig.keeper()
    client = await rig.client()
    directory = rig.data / "keeper" / "instances"
    directory.rename(directory.with_name("away"))
    with pytest.raises(KeeperError) as failure:
        await start(client, "shim", "one", python(SLEEPER))
    assert (failure.value.code, failure.value.details["step"]) == ("spawn_failed", "prepare")
    assert rig.nothing_left("one")
    directory.with_name("away").rename(directory)
    _, collector = await start(client, "shim", "one", python("print(1)"))
    await collector.exit()


async def test_the_private_temporary_directory_goes_with_its_instance(rig: Rig, short_dir: Path) -> None:
    await rig.keeper()
    client = await rig.client()
    tmp = short_dir / "t" / "one"
    program = (
        "import os\nos.makedirs(os.environ['TMPDIR'] + '/a/b')\nos.symlink('/', os.environ['TMPDIR'] + '/c')"
    )
    _, collector = await start(
        client, "shim", "one", python(program), env={"TMPDIR": str(tmp)}, tmp_dir=str(tmp)
    )
    assert (await collector.exit())[0] == 0
    await eventually(lambda: not tmp.exists())
    assert Path("/bin").exists()


async def test_hello_is_the_first_word_and_nonsense_ends_a_connection(rig: Rig) -> None:
    await rig.keeper()
    client = await rig.client(3)
    for request in ({"op": "nothing"}, {"op": "attach", "instance": "none", "offset": 0}, {"op": "attach"}):
        fields = {key: value for key, value in request.items() if key != "op"}
        with pytest.raises(KeeperError):
            await client.request(str(request["op"]), **fields)
    reader, writer = await _raw(rig)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    with pytest.raises(KeeperError) as refusal:
        await rig.client(4, versions=(90, 99))
    assert refusal.value.code == "version_mismatch"
    assert refusal.value.details["max"] == wire.VERSION_MAX
    # a range that meets ours is enough, and the refused ones took nothing over
    assert (await client.request("list"))["instances"] == []
    newer = await rig.client(4, versions=(1, 7))
    assert newer.hello is not None
    assert newer.hello.version == wire.VERSION_MAX


async def _raw(rig: Rig) -> Any:
    return await asyncio.open_unix_connection(rig.runtime / "keeper.sock")


async def test_the_highest_epoch_attaches_and_a_lower_one_is_refused(rig: Rig) -> None:
    await rig.keeper()
    first = await rig.client(10)
    _, collector = await start(first, "shim", "one", python(ECHO))
    with pytest.raises(KeeperError) as refusal:
        await rig.client(9)
    assert (refusal.value.code, refusal.value.details["epoch"]) == ("stale_epoch", 10)
    assert not first.is_lost
    second: KeeperClient = await rig.client(11)
    await first.wait_closed()
    assert rig.lost == [11]
    assert collector.lost == 1
    # the same epoch takes over too: a server that lost its connection and comes again
    third = await rig.client(11)
    await second.wait_closed()
    assert rig.lost == [11, 11]
    again = Collector()
    attached = await third.attach("one", 0, again)
    await third.write(attached.handle, b'{"type":"keep_alive"}')
    await again.line_count(1)
    assert collector.data == b""
