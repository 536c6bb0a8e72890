"""Tells each machine's gateway what teams have used on the others: their limits hold for all together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from pool import UsageFigures
from server.config import Team
from server.gateway.budgets import RateLimits
from server.gateway.spending import day_of, month_of, month_start
from server.many_gateways import ManyGateways
from server.usage import UsageBooks


class TeamUse:
    """Of the teams that have a limit of a day or a month."""

    def __init__(self, teams: Mapping[str, Team], books: UsageBooks, gateways: ManyGateways) -> None:
        self._teams = {
            name: team
            for name, team in teams.items()
            if RateLimits.model_validate(team.model_dump(exclude={"members"})).has_budget
        }
        self._books = books
        self._gateways = gateways
        self._told: dict[str, Any] = {}

    async def tell(self) -> None:
        """Tell the hosts for whom something has changed; one that cannot be reached is told later.

        Raises ``StoreUnavailable``.
        """
        if not self._teams:
            return
        now = self._books.wall()
        today = day_of(now)
        day = dict(await self._books.store.grouped("user", today, today))
        month = dict(await self._books.store.grouped("user", day_of(month_start(now)), today))
        for host in self._gateways.hosts:
            teams = {
                name: {
                    "day": today,
                    "month": month_of(now),
                    "tokens_today": sum(day[one].tokens for one in self._elsewhere(team, host, day)),
                    "usd_today": sum(day[one].usd for one in self._elsewhere(team, host, day)),
                    "usd_this_month": sum(month[one].usd for one in self._elsewhere(team, host, month)),
                }
                for name, team in self._teams.items()
            }
            if self._told.get(host) != teams and await asyncio.to_thread(
                self._gateways.put_team_use_on, host, teams
            ):
                self._told[host] = teams

    def _elsewhere(self, team: Team, host: str, used: Mapping[str, UsageFigures]) -> list[str]:
        """Members who used something and live on another host."""
        members = dict.fromkeys(team.members)
        return [one for one in members if one in used and self._gateways.home_of(one) not in (None, host)]
