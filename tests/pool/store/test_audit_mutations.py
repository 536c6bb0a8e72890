"""Any single change of the stored audit log is found, whatever it is."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pool.store.audit import verify
from pool.store.audit_head import HEAD_NAME
from tests.pool.store.test_audit import DATABASE, written

# Many more for a run by hand.
EXAMPLES = int(os.environ.get("CLAUDE_POOL_TEST_EXAMPLES", "60"))

COLUMNS = ("seq", "at", "action", "actor", "user_id", "facts", "previous", "hash")
values = st.one_of(
    st.none(),
    st.integers(-5, 20),
    st.floats(allow_nan=False),
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.binary(max_size=40),
)
mutations = st.one_of(
    st.tuples(st.just("update"), st.integers(1, 6), st.sampled_from(COLUMNS), values),
    st.tuples(st.just("delete"), st.integers(1, 6), st.integers(1, 6), st.none()),
    st.tuples(st.just("swap"), st.integers(1, 6), st.integers(1, 6), st.none()),
    st.tuples(st.just("copy"), st.integers(1, 6), st.integers(-3, 12), st.none()),
    st.tuples(
        st.just("bit"),
        st.integers(1, 6),
        st.sampled_from(["facts", "previous", "hash"]),
        st.integers(0, 2000),
    ),
)


def mutate(connection: sqlite3.Connection, kind: str, first: int, second: object, value: object) -> None:
    if kind == "update":
        connection.execute(f"UPDATE audit SET {second} = ? WHERE seq = ?", (value, first))
    elif kind == "delete":
        connection.execute(
            "DELETE FROM audit WHERE seq BETWEEN ? AND ?", (first, max(first, int(str(second))))
        )
    elif kind == "swap":
        for source, target in ((first, 900), (second, first), (900, second)):
            connection.execute("UPDATE audit SET seq = ? WHERE seq = ?", (target, source))
    elif kind == "copy":
        rest = ", ".join(COLUMNS[1:])
        connection.execute(f"INSERT INTO audit SELECT ?, {rest} FROM audit WHERE seq = ?", (second, first))
    else:
        row = connection.execute(
            f"SELECT CAST({second} AS BLOB) FROM audit WHERE seq = ?", (first,)
        ).fetchone()
        data = bytearray(row[0])
        place = int(str(value)) % (8 * len(data))
        data[place // 8] ^= 1 << place % 8
        kind_of = "TEXT" if second == "facts" else "BLOB"
        connection.execute(
            f"UPDATE audit SET {second} = CAST(? AS {kind_of}) WHERE seq = ?", (bytes(data), first)
        )


@pytest.fixture(scope="module")
def pristine() -> Iterator[Path]:
    """A log of six records, made once; each example changes a copy."""
    with tempfile.TemporaryDirectory(prefix="cp-") as name:
        asyncio.run(written(Path(name)))
        yield Path(name)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutation=mutations)
def test_any_single_mutation_is_found(pristine: Path, mutation: tuple[str, int, object, object]) -> None:
    with tempfile.TemporaryDirectory(prefix="cp-") as name:
        copy = Path(name)
        for file in (DATABASE, HEAD_NAME):
            shutil.copy(pristine / file, copy / file)
        with closing(sqlite3.connect(copy / DATABASE)) as connection:
            before = connection.execute("SELECT * FROM audit ORDER BY seq").fetchall()
            try:
                with connection:
                    mutate(connection, *mutation)
            except sqlite3.IntegrityError:
                return  # the database itself refused
            connection.text_factory = bytes
            after = connection.execute("SELECT * FROM audit ORDER BY seq").fetchall()
        plain = [tuple(v.encode() if isinstance(v, str) else v for v in row) for row in before]
        kinds = [tuple(map(type, row)) for row in before]
        with closing(sqlite3.connect(copy / DATABASE)) as connection:
            connection.text_factory = lambda data: data.decode("utf-8", "replace")
            same_kinds = kinds == [
                tuple(map(type, row)) for row in connection.execute("SELECT * FROM audit ORDER BY seq")
            ]
        found = asyncio.run(verify(copy, None)).problems
        assert bool(found) == (after != plain or not same_kinds)
