"""The line: users take turns, nobody is overtaken for ever, and the estimate is what was seen."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.model import UserId
from pool.policy.admission import LONGEST_RETRY_AFTER_SECONDS, RETRY_AFTER_SECONDS, retry_after
from pool.policy.line import FairLine, ServiceRate

ALICE, BOB, CAROL = UserId("alice"), UserId("bob"), UserId("carol")


def serve(line: FairLine[str], owners: dict[str, UserId]) -> str:
    first = next(iter(line))
    line.leave(owners[first], first, was_served=True)
    return first


def test_users_take_turns_and_within_a_user_the_oldest_goes_first() -> None:
    line: FairLine[str] = FairLine()
    owners = {"a1": ALICE, "a2": ALICE, "a3": ALICE, "b1": BOB, "b2": BOB, "c1": CAROL}
    for name, user in owners.items():
        line.join(user, name)
    told = list(line)
    assert told == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert [serve(line, owners) for _ in range(len(owners))] == told, "the order that was told is kept"
    assert len(line) == 0


def test_who_was_served_comes_behind_a_newcomer() -> None:
    line: FairLine[str] = FairLine()
    owners = {"a1": ALICE, "a2": ALICE, "b1": BOB}
    line.join(ALICE, "a1")
    line.join(ALICE, "a2")
    assert serve(line, owners) == "a1"
    line.join(BOB, "b1")
    assert list(line) == ["a2", "b1"], "bob has not waited for anybody's turn yet"
    assert serve(line, owners) == "a2"
    assert list(line) == ["b1"]


def test_who_gives_up_loses_only_that_place() -> None:
    line: FairLine[str] = FairLine()
    for name, user in (("a1", ALICE), ("a2", ALICE), ("b1", BOB)):
        line.join(user, name)
    line.leave(ALICE, "a1", was_served=False)
    line.leave(ALICE, "a1", was_served=False)
    assert list(line) == ["a2", "b1"]
    assert (line.count(ALICE), line.count(BOB), line.count(CAROL)) == (1, 1, 0)
    assert "a1" not in line
    assert "a2" in line


@pytest.mark.parametrize("flood", [1, 10, 1000])
def test_a_flood_of_one_user_leaves_the_wait_of_the_others_unchanged(flood: int) -> None:
    line: FairLine[str] = FairLine()
    owners = {f"flood{n}": ALICE for n in range(flood)}
    for name in owners:
        line.join(ALICE, name)
    for n in range(5):
        owners[f"u{n}"] = UserId(f"u{n}")
        line.join(owners[f"u{n}"], f"u{n}")
    waits = {serve(line, owners): at for at in range(6)}
    assert {name: at for name, at in waits.items() if name.startswith("u")} == {
        f"u{n}": n + 1 for n in range(5)
    }


def test_nobody_starves_in_a_thousand_random_runs() -> None:
    """One slot, a virtual clock: between coming and being served each other user is served at most
    once for every turn that the waiter's own user has to wait for."""
    for seed in range(1000):
        chance = random.Random(seed)
        line: FairLine[int] = FairLine()
        users = [UserId(f"u{n}") for n in range(chance.randint(2, 6))]
        owner: dict[int, UserId] = {}
        overtaken: dict[int, dict[UserId, int]] = {}
        rank: dict[int, int] = {}
        for step in range(chance.randint(20, 60)):
            if chance.random() < 0.55 or not len(line):
                # The first user floods: it comes as often as all the others.
                user = users[0] if chance.random() < 0.5 else chance.choice(users)
                owner[step], rank[step], overtaken[step] = user, line.count(user) + 1, {}
                line.join(user, step)
                continue
            served = next(iter(line))
            line.leave(owner[served], served, was_served=True)
            mine = [waiter for waiter in line if owner[waiter] == owner[served]]
            assert all(served < waiter for waiter in mine), "the oldest of a user goes first"
            for waiter in line:
                counts = overtaken[waiter]
                counts[owner[served]] = counts.get(owner[served], 0) + 1
                if owner[served] != owner[waiter]:
                    assert counts[owner[served]] <= rank[waiter], (seed, waiter)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["join", "serve", "give up"])), max_size=60)
)
def test_nobody_is_lost_or_doubled(steps: list[tuple[str, str]]) -> None:
    line: FairLine[tuple[str, int]] = FairLine()
    here: list[tuple[str, int]] = []
    for number, (name, kind) in enumerate(steps):
        own = [waiter for waiter in here if waiter[0] == name]
        if kind == "join":
            line.join(UserId(name), (name, number))
            here.append((name, number))
        elif own:
            line.leave(UserId(name), own[0], was_served=kind == "serve")
            here.remove(own[0])
        assert sorted(line) == sorted(here)
        assert len(line) == len(here)
        for letter in "abc":
            mine = [waiter for waiter in line if waiter[0] == letter]
            assert mine == sorted(mine)
            assert line.count(UserId(letter)) == len(mine)


def test_nothing_is_said_of_a_wait_before_one_was_seen() -> None:
    rate = ServiceRate()
    assert rate.estimate_seconds(1, 0.0) is None
    rate.waiting(0.0, is_anybody=True)
    assert rate.estimate_seconds(3, 5.0) is None


def test_the_estimate_is_the_pace_of_the_last_services() -> None:
    rate = ServiceRate()
    rate.waiting(100.0, is_anybody=True)
    for now in (110.0, 120.0, 130.0):
        rate.served(now)
    assert rate.estimate_seconds(1, 130.0) == pytest.approx(10)
    assert rate.estimate_seconds(3, 130.0) == pytest.approx(30)
    assert rate.estimate_seconds(3, 134.0) == pytest.approx(26), "it counts down"


def test_the_estimate_grows_when_nothing_comes_free() -> None:
    rate = ServiceRate()
    rate.waiting(0.0, is_anybody=True)
    rate.served(10.0)
    waits = [rate.estimate_seconds(2, 10.0 + waited) for waited in (0.0, 60.0, 600.0)]
    assert waits == sorted(waits, key=lambda wait: wait or 0)
    assert (waits[2] or 0) > 100


def test_time_in_which_nobody_waited_says_nothing() -> None:
    rate = ServiceRate()
    rate.waiting(0.0, is_anybody=True)
    rate.served(4.0)
    rate.waiting(4.0, is_anybody=False)
    rate.waiting(5000.0, is_anybody=True)
    rate.served(5004.0)
    assert rate.estimate_seconds(1, 5004.0) == pytest.approx(4)


def test_when_to_come_back_is_neither_at_once_nor_in_hours() -> None:
    assert retry_after(None) == RETRY_AFTER_SECONDS
    assert retry_after(0.01) == 1
    assert retry_after(42) == 42
    assert retry_after(1e6) == LONGEST_RETRY_AFTER_SECONDS
