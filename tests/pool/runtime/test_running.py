"""How many turns of a user run at once."""

from __future__ import annotations

from pool import Quota, QuotaBook
from pool.model import UserId
from tests.pool.conftest import Screen
from tests.pool.runtime.conftest import World, follow, manual, say, soon


def at_once(count: int) -> QuotaBook:
    return QuotaBook(
        default=Quota(turns_per_minute=None, max_running_turns=count, max_instances=None),
        users={"bob": {"max_running_turns": None}},
    )


async def test_the_next_one_begins_when_one_has_ended_in_the_order_of_asking(world: World) -> None:
    world.host.prepare = manual
    pool = await world.start(quotas=at_once(2), max_instances=10)
    names = ("a", "b", "c", "d")
    screens = {name: await follow(pool, name) for name in names}
    turns = {}
    for name in names:
        turns[name] = await say(pool, f"m-{name}", name)
        await pool.get_or_create_instance("alice", name)

    def running() -> set[str]:
        last = {name: screens[name].turn_states(turns[name])[-1] for name in names}
        return {name for name, state in last.items() if state == "running"}

    await soon(lambda: running() == {"a", "b"})
    bobs = Screen()
    await pool.subscribe("bob", "default", None, bobs)
    accepted = await pool.submit("bob", "default", "hello", message_id="m1")
    await soon(lambda: "running" in bobs.turn_states(accepted.turn_id), "another user's begins at once")
    assert running() == {"a", "b"}
    world.host.cli("b").finish()
    await soon(lambda: running() == {"a", "c"})
    await pool.interrupt("alice", "d")
    await screens["d"].ended(turns["d"])
    again = await say(pool, "m-b2", "b")
    world.host.cli("a").die(signal="SIGKILL")
    assert (await screens["a"].ended(turns["a"]))["state"] == "lost"
    await soon(lambda: screens["b"].turn_states(again)[-1] == "running", "a lost turn makes room too")
    for name in ("b", "c"):
        world.host.cli(name).finish()
    await screens["c"].ended(turns["c"])
    await screens["b"].ended(again)
    assert pool._around.running.count(UserId("alice")) == 0


async def test_a_turn_of_an_earlier_server_counts(world: World) -> None:
    world.host.prepare = manual
    pool = await world.start(quotas=at_once(1), max_instances=10)
    screen = await follow(pool, "a")
    first = await say(pool, "m1", "a")
    await soon(lambda: "running" in screen.turn_states(first))
    await world.crash(pool)
    again = await world.start()
    later, other = await follow(again, "a"), await follow(again, "b")
    second = await say(again, "m2", "b")
    await again.get_or_create_instance("alice", "b")
    assert other.turn_states(second) == ["queued"]
    world.host.cli("a").finish()
    await later.ended(first)
    await soon(lambda: other.turn_states(second)[-1] == "running")
    world.host.cli("b").finish()
    await other.ended(second)
