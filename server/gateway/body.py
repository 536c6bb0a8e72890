"""A request's body as a stream of chunks, with a look at its beginning. Bounded memory."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import msgspec
from aiohttp import web

# Clients of the Messages API write "model" as the first key.
_MODEL = re.compile(rb'\s*\{\s*"model"\s*:\s*"([^"\\]{1,200})"')
_CHUNK_BYTES = 64 * 1024
_KEPT_BYTES = 16 * 1024 * 1024
MAX_CHECKED_BYTES = 32 * 1024 * 1024


class BodyTooLarge(Exception):
    """More bytes than can be checked."""


class _Asked(msgspec.Struct):
    model: str | None = None


class RequestBody:
    """The body of one request: each byte in order as it came, but for a model that ``rename`` replaced.

    A body of at most 16 MiB is kept as it passes, so that it can be iterated
    again once all of it was read (``is_replayable``).
    """

    def __init__(self, request: web.BaseRequest) -> None:
        self._content = request.content
        self._announced = request.content_length
        self._kept: list[bytes] = []
        self._bound = _KEPT_BYTES
        self._keeps = True
        self._is_at_end = False
        # Asked now: once read to its end it is no longer there to be read.
        self.exists = request.can_read_body
        self.size = 0
        self.growth = 0

    @property
    def is_replayable(self) -> bool:
        """Can all of it be sent once more?"""
        return self._keeps and (self._is_at_end or self.size == self._announced)

    async def model(self) -> str | None:
        """The requested model's name, if the body begins with it; the body stays whole."""
        if not self._kept:
            await self._pull()
        match = _MODEL.match(self._kept[0]) if self._kept else None
        return match[1].decode(errors="replace") if match else None

    async def checked_model(self) -> str | None:
        """The same, but only if no reader of JSON can find another name in the body.

        Reads all of it. Raises ``BodyTooLarge``.
        """
        first = await self.model()
        self._bound = MAX_CHECKED_BYTES
        while await self._pull():
            if not self._keeps:
                raise BodyTooLarge
        try:
            # Of a key that is there twice this gives the last one, and some readers take the first.
            last = msgspec.json.decode(b"".join(self._kept), type=_Asked).model
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        return first if first == last else None

    def rename(self, model: str) -> None:
        """Put another model's name in; ``model()`` must have found one. Changes the size by ``growth``."""
        match = _MODEL.match(self._kept[0])
        if match is None:
            raise ValueError("the body names no model")
        before = self._kept[0]
        self._kept[0] = before[: match.start(1)] + model.encode() + before[match.end(1) :]
        self.growth = len(self._kept[0]) - len(before)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._kept:
            yield chunk
        while chunk := await self._pull():
            yield chunk

    async def _pull(self) -> bytes:
        chunk = await self._content.read(_CHUNK_BYTES)
        self._is_at_end = not chunk
        self.size += len(chunk)
        if chunk and self._keeps:
            if self.size <= self._bound:
                self._kept.append(chunk)
            else:
                self._keeps = False
                self._kept.clear()
        return chunk
