"""The sockets being served: one light HTTP server per instance, all on one loop."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from server.gateway.calls import Caller

_log = logging.getLogger(__name__)

Answer = Callable[[Caller, web.BaseRequest], Awaitable[web.StreamResponse]]

_END_SECONDS = 0.05
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

    async def listen(self, caller: Caller, listener: socket.socket) -> None:
        """Serve ``listener``, which is ours now; an earlier one of the same instance is ended."""
        await self.end(caller.instance)
        http = web.Server(
            functools.partial(self._answer, caller),
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
            # else an idle connection stays, and the next request on it is answered by nobody
            one.http.pre_shutdown()
        await asyncio.gather(*(one.http.shutdown(seconds) for one in served))
