"""``claude-pool host`` as a child process, spoken with as a server does over SSH."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pool.hosts import wire
from pool.hosts.facts import installed_version
from pool.steward.wire import RESULT, receive, request


class HostProcess:
    """One run of the command; ``words`` follow ``claude-pool host``."""

    def __init__(
        self,
        data: Path,
        *words: str,
        environment: Mapping[str, str] | None = None,
        run_as: tuple[int | None, str] = (None, sys.executable),
    ) -> None:
        left_out = ("ANTHROPIC", "CLAUDE_POOL_", "PYTHONDONTWRITE")
        inherited = {name: text for name, text in os.environ.items() if not name.startswith(left_out)}
        mark = {name: os.environ[name] for name in ("CLAUDE_POOL_TEST",) if name in os.environ}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [run_as[1], "-m", "server", "host", "--data", str(data), *words],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            bufsize=0,
            env={**inherited, **mark, **(environment or {})},
            cwd="/",
            user=run_as[0],
            group=run_as[0],
            extra_groups=None if run_as[0] is None else [],
        )
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

    def ask(self, verb: str, **arguments: Any) -> Any:
        """What the verb gives. Raises ``AssertionError`` with what the host says otherwise."""
        kind, value = self.asked(verb, **arguments)
        assert kind == RESULT, value
        return value

    def asked(self, verb: str, **arguments: Any) -> tuple[str, Any]:
        """The kind of the reply, and its value as plain data."""
        self._last += 1
        self.sendall(request(self._last, verb, arguments))
        body = receive(self)
        assert body is not None, self.stderr()
        number, kind, value = wire.parse_reply(body)
        assert number == self._last
        return kind, value

    def hello(self, epoch: int = 1) -> Any:
        return self.ask(
            "hello",
            version=installed_version(),
            protocol=wire.PROTOCOL,
            speaks_every_seconds=30,
            epoch=epoch,
            was_attached=False,
        )

    def stderr(self) -> str:
        """All of it, once the process has ended."""
        assert self.process.stderr is not None
        return (self.process.stderr.read() or b"").decode()

    def end(self) -> tuple[int, bytes, str]:
        """End of input: the exit code, what else was on standard output, standard error."""
        output, errors = self.process.communicate(timeout=30)
        return self.process.returncode, output, errors.decode()


@contextmanager
def host_process(data: Path, *words: str, **given: Any) -> Iterator[HostProcess]:
    """One that is gone at the end of the block."""
    one = HostProcess(data, *words, **given)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.wait()
        for stream in (one.process.stdin, one.process.stdout, one.process.stderr):
            assert stream is not None
            stream.close()


def log_lines(errors: str) -> list[dict[str, Any]]:
    """Standard error as what it should be: one JSON object a line."""
    return [json.loads(line) for line in errors.splitlines()]
