"""A host program as a child process, spoken with over its pipes as a server does over SSH."""

from __future__ import annotations

import subprocess
from typing import Any

from pool.hosts import wire
from pool.hosts.facts import installed_version
from pool.steward.wire import receive, request


class Pipes:
    """The server's end. ``process`` has pipes for all three of its streams, without buffers."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._last = 0

    def recv(self, size: int, /) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.read(size) or b""

    def sendall(self, data: bytes, /) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    def shutdown(self, _how: int, /) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def asked(self, verb: str, **arguments: Any) -> tuple[str, Any]:
        """The kind of the reply, and its value as plain data."""
        self._last += 1
        self.sendall(request(self._last, verb, arguments))
        body = receive(self)
        assert body is not None, self.stderr()
        number, kind, value = wire.parse_reply(body)
        assert number == self._last
        return kind, value

    def stderr(self) -> str:
        """All of it, once the process has ended."""
        assert self.process.stderr is not None
        return (self.process.stderr.read() or b"").decode()


def hello_words(**changes: Any) -> dict[str, Any]:
    """What a server says first, but for ``changes``."""
    usual = {
        "version": installed_version(),
        "protocol": wire.PROTOCOL,
        "speaks_every_seconds": 10,
        "epoch": 1,
        "was_attached": False,
    }
    return usual | changes
