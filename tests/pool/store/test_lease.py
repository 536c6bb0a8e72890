"""The lease on the pool and the fence of the store, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from pool.audit.records import told
from pool.caller import SERVER
from pool.errors import BadRequest, NotOwner, StoreUnavailable
from pool.model import SessionId, SessionKey, UserId
from pool.store.accounts import Accounts
from pool.store.audit import AuditLog, verify
from pool.store.base import PutSession
from pool.store.fence import Fence
from pool.store.lease import PoolLease
from pool.store.sql import SqlStore
from pool.store.usage import Usage
from tests.pool.store.records import ALICE, BOB, a_session
from tests.postgresql import Cluster, running_cluster
from tests.waiting import eventually

pytestmark = pytest.mark.acceptance


@pytest.fixture
async def cluster(short_dir: Path) -> AsyncIterator[Cluster]:
    async with running_cluster(short_dir) as it:
        yield it


class Replicas:
    """Several replicas' hands on one lease, and stores under it."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster, self._directory = cluster, directory
        self._open: list[PoolLease | SqlStore] = []
        self.fenced: Counter[int] = Counter()

    async def lease(self, holder: str, seconds: float = 30) -> PoolLease:
        lease = PoolLease(
            self.cluster.url,
            self._directory,
            holder=holder,
            url=f"http://{holder}.example",
            lease_seconds=seconds,
        )
        self._open.append(lease)
        await lease.open()
        return lease

    async def store(self, epoch: int, name: str, seconds: float = 30) -> SqlStore:
        def fenced() -> None:
            self.fenced[epoch] += 1

        directory = self._directory / name
        directory.mkdir(exist_ok=True)
        store = SqlStore(self.cluster.url, directory, fence=Fence(epoch, seconds, fenced), patience_seconds=1)
        self._open.append(store)
        await store.open()
        return store

    async def ask(self, sql: str) -> None:
        def run() -> None:
            engine = sa.create_engine(self.cluster.url, isolation_level="AUTOCOMMIT")
            with engine.connect() as connection:
                connection.exec_driver_sql(sql)
            engine.dispose()

        await asyncio.to_thread(run)

    async def run_out(self) -> None:
        """The lease's time is over, by the database's clock."""
        await self.ask("UPDATE pool_lease SET expires_at = extract(epoch from clock_timestamp()) - 1")

    async def aclose(self) -> None:
        for one in reversed(self._open):
            await one.aclose()


@pytest.fixture
async def replicas(cluster: Cluster, short_dir: Path) -> AsyncIterator[Replicas]:
    it = Replicas(cluster, short_dir)
    try:
        yield it
    finally:
        await it.aclose()


def key_of(number: int) -> SessionKey:
    return SessionKey(UserId(f"user{number}"), SessionId("default"))


def test_replicas_are_for_postgresql(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="PostgreSQL"):
        PoolLease(None, tmp_path, holder="one", url="http://one", lease_seconds=15)


async def test_of_twenty_racers_one_wins_each_time_it_is_free(replicas: Replicas) -> None:
    first = await replicas.lease("racer0")
    racers = [first, *await asyncio.gather(*(replicas.lease(f"racer{n}") for n in range(1, 20)))]
    for epoch in (1, 2, 3):
        taken = await asyncio.gather(*(racer.take() for racer in racers))
        assert [one for one in taken if one is not None] == [epoch]
        winner = racers[taken.index(epoch)]
        row = await first.look()
        assert row is not None
        assert (row.holder, row.url, row.epoch) == (winner.holder, f"http://{winner.holder}.example", epoch)
        assert not row.is_free
        assert await winner.renew(epoch)
        assert not any(await asyncio.gather(*(racer.renew(epoch) for racer in racers if racer is not winner)))
        await replicas.run_out()
        assert not await winner.renew(epoch), "one that is over is not renewed"


async def test_a_lease_that_is_given_back_is_free_at_once_and_others_cannot_give_it_back(
    replicas: Replicas,
) -> None:
    one, two = await replicas.lease("one"), await replicas.lease("two")
    assert await one.look() is None
    assert await one.take() == 1
    await two.give_back(1)
    assert await two.take() is None
    await one.give_back(1)
    assert await two.take() == 2
    await one.give_back(1)
    assert not await one.renew(1)
    assert await two.renew(2)


async def test_a_clock_that_jumps_neither_gives_two_owners_nor_a_lease_for_ever(replicas: Replicas) -> None:
    one, two = await replicas.lease("one"), await replicas.lease("two")
    await one.take()
    # the database's clock has gone back by an hour since
    await replicas.ask("UPDATE pool_lease SET expires_at = expires_at + 3600")
    row = await two.look()
    assert row is not None
    assert row.is_free
    assert await two.take() == 2
    assert not await one.renew(1)


async def test_who_stands_by_is_known_for_as_long_as_it_says_so(replicas: Replicas) -> None:
    one, two, three = [await replicas.lease(name) for name in ("one", "two", "three")]
    assert await one.others() == 0
    await two.stand_by()
    await two.stand_by()
    await three.stand_by()
    assert await one.others() == 2
    assert await two.others() == 1
    await three.leave()
    assert await one.others() == 1
    await replicas.ask("UPDATE replicas SET seen_at = seen_at - 31")
    assert await one.others() == 0


async def test_what_an_owner_writes_after_another_took_over_changes_nothing(replicas: Replicas) -> None:
    one, two = await replicas.lease("one"), await replicas.lease("two")
    assert await one.take() == 1
    old = await replicas.store(1, "one")
    accounts, usage, audit = Accounts(old.database), Usage(old.database), AuditLog(old.database)
    kept = a_session(ALICE)
    await old.commit([PutSession(kept)])
    await audit.append(told("server.start", 1.0, by=SERVER))
    await replicas.run_out()
    # over, but nobody's: what is written hurts nobody
    await accounts.create_user("alice", None)
    assert await two.take() == 2
    new = await replicas.store(2, "two")
    attempts: dict[str, Callable[[], Awaitable[object]]] = {
        "session": lambda: old.commit([PutSession(a_session(BOB))]),
        "epoch": lambda: old.claim_epoch(100),
        "account": lambda: accounts.create_user("bob", None),
        "uid": lambda: old.uid_of(UserId("bob"), 200000, 200010),
        "audit": lambda: audit.append(told("server.stop", 2.0, by=SERVER)),
        "usage": lambda: usage.take_in("journal", 0, 10, []),
        "many": lambda: asyncio.gather(*(old.commit([PutSession(a_session(key_of(n)))]) for n in range(5))),
    }
    for name, attempt in attempts.items():
        with pytest.raises(NotOwner):
            await attempt()
        assert replicas.fenced[1] > 0, name
    assert await new.get_session(kept.key) is not None
    for key in (BOB, *map(key_of, range(5))):
        assert await new.get_session(key) is None
    assert await Accounts(new.database).get_user("bob") is None
    assert await new.claim_epoch(1) < 100
    assert replicas.fenced[2] == 0
    # the log of both is one chain, and none of them takes the other's part for a stranger's
    await AuditLog(new.database).append(told("server.start", 3.0, by=SERVER))
    await two.give_back(2)
    assert await one.take() == 3
    again = await replicas.store(3, "one")
    await AuditLog(again.database).append(told("server.start", 4.0, by=SERVER))
    verdict = await verify(replicas._directory / "one", replicas.cluster.url, is_alone=False)
    assert verdict.is_whole, verdict.problems
    actions = [record.action for record in await AuditLog(again.database).page()]
    # a replica whose directory is new says so, once
    assert Counter(actions) == {"server.start": 3, "user.added": 1, "audit.head_missing": 1}


async def test_who_writes_without_a_fence_is_refused_while_a_replica_owns(
    replicas: Replicas, short_dir: Path
) -> None:
    one = await replicas.lease("one")
    await one.take()
    alone = SqlStore(replicas.cluster.url, short_dir)
    with pytest.raises(
        StoreUnavailable, match=r"a replica owns the pool of this database: http://one\.example"
    ):
        await alone.open()
    await alone.aclose()
    await one.give_back(1)
    await alone.open()
    await alone.check()
    await alone.aclose()


async def test_a_renewal_waits_for_no_commit_and_a_takeover_for_those_under_way(replicas: Replicas) -> None:
    one, two = await replicas.lease("one"), await replicas.lease("two")
    await one.take()
    store = await replicas.store(1, "one")
    fence = Fence(1, 30, lambda: None)
    may_end = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(connection: sa.Connection) -> None:
        fence.check(connection)
        asyncio.run_coroutine_threadsafe(may_end.wait(), loop).result()

    held = store.database.submit(hold)
    await asyncio.sleep(0.2)
    assert await one.renew(1)
    await replicas.run_out()
    taking = asyncio.create_task(two.take())
    await asyncio.sleep(0.3)
    assert not taking.done(), "the commit under way comes before the next owner"
    may_end.set()
    await held
    assert await taking == 2


async def test_an_owner_that_is_stopped_between_fence_and_commit_holds_nobody_up_for_long(
    replicas: Replicas,
) -> None:
    """Its connection idles in a transaction: the database ends that, and nothing of it is stored."""
    one, two = await replicas.lease("one", 3), await replicas.lease("two", 3)
    await one.take()
    store = await replicas.store(1, "one", 3)
    fence = Fence(1, 3, lambda: None)
    loop = asyncio.get_running_loop()
    may_end = asyncio.Event()

    def hold(connection: sa.Connection) -> None:
        connection.exec_driver_sql("UPDATE meta SET value = 'stale'")
        fence.check(connection)
        if not may_end.is_set():
            asyncio.run_coroutine_threadsafe(may_end.wait(), loop).result()

    await store.claim_epoch(1)
    held = store.database.submit(hold)
    await replicas.run_out()

    async def taken() -> bool:
        try:
            return await two.take() == 2
        except StoreUnavailable:
            return False  # it waited for the lock

    await eventually(taken, 15, what="the next owner has the lease")
    may_end.set()
    with pytest.raises(StoreUnavailable):
        await held
    new = await replicas.store(2, "two", 3)
    assert await new.claim_epoch(1) == 2


async def test_a_database_that_hangs_is_no_answer_and_no_wait_for_ever(replicas: Replicas) -> None:
    lease = await replicas.lease("one", 3)
    await lease.take()
    pids = replicas.cluster.backends()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailable):
            async with asyncio.timeout(10):
                await lease.renew(1)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
