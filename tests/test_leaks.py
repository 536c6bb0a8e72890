"""The watch for leaks finds what it promises to find, and kills only what is the test's."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import leaks
from tests.leaks import Watch
from tests.procfs import is_alive
from tests.waiting import eventually, eventually_sync


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    monkeypatch.setattr(leaks, "SETTLE_SECONDS", 0.1)
    marker = os.environ[leaks.TEST_MARKER]
    yield Watch()
    os.environ[leaks.TEST_MARKER] = marker


def test_a_clean_test_leaves_nothing(watch: Watch) -> None:
    assert watch.leaks() == []


def test_a_child_and_its_orphaned_grandchild_are_found_and_killed(watch: Watch) -> None:
    child = subprocess.Popen(["sh", "-c", "setsid sleep 30 & echo $!; exec sleep 30"], stdout=subprocess.PIPE)
    assert child.stdout is not None
    grandchild = int(child.stdout.readline())
    child.stdout.close()
    found = watch.leaks()
    assert [line.split()[0:3:2] for line in found] == [
        ["process", str(pid)] for pid in (child.pid, grandchild)
    ]
    eventually_sync(lambda: not is_alive(grandchild))
    child.returncode = -9


def test_a_process_without_the_marker_is_known_by_the_tests_directory(watch: Watch, tmp_path: Path) -> None:
    command = f"cd {tmp_path} && setsid env -i sleep 30 >/dev/null 2>&1 & echo $!"
    pid = int(subprocess.run(["sh", "-c", command], capture_output=True, check=True, env={}).stdout)
    eventually_sync(lambda: any(f"pid {pid} " in str(p) for p in watch.left_processes([str(tmp_path)])))
    assert watch.left_processes([]) == []
    assert len(watch.leaks([str(tmp_path)])) == 1
    eventually_sync(lambda: not is_alive(pid))


def test_threads_descriptors_and_temporary_files_are_named(watch: Watch) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="forgotten")
    thread.start()
    reader, writer = os.pipe()
    directory = tempfile.mkdtemp(prefix="cp-")
    found = watch.leaks()
    stop.set()
    thread.join()
    os.close(reader)
    os.close(writer)
    os.rmdir(directory)
    assert found[0] == "thread forgotten"
    assert [line.partition(":")[0] for line in found[1:3]] == [f"descriptor {fd}" for fd in (reader, writer)]
    assert found[3] == f"temporary {os.path.basename(directory)}"


async def test_a_task_that_runs_on_is_named_and_cancelled(watch: Watch) -> None:
    task = asyncio.create_task(asyncio.sleep(30), name="forgotten")
    await watch.watch_tasks()
    assert watch.tasks[0].startswith("task forgotten: <coroutine object sleep")
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_eventually_waits_and_then_tells_what_for() -> None:
    seen: list[int] = []

    async def third_time() -> bool:
        seen.append(1)
        assert len(seen) > 1, "an assertion is a not yet"
        return len(seen) == 3

    assert await eventually(third_time, 5)
    with pytest.raises(AssertionError, match=r"not within 0\.1 s: the impossible"):
        await eventually(lambda: False, 0.1, what="the impossible")


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap")
def test_a_sandboxed_process_is_known_by_its_mounts(watch: Watch, tmp_path: Path) -> None:
    sandbox = ["bwrap", "--ro-bind", "/", "/", "--bind", str(tmp_path), "/mnt", "--chdir", "/mnt"]
    sandbox += ["--unshare-pid", "--clearenv", "--setenv", "CLAUDE_POOL_INSTANCE", "i1", "sleep", "30"]
    child = subprocess.Popen(sandbox, env={})
    eventually_sync(lambda: any(p.argv[:1] == ["sleep"] for p in watch.left_processes([str(tmp_path)])))
    inner = next(p for p in watch.left_processes([str(tmp_path)]) if p.argv[:1] == ["sleep"])
    assert "/mnt" in inner.cwd
    assert leaks._shows(inner, [str(tmp_path)])
    watch.leaks([str(tmp_path)])
    eventually_sync(lambda: not is_alive(inner.pid))
    child.returncode = -9
