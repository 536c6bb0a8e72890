"""Turns over REST: messages in, the log out, interrupts and approvals between."""

from __future__ import annotations

import re
import uuid
from typing import Any

from aiohttp import web

from pool.errors import BadRequest
from server.auth.identity import identity_of
from server.objects import permission_object, status_object
from server.rest import schemas
from server.routes import Answer, Route, body_of, json_response, query_of
from server.services import services_of

_KEY = re.compile(r"[\x21-\x7e]{1,200}")


async def send_message(request: web.Request) -> web.Response:
    """``POST /api/v1/sessions/{sid}/messages``"""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        raise BadRequest("Idempotency-Key must be 1 to 200 printable ASCII characters without spaces")
    body = await body_of(request, schemas.Message)
    accepted = await services_of(request).pool.submit(
        identity_of(request).user_id,
        request.match_info["sid"],
        body.content,
        message_id=key or str(uuid.uuid4()),
        literal=body.literal,
    )
    answer: dict[str, Any] = {
        "turn_id": accepted.turn_id,
        "message_id": accepted.message_id,
        "state": "queued",
        "position": accepted.position,
    }
    if accepted.place is not None:
        answer["queue"] = accepted.place.as_dict()
    return json_response(answer, status=202)


async def read_history(request: web.Request) -> web.Response:
    """``GET /api/v1/sessions/{sid}/history``"""
    query = query_of(request, schemas.HistoryQuery)
    frames, following, preceding = await services_of(request).pool.history(
        identity_of(request).user_id,
        request.match_info["sid"],
        after=query.after,
        before=query.before,
        limit=query.limit,
    )
    ends = json_response({"next": following, "prev": preceding}).body
    assert isinstance(ends, bytes)
    # The frames are JSON already and may be large: they are put in as they are.
    body = b'{"frames":[' + b",".join(frames) + b"]," + ends[1:]
    return web.Response(body=body, content_type="application/json")


async def read_status(request: web.Request) -> web.Response:
    """``GET /api/v1/sessions/{sid}/status``"""
    pool, user_id, sid = services_of(request).pool, identity_of(request).user_id, request.match_info["sid"]
    status = await pool.status(user_id, sid)
    instances = [info for info in pool.instances(user_id) if info.session_id == sid]
    return json_response(status_object(status, instances))


async def interrupt(request: web.Request) -> web.Response:
    """``POST /api/v1/sessions/{sid}/interrupt``"""
    await body_of(request, schemas.Nothing)
    await services_of(request).pool.interrupt(identity_of(request).user_id, request.match_info["sid"])
    return json_response({}, status=202)


async def list_permissions(request: web.Request) -> web.Response:
    """``GET /api/v1/sessions/{sid}/permissions``"""
    infos = await services_of(request).pool.permissions(
        identity_of(request).user_id, request.match_info["sid"]
    )
    return json_response({"permissions": [permission_object(info) for info in infos]})


async def answer_permission(request: web.Request) -> web.Response:
    """``POST /api/v1/sessions/{sid}/permissions/{request_id}``"""
    body = await body_of(request, schemas.Decision)
    user_id = identity_of(request).user_id
    await services_of(request).pool.answer_permission(
        user_id,
        request.match_info["sid"],
        request.match_info["request_id"],
        body.decision,
        message=body.message,
        updated_input=body.updated_input,
        scope=body.scope,
        answered_by=user_id,
    )
    return web.Response(status=204)


ROUTES = [
    Route(
        method="POST",
        path="/api/v1/sessions/{sid}/messages",
        handler=send_message,
        summary="Queue a turn; makes the session if it is new.",
        body=schemas.Message,
        headers={
            "Idempotency-Key": "The same key again gives the first answer and runs nothing; "
            "kept for 7 days, shared with the WebSocket's message_id."
        },
        answers={202: Answer(description="Stored and queued.", schema=schemas.Queued)},
        errors=(
            "conflict",
            "key_reused",
            "too_large",
            "quota_exceeded",
            "rate_limited",
            "queue_full",
            "draining",
        ),
    ),
    Route(
        method="GET",
        path="/api/v1/sessions/{sid}/history",
        handler=read_history,
        summary="The durable frames of the session's log.",
        query=schemas.HistoryQuery,
        answers={200: Answer(description="A page of the log.", schema=schemas.History)},
        errors=("bad_cursor",),
    ),
    Route(
        method="GET",
        path="/api/v1/sessions/{sid}/status",
        handler=read_status,
        summary="How the session stands: instance, open turn, todos, usage.",
        answers={200: Answer(description="The status.", schema=schemas.Status)},
    ),
    Route(
        method="POST",
        path="/api/v1/sessions/{sid}/interrupt",
        handler=interrupt,
        summary="End the running turn and withdraw the queued ones.",
        body=schemas.Nothing,
        answers={202: Answer(description="Asked for.", schema=schemas.Nothing)},
    ),
    Route(
        method="GET",
        path="/api/v1/sessions/{sid}/permissions",
        handler=list_permissions,
        summary="The approvals that wait for an answer.",
        answers={200: Answer(description="Open approvals.", schema=schemas.Permissions)},
    ),
    Route(
        method="POST",
        path="/api/v1/sessions/{sid}/permissions/{request_id}",
        handler=answer_permission,
        summary="Answer an approval; the first answer wins.",
        body=schemas.Decision,
        answers={204: Answer(description="Answered.")},
        errors=("already_resolved",),
    ),
]
