"""How long an owner may act: never beyond what the database has granted, whatever was slow in between."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.policy.tenure import LeaseRules, Renewal, Tenure

RULES = LeaseRules(lease_seconds=15)


def test_a_lease_counts_from_when_it_was_asked_for_and_ends_early() -> None:
    tenure = Tenure(RULES, epoch=3, sent_at=100)
    assert tenure.deadline == 112
    assert tenure.may_act(111.9)
    assert not tenure.may_act(112)


@pytest.mark.parametrize(
    ("outcome", "deadline", "next_after"),
    [(Renewal.GRANTED, 117, 5), (Renewal.UNANSWERED, 112, 1)],
)
def test_only_a_granted_renewal_moves_the_deadline(
    outcome: Renewal, deadline: float, next_after: float
) -> None:
    tenure = Tenure(RULES, epoch=3, sent_at=100).renewed(outcome, 105)
    assert (tenure.deadline, tenure.seconds_to_next(105)) == (deadline, next_after)
    assert tenure.may_act(106)


def test_who_is_refused_acts_no_more_and_nothing_brings_it_back() -> None:
    tenure = Tenure(RULES, epoch=3, sent_at=100).renewed(Renewal.REFUSED, 101)
    assert not tenure.may_act(101)
    assert not tenure.renewed(Renewal.GRANTED, 102).may_act(102)


def test_it_asks_in_time_and_again_soon_and_never_waits_beyond_its_deadline() -> None:
    tenure = Tenure(RULES, epoch=1, sent_at=0)
    assert tenure.seconds_to_next(0) == 5
    late = tenure.renewed(Renewal.UNANSWERED, 11.5)
    assert late.seconds_to_next(11.5) == pytest.approx(0.5)
    assert late.seconds_to_next(60) == 0


def test_a_stand_by_finds_a_free_lease_within_a_tenth_of_it() -> None:
    assert RULES.look_seconds == 1
    assert LeaseRules(lease_seconds=3).look_seconds == pytest.approx(0.3)


@given(
    lease=st.floats(1, 600),
    attempts=st.lists(st.tuples(st.floats(0, 30), st.floats(0, 30), st.sampled_from(Renewal)), max_size=20),
)
def test_an_owner_never_acts_when_the_lease_is_over_in_the_database(
    lease: float, attempts: list[tuple[float, float, Renewal]]
) -> None:
    """The database grants from when the request arrived, which is not before it was sent."""
    rules = LeaseRules(lease_seconds=lease)
    tenure, expires, now = Tenure(rules, epoch=1, sent_at=0.0), lease, 0.0
    for pause, answer_seconds, wanted in attempts:
        sent_at = now + pause
        now = sent_at + answer_seconds
        outcome = Renewal.REFUSED if wanted is Renewal.GRANTED and sent_at >= expires else wanted
        if outcome is Renewal.GRANTED:
            # it may have arrived as late as the answer: the earliest is the harder case
            expires = sent_at + lease
        tenure = tenure.renewed(outcome, sent_at)
        assert tenure.deadline <= expires
        assert not tenure.may_act(expires)
