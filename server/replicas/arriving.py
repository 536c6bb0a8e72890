"""What other replicas send to the owner: believed when it is proven, refused when it is not."""

from __future__ import annotations

from aiohttp import web

from server.auth.hop import HEADER, HOP, HopKey
from server.auth.middleware import Handler
from server.connections import Connection
from server.replicas.owner import no_owner


class Arrivals:
    """A middleware before all others that look at where a request comes from."""

    def __init__(self, key: HopKey, epoch: int) -> None:
        self._key = key
        self._epoch = epoch

    # How aiohttp tells a middleware of today's kind; ``web.middleware`` sets it on functions.
    __middleware_version__ = 1

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """One request. Raises ``NoOwner`` for one that was meant for another owner, or is forged."""
        said = request.headers.getall(HEADER, ())
        if not said:
            return await handler(request)
        hop = self._key.read(said[0], request.method, request.raw_path) if len(said) == 1 else None
        if hop is None or hop.epoch != self._epoch:
            raise no_owner()
        request[HOP] = hop
        if isinstance(request.protocol, Connection):
            request.protocol.stands_for_many()
        return await handler(request)
