"""A request's body as a stream of chunks, with a look at its beginning. Bounded memory."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from aiohttp import web

# Clients of the Messages API write "model" as the first key.
_MODEL = re.compile(rb'\s*\{\s*"model"\s*:\s*"([^"\\]{1,200})"')
_CHUNK_BYTES = 64 * 1024


class RequestBody:
    """The body of one request; each byte is given once, in order, as it came."""

    def __init__(self, request: web.BaseRequest) -> None:
        self._content = request.content
        self._first = b""
        self.size = 0

    async def model(self) -> str | None:
        """The requested model's name, if the body begins with it; the body stays whole."""
        if not self._first:
            self._first = await self._content.read(_CHUNK_BYTES)
        match = _MODEL.match(self._first)
        return match[1].decode(errors="replace") if match else None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._first:
            self.size += len(self._first)
            yield self._first
        async for chunk in self._content.iter_chunked(_CHUNK_BYTES):
            self.size += len(chunk)
            yield chunk
