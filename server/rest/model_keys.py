"""The caller's own model keys over REST: put, list by provider, delete; never read back."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from pydantic import BaseModel, Field

from server.auth.identity import identity_of
from server.routes import Answer, Route, Schema, body_of, json_response
from server.services import services_of


class ModelKeyState(BaseModel):
    """One provider that takes own keys."""

    provider: str
    has_key: bool


class ModelKeys(BaseModel):
    """The providers that take own keys."""

    model_keys: list[ModelKeyState]


class NewModelKey(Schema):
    """A key of the caller's own, sent to the provider as ``x-api-key``."""

    api_key: Annotated[str, Field(min_length=1, max_length=1024)]


async def list_model_keys(request: web.Request) -> web.Response:
    """``GET /api/v1/me/model-keys``"""
    found = await services_of(request).own_keys.of(identity_of(request).user_id)
    rows = [{"provider": provider, "has_key": has_key} for provider, has_key in found.items()]
    return json_response({"model_keys": rows})


async def put_model_key(request: web.Request) -> web.Response:
    """``PUT /api/v1/me/model-keys/{provider}``"""
    body = await body_of(request, NewModelKey)
    keys, user_id = services_of(request).own_keys, identity_of(request).user_id
    provider = request.match_info["provider"]
    await services_of(request).pool.audit.tell("model_key.put", user_id=user_id, provider=provider[:64])
    await keys.put(user_id, provider, body.api_key)
    return web.Response(status=204)


async def delete_model_key(request: web.Request) -> web.Response:
    """``DELETE /api/v1/me/model-keys/{provider}``"""
    keys, user_id = services_of(request).own_keys, identity_of(request).user_id
    provider = request.match_info["provider"]
    await services_of(request).pool.audit.tell("model_key.removed", user_id=user_id, provider=provider[:64])
    await keys.remove(user_id, provider)
    return web.Response(status=204)


ROUTES = [
    Route(
        method="GET",
        path="/api/v1/me/model-keys",
        handler=list_model_keys,
        summary="The providers that take own keys, and whether the caller has brought one.",
        answers={200: Answer(description="The providers.", schema=ModelKeys)},
    ),
    Route(
        method="PUT",
        path="/api/v1/me/model-keys/{provider}",
        handler=put_model_key,
        summary="Bring an own key for a provider; calls use it from now on.",
        body=NewModelKey,
        answers={204: Answer(description="Kept.")},
        errors=("conflict",),
    ),
    Route(
        method="DELETE",
        path="/api/v1/me/model-keys/{provider}",
        handler=delete_model_key,
        summary="Take the own key back.",
        answers={204: Answer(description="Gone.")},
        errors=("conflict",),
    ),
]
