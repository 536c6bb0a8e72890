"""Everything that the routes work with, made once by ``server.app`` and passed to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from server.auth.addresses import TrustedProxies
from server.auth.live import LiveConnections
from server.auth.sign_in import SignIn
from server.auth.users import Users
from server.config import ServerConfig
from server.counts import Counts
from server.door import Pool
from server.notices import Notices
from server.own_keys import OwnModelKeys
from server.team_use import TeamUse
from server.usage import UsageBooks


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The parts of a running server.

    ``model`` says which model answers, without secrets: ``{"provider",
    "kind", "demo"}``, with several machines of each in ``hosts``; ``model_of`` which one answers a user.
    ``notes`` are further checks of ``/health``; ``replica``
    says which of several servers this is, None for the only one.
    """

    config: ServerConfig
    pool: Pool
    sign_in: SignIn
    users: Users
    live: LiveConnections
    proxies: TrustedProxies
    model: Callable[[], dict[str, Any]]
    model_of: Callable[[str], dict[str, Any]]
    version: str
    usage: UsageBooks
    own_keys: OwnModelKeys
    notices: Notices
    team_use: TeamUse | None = None
    viewer_budget_bytes: int = 262144
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)
    replica: Mapping[str, Any] | None = None
    counts: Counts = field(default_factory=Counts)

    async def tell_team_use(self) -> None:
        """See ``TeamUse``; nothing to tell with one machine."""
        if self.team_use is not None:
            await self.team_use.tell()


SERVICES: web.AppKey[Services] = web.AppKey("services", Services)


def services_of(request: web.Request) -> Services:
    """The services of the application that the request came to."""
    return request.app[SERVICES]
