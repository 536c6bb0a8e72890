"""Usage in the database: taken in once, summed by what people ask for, given to the turns that caused it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pool.errors import BadRequest
from pool.model import InstanceId, TurnId, TurnState
from pool.store.base import PutSession, PutTurn
from pool.store.sql import SqlStore
from pool.store.usage import TurnSpan, Usage, UsageFigures, UsageRecord, turns_of_calls
from tests.pool.store.records import ALICE, a_session, a_turn

DAY = 20_000
AT = DAY * 86400.0 + 1000


def a_record(
    at: float = AT, user_id: str = "alice", model: str = "m", usd: float = 0.5, instance_id: str = "i1"
) -> UsageRecord:
    return UsageRecord(
        at=at,
        seconds=1.0,
        user_id=user_id,
        session_id=str(ALICE.session_id),
        instance_id=instance_id,
        provider="up",
        model=model,
        input_tokens=1,
        output_tokens=20,
        cache_write_tokens=300,
        cache_read_tokens=4000,
        usd=usd,
        priced=usd > 0,
        complete=True,
    )


async def test_the_same_bytes_are_taken_in_once(store: SqlStore) -> None:
    usage = Usage(store.database)
    assert await usage.take_in("f", 0, 100, [a_record(), a_record()])
    assert not await usage.take_in("f", 0, 100, [a_record()])
    assert not await usage.take_in("f", 50, 150, [a_record()])
    assert await usage.take_in("f", 100, 120, [])
    assert await usage.read_to() == {"f": 120}
    assert (await usage.figures("alice", DAY, DAY)).calls == 2
    await usage.forget_file("f")
    assert await usage.read_to() == {}


async def test_sums_by_day_user_model_and_session(store: SqlStore) -> None:
    usage = Usage(store.database)
    records = [
        a_record(),
        a_record(AT + 86400, model="n", usd=0.0),
        a_record(AT + 86400, user_id="bob", usd=3.0),
    ]
    await usage.take_in("f", 0, 1, records)
    assert await usage.figures("alice", DAY, DAY + 1) == UsageFigures(
        calls=2,
        input_tokens=2,
        output_tokens=40,
        cache_write_tokens=600,
        cache_read_tokens=8000,
        usd=0.5,
        unpriced_calls=1,
    )
    assert (await usage.figures("alice", DAY + 1, DAY + 1)).tokens == 4321
    assert await usage.figures("carol", DAY, DAY) == UsageFigures()

    async def keys(group: str, user_id: str | None = None) -> list[tuple[str, int]]:
        rows = await usage.grouped(group, DAY, DAY + 1, user_id=user_id)
        return [(key, figures.calls) for key, figures in rows]

    assert await keys("user") == [("bob", 1), ("alice", 2)]
    assert await keys("model") == [("m", 2), ("n", 1)]
    assert await keys("day") == [(str(DAY), 1), (str(DAY + 1), 2)]
    assert await keys("session", "bob") == [(f"bob:{ALICE.session_id}", 1)]
    assert await keys("provider", "carol") == []
    with pytest.raises(BadRequest):
        await keys("colour")


async def test_calls_are_given_to_the_turns_that_caused_them(store: SqlStore) -> None:
    usage = Usage(store.database)
    turn = replace(a_turn(), state=TurnState.SUCCEEDED, created_at=AT, ended_at=AT + 10, message_id=None)
    first = replace(turn, turn_id=TurnId("t1"), number=1, instance_id=InstanceId("i1"))
    second = replace(turn, turn_id=TurnId("t2"), number=2, instance_id=InstanceId("i1"), ended_at=AT + 20)
    never_ran = replace(turn, turn_id=TurnId("t3"), number=3, state=TurnState.WITHDRAWN, instance_id=None)
    await store.commit([PutSession(a_session()), PutTurn(first), PutTurn(second), PutTurn(never_ran)])
    records = [a_record(AT + seconds) for seconds in (5, 9, 15, 40)]
    await usage.take_in("f", 0, 1, records)
    found = await usage.by_turn("alice", str(ALICE.session_id))
    assert [(turn_id, figures.calls) for turn_id, figures in found] == [("t1", 2), ("t2", 1), (None, 1)]
    assert await usage.by_turn("alice", "other") == []


def test_another_instances_calls_are_not_a_turns() -> None:
    spans = [
        TurnSpan(turn_id="t1", instance_id="i1", created_at=10, ended_at=20),
        TurnSpan(turn_id="t2", instance_id="i2", created_at=12, ended_at=None),
    ]
    calls = [("i1", 5.0), ("i1", 11.0), ("i2", 13.0), ("i1", 20.0), ("i1", 21.0), ("i2", 99.0)]
    assert turns_of_calls(spans, calls) == [None, "t1", None, "t1", None, "t2"]
