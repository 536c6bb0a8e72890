"""A session's log as server-sent events; the ``id`` of each is the cursor to resume from."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
from aiohttp import web

from server.auth.identity import identity_of
from server.auth.live import REVOKED
from server.outbox import Outbox
from server.routes import Answer, Route, Schema, query_of
from server.services import services_of

HEARTBEAT_SECONDS = 15.0
_CUT_SECONDS = 1.0


class EventsQuery(Schema):
    """Where to begin; without a cursor from now. A ``Last-Event-ID`` header goes before it."""

    after: str | None = None


class _Numbered(msgspec.Struct):
    """The part of a server frame that says where it is in the log; others are skipped."""

    cursor: str | None = None


_numbered = msgspec.json.Decoder(_Numbered)


def as_event(frame: bytes) -> bytes:
    """One server frame as an event. A frame that is no place to resume from gets no ``id``."""
    cursor = _numbered.decode(frame).cursor
    if cursor is None:
        return b"data: %b\n\n" % frame
    return b"id: %b\ndata: %b\n\n" % (cursor.encode(), frame)


class EventStream:
    """The viewer behind one response: bounded by the pool, which skips while the backlog is too long."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.outbox = Outbox(self._in_flight)
        self.end_code: int | None = None
        self._cut: asyncio.TimerHandle | None = None

    @property
    def backlog_bytes(self) -> int:
        """See ``Viewer.backlog_bytes``."""
        return self.outbox.backlog_bytes

    def deliver(self, frames: Sequence[bytes]) -> None:
        """See ``Viewer.deliver``."""
        self.outbox.put([as_event(frame) for frame in frames])

    def end(self, code: int, _reason: str) -> None:
        """End the response soon, at the latest by cutting the connection of a client that does not read."""
        if self.end_code is None:
            self.end_code = code
            self.outbox.ring()
            self._cut = asyncio.get_running_loop().call_later(_CUT_SECONDS, self._abort)

    def close(self) -> None:
        """The response is over."""
        if self._cut is not None:
            self._cut.cancel()

    @property
    def is_over(self) -> bool:
        """Ended by us, or left by the client."""
        transport = self._request.transport
        return self.end_code is not None or transport is None or transport.is_closing()

    def _abort(self) -> None:
        transport = self._request.transport
        if transport is not None:
            transport.abort()

    def _in_flight(self) -> int:
        transport = self._request.transport
        return transport.get_write_buffer_size() if transport is not None else 0


async def stream_events(request: web.Request) -> web.StreamResponse:
    """``GET /api/v1/sessions/{sid}/events``"""
    with services_of(request).live.seat(identity_of(request)):
        return await _stream(request)


async def _stream(request: web.Request) -> web.StreamResponse:
    services, identity = services_of(request), identity_of(request)
    query = query_of(request, EventsQuery)
    cursor = request.headers.get("Last-Event-ID") or query.after
    stream = EventStream(request)
    connection = services.live.add(identity, stream.end)
    services.counts.connections.change("sse", 1)
    try:
        subscription = await services.pool.subscribe(
            identity.user_id, request.match_info["sid"], cursor, stream, create=False
        )
        try:
            response = web.StreamResponse(
                headers={
                    "Content-Type": "text/event-stream; charset=utf-8",
                    "Cache-Control": "no-store",
                    "X-Accel-Buffering": "no",
                }
            )
            await response.prepare(request)
            await response.write(b"retry: 1000\n\n")
            while not stream.is_over:
                if not await stream.outbox.filled(HEARTBEAT_SECONDS):
                    await response.write(b": still here\n\n")
                    continue
                block = b"".join(stream.outbox.take())
                services.counts.bytes_sent.add("sse", by=len(block))
                await response.write(block)
                if stream.backlog_bytes * 2 < services.viewer_budget_bytes:
                    subscription.drained()
            if stream.end_code == REVOKED:
                await response.write(_SIGNED_OUT)
        finally:
            subscription.close()
    finally:
        stream.close()
        services.live.discard(connection)
        services.counts.connections.change("sse", -1)
    return response


_SIGNED_OUT = as_event(
    msgspec.json.encode({"type": "error", "code": "unauthorized", "message": "the sign-in has ended"})
)

ROUTES = [
    Route(
        method="GET",
        path="/api/v1/sessions/{sid}/events",
        handler=stream_events,
        summary="Follow a session: each data is a server frame, each id a cursor.",
        query=EventsQuery,
        headers={"Last-Event-ID": "The last cursor that was received; goes before 'after'."},
        answers={200: Answer(description="Server-sent events.", media_type="text/event-stream")},
        errors=("bad_cursor", "too_many_connections"),
    )
]
