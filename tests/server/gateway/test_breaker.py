"""The breaker's life and the rules of retrying, without a network."""

from __future__ import annotations

import math

import pytest

from server.gateway.breaker import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Breaker
from server.gateway.retrying import ATTEMPTS, pause_before


def failing(breaker: Breaker, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        permit = breaker.ask(now)
        assert permit is not None
        breaker.failed(permit, now)


def test_it_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker(failures=3)
    failing(breaker, 2)
    breaker.succeeded()
    failing(breaker, 3)
    assert breaker.ask(FIRST_PAUSE_SECONDS - 0.1) is None
    assert breaker.seconds_left(1.0) == FIRST_PAUSE_SECONDS - 1.0


def test_one_call_tries_and_success_closes() -> None:
    breaker = Breaker(failures=1)
    failing(breaker, 1)
    trial = breaker.ask(FIRST_PAUSE_SECONDS)
    assert trial is not None
    assert trial.is_trial
    assert breaker.ask(FIRST_PAUSE_SECONDS) is None
    breaker.succeeded()
    assert breaker.is_closed
    assert breaker.ask(FIRST_PAUSE_SECONDS) is not None


def test_a_failed_trial_makes_the_pause_longer_up_to_a_bound() -> None:
    breaker = Breaker(failures=1)
    failing(breaker, 1)
    now, pauses = FIRST_PAUSE_SECONDS, []
    for _ in range(6):
        failing(breaker, 1, now)
        pauses.append(breaker.seconds_left(now))
        now += pauses[-1]
    assert pauses[:2] == [2 * FIRST_PAUSE_SECONDS, 4 * FIRST_PAUSE_SECONDS]
    assert pauses[-1] == LONGEST_PAUSE_SECONDS


def test_a_caller_that_leaves_during_the_trial_gives_it_to_the_next() -> None:
    breaker = Breaker(failures=1)
    failing(breaker, 1)
    trial = breaker.ask(FIRST_PAUSE_SECONDS)
    assert trial is not None
    breaker.left(trial)
    assert breaker.ask(FIRST_PAUSE_SECONDS) is not None


def test_a_late_failure_does_not_end_the_trial_of_another() -> None:
    breaker = Breaker(failures=1)
    late = breaker.ask(0)
    assert late is not None
    failing(breaker, 1)
    assert breaker.ask(FIRST_PAUSE_SECONDS) is not None
    breaker.failed(late, FIRST_PAUSE_SECONDS)
    assert breaker.ask(FIRST_PAUSE_SECONDS) is None


def test_retries_are_few_quick_and_apart() -> None:
    pauses = [pause_before(attempt, {}, 1.0) for attempt in range(2, ATTEMPTS + 1)]
    assert pauses == [0.25, 0.5]
    assert pause_before(2, {}, 0.0) == 0.125
    assert pause_before(ATTEMPTS + 1, {}, 0.0) is None


@pytest.mark.parametrize(
    ("headers", "at_least"),
    [
        ({"retry-after": "1"}, 1.0),
        ({"retry-after-ms": "300"}, 0.3),
        ({"retry-after": "30"}, None),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"retry-after": "nan"}, None),
        ({"x-should-retry": "false"}, None),
    ],
)
def test_the_upstreams_wish_is_respected(headers: dict[str, str], at_least: float | None) -> None:
    pause = pause_before(2, headers, 0.5)
    assert (pause is None) == (at_least is None)
    assert (pause or math.inf) >= (at_least or 0.0)
