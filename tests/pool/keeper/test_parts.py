"""The loop, the ladder and the log: parts that decide when things happen."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pool.keeper.instance import Status, status_of
from pool.keeper.ladder import Graces, Ladder
from pool.keeper.lease import Lease
from pool.keeper.log import Log
from pool.keeper.loop import READ, Loop


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path / "log")
    yield log
    log.close()


@pytest.fixture
def loop(log: Log) -> Iterator[Loop]:
    loop = Loop(log)
    # a test that waits for nothing ends all the same
    loop.call_later(20, loop.stop)
    yield loop
    loop.close()


def test_a_callback_that_raises_harms_nobody_else(loop: Loop, log: Log, tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    heard: list[int] = []

    def divide_by_zero() -> None:
        heard[:] = heard * (1 // 0)

    def faulty(_mask: int) -> None:
        heard.append(1)
        raise ValueError("a fault")

    loop.watch(read_end, READ, faulty)
    loop.call_soon(divide_by_zero)
    os.write(write_end, b"x")
    loop.call_later(0.2, loop.stop)
    loop.run()
    # a descriptor whose callback never succeeds is given up, not spun on
    assert 1 <= len(heard) <= 10
    text = (tmp_path / "log").read_text()
    assert "a fault" in text
    assert "ZeroDivisionError" in text
    os.close(read_end)
    os.close(write_end)


def test_timers_come_in_their_order_and_can_be_cancelled(loop: Loop) -> None:
    heard: list[str] = []
    loop.call_later(0.02, lambda: heard.append("second"))
    loop.call_later(0.01, lambda: heard.append("first"))
    loop.call_later(0.015, lambda: heard.append("never")).cancel()
    loop.call_later(0.03, loop.stop)
    loop.run()
    assert heard == ["first", "second"]


def test_signals_are_heard_in_the_loop(loop: Loop) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    try:
        loop.on_signal(signal.SIGUSR1, loop.stop)
        os.kill(os.getpid(), signal.SIGUSR1)
        loop.run()
    finally:
        signal.signal(signal.SIGUSR1, before)


def climb(loop: Loop, graces: Graces, ends_at: str = "") -> list[str]:
    """The rungs that are taken; the instance ends at the one named."""
    heard: list[str] = []

    def rung(name: str) -> None:
        heard.append(name)
        if name == ends_at:
            ladder.cancel()
            loop.stop()

    def exhausted() -> None:
        heard.append("stuck")
        loop.stop()

    ladder = Ladder(loop, (lambda: rung("end"), lambda: rung("term"), lambda: rung("kill")), exhausted)
    ladder.climb(graces)
    loop.run()
    return heard


def test_the_ladder_is_climbed_rung_by_rung(loop: Loop) -> None:
    assert climb(loop, Graces(0.01, 0.01, 0.01)) == ["end", "term", "kill", "stuck"]


def test_the_ladder_ends_with_the_instance(loop: Loop) -> None:
    assert climb(loop, Graces(0.01, 0.01, 0.01), ends_at="term") == ["end", "term"]


def test_a_grace_of_zero_skips_its_rung(loop: Loop) -> None:
    assert climb(loop, Graces(0, 0.01, 0.01)) == ["term", "kill", "stuck"]


def test_a_kill_cannot_be_skipped(loop: Loop) -> None:
    assert climb(loop, Graces(0, 0, 0)) == ["kill", "stuck"]


def test_a_second_stop_hurries_and_never_delays(loop: Loop) -> None:
    heard: list[str] = []
    ladder = Ladder(
        loop,
        (lambda: heard.append("end"), lambda: heard.append("term"), lambda: heard.append("kill")),
        loop.stop,
    )
    ladder.climb(Graces(100, 100, 0.01))
    ladder.climb(Graces(1000, 1000, 0.01))
    ladder.climb(Graces(0, 0, 0.01))
    loop.run()
    assert heard == ["end", "kill"]


def test_a_lease_ends_only_without_a_server(loop: Loop) -> None:
    heard: list[str] = []

    def expired() -> None:
        heard.append("expired")
        loop.stop()

    lease = Lease(loop, 0.02, expired)
    lease.attached(None, lambda: 0.0)
    loop.call_later(0.1, lambda: heard.append("still there"))
    loop.call_later(0.12, lease.detached)
    loop.run()
    assert heard == ["still there", "expired"]


def test_a_lease_counts_from_the_last_word_of_a_server_that_promised_to_speak(loop: Loop) -> None:
    heard: list[str] = []
    spoken = [loop.now()]

    def expired() -> None:
        heard.append("expired")
        loop.stop()

    def speak() -> None:
        heard.append("a word")
        spoken[0] = loop.now()

    lease = Lease(loop, 0.02, expired)
    lease.attached(0.1, lambda: spoken[0])
    assert lease.to_state() == {"until": None}
    for seconds in (0.05, 0.1, 0.15):
        loop.call_later(seconds, speak)
    last = loop.now() + 0.15
    loop.run()
    assert heard == ["a word", "a word", "a word", "expired"]
    assert loop.now() >= last + 0.12


@pytest.mark.parametrize(
    ("exit_code", "expected"),
    [
        (0, Status(code=0)),
        (1, Status(code=1)),
        (128, Status(code=128)),
        (137, Status(signal="SIGKILL")),
        (143, Status(signal="SIGTERM")),
        (255, Status(code=255)),
        (-9, Status(signal="SIGKILL")),
        (-15, Status(signal="SIGTERM")),
        (-34, Status(signal="SIGRTMIN")),
        (-40, Status(signal="SIG40")),
    ],
)
def test_exit_codes_mean_what_a_shell_means_by_them(exit_code: int, expected: Status) -> None:
    assert status_of(exit_code) == expected


def test_the_log_is_rotated_once_and_survives_a_full_disk(tmp_path: Path) -> None:
    log = Log(tmp_path / "k.log", rotate_bytes=2000)
    for index in range(200):
        log.write("event", index=index)
    log.close()
    assert sorted(os.listdir(tmp_path)) == ["k.log", "k.log.1"]
    assert all((tmp_path / name).stat().st_size < 2200 for name in os.listdir(tmp_path))
    assert json.loads((tmp_path / "k.log").read_text().splitlines()[-1])["index"] == 199
    Log(tmp_path / "missing" / "k.log").write("nobody hears it")
