"""A pool on several machines: real keepers and processes, and links that are cut."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pool import ClaudeInstancePool, PoolConfig, Quota, QuotaBook, errors
from pool.keeper.client import peer_pid
from pool.keeper.server import SOCKET_NAME
from tests.pool.conftest import Screen
from tests.pool.hosts.machines import Machine
from tests.waiting import eventually

MakeConfig = Callable[..., PoolConfig]
STREAM = "stream 40 25"
WORDS = "".join(f"w{n} " for n in range(40)).strip()


@dataclass
class Site:
    """Machines, and the servers that come and go."""

    make_config: MakeConfig
    machines: dict[str, Machine]
    pools: list[ClaudeInstancePool] = field(default_factory=list)

    async def serve(self, **settings: Any) -> ClaudeInstancePool:
        config = self.make_config(**settings)
        pool = ClaudeInstancePool(config, hosts=[machine.host() for machine in self.machines.values()])
        self.pools.append(pool)
        await pool.start()
        return pool


@pytest.fixture
async def site(
    short_dir: Path, pool_config: MakeConfig, forked_keepers: None
) -> AsyncIterator[Callable[..., Awaitable[Site]]]:
    made: list[Site] = []

    async def make(**capacities: int) -> Site:
        machines = {}
        for name, capacity in capacities.items():
            config = pool_config(data_dir=short_dir / name, runtime_dir=short_dir / f"r{name}")
            machines[name] = Machine(name, short_dir, config, capacity)
            await machines[name].way.open()
        made.append(Site(pool_config, machines))
        return made[-1]

    yield make
    for one in made:
        for machine in one.machines.values():
            machine.way.mend()
        last = one.pools[-1]
        for host in last._around.hosts:
            await asyncio.wait_for(host.is_back.wait(), 20)
        await last.shutdown(drain_timeout_seconds=0)
        for machine in one.machines.values():
            await machine.way.aclose()
            await eventually(partial(is_empty, machine), 20)


def is_empty(machine: Machine) -> bool:
    return not machine.processes()


async def follow(pool: ClaudeInstancePool, user: str, cursor: str | None = None) -> Screen:
    screen = Screen()
    await pool.subscribe(user, "default", cursor, screen)
    return screen


async def say(pool: ClaudeInstancePool, user: str, text: str, message_id: str = "m1") -> str:
    return (await pool.submit(user, "default", text, message_id=message_id)).turn_id


def lives_on(pool: ClaudeInstancePool, user: str) -> str | None:
    return pool.machines.home_of(user)


async def test_a_link_that_is_cut_in_a_turn_costs_nothing_and_concerns_nobody_else(
    site: Callable[..., Awaitable[Site]],
) -> None:
    here = await site(a=2, b=2)
    pool = await here.serve()
    screens = {user: await follow(pool, user) for user in ("alice", "bob")}
    turns = {user: await say(pool, user, STREAM) for user in screens}
    assert (lives_on(pool, "alice"), lives_on(pool, "bob")) == ("a", "b")
    a, b = here.machines["a"], here.machines["b"]
    await eventually(lambda: "w3" in screens["alice"].text(), 30, what="the turns run")
    process, before = [info.pid for info in pool.instances("alice")], a.processes()
    a.way.cut()
    await eventually(lambda: not pool._around.hosts.named("a").is_reached)
    seen = screens["alice"].text()
    assert (await screens["bob"].ended(turns["bob"]))["state"] == "succeeded"
    assert screens["alice"].text() == seen
    assert pool.unready_reasons() == []
    assert pool.health()["checks"]["hosts"]["ok"] is False
    assert "a cannot be reached" in pool.health()["checks"]["hosts"]["detail"]
    with pytest.raises(errors.HostUnavailable):
        await say(pool, "alice", "hello", "m2")
    with pytest.raises(errors.HostUnavailable):
        pool.export_user("alice")
    assert await pool.upgrade() == {"a/keeper": "unreached", "b/keeper": "unchanged", "b/gateway": "none"}
    assert (await pool.get_or_create_instance("bob")).pid in b.processes()
    assert a.processes() == before, "it lives, and nothing of alice's is started elsewhere"
    a.way.mend()
    assert (await screens["alice"].ended(turns["alice"]))["state"] == "succeeded"
    assert screens["alice"].text().strip() == WORDS
    assert [info.pid for info in pool.instances("alice")] == process
    assert a.processes() == before
    gauges = {metric.name: dict(metric.samples) for metric in await pool.metrics()}
    assert gauges["claude_pool_host_up"] == {("a",): 1, ("b",): 1}
    assert gauges["claude_pool_host_slots_taken"] == {("a",): 1, ("b",): 1}
    assert gauges["claude_pool_instances_rss_bytes"] == {(): 0}, "no pid of another machine is looked at here"
    assert [info.host for info in pool.instances()] == ["a", "b"]


async def test_a_server_starts_without_one_of_its_hosts(
    site: Callable[..., Awaitable[Site]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pool.runtime.taking_over._OTHERS_SECONDS", 2.0)
    monkeypatch.setattr("pool.runtime.adoption._VIEWER_SECONDS", 0.2)
    here = await site(a=2, b=2)
    first = await here.serve()
    screens = {user: await follow(first, user) for user in ("alice", "bob")}
    turns = {user: await say(first, user, STREAM) for user in screens}
    await eventually(lambda: "w3" in screens["alice"].text(), 30, what="the turns run")
    a, b = here.machines["a"], here.machines["b"]
    before = a.processes()
    await first.shutdown(end_instances=False)
    a.way.cut()
    second = await here.serve()
    assert second.unready_reasons() == []
    assert (lives_on(second, "alice"), lives_on(second, "bob")) == ("a", "b")
    later = {user: await follow(second, user, screens[user].frames[-1]["cursor"]) for user in screens}
    assert (await later["bob"].ended(turns["bob"]))["state"] == "succeeded"
    assert (screens["bob"].text() + later["bob"].text()).strip() == WORDS
    status = await second.status("alice", "default")
    assert (status["state"], status["turn"].turn_id) == ("live", turns["alice"])
    with pytest.raises(errors.HostUnavailable):
        await second.get_or_create_instance("alice")
    # a new user is placed where somebody can go, and one more machine of theirs is none
    assert (await second.get_or_create_instance("carol")).pid in b.processes()
    assert a.processes() == before
    a.way.mend()
    assert (await later["alice"].ended(turns["alice"]))["state"] == "succeeded"
    # Alice saw more than was stored, and this server could not know it: she is told so, and begins anew.
    assert later["alice"].of_type("gap")
    assert not later["bob"].of_type("gap")
    seen, rest = screens["alice"].text(), later["alice"].text().strip()
    assert WORDS.startswith(seen.strip())
    assert WORDS.endswith(rest)
    assert len(seen) + len(rest) >= len(WORDS)
    assert a.processes() == before


async def test_a_full_host_keeps_its_own_users_waiting_only(site: Callable[..., Awaitable[Site]]) -> None:
    here = await site(a=1, b=1)
    pool = await here.serve()
    alice = await follow(pool, "alice")
    running = await say(pool, "alice", "hello !hang")
    await eventually(lambda: "running" in alice.turn_states(running), 30)
    await pool.get_or_create_instance("bob")
    carol = await follow(pool, "carol")
    waiting = await say(pool, "carol", "hello")
    assert [lives_on(pool, user) for user in ("alice", "bob", "carol")] == ["a", "b", "a"]
    await eventually(lambda: pool.health()["queue"]["length"] == 1)
    # who comes later and lives elsewhere gets the place of somebody who rests there
    dave = await follow(pool, "dave")
    assert (await dave.ended(await say(pool, "dave", "hello")))["state"] == "succeeded"
    assert (lives_on(pool, "dave"), pool.health()["queue"]["length"]) == ("b", 1)
    assert carol.turn_states(waiting) == ["queued"]
    await pool.interrupt("alice", "default")
    assert (await carol.ended(waiting))["state"] == "succeeded"
    for name, users in (("a", {"carol"}), ("b", {"dave"})):
        assert {info.user_id for info in pool.instances() if info.host == name} == users
        assert len(set(here.machines[name].processes().values())) == 1


async def test_what_takes_too_much_on_another_machine_is_ended_there(
    site: Callable[..., Awaitable[Site]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pool.runtime.watches.far_trees._EVERY_SECONDS", 0.2)
    monkeypatch.setattr("pool.runtime.watches.watches._INSTANCES_SECONDS", 0.1)
    here = await site(a=2, b=2)
    limited = QuotaBook(default=Quota(turns_per_minute=None), users={"alice": {"memory_bytes": 100 * 2**20}})
    pool = await here.serve(quotas=limited)
    alice, bob = await follow(pool, "alice"), await follow(pool, "bob")
    turns = [await say(pool, "alice", "hello !memory 200000000 !hang"), await say(pool, "bob", STREAM)]
    ending = await alice.ended(turns[0])
    assert (ending["state"], ending["reason"]["code"]) == ("lost", "out_of_memory")
    await eventually(lambda: not here.machines["a"].processes(), 20)
    assert (await bob.ended(turns[1]))["state"] == "succeeded"
    await eventually(lambda: pool.instances("bob")[0].rss_bytes > 2**20, 20, what="its host tells")
    here.machines["b"].way.cut()
    await eventually(lambda: pool.instances("bob")[0].rss_bytes == 0, 20, what="nothing old is told")


async def test_a_keeper_that_dies_ends_what_is_its_own(site: Callable[..., Awaitable[Site]]) -> None:
    here = await site(a=2, b=2)
    pool = await here.serve()
    alice, bob = await follow(pool, "alice"), await follow(pool, "bob")
    turns = [await say(pool, "alice", "hello !hang"), await say(pool, "bob", STREAM)]
    await eventually(lambda: "running" in alice.turn_states(turns[0]), 30)
    a = here.machines["a"]
    assert a.config.runtime_dir is not None
    keeper = await asyncio.to_thread(peer_pid, a.config.runtime_dir / SOCKET_NAME)
    assert keeper is not None
    os.kill(keeper, signal.SIGKILL)
    assert (await alice.ended(turns[0]))["state"] == "lost"
    assert (await bob.ended(turns[1]))["state"] == "succeeded"
    assert (await alice.ended(await say(pool, "alice", "history", "m2")))["state"] == "succeeded"
    assert len(set(a.processes().values())) == 1


async def test_a_user_who_is_deleted_may_live_elsewhere_afterwards(
    site: Callable[..., Awaitable[Site]],
) -> None:
    here = await site(a=2, b=2)
    pool = await here.serve()
    await pool.accounts.create_user("alice", None)
    await pool.get_or_create_instance("alice")
    workspace = here.machines["a"].config.data_dir / "workspaces" / "alice"
    assert workspace.is_dir()
    here.machines["a"].way.cut()
    with pytest.raises(errors.KeeperUnavailable):
        await pool.forget_user("alice")
    assert lives_on(pool, "alice") == "a"
    here.machines["a"].way.mend()
    await eventually(lambda: pool._around.hosts.named("a").is_reached, 20)
    await pool.forget_user("alice")
    await pool.accounts.delete_user("alice")
    assert not workspace.exists()
    assert (lives_on(pool, "alice"), await pool._around.store.placements()) == (None, {})
