"""What a server left behind is ended; what somebody looks after is not, and no other user's process."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from pool.keeper import procfs
from pool.steward.strays import end_strays
from tests.waiting import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has a server that is not root")

# not that of any service: those of others on this machine are to live
UID = 261234


def left_behind(uid: int) -> int:
    """A process that has shed its parent, its session and its environment."""
    done = subprocess.run(
        ["/bin/sh", "-c", "/usr/bin/env -i /usr/bin/setsid /bin/sleep 60 > /dev/null 2>&1 & echo $!"],
        user=uid,
        group=uid,
        extra_groups=[],
        stdout=subprocess.PIPE,
        check=True,
        timeout=30,
    )
    return int(done.stdout)


@pytest.fixture
def watched() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["/bin/sleep", "60"], user=UID, group=UID, extra_groups=[]) as process:
        yield process
        process.kill()


async def test_only_strays_of_this_user_end(watched: subprocess.Popen[bytes]) -> None:
    mine, others = [left_behind(UID) for _ in range(3)], left_behind(UID + 1)
    await eventually(lambda: procfs.read_stat(mine[0]) is not None)
    end_strays(UID)
    assert not [pid for pid in mine if _is_alive(pid)]
    assert watched.poll() is None
    assert _is_alive(others)
    end_strays(UID + 1)
    assert not _is_alive(others)


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/status") as file:
            return not any(line.startswith("State:") and line.split()[1] in "ZX" for line in file)
    except FileNotFoundError:
        return False
