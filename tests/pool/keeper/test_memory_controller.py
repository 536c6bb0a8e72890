"""An instance above its memory, held by a real memory controller: ``make test-memory-controller``.

The machines of the tests have that controller in the first version only, if at
all. ``python -m tests.memory_controller`` boots a kernel that has it in the second.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pool import Quota, QuotaBook
from pool.keeper.cgroup import OUT_OF_MEMORY, own_group
from pool.keeper.program import noted_groups
from tests.pool.conftest import MakePool, Screen
from tests.pool.keeper.rig import Rig, python, start
from tests.procfs import is_alive
from tests.waiting import eventually

MIB = 1 << 20
# a child in a session of its own takes all there is
HOG = """
import os, sys, time
print('up', flush=True)
if os.fork() == 0:
    os.setsid()
    kept = []
    while True:
        kept.append(bytearray(b'x' * 1048576))
time.sleep(600)
"""


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory in the real hierarchy in whose groups memory is counted by the kernel."""
    own = own_group()
    if own is None or not os.access(own, os.W_OK):
        pytest.skip("no control group of the second version that may be written to")
    if "memory" not in (own / "cgroup.subtree_control").read_text().split():
        pytest.skip(f"the memory controller does not hold below {own}")
    path = own / f"cp-test-{uuid.uuid4().hex[:12]}"
    path.mkdir()
    yield path
    for each in sorted((each for each in path.rglob("*") if each.is_dir()), reverse=True):
        os.rmdir(each)
    path.rmdir()


async def test_the_kernel_ends_the_whole_group_and_tells_why(root: Path, rig: Rig, wrapper: str) -> None:
    await rig.keeper(more=["--cgroup", str(root)])
    assert set(noted_groups(rig.data)[1]) >= {"memory", "pids"}  # type: ignore[index]
    client = await rig.client()
    limits = {"memory_bytes": 100 * MIB, "processes": 50}
    attached, hog = await start(client, wrapper, "hog", python(HOG), limits=limits)
    _, neighbour = await start(client, wrapper, "good", python("import time; time.sleep(600)"), limits=limits)
    (group,) = [
        path
        for path in root.glob("i-*")
        if str(attached.facts["identity"]["pid"]) in (path / "cgroup.procs").read_text().split()
    ]
    assert (group / "memory.max").read_text().strip() == str(100 * MIB)
    assert (group / "memory.oom.group").read_text().strip() == "1"
    _code, signal, _tail = await hog.exit(60)
    # The child took it, and the parent, which did nothing, is gone with it.
    assert signal == "SIGKILL"
    assert hog.cause == OUT_OF_MEMORY
    await eventually(lambda: not group.exists())
    assert rig.nothing_left("hog")
    assert not neighbour.exits
    await client.request("stop", instance="good", graces=[0, 0, 5])
    assert neighbour.cause is None


async def test_out_of_memory_is_what_the_user_reads_and_nobody_else_notices(
    root: Path, make_pool: MakePool
) -> None:
    book = QuotaBook(default=Quota(turns_per_minute=None, memory_bytes=250 * MIB))
    pool = await make_pool(quotas=book, cgroup=str(root), start_timeout_seconds=120)
    screens = {"alice": Screen(), "bob": Screen()}
    for user, screen in screens.items():
        await pool.subscribe(user, "default", None, screen)
        first = await pool.submit(user, "default", "hello", message_id="m0")
        assert (await screen.ended(first.turn_id, 120))["state"] == "succeeded"
    (before,) = [info.pid for info in pool.instances("bob")]
    hog = await pool.submit("alice", "default", f"go !memory {500 * MIB} !sleep 600", message_id="m1")
    other = await pool.submit("bob", "default", "stream 50 20", message_id="m1")
    ending = await screens["alice"].ended(hog.turn_id, 120)
    assert (ending["state"], ending["reason"]["code"]) == ("lost", "out_of_memory")
    # By the kernel's word: the watch, which looks every two seconds, would name the limit.
    assert "out of memory" in ending["reason"]["message"]
    assert "may take" not in ending["reason"]["message"]
    assert (await screens["bob"].ended(other.turn_id, 120))["state"] == "succeeded"
    assert [info.pid for info in pool.instances("bob")] == [before]
    assert before is not None
    assert is_alive(before)
    again = await pool.submit("alice", "default", "hello", message_id="m2")
    assert (await screens["alice"].ended(again.turn_id, 120))["state"] == "succeeded"
    assert pool.counters.limit_ends.value("out_of_memory") == 1


async def test_no_more_processes_than_may_be(root: Path, rig: Rig) -> None:
    await rig.keeper(more=["--cgroup", str(root)])
    client = await rig.client()
    program = (
        "import os, time\nn = 0\n"
        "try:\n    while n < 500:\n        if os.fork() == 0: time.sleep(600)\n        n += 1\n"
        "except OSError as e: print(f'refused {e.errno} after {n}', flush=True)\n"
        "time.sleep(600)"
    )
    _, forker = await start(client, "shim", "forker", python(program), limits={"processes": 30})
    await forker.line_count(1, 60)
    words = forker.data.decode().split()
    assert words[:2] == ["refused", "11"]
    assert int(words[3]) < 30
    assert (await client.request("stop", instance="forker", graces=[0, 0, 10]))["gone"] is True
    assert rig.nothing_left("forker")
