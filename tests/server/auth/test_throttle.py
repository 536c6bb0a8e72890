"""The moving window of sign-in attempts, on a clock of the test's own."""

from __future__ import annotations

import pytest

from pool.errors import RateLimited
from server.auth.throttle import LoginThrottle, MovingWindow


class Clock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_hits_leave_the_window_one_by_one() -> None:
    clock = Clock()
    window = MovingWindow(2, 60, clock)
    window.hit("a")
    clock.now = 10
    window.hit("a")
    assert window.wait_seconds("a") == 50
    assert window.wait_seconds("b") == 0
    clock.now = 60
    assert window.wait_seconds("a") == 0
    window.hit("a")
    assert window.wait_seconds("a") == 10


def test_what_is_remembered_is_bounded() -> None:
    window = MovingWindow(1, 60, Clock(), max_keys=3)
    for key in "abcd":
        window.hit(key)
    assert window.wait_seconds("a") == 0
    assert window.wait_seconds("d") == 60


def test_an_account_and_an_address_have_their_own_limits() -> None:
    clock = Clock()
    throttle = LoginThrottle(clock, per_account=2, per_address=3)
    throttle.attempt("a", "x")
    throttle.attempt("a", "y")
    with pytest.raises(RateLimited) as refused:
        throttle.attempt("a", "z")
    assert refused.value.retry_after_seconds == 60
    throttle.attempt("b", "x")
    throttle.attempt("c", "x")
    with pytest.raises(RateLimited):
        throttle.attempt("d", "x")
    clock.now = 61
    throttle.attempt("a", "x")


def test_a_good_sign_in_counts_for_nobody() -> None:
    throttle = LoginThrottle(Clock(), per_account=2, per_address=2)
    for _ in range(10):
        throttle.attempt("a", "x")
        throttle.succeeded("a", "x")
