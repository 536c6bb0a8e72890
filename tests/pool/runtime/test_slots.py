"""Slots: never above a limit, users in turn, nobody forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pool import Quota, QuotaBook, errors
from pool.model import InstanceId, InstanceState, Place, SessionId, SessionKey, UserId
from pool.policy.eviction import InstanceFacts
from pool.runtime.slots import Slots
from tests.pool.runtime.conftest import World, follow, manual, say, soon


def key(user: str, session: str = "default") -> SessionKey:
    return SessionKey(UserId(user), SessionId(session))


def make(limit: int, *, user_limit: int | None = None, queue: int = 100, timeout: float = 5) -> Slots:
    return Slots(QuotaBook(default=Quota(max_instances=user_limit)), limit, queue, timeout)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_line_is_served_first_come_first_served() -> None:
    slots = make(1)
    await slots.acquire(key("first"), may_wait=True)
    served: list[str] = []

    async def wait(name: str) -> None:
        await slots.acquire(key(name), may_wait=True)
        served.append(name)

    names = [f"u{n}" for n in range(10)]
    tasks = [asyncio.create_task(wait(name)) for name in names]
    await settle()
    assert slots.queue_length == 10
    slots.release(key("first"))
    for name in names:
        await settle()
        assert slots.holders == {key(name)}
        slots.release(key(name))
    await asyncio.gather(*tasks)
    assert served == names


async def test_the_line_takes_as_many_as_it_is_long() -> None:
    slots = make(1, queue=2)
    await slots.acquire(key("first"), may_wait=True)
    tasks = [asyncio.create_task(slots.acquire(key(name), may_wait=True)) for name in ("a", "b")]
    await settle()
    assert slots.queue_length == 2
    with pytest.raises(errors.QueueFull):
        slots.check(key("c"), may_wait=True)
    with pytest.raises(errors.QueueFull):
        await slots.acquire(key("c"), may_wait=True)
    slots.look_again()
    assert slots.queue_length == 2
    slots.release(key("first"))
    slots.release(key("a"))
    await asyncio.gather(*tasks)


async def test_who_waits_for_a_limit_of_their_own_holds_up_nobody() -> None:
    slots = make(3, user_limit=1)
    await slots.acquire(key("greedy", "one"), may_wait=True)
    waiting = [asyncio.create_task(slots.acquire(key("greedy", f"s{n}"), may_wait=True)) for n in range(5)]
    await settle()
    async with asyncio.timeout(30):
        await slots.acquire(key("other"), may_wait=True)
        await slots.acquire(key("third"), may_wait=True)
    assert slots.holders == {key("greedy", "one"), key("other"), key("third")}
    slots.release(key("greedy", "one"))
    await settle()
    assert key("greedy", "s0") in slots.holders
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_flood_of_one_user_leaves_the_wait_of_the_others_unchanged() -> None:
    """The flood comes first, and takes as much of the line as it may."""
    slots = make(1, queue=100)
    await slots.acquire(key("first"), may_wait=True)
    served: list[SessionKey] = []

    async def wait(who: SessionKey) -> None:
        await slots.acquire(who, may_wait=True)
        served.append(who)

    flood = [asyncio.create_task(wait(key("greedy", f"s{n}"))) for n in range(1000)]
    await settle()
    refused = [task for task in flood if task.done()]
    assert {type(task.exception()) for task in refused} == {errors.QueueFull}
    assert slots.queue_length == 1000 - len(refused) == 50
    others = [asyncio.create_task(wait(key(f"u{n}"))) for n in range(9)]
    await settle()
    slots.release(key("first"))
    for _ in range(10):
        await settle()
        slots.release(served[-1])
    assert [str(who.user_id) for who in served[:10]] == ["greedy", *(f"u{n}" for n in range(9))]
    for task in (*flood, *others):
        task.cancel()
    await asyncio.gather(*flood, *others, return_exceptions=True)


async def test_everybody_in_line_is_told_their_place() -> None:
    slots = make(1, user_limit=1)
    told: dict[str, list[Place]] = {}

    def wait(who: SessionKey) -> asyncio.Task[None]:
        places = told.setdefault(f"{who.user_id} {who.session_id}", [])
        return asyncio.create_task(slots.acquire(who, may_wait=True, tell=places.append))

    await slots.acquire(key("first"), may_wait=True)
    tasks = [wait(key("first", "again")), wait(key("a")), wait(key("b"))]
    await settle()
    assert told == {
        "first again": [Place(1, 1, None, "own")],
        "a default": [Place(1, 2, None)],
        "b default": [Place(2, 2, None)],
    }
    assert slots.place(key("b")) == Place(2, 2, None)
    assert slots.place(key("nobody")) is None
    slots.release(key("first"))
    await settle()
    assert key("first", "again") in slots.holders, "it was the oldest"
    slots.release(key("first", "again"))
    await soon(lambda: len(told["b default"]) > 1, "b is told that it is the first")
    last = told["b default"][-1]
    assert (last.position, last.of, last.limit) == (1, 1, "pool")
    assert last.estimate_seconds is not None
    assert told["a default"] == [Place(1, 2, None)], "who is served before the word goes out hears none"
    slots.release(key("a"))
    await asyncio.gather(*tasks)
    assert slots.place(key("b")) is None


async def test_the_estimate_is_when_to_come_back() -> None:
    slots = make(1, queue=1, timeout=0.5)
    loop = asyncio.get_running_loop()
    for name in ("a", "b"):
        await slots.acquire(key(name), may_wait=True)
        task = asyncio.create_task(slots.acquire(key("next"), may_wait=True))
        await settle()
        slots._rate._since = loop.time() - 40  # it took so long
        slots.release(key(name))
        await task
        slots.release(key("next"))
    await slots.acquire(key("a"), may_wait=True)
    task = asyncio.create_task(slots.acquire(key("b"), may_wait=True))
    await settle()
    with pytest.raises(errors.QueueFull) as full:
        slots.check(key("c"), may_wait=True)
    assert full.value.retry_after_seconds == pytest.approx(40, abs=2)
    with pytest.raises(errors.PoolFull, match="try again in about") as late:
        await task
    assert late.value.retry_after_seconds == pytest.approx(40, abs=2)


async def test_a_wait_has_a_deadline_and_leaves_the_line() -> None:
    slots = make(1, timeout=0.02)
    await slots.acquire(key("first"), may_wait=True)
    with pytest.raises(errors.PoolFull) as caught:
        await slots.acquire(key("second"), may_wait=True)
    assert caught.value.retry_after_seconds
    assert slots.queue_length == 0
    assert slots.holders == {key("first")}


async def test_a_slot_given_at_the_very_deadline_is_not_lost() -> None:
    slots = make(1, timeout=0.02)
    await slots.acquire(key("first"), may_wait=True)
    task = asyncio.create_task(slots.acquire(key("second"), may_wait=True))
    await settle()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 0.02

    def spin() -> None:
        # Both the timer and the release are due in one turn of the loop.
        while loop.time() < deadline + 0.005:
            pass
        slots.release(key("first"))

    loop.call_soon(spin)
    result = (await asyncio.gather(task, return_exceptions=True))[0]
    assert (key("second") in slots.holders) is (result is None)


async def test_who_gave_up_a_moment_ago_is_passed_over_and_costs_no_slot() -> None:
    slots = make(1)
    await slots.acquire(key("first"), may_wait=True)
    tasks = [asyncio.create_task(slots.acquire(key(name), may_wait=True)) for name in ("gone", "next")]
    await settle()
    tasks[0].cancel()
    slots.release(key("first"))
    assert slots.holders == {key("next")}
    await asyncio.gather(*tasks, return_exceptions=True)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_order_of_events_breaks_a_limit_or_forgets_a_waiter(data: st.DataObject) -> None:
    asyncio.run(_play(data))


async def _play(data: st.DataObject) -> None:
    limit, user_limit = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([None, 1, 2]))
    slots = make(limit, user_limit=user_limit, timeout=60)
    idle: set[SessionKey] = set()
    leaving: set[SessionKey] = set()
    tasks: dict[SessionKey, asyncio.Task[None]] = {}
    order: list[SessionKey] = []

    def facts() -> list[InstanceFacts]:
        return [
            InstanceFacts(
                instance_id=InstanceId(str(held)),
                user_id=held.user_id,
                state=InstanceState.STOPPING if held in leaving else InstanceState.READY,
                idle_since=0,
                started_at=0,
                has_open_turn=held not in idle,
            )
            for held in slots.holders
        ]

    def evict(instance_id: InstanceId) -> None:
        (held,) = [held for held in slots.holders if str(held) == instance_id]
        assert held in idle
        assert held not in leaving
        leaving.add(held)

    slots.candidates, slots.evict, slots.leaving = facts, evict, lambda: leaving & slots.holders
    keys = [key(user, session) for user in "ab" for session in "xyz"]
    for _ in range(data.draw(st.integers(1, 40))):
        kind = data.draw(st.sampled_from(("ask", "ask", "exit", "idle", "busy", "cancel")))
        chosen = data.draw(st.sampled_from(keys))
        if kind == "ask" and chosen not in tasks and chosen not in slots.holders:
            tasks[chosen] = asyncio.create_task(slots.acquire(chosen, may_wait=True))
            order.append(chosen)
        elif kind == "cancel" and chosen in tasks:
            tasks[chosen].cancel()
        elif kind == "exit" and chosen in slots.holders:
            idle.discard(chosen)
            leaving.discard(chosen)
            slots.release(chosen)
        elif kind == "idle" and chosen in slots.holders - leaving:
            idle.add(chosen)
            slots.look_again()
        elif kind == "busy":
            idle -= {chosen} - leaving
        await settle()
        order = [name for name in order if not tasks[name].done()]
        tasks = {name: tasks[name] for name in order}
        _check(slots, limit, user_limit, leaving, idle, order)
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)
    assert slots.queue_length == 0


def _check(
    slots: Slots,
    limit: int,
    user_limit: int | None,
    leaving: set[SessionKey],
    idle: set[SessionKey],
    order: list[SessionKey],
) -> None:
    """Nothing above a limit; nobody waits for what is there."""
    by_user = {user: {held for held in slots.holders if held.user_id == user} for user in "ab"}
    assert len(slots.holders) <= limit
    assert user_limit is None or all(len(held) <= user_limit for held in by_user.values())
    assert slots.queue_length == len(order)
    assert all(slots.place(waiter) is not None for waiter in order)
    free = limit - len(slots.holders)
    able = [k for k in order if user_limit is None or len(by_user[str(k.user_id)]) < user_limit]
    assert not (free and able), "a free slot, and somebody who could have it waits"
    if able:
        assert leaving or not idle, "an idle instance is kept while somebody waits"


async def test_a_session_that_becomes_idle_makes_room_for_who_waits(world: World) -> None:
    pool = await world.start(max_instances=1)
    world.host.prepare = manual
    busy, waiting = await follow(pool, "busy"), await follow(pool, "waiting")
    first = await say(pool, "m1", "busy")
    await soon(lambda: "running" in busy.turn_states(first))
    second = await say(pool, "m2", "waiting")
    await soon(lambda: pool._around.hosts.first.slots.queue_length == 1)
    world.host.cli("busy").finish()
    assert (await busy.ended(first))["state"] == "succeeded"
    await soon(lambda: "running" in waiting.turn_states(second), "the idle session was parked for the other")
    world.host.cli("waiting").finish()
    assert (await waiting.ended(second))["state"] == "succeeded"


async def test_a_pool_that_is_merely_full_is_ready(world: World) -> None:
    pool = await world.start(max_instances=1)
    world.host.prepare = manual
    busy = await follow(pool, "busy")
    turn = await say(pool, "m1", "busy")
    await soon(lambda: "running" in busy.turn_states(turn))
    await say(pool, "m2", "waiting")
    await soon(lambda: pool._around.hosts.first.slots.queue_length == 1)
    assert pool.unready_reasons() == [], "whoever comes may wait in line"
    pool.drain()
    assert pool.unready_reasons() == ["draining"]


async def test_whoever_looks_on_sees_the_place_and_where_it_ends(world: World) -> None:
    pool = await world.start(max_instances=1)
    world.host.prepare = manual
    busy, waiting = await follow(pool, "busy"), await follow(pool, "waiting")
    first = await say(pool, "m1", "busy")
    await soon(lambda: "running" in busy.turn_states(first))
    accepted = await pool.submit("alice", "waiting", "words", message_id="m2")
    assert accepted.place == Place(1, 1, None)
    queue = {"position": 1, "of": 1, "limit": "pool"}
    assert (await pool.status("alice", "waiting"))["queue"] == queue
    await soon(lambda: any("queue" in frame for frame in waiting.of_type("session")))
    late = await follow(pool, "waiting")
    assert late.of_type("subscribed")[0]["queue"] == queue
    world.host.cli("busy").finish()
    await busy.ended(first)
    await soon(lambda: "running" in waiting.turn_states(accepted.turn_id))
    shown = [(frame["state"], frame.get("queue")) for frame in waiting.of_type("session")]
    assert shown == [("waking", None), ("waking", queue), ("waking", None), ("live", None)]
    assert (await pool.status("alice", "waiting"))["queue"] is None
    world.host.cli("waiting").finish()
    await waiting.ended(accepted.turn_id)


async def test_background_work_that_ends_makes_room_too(world: World) -> None:
    pool = await world.start(max_instances=1)
    await follow(pool, "busy")
    waiting = await follow(pool, "waiting")
    await pool.get_or_create_instance("alice", "busy")
    tasks = {"type": "system", "subtype": "background_tasks_changed"}
    world.host.cli("busy").emit({**tasks, "tasks": [{"task_id": "t1"}]})
    session = pool._supervisor.sessions[key("alice", "busy")]
    await soon(lambda: session.instance is not None and session.instance.background)
    turn = await say(pool, "m2", "waiting")
    await soon(lambda: pool._around.hosts.first.slots.queue_length == 1)
    world.host.cli("busy").emit({**tasks, "tasks": []})
    assert (await waiting.ended(turn))["state"] == "succeeded"


async def until_running(states: Callable[[], list[str]]) -> None:
    await soon(lambda: "running" in states())


async def test_the_one_that_rests_longest_goes_first(world: World) -> None:
    pool = await world.start(max_instances=2)
    world.host.prepare = manual
    screens = {name: await follow(pool, name) for name in ("one", "two", "three")}
    long = await say(pool, "m1", "one")
    short = await say(pool, "m2", "two")
    for name, turn in (("one", long), ("two", short)):
        states = partial(screens[name].turn_states, turn)
        await until_running(states)
    world.host.cli("two").finish()
    await screens["two"].ended(short)
    await asyncio.sleep(0.02)
    world.host.cli("one").finish()
    await screens["one"].ended(long)
    await say(pool, "m3", "three")
    await soon(lambda: any(cli.spec.key.session_id == "three" for cli in world.host.living))
    assert [cli.spec.key.session_id for cli in world.host.living] == ["one", "three"]
