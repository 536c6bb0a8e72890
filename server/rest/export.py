"""All of the caller's data as one tar archive."""

from __future__ import annotations

import contextlib

from aiohttp import web

from pool.errors import RateLimited
from server.auth.identity import identity_of
from server.routes import Answer, Route
from server.services import services_of

UNDER_WAY: web.AppKey[set[str]] = web.AppKey("exports", set)
_MOST_AT_ONCE = 4
_RETRY_AFTER_SECONDS = 30


async def export_me(request: web.Request) -> web.StreamResponse:
    """``GET /api/v1/me/export``"""
    user_id, under_way = identity_of(request).user_id, request.app[UNDER_WAY]
    if user_id in under_way or len(under_way) >= _MOST_AT_ONCE:
        raise RateLimited(
            "an export is being made; try again when it is done", retry_after_seconds=_RETRY_AFTER_SECONDS
        )
    under_way.add(user_id)
    try:
        return await _stream(request, user_id)
    finally:
        under_way.discard(user_id)


async def _stream(request: web.Request, user_id: str) -> web.StreamResponse:
    pool = services_of(request).pool
    await pool.audit.tell("user.exported", user_id=user_id)
    pieces = pool.export_user(user_id)
    try:
        # Whoever has no data is told so before an archive begins.
        first = await anext(pieces)
        response = web.StreamResponse(
            headers={
                "Content-Type": "application/x-tar",
                "Content-Disposition": f'attachment; filename="{user_id}.tar"',
                "Cache-Control": "no-store",
            }
        )
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):  # the client has left
            await response.write(first)
            async for piece in pieces:
                await response.write(piece)
            await response.write_eof()
        return response
    finally:
        await pieces.aclose()


ROUTES = [
    Route(
        method="GET",
        path="/api/v1/me/export",
        handler=export_me,
        summary="Everything that is kept of the caller, as a tar archive.",
        answers={200: Answer(description="The archive, streamed.", media_type="application/x-tar")},
        errors=("rate_limited", "not_found"),
    ),
]
