"""Sessions over REST: make, list, change, fork, put away."""

from __future__ import annotations

from aiohttp import web

from server.auth.identity import identity_of
from server.objects import session_object
from server.rest import schemas
from server.routes import Answer, Route, body_of, json_response, query_of
from server.services import services_of

_SESSION = Answer(description="The session.", schema=schemas.Session)


async def create_session(request: web.Request) -> web.Response:
    """``POST /api/v1/sessions``"""
    body = await body_of(request, schemas.NewSession)
    info, created = await services_of(request).pool.create_session(
        identity_of(request).user_id,
        body.session_id,
        template=body.template,
        title=body.title,
        model=body.model,
        permission_mode=body.permission_mode,
    )
    return json_response(session_object(info), status=201 if created else 200)


async def list_sessions(request: web.Request) -> web.Response:
    """``GET /api/v1/sessions``"""
    query = query_of(request, schemas.SessionQuery)
    infos = await services_of(request).pool.list_sessions(
        identity_of(request).user_id,
        search=query.search,
        include_archived=query.include_archived,
        limit=query.limit + 1,
        after=query.after,
    )
    page = infos[: query.limit]
    following = page[-1].session_id if len(infos) > query.limit else None
    return json_response({"sessions": [session_object(info) for info in page], "next": following})


async def get_session(request: web.Request) -> web.Response:
    """``GET /api/v1/sessions/{sid}``"""
    info = await services_of(request).pool.get_session(
        identity_of(request).user_id, request.match_info["sid"]
    )
    return json_response(session_object(info))


async def update_session(request: web.Request) -> web.Response:
    """``PATCH /api/v1/sessions/{sid}``"""
    body = await body_of(request, schemas.SessionChanges)
    info = await services_of(request).pool.update_session(
        identity_of(request).user_id,
        request.match_info["sid"],
        title=body.title,
        model=body.model,
        permission_mode=body.permission_mode,
    )
    return json_response(session_object(info))


async def archive_session(request: web.Request) -> web.Response:
    """``DELETE /api/v1/sessions/{sid}``"""
    await services_of(request).pool.archive_session(identity_of(request).user_id, request.match_info["sid"])
    return web.Response(status=204)


async def fork_session(request: web.Request) -> web.Response:
    """``POST /api/v1/sessions/{sid}/fork``"""
    body = await body_of(request, schemas.Fork)
    info = await services_of(request).pool.fork_session(
        identity_of(request).user_id, request.match_info["sid"], body.session_id
    )
    return json_response(session_object(info), status=201)


ROUTES = [
    Route(
        method="POST",
        path="/api/v1/sessions",
        handler=create_session,
        summary="Make a session, or get it when it exists.",
        body=schemas.NewSession,
        answers={
            201: Answer(description="The new session.", schema=schemas.Session),
            200: Answer(description="It existed already.", schema=schemas.Session),
        },
        errors=("invalid_name", "not_found", "conflict", "quota_exceeded", "draining"),
    ),
    Route(
        method="GET",
        path="/api/v1/sessions",
        handler=list_sessions,
        summary="The caller's sessions, last active first.",
        query=schemas.SessionQuery,
        answers={200: Answer(description="A page of sessions.", schema=schemas.Sessions)},
    ),
    Route(
        method="GET",
        path="/api/v1/sessions/{sid}",
        handler=get_session,
        summary="One session.",
        answers={200: _SESSION},
    ),
    Route(
        method="PATCH",
        path="/api/v1/sessions/{sid}",
        handler=update_session,
        summary="Rename a session, change its model or permission mode.",
        body=schemas.SessionChanges,
        answers={200: _SESSION},
    ),
    Route(
        method="DELETE",
        path="/api/v1/sessions/{sid}",
        handler=archive_session,
        summary="Put a session away and stop its instance.",
        answers={204: Answer(description="It is archived.")},
    ),
    Route(
        method="POST",
        path="/api/v1/sessions/{sid}/fork",
        handler=fork_session,
        summary="A new session that goes on from the same conversation.",
        body=schemas.Fork,
        answers={201: Answer(description="The new session.", schema=schemas.Session)},
        errors=("conflict", "quota_exceeded", "draining"),
    ),
]
