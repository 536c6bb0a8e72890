"""Alive, unknown, wedged, dead; who is asked, and who is worn."""

from __future__ import annotations

import pytest

from pool.policy.health import (
    ANSWER_SECONDS,
    TRUST_SECONDS,
    Health,
    HealthFacts,
    IdleFacts,
    WearLimits,
    is_doubtful,
    is_worn,
    judge_health,
)


@pytest.mark.parametrize(
    ("facts", "health"),
    [
        (HealthFacts(), Health.ALIVE),
        (HealthFacts(unanswered_seconds=0), Health.UNKNOWN),
        (HealthFacts(unanswered_seconds=ANSWER_SECONDS), Health.WEDGED),
        (HealthFacts(is_reachable=False), Health.UNKNOWN),
        (HealthFacts(is_reachable=False, unanswered_seconds=1e9), Health.UNKNOWN),
        (HealthFacts(has_exited=True, is_reachable=False), Health.DEAD),
    ],
)
def test_unknown_is_not_dead_and_wedged_is_neither(facts: HealthFacts, health: Health) -> None:
    assert judge_health(facts) is health


def test_who_is_merely_idle_is_never_asked() -> None:
    assert not is_doubtful(has_open_turn=False, silent_seconds=1e9, stopped_looks=0)
    assert not is_doubtful(has_open_turn=True, silent_seconds=TRUST_SECONDS - 1, stopped_looks=1)


def test_a_silent_turn_and_a_stopped_process_are_asked_about() -> None:
    assert is_doubtful(has_open_turn=True, silent_seconds=TRUST_SECONDS, stopped_looks=0)
    assert is_doubtful(has_open_turn=False, silent_seconds=0, stopped_looks=2)


LIMITS = WearLimits(idle_rss_bytes=1000, idle_spin_seconds=300)


@pytest.mark.parametrize(
    ("idle", "cpu", "rss", "limits", "worn"),
    [
        (10, 0.1, 900, LIMITS, False),
        (10, 0.1, 1001, LIMITS, True),
        (10, 0.1, 10**12, WearLimits(), False),
        (299, 299, 0, LIMITS, False),
        (300, 299, 0, LIMITS, True),
        (300, 3, 0, LIMITS, False),
        (1e6, 1e6, 0, WearLimits(), False),
    ],
)
def test_an_idle_instance_that_takes_too_much_is_replaced(
    idle: float, cpu: float, rss: int, limits: WearLimits, worn: bool
) -> None:
    facts = IdleFacts(idle_seconds=idle, cpu_seconds=cpu, rss_bytes=rss)
    assert (is_worn(facts, limits) is not None) is worn
