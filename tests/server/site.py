"""A server on a free port around the fake pool, and clients that are signed in to it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from server.access_log import AccessLog
from server.app import build_app, build_services
from server.auth.passwords import Passwords
from server.config import ServerConfig
from server.connections import Limits, Patience
from server.connections import Site as Listening
from server.door import Account
from server.services import Services
from server.settings import load_config
from tests.server.fake_pool import FakePool


@dataclass
class Site:
    """A running server. ``http`` has no credential."""

    base: str
    pool: FakePool
    services: Services
    app: web.Application
    runner: web.AppRunner
    http: aiohttp.ClientSession
    stack: AsyncExitStack

    @property
    def origin(self) -> str:
        return self.base.removesuffix(self.services.config.server.base_path)

    async def token(self, user_id: str, *, admin: bool = False, **options: Any) -> str:
        """A fresh API token of ``user_id``, who is made if need be."""
        account: Account | None = await self.pool.accounts.get_user(user_id)
        if account is None:
            account = await self.services.users.add(user_id, admin=admin)
        return (await self.services.sign_in.issue(account, kind="api", **options)).token

    async def client(
        self, user_id: str = "alice", *, admin: bool = False, **options: Any
    ) -> aiohttp.ClientSession:
        """A client with a bearer token."""
        token = await self.token(user_id, admin=admin, **options)
        return await self.client_with({"Authorization": f"Bearer {token}"})

    async def client_with(self, headers: dict[str, str]) -> aiohttp.ClientSession:
        """A client that sends ``headers`` and keeps cookies, also of an IP address."""
        jar = aiohttp.CookieJar(unsafe=True)
        session = aiohttp.ClientSession(self.base + "/", headers=headers, cookie_jar=jar)
        return await self.stack.enter_async_context(session)


@asynccontextmanager
async def running(
    tmp_path: Path,
    overrides: dict[str, Any] | None = None,
    *,
    patience: Patience | None = None,
    tls: ssl.SSLContext | None = None,
    **options: Any,
) -> AsyncIterator[Site]:
    """A server that runs until the end of the block."""
    config: ServerConfig = load_config(None, {}, overrides)
    pool = FakePool(tmp_path)
    await pool.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(pool.database.aclose)
        passwords = await stack.enter_async_context(Passwords())
        services = build_services(config, pool, tmp_path, passwords)
        app = build_app(services, **options)
        runner = web.AppRunner(app, shutdown_timeout=2)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        limits = Limits(
            config.server.max_connections, config.server.max_connections_per_address, services.proxies
        )
        listener = socket.create_server(("127.0.0.1", 0))
        await Listening(
            runner, listener, limits, patience or Patience(), ssl_context=tls, access_log_class=AccessLog
        ).start()
        port = runner.addresses[0][1]
        base = f"http://127.0.0.1:{port}{config.server.base_path}"
        clients = await stack.enter_async_context(AsyncExitStack())
        http = await clients.enter_async_context(aiohttp.ClientSession(base + "/"))
        yield Site(base, pool, services, app, runner, http, clients)


async def error_of(response: aiohttp.ClientResponse) -> tuple[int, str]:
    """(status, code) of an error, whose body must have the contract's shape."""
    body = await response.json()
    assert set(body) == {"error"}, body
    assert {"code", "message"} <= set(body["error"]) <= {"code", "message", "retry_after", "details"}
    assert body["error"]["message"]
    return response.status, body["error"]["code"]
