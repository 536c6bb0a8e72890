"""The chat socket: reads commands, sends what the outbox has, ends in one place."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from pool.errors import BadRequest, PoolError
from server.auth.identity import Identity, identity_of
from server.errors import describe, status_of
from server.outbox import Outbox
from server.routes import Answer, Route
from server.services import Services, services_of
from server.ws import protocol
from server.ws.commands import Commands
from server.ws.lanes import Lanes
from server.ws.wire import text_frames

_log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 30.0
_FLUSH_SECONDS = 0.5
_CLOSE_SECONDS = 1.0
_PONG = b'{"type":"pong"}'


class Connection:
    """One client's socket. ``run`` returns when it is closed and nothing of it is left."""

    def __init__(self, services: Services, identity: Identity, request: web.Request) -> None:
        self._services = services
        self._identity = identity
        self._request = request
        max_bytes = services.config.server.max_message_bytes
        self._socket: web.WebSocketResponse[bool] = web.WebSocketResponse(
            timeout=_CLOSE_SECONDS,
            heartbeat=HEARTBEAT_SECONDS,
            compress=False,
            # aiohttp refuses a message of this size, we one above it.
            max_msg_size=2 * max_bytes + 1,
            decode_text=False,
        )
        self._dialogue = protocol.Dialogue(max_bytes)
        self._outbox = Outbox(self._in_flight)
        self._commands = Commands(services.pool, identity, self._outbox)
        self._lanes: Lanes[protocol.Command] = Lanes(self._carry_out)
        self._writer: asyncio.Task[None] | None = None
        self._closer: asyncio.Task[None] | None = None

    async def run(self) -> web.WebSocketResponse[bool]:
        """Greet, serve, clean up."""
        if not self._socket.can_prepare(self._request):
            raise BadRequest("this is a WebSocket: the request must ask for an upgrade")
        try:
            await self._socket.prepare(self._request)
        except ConnectionError:
            self._services.counts.upgrades_lost.add()
            raise
        self._outbox.put([self._welcome(), *self._services.notices.of(self._identity.user_id)])
        self._writer = asyncio.create_task(self._write(), name="ws-writer")
        live = self._services.live.add(self._identity, self.end, self._outbox.reply)
        self._services.counts.connections.change("ws", 1)
        code: int = WSCloseCode.INTERNAL_ERROR
        try:
            code = await self._read()
        finally:
            self._services.live.discard(live)
            self._services.counts.connections.change("ws", -1)
            self._commands.close()
            self.end(code, "")
            assert self._closer is not None
            await asyncio.shield(self._closer)
            await self._lanes.aclose()
        return self._socket

    def end(self, code: int, reason: str) -> None:
        """Close soon with ``code``; only the first call counts."""
        if self._closer is None:
            self._closer = asyncio.create_task(self._close(code, reason), name="ws-closer")

    async def _read(self) -> int:
        """Serve until the socket is closed or to be closed; returns the code to close with."""
        while self._closer is None:
            message = await self._socket.receive()
            if message.type is WSMsgType.TEXT:
                received = self._dialogue.receive(message.data)
            elif message.type is WSMsgType.BINARY:
                received = self._dialogue.receive_binary()
            else:
                return WSCloseCode.OK
            await self._take(received)
            if self._dialogue.is_hopeless:
                return WSCloseCode.POLICY_VIOLATION
        return WSCloseCode.OK

    async def _take(self, received: protocol.Frame | protocol.Refusal) -> None:
        if isinstance(received, protocol.Refusal):
            self._services.counts.errors.add("ws", received.code)
            self._outbox.reply(received.frame)
        elif isinstance(received, protocol.Ping):
            self._outbox.reply(_PONG)
        else:
            try:
                session_id = protocol.session_of(received)
            except PoolError as error:
                self._refuse(error, received)
            else:
                await self._lanes.add(session_id, received)
        await self._outbox.room()

    async def _carry_out(self, session_id: str, command: protocol.Command) -> None:
        try:
            await self._commands.carry_out(session_id, command)
        except PoolError as error:
            if status_of(error) == 500:
                _log.exception("a command failed on our side")
            self._refuse(error, command, session_id)
        except Exception:  # noqa: BLE001 - the net under all commands
            _log.exception("a command failed on our side")
            self._refuse(PoolError("internal"), command, session_id)

    def _refuse(self, error: PoolError, command: protocol.Command, session_id: str | None = None) -> None:
        self._services.counts.errors.add("ws", describe(error)["code"])
        self._outbox.reply(
            protocol.error_frame(
                error,
                session_id=session_id or command.session_id,
                message_id=getattr(command, "message_id", None),
                request_id=getattr(command, "request_id", None),
            )
        )

    async def _write(self) -> None:
        half = self._services.viewer_budget_bytes // 2
        with contextlib.suppress(ConnectionError):
            while True:
                await self._outbox.filled()
                if not self._send(self._outbox.take()):
                    return
                await self._request.writer.drain()
                if self._outbox.backlog_bytes < half:
                    self._commands.drained()

    def _send(self, frames: list[bytes]) -> bool:
        """Hand frames to the transport; False when it is gone."""
        transport = self._request.transport
        if transport is None or transport.is_closing() or self._socket.closed:
            return False
        data = text_frames(frames)
        self._services.counts.bytes_sent.add("ws", by=len(data))
        transport.write(data)
        return True

    async def _close(self, code: int, reason: str) -> None:
        await self._stop_writer(flush=code != 4401)
        transport = self._request.transport
        try:
            async with asyncio.timeout(_CLOSE_SECONDS + _FLUSH_SECONDS):
                await self._socket.close(code=code, message=reason.encode())
        except (TimeoutError, ConnectionError):
            pass
        finally:
            if transport is not None and not transport.is_closing():
                # The client does not read: what is left for it stays in its log.
                transport.abort()

    async def _stop_writer(self, *, flush: bool) -> None:
        if self._writer is None:
            return
        if flush and not self._socket.closed:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FLUSH_SECONDS):
                    await self._outbox.emptied()
        self._outbox.shut()
        self._writer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._writer

    def _in_flight(self) -> int:
        transport = self._request.transport
        return transport.get_write_buffer_size() if transport is not None else 0

    def _welcome(self) -> bytes:
        config = self._services.config
        body: dict[str, Any] = {
            "type": "welcome",
            "protocol": 1,
            "user_id": self._identity.user_id,
            "roles": sorted(self._identity.roles),
            "version": self._services.version,
            "multi_user": config.multi_user,
            "max_message_bytes": config.server.max_message_bytes,
            "permission_modes": config.security.permission_modes,
            "model": self._services.model_of(self._identity.user_id),
        }
        return msgspec.json.encode(body)


async def chat(request: web.Request) -> web.StreamResponse:
    """``GET /ws``"""
    services, identity = services_of(request), identity_of(request)
    with services.live.seat(identity):
        return await Connection(services, identity, request).run()


ROUTES = [
    Route(
        method="GET",
        path="/ws",
        handler=chat,
        summary="The chat socket: many sessions over one WebSocket, JSON text frames.",
        answers={101: Answer(description="The WebSocket is open; the first frame is 'welcome'.")},
        errors=("too_many_connections",),
    )
]
