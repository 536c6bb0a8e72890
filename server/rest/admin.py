"""What only administrators may ask: all instances, all accounts, drain."""

from __future__ import annotations

from aiohttp import web

from pool.errors import BadRequest, NotFound
from server.auth.identity import identity_of
from server.auth.sign_in import LINK_SECONDS
from server.auth.users import user_object
from server.objects import instance_object
from server.rest import schemas
from server.routes import Access, Answer, Route, body_of, json_response, query_of
from server.services import services_of


async def list_instances(request: web.Request) -> web.Response:
    """``GET /api/v1/admin/instances``"""
    infos = services_of(request).pool.instances()
    return json_response({"instances": [instance_object(info) | {"host": info.host} for info in infos]})


async def stop_instance(request: web.Request) -> web.Response:
    """``POST /api/v1/admin/instances/{id}/stop``"""
    await body_of(request, schemas.Nothing)
    pool, instance_id = services_of(request).pool, request.match_info["id"]
    owner = next((info.user_id for info in pool.instances() if info.id == instance_id), None)
    if owner is None:
        raise NotFound("there is no live instance of this id")
    await pool.audit.tell("admin.instance_stopped", user_id=owner, instance=instance_id)
    if not await pool.stop_instance(instance_id):
        raise NotFound("there is no live instance of this id")
    return json_response({"stopped": True})


async def list_users(request: web.Request) -> web.Response:
    """``GET /api/v1/admin/users``"""
    accounts = await services_of(request).users.everyone()
    return json_response({"users": [user_object(account) for account in accounts]})


async def create_user(request: web.Request) -> web.Response:
    """``POST /api/v1/admin/users``"""
    body = await body_of(request, schemas.NewUser)
    account = await services_of(request).users.add(body.user_id, password=body.password, admin=body.admin)
    return json_response(user_object(account), status=201)


async def update_user(request: web.Request) -> web.Response:
    """``PATCH /api/v1/admin/users/{user_id}``"""
    body = await body_of(request, schemas.UserChanges)
    services, user_id = services_of(request), request.match_info["user_id"]
    own = user_id == identity_of(request).user_id
    if own and (body.disabled or body.admin is False):
        raise BadRequest("an administrator cannot lock themselves out; let another one do it")
    await services.sign_in.account(user_id)
    if body.password is not None:
        await services.users.set_password(user_id, body.password)
    if body.admin is not None:
        await services.users.set_admin(user_id, body.admin)
    if body.disabled is not None:
        await services.users.set_disabled(user_id, body.disabled)
    return json_response(user_object(await services.sign_in.account(user_id)))


async def delete_user(request: web.Request) -> web.Response:
    """``DELETE /api/v1/admin/users/{user_id}``"""
    query = query_of(request, schemas.UserQuery)
    services, user_id = services_of(request), request.match_info["user_id"]
    if user_id == identity_of(request).user_id:
        raise BadRequest("an administrator cannot delete themselves; let another one do it")
    await services.users.delete(user_id, keep_workspace=query.keep_workspace)
    return web.Response(status=204)


async def create_link(request: web.Request) -> web.Response:
    """``POST /api/v1/admin/users/{user_id}/link``"""
    await body_of(request, schemas.Nothing)
    services = services_of(request)
    code = await services.sign_in.make_link(request.match_info["user_id"])
    scheme = "https" if services.proxies.is_https(request) else "http"
    host = request.headers.get("Host", "")
    url = f"{scheme}://{host}{services.config.server.base_path}/#signin={code}"
    return json_response({"url": url, "expires_in": int(LINK_SECONDS)}, status=201)


async def start_drain(request: web.Request) -> web.Response:
    """``POST /api/v1/admin/drain``"""
    await body_of(request, schemas.Nothing)
    pool = services_of(request).pool
    await pool.audit.tell("server.drain")
    pool.drain()
    return json_response({"draining": True})


async def end_drain(request: web.Request) -> web.Response:
    """``DELETE /api/v1/admin/drain``"""
    pool = services_of(request).pool
    await pool.audit.tell("server.resume")
    pool.resume()
    return json_response({"draining": False})


_USER = Answer(description="The account.", schema=schemas.User)
_DRAINING = Answer(description="As it is now.", schema=schemas.Draining)

ROUTES = [
    Route(
        method="GET",
        path="/api/v1/admin/instances",
        handler=list_instances,
        summary="All live instances.",
        answers={200: Answer(description="Live instances.", schema=schemas.PlacedInstances)},
        access=Access.ADMIN,
    ),
    Route(
        method="POST",
        path="/api/v1/admin/instances/{id}/stop",
        handler=stop_instance,
        summary="End one instance with its whole tree.",
        body=schemas.Nothing,
        answers={200: Answer(description="It is gone.", schema=schemas.Stopped)},
        access=Access.ADMIN,
    ),
    Route(
        method="GET",
        path="/api/v1/admin/users",
        handler=list_users,
        summary="All local accounts.",
        answers={200: Answer(description="Accounts by name.", schema=schemas.Users)},
        access=Access.ADMIN,
    ),
    Route(
        method="POST",
        path="/api/v1/admin/users",
        handler=create_user,
        summary="Make a local account.",
        body=schemas.NewUser,
        answers={201: _USER},
        errors=("invalid_name", "conflict"),
        access=Access.ADMIN,
    ),
    Route(
        method="PATCH",
        path="/api/v1/admin/users/{user_id}",
        handler=update_user,
        summary="Disable or enable an account, change its role or password.",
        body=schemas.UserChanges,
        answers={200: _USER},
        access=Access.ADMIN,
    ),
    Route(
        method="DELETE",
        path="/api/v1/admin/users/{user_id}",
        handler=delete_user,
        summary="Delete an account with its sessions and files.",
        query=schemas.UserQuery,
        answers={204: Answer(description="Gone.")},
        errors=("conflict",),
        access=Access.ADMIN,
    ),
    Route(
        method="POST",
        path="/api/v1/admin/users/{user_id}/link",
        handler=create_link,
        summary="Make a one-time sign-in link for an account.",
        body=schemas.Nothing,
        answers={201: Answer(description="The link, shown this once.", schema=schemas.Link)},
        access=Access.ADMIN,
    ),
    Route(
        method="POST",
        path="/api/v1/admin/drain",
        handler=start_drain,
        summary="Admit no new work; what runs goes on.",
        body=schemas.Nothing,
        answers={200: _DRAINING},
        access=Access.ADMIN,
    ),
    Route(
        method="DELETE",
        path="/api/v1/admin/drain",
        handler=end_drain,
        summary="Admit work again.",
        answers={200: _DRAINING},
        access=Access.ADMIN,
    ),
]
