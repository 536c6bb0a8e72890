"""What it costs that the server is not root: one of root's and one beside a steward, turn and turn about.

Only root can measure it. Two real servers with the real CLI and the demo model;
a viewer by WebSocket on each. The claim: the median of a warm turn grows by
nothing that its own spread would not hide.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import aiohttp

from bench.figures import printed
from bench.sandbox_start import quartiles

STARTS = 12
TURNS = 30
WARM_UP = 2
SIDES = ("root", "auto")


class Side:
    """One server and its viewer."""

    def __init__(self, http: aiohttp.ClientSession, url: str, token: str, pid: int, seconds: float) -> None:
        self._http, self._url, self._headers = http, url, {"Authorization": f"Bearer {token}"}
        self.pid = pid
        self.started_after = seconds
        self._socket: aiohttp.ClientWebSocketResponse | None = None

    async def connect(self) -> None:
        """Follow the session."""
        self._socket = await self._http.ws_connect(f"{self._url}/ws", headers=self._headers)
        await self._socket.send_str('{"type":"subscribe","session_id":"default"}')

    async def turn(self, text: str) -> float:
        """Milliseconds from the message to the first text, once the turn has ended."""
        assert self._socket is not None
        begin, first = perf_counter(), 0.0
        put = {"type": "send", "session_id": "default", "content": text, "message_id": uuid.uuid4().hex}
        await self._socket.send_str(json.dumps(put))
        async for message in self._socket:
            frame = json.loads(message.data)
            if not first and frame.get("event", {}).get("event", {}).get("type") == "content_block_delta":
                first = perf_counter() - begin
            if frame["type"] == "error":
                raise AssertionError(frame["message"])
            if frame["type"] == "turn" and frame["state"] == "succeeded":
                return first * 1000
        raise AssertionError("the server left")

    async def park(self) -> None:
        """End the CLI: the next message starts another one."""
        async with self._http.delete(f"{self._url}/api/v1/sessions/default", headers=self._headers) as done:
            assert done.status < 300, await done.text()


@asynccontextmanager
async def serving(http: aiohttp.ClientSession, directory: Path, user: str) -> AsyncIterator[Side]:
    """A server that runs as ``user`` says."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    begin = perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server", "serve", "--port", str(port), "--data", str(directory / "data")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={
            **os.environ,
            "CLAUDE_POOL__ISOLATION__SERVER_USER": user,
            "CLAUDE_POOL__QUOTAS__DEFAULT__TURNS_PER_MINUTE": "100000",
        },
    )
    try:
        assert process.stdout is not None
        async for line in process.stdout:
            if found := re.search(rb"#signin=(\S+)", line):
                seconds = perf_counter() - begin
                body = {"code": found[1].decode()}
                url = f"http://127.0.0.1:{port}"
                async with http.post(f"{url}/api/v1/auth/links/redeem", json=body) as answer:
                    token = (await answer.json())["access_token"]
                side = Side(http, url, token, process.pid, seconds)
                await side.connect()
                yield side
                return
        raise AssertionError("the server did not start")
    finally:
        process.terminate()
        await process.wait()


def resident_mib(pid: int) -> int:
    """Of one process."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", text)
    return int(found[1]) // 1024 if found else 0


async def measure(directory: Path) -> dict[str, Any]:
    """Milliseconds of both sides, what the steward adds to the medians, and its memory."""
    directory.chmod(0o711)
    cold: dict[str, list[float]] = {side: [] for side in SIDES}
    warm: dict[str, list[float]] = {side: [] for side in SIDES}
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        sides = {}
        for name in SIDES:
            (directory / name).mkdir(mode=0o711)
            sides[name] = await stack.enter_async_context(serving(http, directory / name, name))
        for number in range(STARTS + WARM_UP):
            for name, side in sides.items():
                cold[name].append(await side.turn(f"say {number}"))
                await side.park()
        for number in range(TURNS + WARM_UP):
            for name, side in sides.items():
                warm[name].append(await side.turn(f"say {number}"))
        return {
            "cold": compared(cold),
            "warm": compared(warm),
            "started_after_seconds": {name: round(side.started_after, 2) for name, side in sides.items()},
            "steward_resident_mib": resident_mib(sides["auto"].pid),
        }


def compared(samples: dict[str, list[float]]) -> dict[str, Any]:
    """Median and quartiles of each side, and what the dropped one has more."""
    figures = {side: quartiles(times[WARM_UP:]) for side, times in samples.items()}
    added = figures["auto"]["median"] - figures["root"]["median"]
    return {**figures, "added_ms": round(added, 2)}


def main() -> int:
    """0 when the claim holds or cannot be measured here, else 1."""
    if os.geteuid() != 0:
        print("bench.dropped_server: only root has a server that is not root", file=sys.stderr)
        return 0
    warm = printed(measure)["warm"]
    return int(warm["added_ms"] > warm["root"]["high"] - warm["root"]["low"])


if __name__ == "__main__":
    sys.exit(main())
