"""Control groups: on the machine's real hierarchy where one can be written, their limits on a made-up one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pool.keeper.cgroup import OUT_OF_MEMORY, Group, Groups, own_group
from pool.keeper.procfs import site_of
from tests.pool.keeper.rig import SLEEPER, Collector, Rig, gone, python, start
from tests.pool.keeper.test_upgrade import upgrade
from tests.procfs import is_alive
from tests.waiting import eventually

# forks for ever, each child in a session of its own, so that no sweep ever catches up
RUNNERS = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('up', flush=True)
for _ in range(4):
    if os.fork() == 0:
        while True:
            if os.fork():
                os._exit(0)
            os.setsid()
            time.sleep(0.001)
time.sleep(600)
"""


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory of our own in the real hierarchy."""
    own = own_group()
    if own is None or not os.access(own, os.W_OK) or not (own / "cgroup.procs").exists():
        pytest.skip("no control group of the second version that may be written to")
    path = own / f"cp-test-{uuid.uuid4().hex[:12]}"
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made in {own}: {error}")
    yield path
    left = sorted((each for each in path.rglob("*") if each.is_dir()), reverse=True)
    for each in (*left, path):
        os.rmdir(each)
    assert not left


def groups_in(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir() and path.name.startswith("i-"))


def members(root: Path, rig: Rig, instance: str) -> list[int]:
    group = Groups(root, site_of(rig.data)).of(instance)
    assert group is not None
    return group.pids()


async def test_an_instance_is_born_in_a_group_that_is_gone_with_it(
    root: Path, rig: Rig, wrapper: str
) -> None:
    keeper = await rig.keeper(more=["--cgroup", str(root)])
    client = await rig.client()
    attached, collector = await start(client, wrapper, "one", python(SLEEPER))
    await start(client, wrapper, "two", python(SLEEPER))
    await collector.line_count(1)
    pid = attached.facts["identity"]["pid"]
    assert pid in members(root, rig, "one")
    assert keeper.pid not in members(root, rig, "one")
    assert keeper.pid not in members(root, rig, "two")
    assert f"keeper-{site_of(rig.data)}" in Path(f"/proc/{keeper.pid}/cgroup").read_text()
    await upgrade(client)
    assert len(groups_in(root)) == 2
    await client.request("stop", instance="one", graces=[0, 0, 5])
    await collector.exit()
    assert len(groups_in(root)) == 1
    keeper.send_signal(signal.SIGTERM)
    assert await rig.wait() == 0
    assert [path for path in root.iterdir() if path.is_dir()] == []


async def test_what_forks_faster_than_anybody_looks_is_ended(root: Path, rig: Rig) -> None:
    await rig.keeper(more=["--cgroup", str(root)])
    client = await rig.client()
    _, collector = await start(client, "shim", "runner", python(RUNNERS))
    await collector.line_count(1)
    await eventually(lambda: len(members(root, rig, "runner")) > 2)
    assert (await client.request("stop", instance="runner", graces=[0, 0, 10]))["gone"] is True
    assert groups_in(root) == []
    assert rig.nothing_left("runner")


async def test_a_group_below_that_a_tool_made_goes_too(root: Path, rig: Rig) -> None:
    await rig.keeper(more=["--cgroup", str(root)])
    client = await rig.client()
    _, collector = await start(client, "shim", "one", python(SLEEPER))
    await collector.line_count(1)
    (name,) = groups_in(root)
    nested = root / name / "claude-code-bash" / "deeper"
    nested.mkdir(parents=True)
    process = subprocess.Popen(["sleep", "600"])  # noqa: ASYNC220 - it is moved at once
    (nested / "cgroup.procs").write_text(str(process.pid))
    await client.request("stop", instance="one", graces=[0, 0, 10])
    await collector.exit()
    assert process.wait() == -signal.SIGKILL
    assert groups_in(root) == []


async def test_after_a_kill_of_the_keeper_the_next_one_ends_what_is_in_its_groups_only(
    root: Path, rig: Rig
) -> None:
    await rig.keeper(more=["--cgroup", str(root)])
    await rig.kill()
    ours = root / f"i-{site_of(rig.data)}-{'0' * 16}"
    others = root / f"i-{'f' * 16}-{'0' * 16}"
    processes = []
    for path in (ours, others):
        path.mkdir()
        processes.append(subprocess.Popen(["sleep", "600"]))  # noqa: ASYNC220 - it is moved at once
        (path / "cgroup.procs").write_text(str(processes[-1].pid))
    # no journal, no mark, no parent: only the group tells whose it is
    await rig.keeper(more=["--cgroup", str(root)])
    assert processes[0].wait() == -signal.SIGKILL
    assert not ours.exists()
    assert processes[1].poll() is None
    assert is_alive(processes[1].pid)
    processes[1].kill()
    processes[1].wait()
    os.rmdir(others)


async def test_a_directory_that_is_no_group_is_refused(rig: Rig, short_dir: Path) -> None:
    await rig.keeper(more=["--cgroup", str(short_dir / "plain")])
    assert await rig.wait() == 1
    assert "no group of the second version" in rig.log()


async def test_without_a_delegated_group_everything_works_as_ever(rig: Rig) -> None:
    await rig.keeper(more=["--cgroup", "off"])
    client = await rig.client()
    attached, collector = await start(client, "shim", "one", python(SLEEPER), limits={"memory_bytes": 1})
    await client.request("stop", instance="one", graces=[0, 0, 5])
    await collector.exit()
    await gone(attached.facts["identity"]["pid"])


def test_a_group_that_holds_the_keeper_itself_is_never_killed(root: Path) -> None:
    group = Group(root / "i-x-y")
    group.path.mkdir()
    child = os.fork()
    if child == 0:
        (group.path / "cgroup.procs").write_text("0")
        os._exit(0 if not group.kill() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert group.is_empty
    assert group.remove()


# the machines of the tests have the controllers in the first version only: a directory plays the group


@pytest.fixture
def played(tmp_path: Path) -> Group:
    for name in ("memory.high", "memory.max", "memory.oom.group", "memory.swap.max", "pids.max"):
        (tmp_path / name).touch()
    (tmp_path / "memory.events").write_text("low 0\nhigh 3\nmax 9\noom 1\noom_kill 0\noom_group_kill 0\n")
    return Group(tmp_path)


def test_limits_go_where_a_controller_holds(played: Group) -> None:
    played.limit(1_000_000_000, 256)
    text = {path.name: path.read_text() for path in played.path.iterdir()}
    assert text["memory.high"] == "900000000"
    assert text["memory.max"] == "1000000000"
    assert (text["memory.oom.group"], text["memory.swap.max"], text["pids.max"]) == ("1", "0", "256")


def test_no_controller_no_limit(tmp_path: Path) -> None:
    Group(tmp_path).limit(1_000_000, 10)
    assert list(tmp_path.iterdir()) == []


def test_the_cause_is_read_from_the_events(played: Group) -> None:
    assert played.cause() is None
    (played.path / "memory.events.local").write_text("max 9\noom 1\noom_kill 1\noom_group_kill 1\n")
    assert played.cause() == OUT_OF_MEMORY
    (played.path / "memory.events.local").write_text("")
    assert played.cause() is None
    (played.path / "memory.events").write_text("oom_kill 2\n")
    assert played.cause() == OUT_OF_MEMORY


def test_unknown_is_not_empty(tmp_path: Path) -> None:
    group = Group(tmp_path)
    (tmp_path / "cgroup.events").mkdir()
    assert not group.is_empty
    assert Group(tmp_path / "gone").is_empty


def test_what_is_asked_for_and_cannot_be_had_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="second version"):
        Groups.find(str(tmp_path / "x"), "0" * 16)
    assert Groups.find("off", "0" * 16).root is None


async def test_the_server_is_told_the_cause(rig: Rig) -> None:
    record = {"instance": "one", "boot_id": "b", "created_at": 1.0, "wrapper": "shim", "exited_at": 2.0}
    directory = rig.data / "keeper" / "instances"
    directory.mkdir(parents=True, mode=0o700)
    (directory / "one.json").write_text(json.dumps({**record, "signal": "SIGKILL", "cause": OUT_OF_MEMORY}))
    await rig.keeper()
    client = await rig.client()
    collector = Collector()
    await client.attach("one", 0, collector)
    assert await collector.exit() == (None, "SIGKILL", "")
    assert collector.cause == OUT_OF_MEMORY
