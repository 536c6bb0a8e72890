"""Words to a user without being asked: four fifths of a limit of model use are used up.

Told once for each limit and period to all open sockets of whom it concerns,
and to sockets that are opened later while it still holds. A restart of the
server forgets what was told; the next use tells it again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from pool.config import Quota
from pool.errors import PoolError
from server.config import Quotas, Team
from server.pool_settings import quota_book

_log = logging.getLogger(__name__)

_AGAIN_SECONDS = 30.0


class Books(Protocol):
    """What is used: ``server.usage.UsageBooks``."""

    @property
    def wall(self) -> Callable[[], float]:
        """Seconds since 1970."""

    async def quota_use(self, user_id: str, quota: Quota) -> dict[str, dict[str, Any]]:
        """How far a user's own limits are used."""

    async def team_use(self, team: Team) -> list[dict[str, Any]]:
        """How far a team's limits are used."""


class Notices:
    """What was told to whom. ``tell(user, frame)`` reaches the user's open sockets."""

    def __init__(
        self,
        quotas: Quotas,
        books: Books,
        tell: Callable[[str, bytes], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._quotas = quotas
        self._book = quota_book(quotas)
        self._books = books
        self._tell = tell
        self._monotonic = monotonic
        self._told: dict[str, dict[tuple[str, str | None, float], bytes]] = {}
        self._looked: dict[str, float] = {}
        self._waiting: set[str] = set()

    def of(self, user_id: str) -> list[bytes]:
        """Frames that still hold, for a socket that was just opened."""
        now = self._books.wall()
        told = self._told.get(user_id, {})
        for key in [key for key in told if key[2] <= now]:
            del told[key]
        return list(told.values())

    async def look(self, users: Iterable[str]) -> None:
        """``users`` have used a model; each is looked at twice a minute at most, later ones when it is time.

        Raises ``StoreUnavailable``.
        """
        self._waiting.update(users)
        now = self._monotonic()
        due = [
            user for user in self._waiting if now - self._looked.get(user, -_AGAIN_SECONDS) >= _AGAIN_SECONDS
        ]
        for user in due:
            self._waiting.discard(user)
            self._looked[user] = now
            await self._look_at(user)
        if len(self._looked) > 10_000:
            self._looked = {user: at for user, at in self._looked.items() if now - at < _AGAIN_SECONDS}

    async def _look_at(self, user: str) -> None:
        quota = self._book.for_user(user)
        if not (quota.tokens_per_day is quota.usd_per_day is quota.usd_per_month is None):
            for name, use in (await self._books.quota_use(user, quota)).items():
                if use.get("warning"):
                    self._note([user], {"quota": name, "limit": getattr(quota, name), **use})
        for name, team in self._quotas.teams.items():
            if user not in team.members:
                continue
            for use in await self._books.team_use(team):
                if use["warning"]:
                    details = {"quota": use["name"], "team": name, **use}
                    self._note(team.members, {key: value for key, value in details.items() if key != "name"})

    def _note(self, users: Iterable[str], details: dict[str, Any]) -> None:
        key = (details["quota"], details.get("team"), details["resets_at"])
        frame = msgspec.json.encode(_frame(details))
        for user in users:
            told = self._told.setdefault(user, {})
            if key not in told:
                told[key] = frame
                self._tell(user, frame)


def _frame(details: dict[str, Any]) -> dict[str, Any]:
    details = {name: value for name, value in details.items() if name != "warning"}
    share = 100 * details["used"] / details["limit"] if details["limit"] else 100
    whose = f" of the team {details['team']}" if details.get("team") else ""
    until = datetime.fromtimestamp(details["resets_at"], UTC).strftime("%Y-%m-%d %H:%M UTC")
    message = f"{min(share, 100):.0f} % of {details['quota']}{whose} are used; it begins anew at {until}"
    return {"type": "notice", "code": "quota_warning", "message": message, "details": details}


async def look_again(notices: Notices, users: Iterable[str]) -> None:
    """The same, where a database that is away is no reason to stop."""
    try:
        await notices.look(users)
    except PoolError:
        _log.exception("who is near a limit could not be looked up")
