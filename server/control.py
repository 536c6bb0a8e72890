"""The control socket: how the commands reach a running server. One JSON line asks, one answers.

It lies in the data directory, is 0600, and takes callers of the server's own
uid and root only.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from pool import Caller, calling
from pool.errors import BadRequest, PoolError
from server.control_client import SOCKET_NAME, reachable
from server.errors import describe
from server.operations import encode

_log = logging.getLogger(__name__)

_LINE_BYTES = 1 << 20
_IDLE_SECONDS = 30.0

Run = Callable[[str, Mapping[str, Any]], Awaitable[Any]]


class ControlSocket:
    """The server's end. ``run`` carries an operation out and returns its result."""

    def __init__(self, data_dir: Path, run: Run) -> None:
        self._data_dir = data_dir
        self._run = run
        self._server: asyncio.Server | None = None
        self._talks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen, in place of whatever a dead server left. The data directory's lock must be held."""
        (self._data_dir / SOCKET_NAME).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        try:
            with reachable(self._data_dir) as path:
                listener.bind(path)
                os.chmod(path, 0o600)
            self._server = await asyncio.start_unix_server(self._accept, sock=listener, limit=_LINE_BYTES)
        except BaseException:
            listener.close()
            raise

    async def aclose(self) -> None:
        """Stop listening and end the talks."""
        if self._server is None:
            return
        self._server.close()
        for talk in list(self._talks):
            talk.cancel()
        if self._talks:
            await asyncio.wait(self._talks)
        await self._server.wait_closed()
        (self._data_dir / SOCKET_NAME).unlink(missing_ok=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.create_task(self._talk(reader, writer), name="control-talk")
        self._talks.add(talk)
        talk.add_done_callback(self._talks.discard)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            uid = _peer_uid(writer)
            if uid not in (0, os.geteuid()):
                return
            async with asyncio.timeout(_IDLE_SECONDS):
                line = await reader.readline()
            with calling(command_caller(uid)):
                answer = await self._answer(line)
            writer.write(answer)
            await writer.drain()
        except (TimeoutError, ValueError, ConnectionError):
            return
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> bytes:
        try:
            request = msgspec.json.decode(line)
            name, arguments = str(request["op"]), dict(request.get("arguments", {}))
        except (ValueError, msgspec.DecodeError, TypeError, KeyError, AttributeError):
            return encode({"error": describe(BadRequest("not a request"))})
        try:
            return encode({"result": await self._run(name, arguments)})
        except PoolError as error:
            return encode({"error": describe(error)})
        except (KeyError, TypeError):
            return encode({"error": describe(BadRequest(f"{name} was given the wrong arguments"))})
        except Exception:  # noqa: BLE001 - a command must not end the server
            _log.exception("a command failed on our side", extra={"op": name})
            return encode({"error": describe(PoolError("internal"))})


def command_caller(uid: int) -> Caller:
    """Who gives a command: whoever has this uid on this machine."""
    return Caller(actor="@command", channel="command", agent=f"uid {uid}")


def _peer_uid(writer: asyncio.StreamWriter) -> int:
    raw = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _pid, uid, _gid = struct.unpack("3i", raw)
    return int(uid)
