"""What model calls used, as the gateway's journal told: kept for good, asked by user, session, model and day.

Days are UTC, counted from 1970; money is US dollars.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from pool.errors import BadRequest
from pool.store.database import Database
from pool.store.tables import sessions, turns, usage, usage_files

_DAY_SECONDS = 86400
_TURNS = 100

_GROUPS: Mapping[str, tuple[sa.Column[Any], ...]] = {
    "user": (usage.c.user_id,),
    "session": (usage.c.user_id, usage.c.session_id),
    "model": (usage.c.model,),
    "provider": (usage.c.provider,),
    "day": (usage.c.day,),
}
_SUMS = (
    sa.func.count().label("calls"),
    *(
        sa.func.sum(usage.c[name]).label(name)
        for name in ("input_tokens", "output_tokens", "cache_write_tokens", "cache_read_tokens", "usd")
    ),
    sa.func.sum(sa.case((usage.c.priced, 0), else_=1)).label("unpriced_calls"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """One model call. ``at`` is its end in seconds since 1970, ``seconds`` how long it took.

    ``priced`` False: no price is known, ``usd`` is 0. ``complete`` False: the
    answer was cut, the figures are those told until then.
    """

    at: float
    seconds: float
    user_id: str
    session_id: str
    instance_id: str
    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    cache_write_tokens: int
    cache_read_tokens: int
    usd: float
    priced: bool
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageFigures:
    """Sums over calls; ``unpriced_calls`` are those whose price is not known."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_write_tokens: int = 0
    cache_read_tokens: int = 0
    usd: float = 0.0
    unpriced_calls: int = 0

    @property
    def tokens(self) -> int:
        """All sorts together: what token budgets count."""
        return self.input_tokens + self.output_tokens + self.cache_write_tokens + self.cache_read_tokens

    def __add__(self, other: UsageFigures) -> UsageFigures:
        mine, its = asdict(self), asdict(other)
        return UsageFigures(**{name: mine[name] + its[name] for name in mine})


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnSpan:
    """When a turn of a session was there, and on which instance it ran."""

    turn_id: str
    instance_id: str
    created_at: float
    ended_at: float | None


class Usage:
    """Keeps usage in an open ``Database``; has nothing to close.

    Every method raises ``StoreUnavailable`` when the database does not work.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read_to(self) -> dict[str, int]:
        """How far each file of the journal has been taken in, in bytes."""
        rows = await self._database.fetch(sa.select(usage_files))
        return {str(row["name"]): int(row["read_to"]) for row in rows}

    async def take_in(self, file: str, start: int, end: int, records: Sequence[UsageRecord]) -> bool:
        """Store what stands in bytes ``start`` to ``end`` of a file, and that it was, in one commit.

        False, and nothing is stored, when the file is not read up to exactly
        ``start``: somebody else was here.
        """
        rows = [{**asdict(record), "day": int(record.at // _DAY_SECONDS)} for record in records]

        def take_in(connection: sa.Connection) -> bool:
            is_file = usage_files.c.name == file
            held = connection.execute(sa.select(usage_files.c.read_to).where(is_file)).scalar()
            if int(held or 0) != start:
                return False
            if held is None:
                connection.execute(sa.insert(usage_files), {"name": file, "read_to": end})
            else:
                connection.execute(sa.update(usage_files).where(is_file).values(read_to=end))
            if rows:
                connection.execute(sa.insert(usage), rows)
            return True

        return await self._database.submit(take_in)

    async def forget_file(self, file: str) -> None:
        """The file is gone for good; its name will not come again."""
        statement = sa.delete(usage_files).where(usage_files.c.name == file)
        await self._database.submit(lambda connection: connection.execute(statement).rowcount)

    async def figures(self, user_id: str, first_day: int, last_day: int) -> UsageFigures:
        """What a user used from the first to the last day, both included."""
        statement = sa.select(*_SUMS).where(
            usage.c.user_id == user_id, usage.c.day >= first_day, usage.c.day <= last_day
        )
        row = await self._database.fetch_one(statement)
        return UsageFigures() if row is None else _figures(row)

    async def grouped(
        self,
        group: str,
        first_day: int,
        last_day: int,
        *,
        user_id: str | None = None,
        session_id: str | None = None,
        limit: int = 10_000,
    ) -> list[tuple[str, UsageFigures]]:
        """Sums by ``user``, ``session`` (``user:session``), ``model``, ``provider`` or ``day`` (its number).

        Days in order, everything else with the dearest first. Raises ``BadRequest`` for another group.
        """
        columns = _GROUPS.get(group)
        if columns is None:
            raise BadRequest(f"group must be one of {', '.join(_GROUPS)}")
        tokens = sa.func.sum(
            usage.c.input_tokens
            + usage.c.output_tokens
            + usage.c.cache_write_tokens
            + usage.c.cache_read_tokens
        )
        order = columns if group == "day" else (sa.func.sum(usage.c.usd).desc(), tokens.desc(), *columns)
        statement = sa.select(*columns, *_SUMS).where(usage.c.day >= first_day, usage.c.day <= last_day)
        if user_id is not None:
            statement = statement.where(usage.c.user_id == user_id)
        if session_id is not None:
            statement = statement.where(usage.c.session_id == session_id)
        rows = await self._database.fetch(statement.group_by(*columns).order_by(*order).limit(limit))
        return [(":".join(str(row[column.name]) for column in columns), _figures(row)) for row in rows]

    async def by_turn(
        self, user_id: str, session_id: str, limit: int = _TURNS
    ) -> list[tuple[str | None, UsageFigures]]:
        """Sums of the session's last turns, oldest first; None gathers calls between turns, the last item."""
        spans = await self._last_turns(user_id, session_id, limit)
        if not spans:
            return []
        started = usage.c.at - usage.c.seconds
        statement = (
            sa.select(usage)
            .where(usage.c.user_id == user_id, usage.c.session_id == session_id)
            .where(usage.c.at >= spans[0].created_at)
            .order_by(started)
        )
        calls = [(row, row["at"] - row["seconds"]) for row in await self._database.fetch(statement)]
        sums: dict[str | None, UsageFigures] = {span.turn_id: UsageFigures() for span in spans}
        owners = turns_of_calls(spans, [(str(row["instance_id"]), start) for row, start in calls])
        for (row, _start), turn_id in zip(calls, owners, strict=True):
            one = _figures({**row, "calls": 1, "unpriced_calls": 0 if row["priced"] else 1})
            sums[turn_id] = sums.get(turn_id, UsageFigures()) + one
        return list(sums.items())

    async def _last_turns(self, user_id: str, session_id: str, limit: int) -> list[TurnSpan]:
        statement = (
            sa.select(turns.c.turn_id, turns.c.instance_id, turns.c.created_at, turns.c.ended_at)
            .join(sessions, sessions.c.id == turns.c.session)
            .where(sessions.c.user_id == user_id, sessions.c.session_id == session_id)
            .where(turns.c.instance_id.is_not(None))
            .order_by(turns.c.number.desc())
            .limit(limit)
        )
        return [TurnSpan(**row) for row in reversed(await self._database.fetch(statement))]


def turns_of_calls(spans: Sequence[TurnSpan], calls: Sequence[tuple[str, float]]) -> list[str | None]:
    """To which turn each call (its instance, its start) belongs; both in the order of time.

    A session runs one turn at a time, so it is the first that has not ended
    before the call began, if that one ran on the call's instance.
    """
    owners: list[str | None] = []
    place = 0
    for instance_id, start in calls:
        while place < len(spans) and (ended_at := spans[place].ended_at) is not None and ended_at < start:
            place += 1
        span = spans[place] if place < len(spans) else None
        is_its = span is not None and span.instance_id == instance_id and span.created_at <= start
        owners.append(span.turn_id if span is not None and is_its else None)
    return owners


def _figures(row: sa.RowMapping | dict[str, Any]) -> UsageFigures:
    return UsageFigures(
        calls=int(row["calls"]),
        input_tokens=int(row["input_tokens"] or 0),
        output_tokens=int(row["output_tokens"] or 0),
        cache_write_tokens=int(row["cache_write_tokens"] or 0),
        cache_read_tokens=int(row["cache_read_tokens"] or 0),
        usd=float(row["usd"] or 0),
        unpriced_calls=int(row["unpriced_calls"] or 0),
    )
