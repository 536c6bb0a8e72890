"""What somebody who has taken a host over may put in its keeper's place: ``hostile_keeper.py --data D …``.

``D/answers.json`` has what it answers to each operation, beside the request's number.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import sys
from pathlib import Path

HEAD = struct.Struct("!IB")


def main() -> None:
    options = dict(zip(sys.argv[1:], sys.argv[2:], strict=False))
    data, runtime = Path(options["--data"]), Path(options["--runtime"])
    (data / "keeper").mkdir(parents=True, exist_ok=True)
    runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = runtime / "keeper.sock"
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    (data / "keeper" / "runtime").write_text(str(runtime))
    if os.fork():
        os._exit(0)
    os.setsid()
    for descriptor in (0, 1, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
    lock = os.open(data / "keeper" / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.write(lock, str(os.getpid()).encode())
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            serve(connection, data)
            os._exit(0)
        connection.close()


def serve(connection: socket.socket, data: Path) -> None:
    with connection.makefile("rb") as file:
        while head := file.read(HEAD.size):
            size, _kind = HEAD.unpack(head)
            request = json.loads(file.read(size))
            answers = json.loads((data / "answers.json").read_text())
            answer = answers.get(request["op"], {})
            body = json.dumps({"re": request.get("id"), **answer}).encode()
            if "id" in request:
                connection.sendall(HEAD.pack(len(body), 1) + body)


if __name__ == "__main__":
    main()
