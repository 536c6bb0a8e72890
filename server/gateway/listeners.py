"""The sockets being served: one light HTTP server per instance, all on one loop."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from server.gateway.calls import Caller
from server.gateway.errors import error_answer

_log = logging.getLogger(__name__)

Answer = Callable[[Caller, web.BaseRequest], Awaitable[web.StreamResponse]]

_UCRED = struct.Struct("iII")
_END_SECONDS = 0.05
# for the first request on a connection that was taken a moment ago
_LAST_REQUESTS_SECONDS = 0.5
_MAX_HEADER_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class _Served:
    """One instance's accepting socket and its open connections."""

    acceptor: asyncio.Server
    http: web.Server


class Listeners:
    """Serves each instance's socket and knows thereby who calls."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._served: dict[str, _Served] = {}

    async def listen(self, caller: Caller, listener: socket.socket, uid: int | None = None) -> None:
        """Serve ``listener``, which is ours now; an earlier one of the same instance is ended.

        Processes of another user than ``uid`` are refused; None: of nobody.
        """
        await self.end(caller.instance)
        http = web.Server(
            functools.partial(self._answer_to, caller, uid),
            handler_cancellation=True,
            access_log=None,
            logger=_log,
            auto_decompress=False,
            max_field_size=_MAX_HEADER_BYTES,
        )
        listener.setblocking(False)
        acceptor = await asyncio.get_running_loop().create_server(http, sock=listener, backlog=128)
        self._served[caller.instance] = _Served(acceptor, http)
        _log.info("listening", extra={"fields": {"instance": caller.instance, **caller.labels}})

    async def _answer_to(
        self, caller: Caller, uid: int | None, request: web.BaseRequest
    ) -> web.StreamResponse:
        """The socket says which instance calls, the kernel whether it is really of that user."""
        if uid is not None and (peer := peer_uid(request)) != uid:
            fields = {"instance": caller.instance, "uid": peer, "expected": uid}
            _log.warning("a stranger called", extra={"fields": fields})
            return error_answer(403, "permission_error", "this socket belongs to another user")
        return await self._answer(caller, request)

    async def end(self, instance: str) -> None:
        """Stop serving ``instance`` and cancel its open calls; unknown instances are fine.

        Only our descriptor is closed: the keeper's stays open and connects
        to it wait for whoever serves it next.
        """
        served = self._served.pop(instance, None)
        if served is None:
            return
        served.acceptor.close()
        await served.http.shutdown(_END_SECONDS)
        _log.info("ended", extra={"fields": {"instance": instance}})

    async def drain(self, seconds: float) -> None:
        """Accept nothing more, let open calls finish for at most ``seconds``, then cancel them."""
        served, self._served = list(self._served.values()), {}
        for one in served:
            one.acceptor.close()
        if any(one.http.connections for one in served):
            await asyncio.sleep(_LAST_REQUESTS_SECONDS)
        for one in served:
            # else an idle connection stays, and the next request on it is answered by nobody
            one.http.pre_shutdown()
        await asyncio.gather(*(one.http.shutdown(seconds) for one in served))


def peer_uid(request: web.BaseRequest) -> int | None:
    """Whose process is at the other end, as the kernel noted when it connected; None when it is gone."""
    connection = None if request.transport is None else request.transport.get_extra_info("socket")
    if connection is None:
        return None
    _pid, uid, _gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(uid)
