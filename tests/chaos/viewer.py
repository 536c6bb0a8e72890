"""One connection to the server at a time, and a record that outlives them all."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec

from tests.chaos.record import Frame, Record

_TRY_SECONDS = 0.3
_ANSWER_SECONDS = 20.0


class Viewer:
    """Follows the session ``default`` of one user from the very beginning.

    Whatever cuts the connection, it comes back with its cursor, until it is told
    to leave. A connection that was left half open is kept until the end, unread.
    """

    def __init__(self, url: str, token: str, hear: Callable[[Frame], None]) -> None:
        self.record = Record()
        self.is_following = asyncio.Event()
        self.connections = 0
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"}
        self._hear = hear
        self._http: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._task: asyncio.Task[None] | None = None
        self._forsaken: list[aiohttp.ClientSession] = []
        self._is_leaving = False

    def start(self) -> None:
        """Begin to follow, or begin again after having left."""
        self._is_leaving = False
        self._task = asyncio.create_task(self._follow(), name="chaos-viewer")

    async def leave(self) -> None:
        """End all connections."""
        self._is_leaving = True
        self.reset()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        for http in self._forsaken:
            await http.close()
        self._forsaken.clear()

    async def put(self, **frame: Any) -> bool:
        """Send a frame; False when there is no connection."""
        if self._socket is None or self._socket.closed:
            return False
        try:
            await asyncio.wait_for(self._socket.send_str(msgspec.json.encode(frame).decode()), 5)
        except (TimeoutError, ConnectionError, aiohttp.ClientError):
            return False
        return True

    def reset(self) -> None:
        """Cut the connection as a crash of the client's machine would: no close frame, RST and no FIN."""
        transport = self._transport()
        if transport is not None:
            raw = transport.get_extra_info("socket")
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()

    async def close(self) -> None:
        """End the connection as a browser does that is closed."""
        if self._socket is not None:
            with contextlib.suppress(TimeoutError, ConnectionError, aiohttp.ClientError):
                await asyncio.wait_for(self._socket.close(), 5)

    def halt(self) -> None:
        """Leave the connection half open: nobody reads it, answers a ping on it or closes it."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._http is not None:
            self._forsaken.append(self._http)
        self._http = self._socket = None
        self.is_following.clear()
        self.start()

    def _transport(self) -> asyncio.Transport | None:
        connection = getattr(getattr(self._socket, "_response", None), "connection", None)
        return getattr(connection, "transport", None)

    async def _follow(self) -> None:
        while not self._is_leaving:
            http = aiohttp.ClientSession(headers=self._headers)
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    found = await http.ws_connect(f"{self._url}/ws", max_msg_size=0)
                self._http, self._socket = http, found
                self.connections += 1
                await self.put(type="subscribe", session_id="default", cursor=self.record.cursor)
                await self._read(found)
            except (TimeoutError, ConnectionError, aiohttp.ClientError):
                pass
            finally:
                if http not in self._forsaken:
                    self.is_following.clear()
                    self._http = self._socket = None
                    await http.close()
            await asyncio.sleep(_TRY_SECONDS)

    async def _read(self, found: aiohttp.ClientWebSocketResponse) -> None:
        async for message in found:
            # ``wait_for`` of Python 3.11 can swallow the cancellation of ``halt``.
            if message.type is not aiohttp.WSMsgType.TEXT or self._socket is not found:
                return
            self.take(msgspec.json.decode(message.data))

    def take(self, frame: Frame) -> None:
        """Note a frame and pass it on."""
        if frame.get("session_id") == "default":
            self.record.take(frame)
        if frame["type"] == "subscribed":
            self.is_following.set()
        elif frame["type"] == "error" and not self.is_following.is_set() and "message_id" not in frame:
            # The subscription was refused (the database was locked): come again.
            self.reset()
        self._hear(frame)
