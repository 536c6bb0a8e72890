"""A server that somebody has taken over: asks a keeper whatever it is told to, as whoever runs it.

Usage: ``python hostile.py ROOT SOCKET``; requests as a JSON list on standard input,
the answers as one on standard output, null where the keeper hung up. The answer to a start
is waited for, so what it tells of exists then.
"""

from __future__ import annotations

import json
import socket
import sys
from typing import Any

sys.path.insert(0, sys.argv[1])

from pool.keeper import wire


class Asker:
    """One connection."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(60)
        self._socket.connect(path)
        self._decoder = wire.Decoder()
        self._answers: dict[int, Any] = {}

    def ask(self, number: int, request: dict[str, Any]) -> Any:
        """The answer to a request, None when the keeper hung up."""
        try:
            self._socket.sendall(wire.encode_json({**request, "id": number}))
            while number not in self._answers:
                data = self._socket.recv(65536)
                if not data:
                    return None
                for kind, payload in self._decoder.feed(data):
                    message = wire.decode_json(payload) if kind == wire.KIND_JSON else {}
                    self._answers[message.get("re", -1)] = message
        except OSError:
            return None
        return self._answers[number]


def main() -> None:
    """See the module."""
    asker = Asker(sys.argv[2])
    hello = {"op": "hello", "min": 1, "max": wire.VERSION_MAX, "epoch": 1}
    requests = [hello, *json.load(sys.stdin)]
    print(json.dumps([asker.ask(number, request) for number, request in enumerate(requests, 1)][1:]))


if __name__ == "__main__":
    main()
