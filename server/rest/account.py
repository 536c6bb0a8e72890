"""The caller over REST: who they are, what they may use, which instances are theirs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from aiohttp import web

from pool import InstanceInfo
from server.auth.identity import Identity, identity_of
from server.objects import instance_object
from server.pool_settings import quota_book
from server.rest import schemas
from server.routes import Answer, Route, json_response
from server.services import Services, services_of


async def who_am_i(request: web.Request) -> web.Response:
    """``GET /api/v1/me``"""
    return json_response(await me_object(services_of(request), identity_of(request)))


async def me_object(services: Services, identity: Identity) -> dict[str, Any]:
    """The caller as JSON."""
    instances = services.pool.instances(identity.user_id)
    return {
        "user_id": identity.user_id,
        "roles": sorted(identity.roles),
        "scopes": sorted(identity.scopes),
        "multi_user": services.config.multi_user,
        "quotas": await _quotas(services, identity.user_id, instances),
        "teams": await _teams(services, identity.user_id),
        "permission_modes": services.config.security.permission_modes,
    }


async def _quotas(services: Services, user_id: str, instances: list[InstanceInfo]) -> dict[str, Any]:
    quota = quota_book(services.config.quotas).for_user(user_id)
    used = {
        "max_instances": len(instances),
        "memory_bytes": sum(info.rss_bytes for info in instances),
    }
    quotas: dict[str, Any] = {
        key: {"limit": limit, "used": used.get(key)} for key, limit in asdict(quota).items()
    }
    await services.usage.take_in()
    for name, use in (await services.usage.quota_use(user_id, quota)).items():
        quotas[name] |= use
    return quotas


async def _teams(services: Services, user_id: str) -> list[dict[str, Any]]:
    """The caller's teams and what is used of their limits; not by whom."""
    return [
        {"name": name, "limits": await services.usage.team_use(team)}
        for name, team in services.config.quotas.teams.items()
        if user_id in team.members
    ]


async def list_own_instances(request: web.Request) -> web.Response:
    """``GET /api/v1/instances``"""
    infos = services_of(request).pool.instances(identity_of(request).user_id)
    return json_response({"instances": [instance_object(info) for info in infos]})


ROUTES = [
    Route(
        method="GET",
        path="/api/v1/me",
        handler=who_am_i,
        summary="The caller: name, roles, quotas with what is used.",
        answers={200: Answer(description="The caller.", schema=schemas.Me)},
    ),
    Route(
        method="GET",
        path="/api/v1/instances",
        handler=list_own_instances,
        summary="The caller's live instances.",
        answers={200: Answer(description="Live instances.", schema=schemas.Instances)},
    ),
]
