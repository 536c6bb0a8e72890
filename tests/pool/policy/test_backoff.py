"""After a crash."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.model import ExitStatus
from pool.policy.backoff import CrashHistory, CrashRules, LaunchTrouble, diagnose


def test_three_crashes_in_a_minute_are_a_loop() -> None:
    crashes = CrashHistory()
    assert not crashes.crashed(0.0)
    assert not crashes.crashed(30.0)
    assert crashes.crashed(59.0)


def test_crashes_far_apart_are_no_loop() -> None:
    crashes = CrashHistory()
    assert not any(crashes.crashed(now) for now in (0.0, 31.0, 62.0, 93.0, 124.0))


def test_the_delay_doubles_with_every_crash_in_the_window_and_begins_anew_after_it() -> None:
    crashes = CrashHistory(CrashRules(crashes_in_window=99, first_delay_seconds=1, largest_delay_seconds=5))
    delays = []
    for now in (0.0, 1.0, 2.0, 3.0, 4.0):
        crashes.crashed(now)
        delays.append(crashes.delay_seconds())
    assert delays == [1, 2, 4, 5, 5]
    crashes.crashed(100.0)
    assert crashes.delay_seconds() == 1


@given(st.floats(0, 1), st.integers(1, 10))
def test_jitter_gives_between_half_and_the_whole_delay(jitter: float, count: int) -> None:
    crashes = CrashHistory()
    for _ in range(count):
        crashes.crashed(0.0)
    assert crashes.delay_seconds(1.0) / 2 <= crashes.delay_seconds(jitter) <= crashes.delay_seconds(1.0) <= 30


def test_what_can_never_start_is_given_up_at_once() -> None:
    crashes = CrashHistory()
    assert crashes.crashed(0.0, is_permanent=True)
    reason = crashes.reason(ExitStatus(code=127), is_permanent=True)
    assert reason.code == "launch_failed"
    assert reason.exit_code == 127


def test_a_person_who_resets_it_gets_the_whole_number_of_tries() -> None:
    crashes = CrashHistory()
    for now in (0.0, 1.0, 2.0):
        crashes.crashed(now)
    crashes.forget()
    assert not crashes.crashed(3.0)
    assert not crashes.crashed(4.0)


def test_the_user_is_told_how_the_last_one_ended() -> None:
    crashes = CrashHistory()
    for now in (0.0, 1.0, 2.0):
        crashes.crashed(now)
    reason = crashes.reason(ExitStatus(signal="SIGKILL"))
    assert reason.code == "crash_loop"
    assert (
        reason.message == "The claude CLI crashed 3 times in 60 seconds; the last one was ended by SIGKILL."
    )
    assert reason.signal == "SIGKILL"
    assert crashes.reason().message == "The claude CLI crashed 3 times in 60 seconds."


@pytest.mark.parametrize(
    ("status", "stderr", "trouble"),
    [
        (ExitStatus(code=1), "error: unknown option '--nonsense'\n", LaunchTrouble.PERMANENT),
        (ExitStatus(code=1), "error: option '--model <m>' argument missing", LaunchTrouble.PERMANENT),
        (ExitStatus(code=127), "", LaunchTrouble.PERMANENT),
        (ExitStatus(code=126), "", LaunchTrouble.PERMANENT),
        (ExitStatus(code=1), "Error: Session ID 5f0c is already in use.\n", LaunchTrouble.SESSION_EXISTS),
        (ExitStatus(code=1), "x\nNo conversation found with session ID: 5f0c", LaunchTrouble.SESSION_MISSING),
        (ExitStatus(signal="SIGKILL"), "", LaunchTrouble.UNKNOWN),
        (ExitStatus(code=1), "TypeError: something", LaunchTrouble.UNKNOWN),
        (ExitStatus(), "", LaunchTrouble.UNKNOWN),
    ],
)
def test_last_words(status: ExitStatus, stderr: str, trouble: LaunchTrouble) -> None:
    assert diagnose(status, stderr) is trouble
