"""The host program as sshd starts it, without its imports: forked off an interpreter that has them.

``python -I -S forked.py SOCKET WORDS`` is what sshd runs: it hands its
standard descriptors, words and environment to the interpreter that listens on
``SOCKET`` and ends as the forked program ends. With the standard library only.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

KILLED = 137
"""The exit code of one that was, or that ended itself in its middle."""


class Programs:
    """Our end: the interpreter, until ``close``."""

    def __init__(self, socket_path: Path) -> None:
        self.socket_path = socket_path
        ready, told = os.pipe()
        command = [sys.executable, "-m", "tests.pool.hosts.forked", "--serve", str(socket_path), str(told)]
        self._process = subprocess.Popen(command, cwd=Path(__file__).parents[3], pass_fds=[told])
        os.close(told)
        with open(ready, "rb") as file:
            assert file.read() == b"ready"

    def command(self, *words: str) -> str:
        """For a shell: run the program with these words before those of the client."""
        return " ".join((sys.executable, "-I", "-S", __file__, str(self.socket_path), *words))

    def running(self) -> int:
        """How many run."""
        pid = self._process.pid
        return len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())

    def close(self) -> None:
        """Fork no more."""
        self._process.kill()
        self._process.wait()


def _ask(path: str, words: list[str]) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(path)
        request = json.dumps({"words": words, "env": dict(os.environ)}).encode()
        rights = array.array("i", [0, 1, 2]).tobytes()
        sock.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        # of the descriptors the program alone is to have the ends
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        return int(sock.recv(16) or KILLED)


def _serve(path: str, told: int) -> int:
    from tests.pool.hosts import entry

    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen(64)
    os.write(told, b"ready")
    os.close(told)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        sock, _ = listener.accept()
        data, descriptors, _flags, _address = socket.recv_fds(sock, 1 << 17, 3)
        if os.fork():
            for descriptor in descriptors:
                os.close(descriptor)
            sock.close()
            continue
        listener.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        code = 1
        with contextlib.suppress(Exception):
            request = json.loads(data)
            for number, descriptor in enumerate(descriptors):
                os.dup2(descriptor, number)
                os.close(descriptor)
            os.environ.clear()
            os.environ.update(request["env"])
            sys.argv[1:] = request["words"]
            code = entry.main()
        with contextlib.suppress(OSError):
            sock.send(str(code).encode())
        os._exit(code)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        sys.exit(_serve(sys.argv[2], int(sys.argv[3])))
    sys.exit(_ask(sys.argv[1], sys.argv[2:]))
