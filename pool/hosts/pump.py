"""The way from a server to the keeper of another machine: bytes, there and back.

It starts at each connection, so it loads little.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from pool.hosts.streams import Streams
from pool.keeper.program import noted_runtime_dir
from pool.keeper.server import SOCKET_NAME

if TYPE_CHECKING:
    from pool.config import PoolConfig

NO_KEEPER = 4
"""The exit code when none listens."""

_PIECE_BYTES = 256 * 1024


def pump_keeper(config: PoolConfig, streams: Streams | None = None) -> int:
    """Carry bytes between the streams and the keeper's socket until either ends; how this process is to
    end, which is to be ``os._exit(...)``."""
    streams = streams or Streams.standard()
    runtime_dir = noted_runtime_dir(config.data_dir)
    try:
        if runtime_dir is None:
            raise FileNotFoundError(f"no keeper of {config.data_dir} listens")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(str(runtime_dir / SOCKET_NAME))
    except OSError as error:
        os.write(2, f"{error}\n".encode())
        return NO_KEEPER
    ended = threading.Event()
    directions = ((streams.recv, sock.sendall), (sock.recv, streams.sendall))
    for number, (source, sink) in enumerate(directions):
        threading.Thread(
            target=_carry, args=(source, sink, ended), name=f"pump-{number}", daemon=True
        ).start()
    ended.wait()
    return 0


def _carry(source: Callable[[int], bytes], sink: Callable[[bytes], None], ended: threading.Event) -> None:
    try:
        while data := source(_PIECE_BYTES):
            sink(data)
    except OSError:
        pass  # who went away is told to the other end by our going
    finally:
        ended.set()
