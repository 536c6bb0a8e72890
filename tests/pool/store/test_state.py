"""The per-user key-value store."""

from __future__ import annotations

import pytest

from pool.errors import InvalidName, QuotaExceeded, TooLarge
from pool.store import state as state_module
from pool.store.sql import SqlStore
from pool.store.state import MAX_VALUE_BYTES, UserState


async def test_values_are_each_users_own(store: SqlStore) -> None:
    state = UserState(store.database)
    await state.put("alice", "theme", "1")
    await state.put("alice", "theme", "2")
    await state.put("bob", "theme", "3")
    assert [await state.get(user, "theme") for user in ("alice", "bob", "carol")] == ["2", "3", None]
    assert await state.keys("alice") == ["theme"]
    assert await state.delete("alice", "theme")
    assert not await state.delete("alice", "theme")
    assert await state.get("bob", "theme") == "3"


async def test_bounds_are_refusals(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    state = UserState(store.database)
    with pytest.raises(InvalidName):
        await state.put("alice", "../x", "1")
    with pytest.raises(TooLarge):
        await state.put("alice", "big", "é" * (MAX_VALUE_BYTES // 2 + 1))
    monkeypatch.setattr(state_module, "MAX_KEYS", 2)
    await state.put("alice", "a", "1")
    await state.put("alice", "b", "1")
    with pytest.raises(QuotaExceeded):
        await state.put("alice", "c", "1")
    await state.put("alice", "b", "2")
