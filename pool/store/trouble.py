"""What a database's error means: passing, here to stay, or the caller's own."""

from __future__ import annotations

import sqlite3
from enum import Enum

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from pool.errors import StoreUnavailable

_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})


class Trouble(Enum):
    """``PASSING`` may be gone at the next attempt; ``HERE`` will not be."""

    PASSING = "passing"
    HERE = "here"


def is_trouble(error: BaseException) -> bool:
    """Is it the database's trouble, and not a violated constraint or a bad value?"""
    return isinstance(error, DBAPIError) and not isinstance(
        error, IntegrityError | DataError | ProgrammingError
    )


def trouble_of(error: SQLAlchemyError) -> Trouble:
    """Sort an error: a lock and a lost server pass, a full disk and a broken file stay."""
    if not isinstance(error, DBAPIError):
        return Trouble.PASSING if isinstance(error, PoolTimeout) else Trouble.HERE
    if isinstance(error.orig, sqlite3.Error):
        return Trouble.PASSING if _primary_code(error.orig) in _LOCKED else Trouble.HERE
    return Trouble.PASSING if is_trouble(error) else Trouble.HERE


def refusal(error: SQLAlchemyError) -> StoreUnavailable:
    """The error that callers get; says what to do and nothing of the database's address."""
    original = error.orig if isinstance(error, DBAPIError) else None
    code = _primary_code(original) if isinstance(original, sqlite3.Error) else 0
    if code in _LOCKED:
        message = "the database is locked by another process; end that process or come back later"
    elif code in _FULL:
        message = "the database cannot be written: the disk is full or broken; make room on it"
    else:
        message = "the database cannot be used now; see the server's log"
    typed = StoreUnavailable(
        message, retry_after_seconds=5, details={"error": type(original or error).__name__}
    )
    typed.__cause__ = error
    return typed


def _primary_code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
