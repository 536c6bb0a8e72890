"""What is forked behaves as what is started from the file, and is watched as closely."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import leaks
from tests.forking import Forker
from tests.forking import forker as in_use
from tests.procfs import Process, processes
from tests.server.server_process import environment
from tests.waiting import eventually_sync


def from_the_file(words: tuple[str, ...]) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "server", *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("words", [("user", "add"), ("ps", "--data", "nowhere")])
def test_a_command_does_the_same(forker: Forker, words: tuple[str, ...]) -> None:
    done = forker.run(words, environment(), "", 30)
    assert (done.returncode, done.stdout, done.stderr) == from_the_file(words)


def test_it_has_the_environment_and_the_input_that_it_was_given(forker: Forker, short_dir: Path) -> None:
    words = ("user", "add", "alice", "--password-stdin", "--data", str(short_dir / "data"))
    wrong = forker.run(words, environment(CLAUDE_POOL__SERVER__PORT="many"), "long enough", 30)
    assert wrong.returncode == 2
    assert "server.port" in wrong.stderr
    assert forker.run(words, environment(), "long enough", 30).returncode == 0
    listed = forker.run(("user", "list", "--data", str(short_dir / "data")), environment(), "", 30)
    assert "alice" in listed.stdout


def test_one_that_does_not_end_in_time_is_killed(forker: Forker, short_dir: Path) -> None:
    words = ("serve", "--port", "0", "--data", str(short_dir / "data"))
    with pytest.raises(subprocess.TimeoutExpired):
        forker.run(words, environment(), "", 0.01)


def test_one_that_is_left_behind_is_found_and_killed(forker: Forker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "SETTLE_SECONDS", 0.1)
    monkeypatch.setenv(leaks.TEST_MARKER, os.environ[leaks.TEST_MARKER])
    watch = leaks.Watch()
    nothing = os.open(os.devnull, os.O_RDWR)
    reader, writer = os.pipe()
    # it waits for a password that does not come
    words = ("user", "add", "alice", "--password-stdin", "--data", "nowhere")
    forked = forker.fork(words, environment(), [reader, nothing, nothing])
    for descriptor in (reader, nothing):
        os.close(descriptor)
    assert any(f"pid {forked.pid} " in leak for leak in watch.leaks())
    os.close(writer)
    assert forked.wait_sync(30) == -signal.SIGKILL


def test_a_keeper_has_its_own_command_line(keeper_forker: Forker, short_dir: Path) -> None:
    words = [
        *("--data", str(short_dir / "data"), "--runtime", str(short_dir / "run")),
        *("--lease", "60", "--spool-max", "1000000", "--segment", "1000000"),
    ]
    nothing = os.open(os.devnull, os.O_RDWR)
    keeper = keeper_forker.fork(words, {}, [nothing] * 3, Path("/"))
    os.close(nothing)
    shown = [sys.executable, "-I", "-m", "pool.keeper", *words]
    eventually_sync(lambda: [word for word in process_of(keeper.pid).argv if word] == shown)
    log = short_dir / "data" / "keeper" / "keeper.log"
    eventually_sync(lambda: log.exists() and "keeper_listens" in log.read_text())
    assert keeper.poll() is None
    keeper.terminate()
    assert keeper.wait_sync(30) == 0
    assert keeper.poll() == 0


def process_of(pid: int) -> Process:
    (process,) = processes({pid})
    return process


def test_only_who_asks_for_it_forks(forker: Forker) -> None:
    assert in_use() is None
    with forker.in_use():
        assert in_use() is forker
    assert in_use() is None
