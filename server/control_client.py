"""The caller's side of the control socket: how a command asks the running server."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from pool import given_to

SOCKET_NAME = "control.sock"
_LONGEST_PATH_BYTES = 107


class ControlError(Exception):
    """The server answered with an error; ``code`` as in the HTTP interface."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class NoServer(Exception):
    """Nothing listens on the data directory's control socket."""


@contextlib.contextmanager
def reachable(data_dir: Path) -> Iterator[str]:
    """A path to the socket that is short enough for the kernel."""
    path = data_dir / SOCKET_NAME
    if len(os.fsencode(path)) <= _LONGEST_PATH_BYTES:
        yield str(path)
        return
    directory = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{SOCKET_NAME}"
    finally:
        os.close(directory)


def _check_peer(connection: socket.socket, data_dir: Path) -> None:
    """The name could lead root to somebody else's socket. Raises ``ControlError``."""
    uid = given_to(data_dir)
    if uid is None:
        return
    _pid, peer, _gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if peer != uid:
        raise ControlError("unreachable", f"{SOCKET_NAME} leads to uid {peer}, not to the server, uid {uid}")


def call(data_dir: Path, op: str, arguments: Mapping[str, Any], *, timeout_seconds: float = 60) -> Any:
    """Ask the running server, waiting for the answer. Raises ``NoServer`` and ``ControlError``."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout_seconds)
        try:
            with reachable(data_dir) as path:
                connection.connect(path)
            _check_peer(connection, data_dir)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
            raise NoServer from error
        except OSError as error:
            raise ControlError("unreachable", f"the server cannot be reached: {error.strerror}") from error
        try:
            connection.sendall(msgspec.json.encode({"op": op, "arguments": dict(arguments)}) + b"\n")
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        except OSError as error:
            raise ControlError("unreachable", "the server did not answer") from error
    if not answer:
        raise ControlError("refused", "the server closed the control socket: use its user, or root")
    return spoken(answer)


def spoken(answer: bytes) -> Any:
    """The result in an answer. Raises ``ControlError``."""
    try:
        body = msgspec.json.decode(answer)
    except msgspec.DecodeError:
        raise ControlError("unreachable", "what the server answered cannot be read") from None
    if "error" in body:
        raise ControlError(body["error"]["code"], body["error"]["message"])
    return body["result"]
