"""Whose unanswered approval makes room for whom."""

from __future__ import annotations

from pool.model import SessionId, SessionKey, UserId
from pool.policy.holds import Held, choose_holders

A, B, C = UserId("a"), UserId("b"), UserId("c")


def held(user: UserId, seconds: float, session: str = "s") -> Held:
    return Held(SessionKey(user, SessionId(session)), seconds)


def test_each_waiter_is_helped_once_by_whoever_waits_longest() -> None:
    holders = [held(A, 10), held(B, 30), held(A, 20, "t")]
    assert choose_holders([C], (), holders, 0) == [holders[1].key]
    assert choose_holders([C, C], (), holders, 0) == [holders[1].key, holders[2].key]
    assert len(choose_holders([C] * 9, (), holders, 0)) == 3
    assert choose_holders([], (), holders, 0) == []


def test_slots_that_come_free_anyway_are_taken_first() -> None:
    assert choose_holders([C, C], (), [held(A, 10), held(B, 5)], 1) == [held(A, 10).key]
    assert choose_holders([C], (), [held(A, 10)], 5) == []


def test_who_is_at_a_limit_of_their_own_is_helped_by_their_own_only() -> None:
    assert choose_holders([A], {A}, [held(B, 99), held(A, 10)], 0) == [held(A, 10).key]
    assert choose_holders([A], {A}, [held(B, 99)], 0) == []
