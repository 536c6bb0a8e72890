"""Windows of the log against a model: a sorted list."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from pool.model import Cursor
from pool.store.base import AppendEvents, LogEntry, PutSession
from pool.store.sql import SqlStore
from tests.pool.store.records import ALICE, BOB, a_session

# Few values, so that places meet, and the largest that a cursor's text can hold.
_CURSORS = st.builds(
    Cursor,
    st.sampled_from([0, 1, 2, 10, 999_999_999]),
    st.sampled_from([0, 1, 9, 10, 2**53, 999_999_999_999_999_999]),
    st.integers(0, 3),
)
_BATCHES = st.lists(st.lists(_CURSORS, max_size=6), max_size=6)
_WINDOWS = st.lists(
    st.tuples(st.none() | _CURSORS, st.none() | _CURSORS, st.integers(0, 12), st.booleans()), max_size=10
)


@settings(max_examples=30, deadline=None)
@given(batches=_BATCHES, windows=_WINDOWS)
def test_every_window_is_what_a_sorted_list_gives(
    batches: list[list[Cursor]], windows: list[tuple[Cursor | None, Cursor | None, int, bool]]
) -> None:
    asyncio.run(compare(batches, windows))


async def compare(
    batches: list[list[Cursor]], windows: list[tuple[Cursor | None, Cursor | None, int, bool]]
) -> None:
    model: dict[Cursor, bytes] = {}
    with tempfile.TemporaryDirectory(prefix="cp-") as directory:
        store = SqlStore(None, Path(directory))
        await store.open()
        try:
            await store.commit([PutSession(a_session()), PutSession(a_session(BOB))])
            for number, batch in enumerate(batches):
                log = [LogEntry(cursor, f"{number} {cursor}".encode()) for cursor in batch]
                for entry in log:
                    model.setdefault(entry.cursor, entry.body)
                await store.commit([AppendEvents(ALICE, log)])
            await store.commit([AppendEvents(BOB, [LogEntry(Cursor(1, 1, 1), b"bob's")])])
            for after, before, limit, newest_first in windows:
                found = await store.read_events(
                    ALICE, after=after, before=before, limit=limit, newest_first=newest_first
                )
                inside = sorted(
                    (
                        cursor
                        for cursor in model
                        if (after is None or cursor > after) and (before is None or cursor < before)
                    ),
                    reverse=newest_first,
                )
                assert list(found) == [LogEntry(cursor, model[cursor]) for cursor in inside[:limit]]
            assert await store.oldest_event(ALICE) == min(model, default=None)
            record = await store.get_session(ALICE)
            assert record is not None
            assert record.position == max([*model, Cursor(0, 0, 0)])
        finally:
            await store.aclose()
