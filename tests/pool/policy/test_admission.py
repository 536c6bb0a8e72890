"""Who gets a slot, who waits, who is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.errors import PoolError
from pool.model import InstanceId
from pool.policy.admission import Admission, EvictFirst, Refuse, Run, Wait, admit
from tests.pool.policy.facts import asking, idle


def refusal(decision: Admission) -> PoolError:
    assert isinstance(decision, Refuse)
    assert decision.error.retry_after_seconds is not None
    assert decision.error.retry_after_seconds > 0
    return decision.error


def test_there_is_room() -> None:
    assert admit(asking()) == Run()
    assert admit(asking(live=3, user_live=2)) == Run()


def test_a_pool_or_a_user_without_a_limit() -> None:
    assert admit(asking(live=10_000, limit=None)) == Run()
    assert admit(asking(user_live=3, user_limit=None)) == Run()


def test_a_full_pool_evicts_the_longest_idle_for_the_waiter() -> None:
    facts = asking(
        live=4, live_instances=[idle("young", 9), idle("old", 1), idle("b", 0, has_open_turn=True)]
    )
    assert admit(facts) == EvictFirst(InstanceId("old"))


def test_a_full_pool_of_busy_instances_makes_it_wait_and_then_refuses() -> None:
    assert admit(asking(live=4, waiting=99, ahead=99)) == Wait()
    error = refusal(admit(asking(live=4, waiting=100, ahead=100)))
    assert error.code == "queue_full"


def test_one_user_cannot_fill_the_line() -> None:
    assert admit(asking(live=4, waiting=49, user_waiting=49, ahead=49)) == Wait()
    error = refusal(admit(asking(live=4, waiting=50, user_waiting=50, ahead=50)))
    assert error.code == "queue_full"
    assert "kept for other users" in error.message
    assert admit(asking(live=4, waiting=99, user_waiting=0, ahead=99)) == Wait(), "others find a place"


def test_who_was_let_into_the_line_stays_however_full_it_becomes() -> None:
    assert admit(asking(live=4, waiting=99, user_waiting=49, ahead=9, is_in_line=True)) == Wait()


def test_a_refusal_says_when_a_slot_is_likely_to_be_free() -> None:
    full = asking(live=4, waiting=100, ahead=100, next_service_seconds=37.0)
    assert refusal(admit(full)).retry_after_seconds == 37
    assert refusal(admit(replace(full, may_wait=False))).retry_after_seconds == 37


def test_who_may_not_wait_is_refused_by_a_full_pool() -> None:
    assert refusal(admit(asking(live=4, may_wait=False))).code == "pool_full"
    assert admit(asking(live=4, may_wait=False, live_instances=[idle("i")])) == EvictFirst(InstanceId("i"))


def test_nobody_jumps_the_line() -> None:
    assert admit(asking(live=3, ahead=1, waiting=1)) == Wait()
    assert admit(asking(live=2, ahead=1, waiting=1)) == Run()


def test_a_slot_that_is_being_freed_is_waited_for_and_no_second_one_is_evicted() -> None:
    candidates = [idle("i")]
    assert admit(asking(live=4, leaving=1, live_instances=candidates)) == Wait()
    # the one slot on its way is the waiter's ahead
    facts = asking(live=4, leaving=1, ahead=1, waiting=1, live_instances=candidates)
    assert admit(facts) == EvictFirst(InstanceId("i"))


def test_at_their_own_limit_a_user_loses_their_own_idle_instance_not_anothers() -> None:
    bobs, own = idle("bobs", 0), idle("own", 5, user="alice")
    assert admit(asking(live=3, user_live=3, live_instances=[bobs, own])) == EvictFirst(InstanceId("own"))
    assert admit(asking(live=3, user_live=3, live_instances=[bobs])) == Wait()
    assert admit(asking(live=3, user_live=3, user_leaving=1, live_instances=[own])) == Wait()


def test_at_their_own_limit_a_call_that_wants_its_answer_now_is_refused() -> None:
    facts = asking(live=3, user_live=3, may_wait=False, live_instances=[idle("own", user="alice")])
    error = refusal(admit(facts))
    assert error.code == "quota_exceeded"
    assert error.details == {"quota": "max_instances", "limit": 3, "used": 3}


def test_a_quota_of_nothing_is_refused_at_once() -> None:
    assert refusal(admit(asking(user_limit=0))).code == "quota_exceeded"


def test_a_draining_pool_admits_nothing() -> None:
    assert refusal(admit(asking(is_draining=True))).code == "draining"


def test_a_full_disk_admits_nothing_and_says_so() -> None:
    error = refusal(admit(asking(trouble="the disk of the config directories is full")))
    assert (error.code, error.message) == ("pool_full", "the disk of the config directories is full")


@pytest.mark.parametrize("waiting", [0, 5])
def test_the_first_in_line_gets_the_freed_slot(waiting: int) -> None:
    assert admit(asking(live=3, ahead=0, waiting=waiting)) == Run()


@given(
    st.fixed_dictionaries(
        {
            "live": st.integers(0, 6),
            "leaving": st.integers(0, 2),
            "user_live": st.integers(0, 4),
            "user_leaving": st.integers(0, 2),
            "user_limit": st.none() | st.integers(0, 4),
            "limit": st.none() | st.integers(1, 5),
            "ahead": st.integers(0, 3),
            "waiting": st.integers(0, 6),
            "user_waiting": st.integers(0, 6),
            "is_in_line": st.booleans(),
            "queue_length": st.integers(0, 6),
            "is_draining": st.booleans(),
            "may_wait": st.booleans(),
        }
    ),
    st.lists(st.tuples(st.sampled_from(["alice", "bob"]), st.booleans()), max_size=4),
)
def test_no_decision_breaks_a_limit(changes: dict[str, Any], instances: list[tuple[str, bool]]) -> None:
    live = [idle(f"i-{n}", user=user, has_open_turn=busy) for n, (user, busy) in enumerate(instances)]
    facts = asking(live_instances=live, **changes)
    decision = admit(facts)
    if decision == Run():
        assert not facts.is_draining
        assert facts.limit is None or facts.live < facts.limit
        assert facts.user_limit is None or facts.user_live < facts.user_limit
    if isinstance(decision, EvictFirst):
        (victim,) = [item for item in live if item.instance_id == decision.instance_id]
        assert not victim.has_open_turn
    if isinstance(decision, Refuse):
        refusal(decision)
