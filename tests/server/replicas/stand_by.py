"""A stand-by in front of an owner, both on real sockets, without a database."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

from aiohttp import web

from pool import LeaseRow, LeaseRules, PoolLease
from server.auth.addresses import TrustedProxies
from server.auth.hop import HopKey
from server.connections import Limits, Patience
from server.connections import Site as Listening
from server.errors import errors_as_json
from server.replicas.arriving import Arrivals
from server.replicas.owner import OwnerWatch
from server.replicas.standing_by import StandByApp, Standing, serving_by_the_owner
from server.settings import load_config

SECRET = "the secret that all replicas have"
EPOCH = 7


class StandBy:
    """One that serves; ``watch`` is told who owns as the database would tell it."""

    def __init__(self, url: str, watch: OwnerWatch) -> None:
        self.url = url
        self.watch = watch

    def owned_by(self, url: str, epoch: int = EPOCH) -> None:
        self.watch.saw(LeaseRow("somebody", url, epoch, 10.0, False))


@asynccontextmanager
async def standing_by(
    owner: str | None, *, epoch: int = EPOCH, secret: str = SECRET, **settings: Any
) -> AsyncIterator[StandBy]:
    """A stand-by; ``settings`` are of its configuration."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = load_config(None, {}, {"replica": {"url": url}, **settings})
    watch = OwnerWatch(url, config.server.base_path)
    standing = Standing(cast(PoolLease, None), LeaseRules(lease_seconds=15), watch)
    app = StandByApp(config, watch, HopKey(secret), "0", standing)
    async with AsyncExitStack() as stack:
        stack.callback(listener.close)
        await watch.start()
        stack.push_async_callback(watch.aclose)
        runner = await serving_by_the_owner(app, listener, None)
        stack.push_async_callback(runner.cleanup)
        stack.push_async_callback(watch.let_go)
        made = StandBy(url, watch)
        if owner is not None:
            made.owned_by(owner, epoch)
        yield made


@asynccontextmanager
async def owning(
    app: web.Application, *, epoch: int = EPOCH, secret: str = SECRET, per_address: int = 1000
) -> AsyncIterator[tuple[str, Limits]]:
    """An owner of whatever routes ``app`` has; its URL, and its count of connections."""
    app.middlewares.insert(0, Arrivals(HopKey(secret), epoch))
    app.middlewares.insert(0, errors_as_json)

    async def ready(_request: web.Request) -> web.Response:
        return web.json_response({"ready": True, "reasons": [], "status": "ok"})

    for name in ("livez", "readyz"):
        app.router.add_get(f"/{name}", ready)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        limits = Limits(1000, per_address, TrustedProxies([]))
        listener = socket.create_server(("127.0.0.1", 0))
        await Listening(runner, listener, limits, Patience()).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", limits
    finally:
        await runner.cleanup()
        await asyncio.sleep(0)
