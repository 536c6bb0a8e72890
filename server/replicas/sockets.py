"""A WebSocket of a client, carried to the owner frame by frame: nothing of it is understood here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import aiohttp
from aiohttp import WSCloseCode, WSMsgType, web
from multidict import CIMultiDict
from yarl import URL

from server.auth.live import RESTARTING
from server.errors import http_error
from server.replicas.owner import Owner, OwnerWatch, no_owner

_log = logging.getLogger(__name__)

_CLOSE_SECONDS = 1.0
# What no peer may send, though it is what is seen when there was no word at all.
_SILENT_CODES = frozenset({0, WSCloseCode.ABNORMAL_CLOSURE, 1005, 1015})

_Ending = tuple[int, bytes]


class Relay:
    """One socket at each end. When the owner is lost the client is told to connect again (1012)."""

    def __init__(self, watch: OwnerWatch, owner: Owner, max_message_bytes: int) -> None:
        self._watch = watch
        self._owner = owner
        self._max_message_bytes = max_message_bytes

    async def run(self, request: web.Request, target: URL, headers: CIMultiDict[str]) -> web.StreamResponse:
        """Until both are closed. Raises ``NoOwner``; what the owner refuses is refused."""
        wanted = [
            word.strip()
            for line in request.headers.getall("Sec-WebSocket-Protocol", ())
            for word in line.split(",")
        ]
        try:
            theirs = await self._watch.while_it_answers(self._owner, self._connect(target, headers, wanted))
        except aiohttp.WSServerHandshakeError as error:
            return _refused(error)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            _log.info("the owner took no socket", extra={"error": type(error).__name__})
            raise no_owner() from error
        ours: web.WebSocketResponse[bool] = web.WebSocketResponse(
            timeout=_CLOSE_SECONDS,
            autoclose=False,
            autoping=False,
            compress=False,
            protocols=() if theirs.protocol is None else (theirs.protocol,),
            # aiohttp refuses a message of this size, the owner one above it
            max_msg_size=2 * self._max_message_bytes + 1,
            decode_text=False,
        )
        try:
            await ours.prepare(request)
            code, reason = await self._pump(ours, theirs)
        except BaseException:
            await _close(theirs, WSCloseCode.GOING_AWAY, b"")
            raise
        await asyncio.gather(_close(theirs, code, reason), _close(ours, code, reason))
        return ours

    async def _connect(
        self, target: URL, headers: CIMultiDict[str], protocols: list[str]
    ) -> aiohttp.ClientWebSocketResponse[bool]:
        """The owner's end."""
        return await self._watch.http.ws_connect(
            target,
            headers=headers,
            protocols=protocols,
            autoclose=False,
            autoping=False,
            max_msg_size=0,
            timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_SECONDS),
            decode_text=False,
        )

    async def _pump(self, ours: Any, theirs: Any) -> _Ending:
        """Carry frames until one end closes, or the owner is another; with what both are to be closed."""
        to_owner = asyncio.create_task(_carry(ours, theirs, _client_is_gone), name="relay-to-owner")
        to_client = asyncio.create_task(_carry(theirs, ours, _owner_is_gone), name="relay-to-client")
        lost = asyncio.create_task(self._owner.lost.wait(), name="relay-owner-lost")
        tasks: set[asyncio.Task[Any]] = {to_owner, to_client, lost}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if to_client.done():
                return to_client.result()
            if to_owner.done():
                return to_owner.result()
            return _owner_is_gone()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


def _client_is_gone() -> _Ending:
    return WSCloseCode.GOING_AWAY, b""


def _owner_is_gone() -> _Ending:
    return RESTARTING, b"the owner of the pool changes"


async def _carry(source: Any, target: Any, gone: Any) -> _Ending:
    """Every frame from one end to the other; how the one ended."""
    while True:
        message = await source.receive()
        try:
            if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                await target.send_frame(message.data, message.type)
            elif message.type is WSMsgType.PING:
                await target.ping(message.data)
            elif message.type is WSMsgType.PONG:
                await target.pong(message.data)
            elif message.type is WSMsgType.CLOSE and message.data not in _SILENT_CODES:
                return int(message.data), str(message.extra or "").encode()
            elif message.type is WSMsgType.ERROR and isinstance(message.data, aiohttp.WebSocketError):
                return int(message.data.code), b""
            elif message.type is WSMsgType.CLOSE:
                return WSCloseCode.OK, b""
            else:
                ending: _Ending = gone()
                return ending
        except ConnectionError:
            # The other end is gone: what that one has to say of it is heard by its own reader.
            await asyncio.Event().wait()


async def _close(end: Any, code: int, reason: bytes) -> None:
    with contextlib.suppress(ConnectionError, TimeoutError):
        await end.close(code=code, message=reason)


def _refused(error: aiohttp.WSServerHandshakeError) -> web.StreamResponse:
    """The owner's refusal, in our words: the client of a handshake hears only of the status."""
    response = http_error(error.status if error.status >= 400 else 502)
    after = error.headers.get("Retry-After") if error.headers is not None else None
    if after is not None:
        response.headers["Retry-After"] = after
    return response
