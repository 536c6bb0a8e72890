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

from pool.steward.wire import RESULT
from tests.pool.hosts.pipes import Pipes, hello_words


class HostProcess(Pipes):
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
        process = subprocess.Popen(
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
        super().__init__(process)

    def ask(self, verb: str, **arguments: Any) -> Any:
        """What the verb gives. Raises ``AssertionError`` with what the host says otherwise."""
        kind, value = self.asked(verb, **arguments)
        assert kind == RESULT, value
        return value

    def hello(self, epoch: int = 1) -> Any:
        return self.ask("hello", **hello_words(speaks_every_seconds=30, epoch=epoch))

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
