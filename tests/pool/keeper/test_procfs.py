"""Processes are told apart for certain, and signals reach the one that was meant or nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from pool.keeper import procfs
from tests.waiting import eventually_sync

MARK = procfs.Mark("test-instance-1", f"test-site-{os.getpid()}")


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; print(1, flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=MARK.environment(),
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def test_a_name_with_brackets_and_spaces_is_no_trap() -> None:
    line = b"12 (a) R 9 (b) S 34 12 12 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 98765 11 22"
    assert procfs.parse_stat(line) == procfs.Stat(12, "a) R 9 (b", "S", 34, 98765)


def test_a_process_is_found_by_its_marker_and_its_parent(child: subprocess.Popen[bytes]) -> None:
    found = procfs.marked([MARK, procfs.Mark("another", MARK.site)])
    assert [stat.pid for stat in found.pop(MARK)] == [child.pid]
    assert found == {}
    assert child.pid in procfs.children(os.getpid())
    assert child.pid in [stat.pid for stat in procfs.descendants([os.getpid()])]
    assert procfs.mark_of(child.pid) == MARK
    assert procfs.mark_of(2**22 + 1) is None


def test_a_marker_that_only_begins_alike_is_another(child: subprocess.Popen[bytes]) -> None:
    others = [("test-instance", MARK.site), ("test-instance-11", MARK.site), (MARK.instance, "elsewhere")]
    assert procfs.marked(procfs.Mark(*other) for other in others) == {}


def test_a_later_process_with_the_pid_is_not_signalled(child: subprocess.Popen[bytes]) -> None:
    stat = procfs.read_stat(child.pid)
    assert stat is not None
    older = procfs.Stat(stat.pid, stat.comm, stat.state, stat.ppid, stat.start_ticks - 1)
    assert not procfs.signal_exactly(older, signal.SIGKILL)
    assert not procfs.signal_exactly(stat, signal.SIGKILL, mark=procfs.Mark("another", MARK.site))
    assert child.poll() is None
    assert procfs.signal_exactly(stat, signal.SIGKILL, mark=MARK)
    assert child.wait(10) == -signal.SIGKILL


def test_a_held_process_is_dead_for_good(child: subprocess.Popen[bytes]) -> None:
    ref = procfs.ProcessRef.open(child.pid)
    assert ref is not None
    assert not ref.is_dead
    child.kill()
    eventually_sync(lambda: ref.is_dead)
    # a zombie: it still has the pid
    assert procfs.ProcessRef.open(child.pid) is None
    assert child.pid not in {stat.pid for stat in procfs.descendants([os.getpid()])}
    child.wait(10)
    assert not ref.signal(signal.SIGKILL)
    ref.close()
    ref.close()


def test_there_is_no_such_process() -> None:
    gone = 2**22 + 1
    assert procfs.read_stat(gone) is None
    assert procfs.ProcessRef.open(gone) is None
    assert procfs.children(gone) == []


def test_the_boot_has_an_id() -> None:
    assert len(procfs.boot_id()) == 36


def test_what_is_no_process_any_more_or_never_was_one_is_none() -> None:
    """The kernel says so in several ways; a thread's number is one that can be had at will."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        assert procfs.ProcessRef.open(thread.native_id) is None
    finally:
        over.set()
        thread.join()
    assert procfs.ProcessRef.open(2**22 + 7) is None
    assert procfs.ProcessRef.open(-1) is None
