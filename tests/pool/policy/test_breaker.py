"""When launches of a host are held: several users, several failures, nothing that works in between."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pool.model import UserId
from pool.policy.breaker import Breaker, BreakerRules, BreakerState

USERS = [UserId(name) for name in ("alice", "bob", "carol", "dave")]
RULES = BreakerRules()


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    told = [breaker.failed(USERS[n % 3], now) for n in range(RULES.failures)]
    assert told == [False] * (RULES.failures - 1) + [True]
    return breaker


def test_failures_of_several_users_open_it_and_nothing_is_started() -> None:
    breaker = opened(now=100)
    assert breaker.state is BreakerState.OPEN
    assert not breaker.may_launch(100)
    assert breaker.wait_seconds(105) == RULES.first_pause_seconds - 5


def test_one_users_crash_loop_never_opens_it() -> None:
    breaker = Breaker()
    for n in range(1000):
        assert not breaker.failed(USERS[0], n * 0.01)
        assert not breaker.failed(USERS[1], n * 0.01)
        assert breaker.may_launch(n * 0.01)


def test_a_launch_that_works_is_proof_that_the_host_does() -> None:
    breaker = Breaker()
    for n in range(100):
        assert not breaker.failed(USERS[n % 4], n)
        if n % 4 == 3:
            breaker.succeeded()
    assert breaker.state is BreakerState.CLOSED


def test_old_failures_do_not_count() -> None:
    breaker = Breaker()
    for n in range(100):
        assert not breaker.failed(USERS[n % 4], n * RULES.window_seconds / 4)


def test_after_the_pause_one_is_let_through_to_see() -> None:
    breaker = opened()
    now = RULES.first_pause_seconds
    assert breaker.may_launch(now)
    assert breaker.state is BreakerState.HALF_OPEN
    assert not breaker.may_launch(now), "only one"
    assert breaker.wait_seconds(now) == RULES.probe_seconds
    breaker.succeeded()
    assert breaker.may_launch(now)
    assert breaker.wait_seconds(now) == 0


def test_each_probe_that_fails_doubles_the_pause_up_to_a_bound() -> None:
    breaker, now, pauses = opened(), 0.0, []
    for _ in range(6):
        pauses.append(breaker.wait_seconds(now))
        now += pauses[-1]
        assert breaker.may_launch(now)
        assert breaker.failed(USERS[0], now), "one failure is enough then, whoever's it is"
    assert pauses == [15, 30, 60, 120, 120, 120]
    now += breaker.wait_seconds(now)
    assert breaker.may_launch(now)
    breaker.succeeded()
    for n in range(RULES.failures):
        breaker.failed(USERS[n % 3], now)
    assert breaker.wait_seconds(now) == RULES.first_pause_seconds, "after a success it begins anew"


def test_a_probe_that_is_given_up_lets_the_next_one_see() -> None:
    breaker = opened()
    assert breaker.may_launch(20)
    breaker.given_up(21)
    assert breaker.may_launch(21)
    assert breaker.state is BreakerState.HALF_OPEN


STEPS = st.lists(
    st.tuples(st.sampled_from(["launch", "fail", "succeed", "give up", "wait"]), st.sampled_from(USERS)),
    max_size=60,
)


@given(STEPS)
def test_it_never_shuts_for_good(steps: list[tuple[str, UserId]]) -> None:
    breaker, now = Breaker(), 0.0
    for kind, user in steps:
        if kind == "launch":
            was = breaker.state
            allowed = breaker.may_launch(now)
            assert allowed is (was is not BreakerState.HALF_OPEN and breaker.state is not BreakerState.OPEN)
        elif kind == "fail":
            breaker.failed(user, now)
        elif kind == "succeed":
            breaker.succeeded()
        elif kind == "give up":
            breaker.given_up(now)
        else:
            now += 7
        assert breaker.wait_seconds(now) <= RULES.largest_pause_seconds
    if breaker.state is BreakerState.HALF_OPEN:
        breaker.given_up(now)
    assert breaker.may_launch(now + RULES.largest_pause_seconds)
