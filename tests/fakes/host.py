"""A plain host of one CLI over pipes: what tests of the fake, and of the real one, speak with."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

Frame = dict[str, Any]
DEADLINE_SECONDS = 15.0


class Host:
    """Starts a CLI and takes its frames one by one; ending the context ends the process."""

    def __init__(
        self,
        cli: Path,
        home: Path,
        *,
        session: str | None = None,
        resume: str | None = None,
        args: Sequence[str] = (),
        env: dict[str, str] | None = None,
    ) -> None:
        self.session = resume or session or str(uuid.uuid4())
        self.workspace, self.config = home / "work", home / "config"
        for directory in (self.workspace, self.config):
            directory.mkdir(exist_ok=True, parents=True)
        start = [f"--resume={resume}"] if resume else [f"--session-id={self.session}"]
        fixed = ["--print", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose"]
        fixed += ["--include-partial-messages", "--permission-prompt-tool", "stdio"]
        base = {"PATH": "/usr/bin:/bin", "HOME": str(home), "CLAUDE_CONFIG_DIR": str(self.config)}
        base["CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS"] = "1"
        if "CLAUDE_POOL_TEST" in os.environ:
            base["CLAUDE_POOL_TEST"] = os.environ["CLAUDE_POOL_TEST"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [str(cli), *fixed, *start, *args],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            cwd=self.workspace,
            env={**base, **(env or {})},
            bufsize=0,
            start_new_session=True,
        )
        self.raw = b""
        self.seen: list[Frame] = []
        self._requests = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        self.process.kill()
        self.process.wait()

    def write(self, frame: Frame | bytes) -> None:
        """Write one frame, or bytes as they are."""
        data = frame if isinstance(frame, bytes) else json.dumps(frame).encode() + b"\n"
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    def say(self, text: str, message_id: str | None = None) -> str:
        """Send a user message; returns its uuid."""
        message_id = message_id or str(uuid.uuid4())
        self.write({"type": "user", "uuid": message_id, "message": {"role": "user", "content": text}})
        return message_id

    def request(self, subtype: str, **fields: object) -> Frame:
        """Make a control request; returns the body of its answer."""
        self._requests += 1
        request_id = f"1-{self._requests}"
        request = {"subtype": subtype, **fields}
        self.write({"type": "control_request", "request_id": request_id, "request": request})

        def is_answer(frame: Frame) -> bool:
            return (
                frame.get("type") == "control_response" and frame["response"].get("request_id") == request_id
            )

        body: Frame = self.until(is_answer)[-1]["response"]
        return body

    def answer(self, ask: Frame, response: Frame) -> None:
        """Answer a request of the CLI."""
        body = {"subtype": "success", "request_id": ask["request_id"], "response": response}
        self.write({"type": "control_response", "response": body})

    def line(self, seconds: float = DEADLINE_SECONDS) -> bytes:
        """The next line of stdout without its end; empty at the end of output. Raises ``TimeoutError``."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self.raw:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"no line within {seconds} s; last frames: {self.seen[-3:]}")
            piece = os.read(self.process.stdout.fileno(), 1 << 20)
            if not piece:
                return b""
            self.raw += piece
        line, _, self.raw = self.raw.partition(b"\n")
        return line

    def until(
        self,
        wanted: Callable[[Frame], object],
        seconds: float = DEADLINE_SECONDS,
        *,
        end_is_fine: bool = False,
    ) -> list[Frame]:
        """The frames up to the first that is ``wanted``, it included; lines that are none are passed over.

        Raises ``EOFError`` when the output ends before, unless ``end_is_fine``.
        """
        frames: list[Frame] = []
        while line := self.line(seconds) or self._end(frames, end_is_fine):
            try:
                frame = json.loads(line)
            except ValueError:
                continue
            if isinstance(frame, dict):
                frames.append(frame)
                self.seen.append(frame)
                if wanted(frame):
                    break
        return frames

    def _end(self, frames: list[Frame], is_fine: bool) -> bytes:
        if not is_fine:
            raise EOFError(f"the output ended after {[kind(frame) for frame in frames[-5:]]}")
        return b""

    def until_idle(self) -> list[Frame]:
        """The frames to the end of the turn."""
        return self.until(lambda frame: frame.get("state") == "idle")

    def until_ask(self) -> Frame:
        """The next request of the CLI."""
        return self.until(lambda frame: frame.get("type") == "control_request")[-1]

    def turn(self, text: str) -> list[Frame]:
        """Send a message; the frames to the turn's end."""
        self.say(text)
        return self.until_idle()

    def end(self) -> tuple[int, str]:
        """Close stdin; the exit code and stderr."""
        assert self.process.stdin is not None
        assert self.process.stderr is not None
        self.process.stdin.close()
        return self.process.wait(DEADLINE_SECONDS), self.process.stderr.read().decode()

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        self.process.send_signal(number)


def kind(frame: Frame) -> str:
    """A frame in a word: its type, and the subtype, state or event."""
    event = frame.get("event") or {}
    detail = frame.get("subtype") or event.get("type") or frame.get("request", {}).get("subtype")
    state = frame.get("state")
    return "/".join(str(part) for part in (frame.get("type"), detail, state) if part)


def kinds(frames: list[Frame]) -> list[str]:
    """The kinds of frames, a run of equal ones told once."""
    told: list[str] = []
    for frame in frames:
        if not told or told[-1] != kind(frame):
            told.append(kind(frame))
    return told


def result(frames: list[Frame]) -> Frame:
    """The last result among frames."""
    return [frame for frame in frames if frame.get("type") == "result"][-1]
