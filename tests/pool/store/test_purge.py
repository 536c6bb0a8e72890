"""What is no longer kept goes; what is open or young stays."""

from __future__ import annotations

from typing import Any

from pool.model import Cursor, InstanceState, SessionId, SessionKey, SessionState, TurnId, TurnState, UserId
from pool.store.base import AppendEvents, PutInstance, PutPermission, PutSession, PutTurn
from pool.store.sql import SqlStore
from pool.store.usage import Usage, UsageRecord
from tests.pool.store.records import ALICE, BOB, a_session, a_turn, an_approval, an_instance, entries


async def test_history_that_ended_long_ago_goes(store: SqlStore) -> None:
    old: dict[str, Any] = {"state": InstanceState.EXITED, "exited_at": 100.0}
    young: dict[str, Any] = {"state": InstanceState.EXITED, "exited_at": 300.0}
    await store.commit(
        [
            PutSession(a_session()),
            PutInstance(an_instance(ordinal=1, started_at=50.0, **old)),
            PutInstance(an_instance(ordinal=2, started_at=150.0, **young)),
            PutInstance(an_instance(ordinal=3)),
            AppendEvents(ALICE, entries(*((1, offset, 0) for offset in range(1, 4501)))),
            AppendEvents(ALICE, entries((2, 1, 0), (3, 1, 0))),
            PutTurn(a_turn(number=1, state=TurnState.SUCCEEDED, ended_at=100.0)),
            PutTurn(a_turn(number=2, state=TurnState.LOST, ended_at=300.0)),
            PutTurn(a_turn(number=3)),
            PutPermission(an_approval(request_id="r-old", state="closed", asked_at=100.0)),
            PutPermission(an_approval(request_id="r-open", asked_at=100.0)),
        ]
    )
    assert await store.prune(200.0) == 4500 + 1 + 1 + 1
    assert await store.prune(200.0) == 0
    assert [entry.cursor for entry in await store.read_events(ALICE)] == [Cursor(2, 1, 0), Cursor(3, 1, 0)]
    assert await store.get_turn(ALICE, TurnId("t-alice-default-1")) is None
    assert await store.find_turn(ALICE, "m-1") is None
    assert await store.next_turn_number(ALICE) == 4
    assert [record.ordinal for record in await store.exited_instances(ALICE)] == [2]
    [work] = await store.open_work()
    assert [approval.request_id for approval in work.permissions] == ["r-open"]


async def test_what_was_said_before_the_next_instance_began_is_as_young_as_that(store: SqlStore) -> None:
    old: dict[str, Any] = {"state": InstanceState.EXITED, "started_at": 50.0, "exited_at": 100.0}
    await store.commit(
        [
            PutSession(a_session(ALICE, last_active_at=400.0)),
            PutInstance(an_instance(ALICE, ordinal=1, **old)),
            PutInstance(an_instance(ALICE, ordinal=2, started_at=400.0)),
            AppendEvents(ALICE, entries((1, 1, 0), (1, 1, 1))),
            PutSession(a_session(BOB, last_active_at=90.0)),
            PutInstance(an_instance(BOB, ordinal=1, **old)),
            AppendEvents(BOB, entries((0, 0, 1), (1, 1, 0))),
        ]
    )
    assert await store.prune(200.0) == 3
    assert len(await store.read_events(ALICE)) == 2
    assert await store.read_events(BOB) == []
    assert await store.get_session(BOB) is not None


async def test_idempotency_keys_may_be_kept_longer_than_history(store: SqlStore) -> None:
    ended: dict[str, Any] = {"state": TurnState.SUCCEEDED}
    turns = [PutTurn(a_turn(number=number, ended_at=number * 100.0, **ended)) for number in (1, 2, 3)]
    await store.commit([PutSession(a_session()), *turns])
    assert await store.prune(1000.0, turns_before=150.0) == 1
    assert await store.find_turn(ALICE, "m-2") is not None


async def test_figures_of_use_go_by_whole_days(store: SqlStore) -> None:
    usage = Usage(store.database)
    calls = [
        UsageRecord(
            at=day * 86400.0 + 5,
            seconds=1,
            user_id="alice",
            session_id="default",
            instance_id="i",
            provider="p",
            model="m",
            input_tokens=1,
            output_tokens=1,
            cache_write_tokens=0,
            cache_read_tokens=0,
            usd=1.0,
            priced=True,
            complete=True,
        )
        for day in (10, 11, 12)
    ]
    assert await usage.take_in("f", 0, 1, calls)
    assert await store.prune(0.0, usage_before=11 * 86400.0 + 80000) == 1
    assert [day for day, _ in await usage.grouped("day", 0, 100)] == ["11", "12"]


async def test_a_conversation_can_be_gone_on_with_unless_it_was_put_away_long_ago(store: SqlStore) -> None:
    def key(name: str) -> SessionKey:
        return SessionKey(UserId("alice"), SessionId(name))

    away = SessionState.ARCHIVED
    records = [
        a_session(key("old"), cli_session="c1", last_active_at=1.0, resume_from="c0"),
        a_session(key("away"), cli_session="c2", last_active_at=1.0, state=away),
        a_session(key("lately"), cli_session="c3", last_active_at=500.0, state=away),
        a_session(BOB, cli_session="c4"),
    ]
    await store.commit([PutSession(record) for record in records])
    assert await store.resumable(UserId("alice"), 100.0) == {"c0", "c1", "c3"}
