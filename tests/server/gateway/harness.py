"""A gateway to call, as a process or on the test's own loop, and an upstream that plays a script."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from server.gateway.calls import Caller, Calls
from server.gateway.configuration import LiveConfiguration, LiveOwnKeys
from server.gateway.journal import close_journal, open_journal
from server.gateway.listeners import Listeners
from server.gateway.metering import Metering
from server.gateway.upstream import new_client

KEY = "sk-ant-the-real-key-0123456789"
DUMMY = "dummy-of-the-instance"
DEADLINE = 60.0

Script = Callable[[web.Request], Awaitable[web.StreamResponse]]


def short_directory() -> Path:
    """A directory whose path leaves room for a unix socket's name."""
    return Path(tempfile.mkdtemp(prefix="cp-"))


def listening_socket(path: Path) -> socket.socket:
    """A listening unix socket, as the keeper holds one per instance."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(128)
    return listener


def caller_session(path: Path) -> aiohttp.ClientSession:
    """An HTTP client that calls as an instance does."""
    return aiohttp.ClientSession("http://model-gateway", connector=aiohttp.UnixConnector(str(path)))


def asking(text: str, **more: Any) -> dict[str, Any]:
    """The body of a request that asks ``text``."""
    message = {"role": "user", "content": text}
    return {"model": "claude-any", "max_tokens": 8192, "messages": [message], **more}


@dataclass
class GatewayProcess:
    """``python -I -m server.gateway`` with the keeper's end of its control channel."""

    process: asyncio.subprocess.Process
    channel: socket.socket
    data_dir: Path

    def listen(
        self, instance: str, listener: socket.socket, *, uid: int | None = None, **labels: str
    ) -> None:
        order = {"op": "listen", "instance": instance, "labels": labels, "uid": uid}
        socket.send_fds(self.channel, [json.dumps(order).encode()], [listener.fileno()])

    def order(self, order: object) -> None:
        self.channel.send(json.dumps(order).encode())

    def log(self) -> list[dict[str, Any]]:
        path = self.data_dir / "gateway" / "gateway.log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    async def exit_status(self) -> int:
        async with asyncio.timeout(DEADLINE):
            return await self.process.wait()


@asynccontextmanager
async def gateway_process(data_dir: Path, *arguments: str) -> AsyncIterator[GatewayProcess]:
    """Run a gateway; it is ended by the end of its channel, at the latest by KILL."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with its:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-I", "-m", "server.gateway"),
                *("--data", str(data_dir), "--control-fd", str(its.fileno()), *arguments),
                pass_fds=(its.fileno(),),
                env={"PATH": "/usr/bin:/bin"},
            )
        gateway = GatewayProcess(process, ours, data_dir)
        try:
            yield gateway
        finally:
            ours.close()
            try:
                await gateway.exit_status()
            except TimeoutError:
                process.kill()
                await process.wait()


@asynccontextmanager
async def gateway_here(
    data_dir: Path, *, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
) -> AsyncIterator[aiohttp.ClientSession]:
    """Run the gateway's parts on the test's loop; gives the client of one instance, of alice."""
    async with gateway_for(data_dir, "alice", wall=wall, monotonic=monotonic) as (session,):
        yield session


@asynccontextmanager
async def gateway_for(
    data_dir: Path,
    *users: str,
    wall: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> AsyncIterator[tuple[aiohttp.ClientSession, ...]]:
    """The same with the clients of several users' instances, ``i1`` and on."""
    directory = short_directory()
    journal = open_journal(data_dir)
    try:
        async with AsyncExitStack() as stack:
            metering = stack.enter_context(closing(Metering(data_dir, wall=wall, monotonic=monotonic)))
            upstream_client = await stack.enter_async_context(new_client())
            listeners = Listeners(
                Calls(LiveConfiguration(data_dir), LiveOwnKeys(data_dir), upstream_client, metering).answer
            )
            stack.push_async_callback(listeners.drain, 0.1)
            sessions = []
            for number, user in enumerate(users, 1):
                caller = Caller(f"i{number}", {"user": user, "session": "default"})
                await listeners.listen(caller, listening_socket(directory / str(number)))
                sessions.append(await stack.enter_async_context(caller_session(directory / str(number))))
            yield tuple(sessions)
    finally:
        close_journal(journal)
        shutil.rmtree(directory)


@dataclass
class Upstream:
    """What a scripted Messages API saw of its callers."""

    url: str
    bodies: list[bytes] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    connections: set[object] = field(default_factory=set)
    gone: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def scripted_upstream(script: Script) -> AsyncIterator[Upstream]:
    """Serve ``script`` on a loopback port and write down what is asked."""

    async def note(request: web.Request) -> web.StreamResponse:
        seen.targets.append(f"{request.method} {request.rel_url.raw_path_qs}")
        seen.headers.append(request.headers)
        seen.bodies.append(await request.read())
        seen.connections.add(request.transport)
        try:
            return await script(request)
        except asyncio.CancelledError:
            seen.gone.set()
            raise

    application = web.Application(client_max_size=1 << 30)
    application.router.add_route("*", "/{rest:.*}", note)
    runner = web.AppRunner(
        application, handler_cancellation=True, auto_decompress=False, shutdown_timeout=0.5
    )
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    seen = Upstream(f"http://{host}:{port}")
    try:
        yield seen
    finally:
        await runner.cleanup()
