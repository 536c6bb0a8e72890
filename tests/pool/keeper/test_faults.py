"""What the kernel refuses, and a stop while nobody takes the output."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from pool.keeper.client import KeeperError
from tests.pool.keeper.rig import ECHO, Rig, gone, python, start
from tests.procfs import look_at, process_tree
from tests.waiting import eventually

NOBODY_ELSES_UID = 54_321

WRITER = """
import os
while True:
    os.write(1, b'z' * 65535 + b'\\n')
"""


def as_nobody_else() -> list[str]:
    """Runs a command under a uid of its own, so that its processes can be counted."""
    setpriv = shutil.which("setpriv")
    if os.geteuid() != 0 or setpriv is None:
        pytest.skip("only root can run a keeper under a uid of its own, by setpriv")
    # The interpreter may be where only root may look.
    reads = [f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")]
    uid = NOBODY_ELSES_UID
    return [setpriv, f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *reads]


def limit_processes(pid: int, limit: int) -> None:
    """The soft limit; only the same uid may set it where root has no right to."""
    subprocess.run([*as_nobody_else(), "prlimit", f"--pid={pid}", f"--nproc={limit}:"], check=True)


async def test_a_keeper_that_may_not_fork_refuses_and_recovers(rig: Rig) -> None:
    under = as_nobody_else()
    for directory in (rig.data, rig.runtime):
        directory.mkdir(mode=0o700)
        os.chown(directory, NOBODY_ELSES_UID, NOBODY_ELSES_UID)
    rig.data.parent.chmod(0o711)
    keeper = await rig.keeper(under=under)
    client = await rig.client()
    _, before = await start(client, "shim", "before", python(ECHO))
    files = os.listdir(f"/proc/{keeper.pid}/fd")
    used = len(process_tree(keeper.pid))
    for spare in (0, 1):
        # With one to spare the shim itself runs, and its own fork is refused.
        limit_processes(keeper.pid, used + spare)
        with pytest.raises(KeeperError) as refusal:
            await start(client, "shim", "refused", ["/bin/true"])
        assert refusal.value.code == "spawn_failed"
        assert "temporarily unavailable" in str(refusal.value.details)
        await eventually(lambda: rig.nothing_left("refused"))
        assert len(process_tree(keeper.pid)) == used
    await eventually(lambda: len(os.listdir(f"/proc/{keeper.pid}/fd")) == len(files))
    limit_processes(keeper.pid, used + 100)
    _, after = await start(client, "shim", "refused", ["/bin/true"])
    assert (await after.exit())[0] == 0
    assert before.exits == []
    assert (await client.request("stop", instance="before", graces=[5, 5, 5]))["gone"]


async def test_a_stop_needs_nobody_who_takes_the_output(rig: Rig, wrapper: str) -> None:
    """The pipe is full, the keeper has stopped reading, the server grants nothing and reads nothing."""
    await rig.keeper(spool_max=1_000_000)
    client = await rig.client()
    attached, collector = await start(client, wrapper, "writer", python(WRITER))
    await eventually(lambda: len(collector.data) > 1_000_000)
    client._transport.pause_reading()  # type: ignore[union-attr]
    pid = attached.facts["identity"]["pid"]
    again = await rig.client(2)
    seen: list[int] = [-1]

    async def stands_still() -> bool:
        [facts] = (await again.request("list"))["instances"]
        seen.append(facts["end_offset"])
        process = look_at(pid)
        return seen[-1] == seen[-2] and process is not None and process.state == "S"

    await eventually(stands_still)
    assert (await again.request("stop", instance="writer", graces=[0, 0.3, 5]))["gone"]
    await gone(pid)
    assert rig.nothing_left("writer")
