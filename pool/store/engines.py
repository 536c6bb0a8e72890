"""From a storage URL to the two engines: one that writes and one that reads."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from pool.errors import BadRequest

DATABASE_NAME = "claude-pool.db"

READERS = 4
"""How many read at once, each with a connection."""

_DRIVERS = {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+psycopg"}
# A server that has vanished from the network is noticed within half a minute, not after hours.
_PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}


@dataclass(frozen=True, slots=True)
class Location:
    """Where the database is. ``file`` is None for a server."""

    url: URL
    file: Path | None


def locate(url: str | None, data_dir: Path) -> Location:
    """Read a storage URL; None is SQLite in ``data_dir``. Raises ``BadRequest``.

    The message never repeats the URL: it may hold a password.
    """
    if url is None:
        parsed = URL.create("sqlite", database=str(data_dir / DATABASE_NAME))
    else:
        try:
            parsed = make_url(url)
        except ArgumentError:
            raise BadRequest("storage.url is not a database URL") from None
    kind = parsed.get_backend_name()
    if kind not in _DRIVERS:
        raise BadRequest("storage.url must begin with sqlite+aiosqlite:/// or postgresql+psycopg://")
    file = _sqlite_file(parsed) if kind == "sqlite" else None
    return Location(parsed.set(drivername=_DRIVERS[kind]), file)


def _sqlite_file(url: URL) -> Path:
    name = url.database
    # The writer and the readers are connections of their own: each would get its own empty memory.
    if not name or name == ":memory:" or name.startswith("file:"):
        raise BadRequest("storage.url must name a file for SQLite; a database in memory cannot be shared")
    return Path(name)


class _Connection(sqlite3.Connection):
    """One whose text may be spoilt: by itself, one bad byte would fail the reading of all rows."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.text_factory = lambda raw: raw.decode("utf-8", "replace")


def create_private_file(file: Path) -> None:
    """Make ``file`` if it is missing and readable by its owner only, whatever the umask.

    SQLite gives its journal files the mode of the database.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def server_options(url: URL, *settings: str) -> dict[str, str]:
    """Arguments of a connection to PostgreSQL: ``settings`` (``name=value``) beside those of the URL."""
    given = url.query.get("options", ())
    words = [given] if isinstance(given, str) else list(given)
    return {"options": " ".join([*words, *(f"-c {setting}" for setting in settings)])}


def writing_engine(location: Location, busy_timeout_seconds: float, *settings: str) -> sa.Engine:
    """The engine of the one writer; on SQLite each transaction takes the write lock at its begin.

    ``settings`` are PostgreSQL's, for these connections.
    """
    if location.file is None:
        return sa.create_engine(
            location.url,
            pool_size=1,
            max_overflow=0,
            hide_parameters=True,
            connect_args=_patience(location.url)
            | (server_options(location.url, *settings) if settings else {}),
        )
    engine = sa.create_engine(
        location.url,
        pool_size=1,
        max_overflow=0,
        # An error's text goes to the log; what users wrote must not.
        hide_parameters=True,
        # None: the driver begins nothing by itself, so that the event below decides how.
        connect_args={"isolation_level": None, "check_same_thread": False, "factory": _Connection},
    )
    _set_pragmas(
        engine,
        f"PRAGMA busy_timeout={int(busy_timeout_seconds * 1000)}",
        "PRAGMA journal_mode=WAL",
        "PRAGMA synchronous=NORMAL",
        "PRAGMA foreign_keys=ON",
    )

    # A deferred transaction that writes later fails at once when another writes, in spite of busy_timeout.
    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def reading_engine(location: Location, busy_timeout_seconds: float) -> sa.Engine:
    """The engine of all reads: one statement is one snapshot, and it cannot write."""
    is_file = location.file is not None
    of_files = {"factory": _Connection, "check_same_thread": False}
    engine = sa.create_engine(
        location.url,
        pool_size=READERS,
        max_overflow=0,
        hide_parameters=True,
        isolation_level="AUTOCOMMIT",
        # A server that was restarted has closed what lies in the pool; a file never does.
        pool_pre_ping=not is_file,
        connect_args=of_files if is_file else _patience(location.url),
    )
    if is_file:
        _set_pragmas(
            engine,
            f"PRAGMA busy_timeout={int(busy_timeout_seconds * 1000)}",
            "PRAGMA query_only=ON",
        )
    return engine


def _patience(url: URL) -> dict[str, Any]:
    """What of ours the URL does not say otherwise."""
    return {name: value for name, value in _PATIENCE.items() if name not in url.query}


def _set_pragmas(engine: sa.Engine, *pragmas: str) -> None:
    @sa.event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        try:
            for pragma in pragmas:
                cursor.execute(pragma)
        finally:
            cursor.close()
