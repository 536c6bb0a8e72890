"""Helper processes: only our own, counted while they live, ended with their session."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pool import errors
from pool.model import SessionId, SessionKey, UserId
from pool.runtime import figures
from pool.runtime.processes import HelperProcesses
from tests.waiting import eventually_sync

KEY = SessionKey(UserId("alice"), SessionId("default"))
OTHER = SessionKey(UserId("bob"), SessionId("default"))


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def processes() -> Iterator[HelperProcesses]:
    helpers = HelperProcesses()
    yield helpers
    helpers.aclose()


def test_a_process_is_counted_to_its_session_while_it_lives(
    processes: HelperProcesses, child: subprocess.Popen[bytes]
) -> None:
    processes.register(KEY, child.pid, "terminal")
    assert [process.pid for process in processes.of([KEY])] == [child.pid]
    assert processes.of([OTHER]) == []
    assert processes.of_user("bob") == []
    child.kill()
    child.wait()
    assert processes.of_user("alice") == []
    assert not processes.unregister(KEY, child.pid)


def test_ending_a_session_kills_what_it_registered_and_nothing_else(
    processes: HelperProcesses, child: subprocess.Popen[bytes]
) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        processes.register(KEY, child.pid, "terminal")
        processes.register(OTHER, bystander.pid, "terminal")
        processes.end(KEY)
        assert child.wait(10) == -9
        assert bystander.poll() is None
        assert [process.pid for process in processes.of_user("bob")] == [bystander.pid]
    finally:
        bystander.communicate(b"\n")


def test_a_pid_that_ended_can_be_registered_anew(
    processes: HelperProcesses, child: subprocess.Popen[bytes]
) -> None:
    first = processes.register(KEY, child.pid, "terminal")
    with pytest.raises(errors.Conflict):
        processes.register(KEY, child.pid, "terminal")
    child.kill()
    child.wait()
    assert not first.is_alive
    with pytest.raises(errors.BadRequest):
        processes.register(KEY, child.pid, "terminal")


@pytest.mark.parametrize("pid", [0, -1, 1, 2**22 + 1, 2**31, 2**70])
def test_what_is_not_ours_is_refused(processes: HelperProcesses, pid: int) -> None:
    with pytest.raises(errors.BadRequest):
        processes.register(KEY, pid, "terminal")


def test_figures_of_a_living_and_of_a_gone_process(child: subprocess.Popen[bytes]) -> None:
    eventually_sync(lambda: figures.rss_bytes(child.pid) > 1_000_000)
    assert figures.cpu_seconds(child.pid) >= 0
    assert figures.parent(child.pid) == os.getpid()
    assert figures.is_descendant(child.pid, {os.getpid()})
    assert not figures.is_descendant(child.pid, {2**22 + 1})
    ticks = figures.start_ticks(child.pid)
    assert ticks is not None
    assert ticks > 0
    child.kill()
    child.communicate()
    assert figures.rss_bytes(child.pid) == 0
    assert figures.cpu_seconds(child.pid) == 0
    assert figures.start_ticks(child.pid) is None
    assert figures.parent(child.pid) is None
    assert not figures.is_descendant(child.pid, {os.getpid()})
    assert figures.rss_bytes(None) == 0
    assert figures.cpu_seconds(None) == 0
