"""Where a new user lives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pool.policy.placement import HostLoad, choose_host


def load(
    name: str, instances: int = 0, users: int = 0, capacity: int = 10, *, is_reached: bool = True
) -> HostLoad:
    return HostLoad(name=name, instances=instances, users=users, capacity=capacity, is_reached=is_reached)


def test_the_least_loaded_relative_to_its_capacity_gets_the_user() -> None:
    assert choose_host([load("a", 4), load("b", 6, capacity=20), load("c", 9, capacity=20)]) == "b"


def test_of_equally_loaded_hosts_the_one_with_fewer_users_then_the_first_by_name() -> None:
    assert choose_host([load("a", users=5), load("b", users=9, capacity=20)]) == "b"
    assert choose_host([load("c"), load("b"), load("d")]) == "b"


def test_nobody_is_placed_where_nothing_can_run_or_nobody_can_go() -> None:
    assert choose_host([load("a", capacity=0), load("b", 9), load("c", is_reached=False)]) == "b"
    assert choose_host([load("a", capacity=0), load("c", is_reached=False)]) is None
    assert choose_host([]) is None


loads = st.builds(
    HostLoad,
    name=st.text("abc", min_size=1, max_size=3),
    instances=st.integers(0, 50),
    users=st.integers(0, 50),
    capacity=st.integers(0, 20),
    is_reached=st.booleans(),
)


@given(st.lists(loads, unique_by=lambda host: host.name), st.randoms())
def test_the_choice_does_not_depend_on_the_order_and_is_one_that_can_be_reached(hosts, random) -> None:  # type: ignore[no-untyped-def]
    chosen = choose_host(hosts)
    able = {host.name: host for host in hosts if host.is_reached and host.capacity}
    assert (chosen in able) if able else chosen is None
    if chosen is not None:
        best = able[chosen]
        assert all(
            best.instances * other.capacity <= other.instances * best.capacity for other in able.values()
        )
    shuffled = list(hosts)
    random.shuffle(shuffled)
    assert choose_host(shuffled) == chosen
