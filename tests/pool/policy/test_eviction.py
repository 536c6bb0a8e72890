"""Which instance may be parked."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.model import InstanceState
from pool.policy.eviction import choose_victim, is_due_to_park, is_idle
from tests.pool.policy.facts import idle

IN_USE = [
    {"state": InstanceState.STARTING},
    {"state": InstanceState.BUSY},
    {"state": InstanceState.DRAINING},
    {"state": InstanceState.STOPPING},
    {"state": InstanceState.STUCK},
    {"state": InstanceState.EXITED},
    {"has_open_turn": True},
    {"has_background_work": True},
    {"is_pinned": True},
]
in_use = pytest.mark.parametrize("changes", IN_USE, ids=repr)


@in_use
def test_what_is_in_use_is_never_parked(changes: dict[str, Any]) -> None:
    facts = idle("i", **changes)
    assert not is_idle(facts)
    assert choose_victim([facts]) is None
    assert not is_due_to_park(facts, 1e9, idle_timeout_seconds=1, max_age_seconds=1)


def test_the_longest_idle_goes_first() -> None:
    candidates = [
        idle("young", 30),
        idle("old", 10),
        idle("middle", 20),
        idle("oldest", 1, has_open_turn=True),
    ]
    assert choose_victim(candidates) == "old"


def test_of_two_that_are_idle_equally_long_always_the_same_goes() -> None:
    assert choose_victim([idle("b"), idle("a")]) == choose_victim([idle("a"), idle("b")]) == "a"


def test_nobody_there() -> None:
    assert choose_victim([]) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([{}, *IN_USE])), max_size=8))
def test_the_victim_is_idle_and_none_is_idle_longer(drawn: list[tuple[int, dict[str, Any]]]) -> None:
    candidates = [idle(f"i-{n}", since, **changes) for n, (since, changes) in enumerate(drawn)]
    victim = choose_victim(candidates)
    chosen = [facts for facts in candidates if facts.instance_id == victim]
    others = [facts.idle_since for facts in candidates if is_idle(facts)]
    if chosen:
        assert is_idle(chosen[0])
        assert chosen[0].idle_since == min(others)
    else:
        assert others == []


def test_parked_after_the_idle_timeout_or_the_maximum_age() -> None:
    facts = idle("i", since=1000.0)
    assert not is_due_to_park(facts, 1899.0, idle_timeout_seconds=900, max_age_seconds=86400)
    assert is_due_to_park(facts, 1900.0, idle_timeout_seconds=900, max_age_seconds=86400)
    assert is_due_to_park(facts, 1001.0, idle_timeout_seconds=900, max_age_seconds=1000)
    assert not is_due_to_park(facts, 1e9, idle_timeout_seconds=0, max_age_seconds=0)
