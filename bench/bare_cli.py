"""The bare CLI on pipes, beside the pool: the measure that the pool's own cost is held against."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

from pool.protocol.command_line import CliOptions, base_environment, build_args


@asynccontextmanager
async def gateway(directory: Path) -> AsyncIterator[Path]:
    """A model gateway with the demo model on one socket of its own; gives the socket's path."""
    path = directory / "api.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(128)
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-m", "server.gateway"),
            *("--data", str(directory), "--control-fd", str(its.fileno())),
            pass_fds=(its.fileno(),),
        )
        its.close()
        order = {"op": "listen", "instance": "bare", "labels": {"user": "bench", "session": "bare"}}
        socket.send_fds(ours, [json.dumps(order).encode()], [listener.fileno()])
        try:
            yield path
        finally:
            ours.close()
            await process.wait()


class BareCli:
    """The CLI with the pool's own arguments, but nothing between it and us."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def _send(self, frame: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(frame).encode() + b"\n")
        await self._process.stdin.drain()

    async def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        frame: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return frame

    async def initialize(self) -> None:
        """Wait for the ready signal."""
        request = {"subtype": "initialize", "hooks": {}}
        await self._send({"type": "control_request", "request_id": "1", "request": request})
        while (await self._read())["type"] != "control_response":
            pass

    async def turn(self, text: str) -> tuple[float, float]:
        """(seconds to the first text delta, seconds to the end of the turn)."""
        turn_id = str(uuid.uuid4())
        message = {"role": "user", "content": text}
        begin = perf_counter()
        await self._send({"type": "user", "message": message, "uuid": turn_id, "parent_tool_use_id": None})
        first = 0.0
        while True:
            frame = await self._read()
            if not first and is_text_delta(frame):
                first = perf_counter() - begin
            if frame["type"] == "command_lifecycle" and frame["state"] == "completed":
                return first, perf_counter() - begin


def is_text_delta(frame: dict[str, Any]) -> bool:
    """Is it a piece of streamed text?"""
    event = frame.get("event", {})
    return bool(event.get("type") == "content_block_delta" and event["delta"]["type"] == "text_delta")


@asynccontextmanager
async def bare_cli(cli: Path, directory: Path, model_socket: Path) -> AsyncIterator[BareCli]:
    """Start the CLI on pipes and end it by the end of its input."""
    home = directory / "home"
    home.mkdir()
    process = await asyncio.create_subprocess_exec(
        str(cli),
        *build_args(CliOptions(session_uuid=str(uuid.uuid4()))),
        cwd=home,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=1 << 26,
        env={
            **base_environment(),
            "PATH": os.defpath,
            "HOME": str(home),
            "CLAUDE_CONFIG_DIR": str(home / ".claude"),
            "TMPDIR": str(directory),
            "ANTHROPIC_UNIX_SOCKET": str(model_socket),
            "ANTHROPIC_BASE_URL": "http://model-gateway",
            "ANTHROPIC_API_KEY": "dummy",
        },
    )
    try:
        yield BareCli(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
