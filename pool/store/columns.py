"""The columns of one row, each as the kind of value that it must be.

A database lives longer than the programs that write it, and is mended by
hand. One value that cannot be read must cost its own row, not the reading of
all rows: it is replaced by something harmless, and its name is kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection
from enum import Enum
from typing import Any, TypeVar

import sqlalchemy as sa

from pool.model import Cursor

_Member = TypeVar("_Member", bound=Enum)
_Value = TypeVar("_Value")
Object = dict[str, Any]


class Columns:
    """Reads one row. ``spoilt`` are the names of what could not be read, never its content."""

    def __init__(self, row: sa.RowMapping) -> None:
        self._row = row
        self._spoilt: list[str] = []

    @property
    def spoilt(self) -> tuple[str, ...]:
        """What had to be replaced so far."""
        return tuple(self._spoilt)

    def text(self, name: str, otherwise: str = "") -> str:
        """A text."""
        value = self._row[name]
        return value if isinstance(value, str) else self._replace(name, otherwise)

    def text_or_none(self, name: str) -> str | None:
        """A text, or nothing."""
        return None if self._row[name] is None else self._kind(name, self._row[name], str, None)

    def one_of(self, name: str, known: Collection[str], otherwise: str) -> str:
        """One of the texts that are known."""
        value = self._row[name]
        return value if isinstance(value, str) and value in known else self._replace(name, otherwise)

    def member(self, name: str, kind: type[_Member], otherwise: _Member) -> _Member:
        """A member of an enum, which is stored by its value."""
        try:
            return kind(self._row[name])
        except ValueError:
            return self._replace(name, otherwise)

    def number(self, name: str, otherwise: int = 0) -> int:
        """A whole number that is not negative."""
        value = self._row[name]
        return value if isinstance(value, int) and value >= 0 else self._replace(name, otherwise)

    def number_or_none(self, name: str) -> int | None:
        """A whole number, or nothing."""
        return None if self._row[name] is None else self._kind(name, self._row[name], int, None)

    def time(self, name: str) -> float:
        """Seconds; 0 for what is none."""
        value = self._time(name)
        return 0.0 if value is None else value

    def time_or_none(self, name: str) -> float | None:
        """Seconds, or nothing."""
        return None if self._row[name] is None else self._time(name)

    def data_or_none(self, name: str) -> bytes | None:
        """Bytes, or nothing."""
        return None if self._row[name] is None else self._kind(name, self._row[name], bytes, None)

    def cursor(self, name: str) -> Cursor:
        """Three columns; the beginning if one of them is no number."""
        parts = [self._row[f"{name}_{part}"] for part in ("ordinal", "offset", "k")]
        if all(isinstance(part, int) and part >= 0 for part in parts):
            return Cursor(*parts)
        return self._replace(name, Cursor(0, 0, 0))

    def json(self, name: str, is_one: Callable[[Object], bool] = lambda _found: True) -> Object:
        """A JSON object that ``is_one``; an empty one for anything else."""
        found = self.json_or_none(name, is_one)
        return {} if found is None else found

    def json_or_none(
        self, name: str, is_one: Callable[[Object], bool] = lambda _found: True
    ) -> Object | None:
        """A JSON object that ``is_one``, or nothing."""
        value = self._row[name]
        if value is None:
            return None
        try:
            found = json.loads(value)
        except (ValueError, TypeError, RecursionError):
            return self._replace(name, None)
        return found if isinstance(found, dict) and is_one(found) else self._replace(name, None)

    def _time(self, name: str) -> float | None:
        value = self._row[name]
        is_time = isinstance(value, float | int) and math.isfinite(value)
        return value if is_time else self._replace(name, None)

    def _kind(self, name: str, value: object, kind: type[_Value], otherwise: Any) -> Any:
        return value if isinstance(value, kind) else self._replace(name, otherwise)

    def _replace(self, name: str, otherwise: _Value) -> _Value:
        self._spoilt.append(name)
        return otherwise
