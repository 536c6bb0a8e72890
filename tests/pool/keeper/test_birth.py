"""What an instance begins with: three descriptors, default signals, its own environment, and nothing else."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from pool.keeper import spawn
from pool.keeper.client import KeeperError
from tests.pool.keeper.rig import ECHO, PYTHON, Collector, Rig, python, request, start

LOOK = """
import json, os, resource
status = dict(line.split(':', 1) for line in open('/proc/self/status') if ':' in line)
print(json.dumps({
    'files': sorted(int(fd) for fd in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + fd)),
    'ignored': int(status['SigIgn'], 16) & ~(1 << 12 | 1 << 24),  # Python's own: PIPE and XFSZ
    'blocked': int(status['SigBlk'], 16),
    'environment': dict(os.environ),
    'leader': os.getsid(0) == os.getpid(),
    'open_files': resource.getrlimit(resource.RLIMIT_NOFILE),
    'cwd': os.getcwd(),
    'umask': os.umask(0),
    'oom': int(open('/proc/self/oom_score_adj').read()),
}))
"""


async def test_an_instance_begins_with_a_clean_slate(rig: Rig, wrapper: str, short_dir: Path) -> None:
    # as nohup and a shell in the background start programs
    before = [(number, signal.signal(number, signal.SIG_IGN)) for number in (signal.SIGHUP, signal.SIGQUIT)]
    try:
        await rig.keeper(env={"ANTHROPIC_API_KEY": "secret", "LD_DEBUG_OUTPUT": "x"})
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    client = await rig.client()
    _, collector = await start(client, wrapper, "one", python(LOOK), cwd=str(short_dir))
    assert (await collector.exit())[0] == 0
    seen = json.loads(collector.data)
    assert seen["files"] == [0, 1, 2]
    # Signals 32 and 33 are the C library's own: a program that runs us may have them ignored, and
    # nobody but it can change that.
    own = 1 << 31 | 1 << 32
    assert seen["ignored"] & ~own == seen["blocked"] & ~own == 0
    expected = {"PATH", "CLAUDE_POOL_INSTANCE", "CLAUDE_POOL_SITE", "LC_CTYPE", "PWD"}
    assert set(seen["environment"]) <= expected
    # the keeper's own limit is higher
    assert seen["open_files"] == list(resource.getrlimit(resource.RLIMIT_NOFILE))
    assert seen["umask"] == 0o077
    # when memory runs out, instances go before the keeper
    assert seen["oom"] == 500
    assert rig.process is not None
    assert Path(f"/proc/{rig.process.pid}/oom_score_adj").read_text() == own_oom_score()
    if wrapper == "shim":
        assert seen["leader"] is True
        assert seen["cwd"] == os.path.realpath(short_dir)


def own_oom_score() -> str:
    return Path("/proc/self/oom_score_adj").read_text()


async def test_the_wrapper_gets_the_files_that_it_was_promised(
    rig: Rig, wrapper: str, short_dir: Path
) -> None:
    await rig.keeper()
    client = await rig.client()
    (short_dir / "given").write_text("x")
    (short_dir / "link").symlink_to("given")
    promised = [{"path": str(short_dir / "given"), "placeholder": "{given}"}]
    # bubblewrap puts what it reads from the descriptor into a file, the shim's child gets the descriptor
    copy = ["--ro-bind-data", "{given}", "/tmp/given", "--", "/bin/cat", "/tmp/given"]
    plain = python("import os, sys; print(os.read(int(sys.argv[1]), 9).decode(), end='')")
    message = request(wrapper, "one", [*plain, "{given}"], open=promised)
    if wrapper == "bwrap":
        message["argv"] = [*message["argv"][: message["argv"].index("--")], *copy]
    collector = Collector()
    await client.start(message, collector)
    assert (await collector.exit())[0] == 0
    assert bytes(collector.data) == b"x"
    for bad in ("missing", "link"):
        message["instance"] = bad
        message["open"] = [{"path": str(short_dir / bad), "placeholder": "{given}"}]
        with pytest.raises(KeeperError) as refusal:
            await client.start(message, Collector())
        assert (refusal.value.code, refusal.value.details["step"]) == ("spawn_failed", "files")
        assert rig.nothing_left(bad)


async def test_a_keeper_short_of_descriptors_refuses_and_recovers(rig: Rig, wrapper: str) -> None:
    keeper = await rig.keeper()
    client = await rig.client()
    _, before = await start(client, wrapper, "before", python(ECHO))
    used = len(os.listdir(f"/proc/{keeper.pid}/fd"))
    limits = resource.prlimit(keeper.pid, resource.RLIMIT_NOFILE)
    for spare in (1, 2, 5, 20, 60):
        resource.prlimit(keeper.pid, resource.RLIMIT_NOFILE, (used + spare, limits[1]))
        with pytest.raises(KeeperError) as refusal:
            await start(client, wrapper, "refused", python(ECHO))
        assert (refusal.value.code, refusal.value.details["step"]) == ("spawn_failed", "descriptors")
    for spare in range(60, 76):
        resource.prlimit(keeper.pid, resource.RLIMIT_NOFILE, (used + spare, limits[1]))
        with suppress(KeeperError):
            _, collector = await start(client, wrapper, f"spare-{spare}", ["/bin/true"])
            await collector.exit()
    assert rig.nothing_left("refused")
    resource.prlimit(keeper.pid, resource.RLIMIT_NOFILE, limits)
    _, after = await start(client, wrapper, "refused", ["/bin/true"])
    await after.exit()
    assert before.exits == []
    assert (await client.request("stop", instance="before", graces=[5, 5, 5]))["gone"]
    await before.exit()


@pytest.mark.acceptance
async def test_a_hundred_instances_share_one_small_keeper(rig: Rig) -> None:
    await rig.keeper()
    assert rig.process is not None
    client = await rig.client()
    for index in range(100):
        await client.request("start", **_sleeper(index))
    files = len(os.listdir(f"/proc/{rig.process.pid}/fd"))
    assert files < 100 * 8 + 20
    memory = Path(f"/proc/{rig.process.pid}/status").read_text()
    resident = next(line for line in memory.splitlines() if line.startswith("VmRSS"))
    assert int(resident.split()[1]) < 40_000
    before = _cpu_ticks(rig.process.pid)
    for _ in range(50):
        await client.request("list")
    assert _cpu_ticks(rig.process.pid) - before < 200
    await client.request("shutdown", graces=[0, 0.2, 5])
    assert await rig.wait(40) == 0


def _sleeper(index: int) -> dict[str, object]:
    return {
        "instance": f"i{index}",
        "wrapper": "shim",
        "argv": ["/bin/sleep", "600"],
        "env": {"PATH": "/usr/bin:/bin"},
    }


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_keeper_of_earlier_code_is_understood_by_the_shim_that_is_installed(tmp_path: Path) -> None:
    """It gives its own environment and the filter's path, until it goes over to this code."""
    lifeline, held = os.pipe()
    told, status = os.pipe()
    rights = json.dumps({"uid": None, "limits": {}, "filter": None, "cwd": str(tmp_path)})
    shim = str(Path(spawn.__file__).with_name("shim.py"))
    words = [PYTHON, "-I", "-S", shim, str(lifeline), str(status), rights, "/bin/sh", "-c", "echo $WORD; pwd"]
    env = {"PATH": "/usr/bin:/bin", "WORD": "said"}
    try:
        done = subprocess.run(words, env=env, pass_fds=[lifeline, status], capture_output=True, check=True)
        assert done.stdout.decode().split() == ["said", str(tmp_path)]
        os.close(status)
        status = -1
        assert os.read(told, 99).decode().splitlines()[1] == "code 0"
    finally:
        for fd in (lifeline, held, told, status):
            if fd >= 0:
                os.close(fd)
