"""The users' limits on model calls: their file, and what they decide.

``<data>/gateway/budgets.json`` is written by the server from its quotas
whenever it starts; without the file there are no limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.gateway.private_file import PrivateFileError, read_private_json, write_private_json
from server.gateway.settings import GatewayConfigError
from server.gateway.spending import Spent, next_day, next_month

WARNING_SHARE = 0.8

_Whole = Annotated[int, Field(ge=0)]
_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class RateLimits(BaseModel):
    """What users and teams have alike; None: no limit. Rates are of any minute."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens_per_day: _Whole | None = None
    usd_per_day: _Amount | None = None
    usd_per_month: _Amount | None = None
    model_calls_per_minute: _Whole | None = None
    model_tokens_per_minute: _Whole | None = None

    def without_money(self) -> Self:
        """The limits of calls that somebody else pays for."""
        return self.model_copy(update={"usd_per_day": None, "usd_per_month": None})

    def rates(self) -> tuple[tuple[str, int | None], tuple[str, int | None]]:
        """(name, limit) of the rates: calls, then tokens."""
        return (
            ("model_calls_per_minute", self.model_calls_per_minute),
            ("model_tokens_per_minute", self.model_tokens_per_minute),
        )

    @property
    def has_budget(self) -> bool:
        """Is there a limit of a day or month?"""
        return any(limit is not None for limit in (self.tokens_per_day, self.usd_per_day, self.usd_per_month))


class Limits(RateLimits):
    """The limits of one user; ``models`` are names or patterns, as ``claude-haiku-*``."""

    models: tuple[str, ...] | None = None


class TeamLimits(RateLimits):
    """The limits of all ``members`` together, beside those that each has alone."""

    members: tuple[str, ...] = ()


class BudgetBook(BaseModel):
    """Who has which limits: a user's own, else the default; and those of every team the user is in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    default: Limits = Limits()
    users: dict[str, Limits] = Field(default_factory=dict)
    teams: dict[str, TeamLimits] = Field(default_factory=dict)

    def teams_of(self, user: str) -> list[tuple[str, TeamLimits]]:
        """The teams that ``user`` is in."""
        return self._teams_by_user.get(user, [])

    @cached_property
    def _teams_by_user(self) -> dict[str, list[tuple[str, TeamLimits]]]:
        found: dict[str, list[tuple[str, TeamLimits]]] = {}
        for name, team in self.teams.items():
            for user in dict.fromkeys(team.members):
                found.setdefault(user, []).append((name, team))
        return found

    def for_user(self, user: str) -> Limits:
        """The limits in force for ``user``."""
        return self.users.get(user, self.default)


LIMITS = tuple(Limits.model_fields)
"""The names of the limits, as the quotas of the server have them."""


@dataclass(frozen=True, slots=True)
class Use:
    """How far one limit is used; ``resets_at`` in seconds since 1970; ``team`` None: the user's own limit."""

    name: str
    limit: float
    used: float
    resets_at: float
    team: str | None = None

    @property
    def is_reached(self) -> bool:
        """Is nothing left?"""
        return self.used >= self.limit

    @property
    def is_near(self) -> bool:
        """Is four fifths of it used?"""
        return self.used >= WARNING_SHARE * self.limit

    def __str__(self) -> str:
        until = datetime.fromtimestamp(self.resets_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
        name = f"{self.name} of the team {self.team}" if self.team else self.name
        return f"{name}: {_amount(self.used)} of {_amount(self.limit)} used, resets at {until}"


def uses_of(limits: RateLimits, spent: Spent, now: float, team: str | None = None) -> list[Use]:
    """Every limit that is set, with what is used of it at ``now``."""
    rows: tuple[tuple[str, float | None, float, float], ...] = (
        ("tokens_per_day", limits.tokens_per_day, spent.tokens_today, next_day(now)),
        ("usd_per_day", limits.usd_per_day, spent.usd_today, next_day(now)),
        ("usd_per_month", limits.usd_per_month, spent.usd_this_month, next_month(now)),
    )
    return [Use(name, limit, used, resets, team) for name, limit, used, resets in rows if limit is not None]


def is_allowed(model: str, patterns: tuple[str, ...] | None) -> bool:
    """Is ``model`` one of ``patterns``? None or nothing: all are."""
    return not patterns or any(fnmatchcase(model, pattern) for pattern in patterns)


def budgets_path(data_dir: Path) -> Path:
    """Where the limits lie."""
    return data_dir / "gateway" / "budgets.json"


def write_budgets(
    data_dir: Path,
    default: Mapping[str, Any],
    users: Mapping[str, Mapping[str, Any]],
    teams: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Replace the limits; a running gateway takes them up with its next call.

    Each map of a user has keys of ``LIMITS`` and may have others, which are
    left out; that of a team is a ``TeamLimits``. Raises ``GatewayConfigError``
    or ``OSError``.
    """
    book = {
        "default": _own_keys(default),
        "users": {name: _own_keys(keys) for name, keys in users.items()},
        "teams": {name: dict(keys) for name, keys in (teams or {}).items()},
    }
    write_private_json(budgets_path(data_dir), _validated(book).model_dump(mode="json", exclude_none=True))


def read_budgets(data_dir: Path) -> BudgetBook:
    """The limits; a missing file sets none. Raises ``GatewayConfigError``."""
    path = budgets_path(data_dir)
    try:
        raw = read_private_json(path)
    except PrivateFileError as error:
        raise GatewayConfigError(str(error)) from error
    return BudgetBook() if raw is None else _validated(raw)


def _own_keys(keys: Mapping[str, Any]) -> dict[str, Any]:
    return {name: keys[name] for name in LIMITS if keys.get(name) is not None}


def _validated(raw: object) -> BudgetBook:
    try:
        return BudgetBook.model_validate(raw)
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise GatewayConfigError("the limits of the users: " + "; ".join(wrong)) from None


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4f}".rstrip("0")
