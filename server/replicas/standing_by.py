"""A replica that stands by: it serves what comes by the owner's hands, and takes the pool when it is free."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from typing import Any

from aiohttp import web

from pool import LeaseRules, PoolLease, Tenure
from pool.errors import StoreUnavailable
from server.access_log import AccessLog
from server.auth.addresses import TrustedProxies
from server.auth.hop import HopKey
from server.auth.origin import OriginRules
from server.config import ServerConfig
from server.connections import Limits, Patience, Site
from server.errors import errors_as_json
from server.headers import plain_headers
from server.replicas.alarm import now
from server.replicas.forwarding import Forwarding
from server.replicas.owner import LOOK, OwnerWatch
from server.routes import json_response

_log = logging.getLogger(__name__)

_CLOSE_SECONDS = 3.0
_KEEPALIVE_SECONDS = 75.0


class Standing:
    """Looks at the lease until this replica has it, or is told to stop."""

    def __init__(self, lease: PoolLease, rules: LeaseRules, watch: OwnerWatch) -> None:
        self._lease = lease
        self._rules = rules
        self._watch = watch
        self._is_open = False
        self._said_at: float | None = None
        self.trouble: str | None = None

    async def try_once(self) -> Tenure | None:
        """Take the lease if it is free, else note who has it; what was taken. Raises ``StoreUnavailable``."""
        if not self._is_open:
            await self._lease.open()
            self._is_open = True
        row = await self._lease.look()
        if row is None or row.is_free:
            sent_at = now()
            epoch = await self._lease.take()
            if epoch is not None:
                return Tenure(self._rules, epoch, sent_at)
            row = await self._lease.look()
        self._watch.saw(row)
        return None

    async def until_owner(self, stop: asyncio.Event) -> Tenure | None:
        """Stand by; None when it was told to stop first."""
        while not stop.is_set():
            try:
                tenure = await self.try_once()
                if tenure is not None:
                    return tenure
                await self._say()
                self._note(None)
            except StoreUnavailable as error:
                self._note(error.message)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._rules.look_seconds)
        return None

    async def leave(self) -> None:
        """Stand by no more."""
        with contextlib.suppress(StoreUnavailable):
            await self._lease.leave()

    async def _say(self) -> None:
        if self._said_at is None or now() >= self._said_at + self._rules.renew_seconds:
            await self._lease.stand_by()
            self._said_at = now()

    def _note(self, trouble: str | None) -> None:
        if trouble is not None and self.trouble is None:
            _log.warning("the lease cannot be looked at: %s", trouble)
        self.trouble = trouble


class StandByApp:
    """What a stand-by answers itself: is it alive, may work come, how does it do. All else is the owner's."""

    def __init__(
        self, config: ServerConfig, watch: OwnerWatch, key: HopKey, version: str, standing: Standing
    ) -> None:
        self._config = config
        self._standing = standing
        self._watch = watch
        self._version = version
        self._started = time.monotonic()
        self._proxies = TrustedProxies(config.server.trusted_proxies)
        self._forwarding = Forwarding(
            watch,
            key,
            OriginRules(config.server.host, config.server.allowed_origins),
            self._proxies,
            proxy_header=config.auth.proxy_header,
            max_message_bytes=config.server.max_message_bytes,
        )

    def build(self) -> web.Application:
        """The application."""
        app = web.Application(middlewares=[errors_as_json])
        base = self._config.server.base_path
        for name in ("livez", "readyz", "health"):
            app.router.add_get(f"{base}/{name}", getattr(self, name))
        app.router.add_route("*", "/{path:.*}", self._forwarding.forward)
        app.on_response_prepare.append(_add_headers)
        return app

    def site(self, runner: web.AppRunner, listener: socket.socket, tls: ssl.SSLContext | None) -> Site:
        """On the listening socket, bounded as the owner's own."""
        server = self._config.server
        limits = Limits(server.max_connections, server.max_connections_per_address, self._proxies)
        return Site(
            runner,
            listener,
            limits,
            Patience(),
            ssl_context=tls,
            access_log_class=AccessLog,
            keepalive_timeout=_KEEPALIVE_SECONDS,
            # bodies go on as they came
            auto_decompress=False,
        )

    async def livez(self, _request: web.Request) -> web.Response:
        """``GET /livez``: of this replica."""
        return json_response({"status": "ok"})

    async def readyz(self, request: web.Request) -> web.Response:
        """``GET /readyz``: work that comes here is done if the owner takes it."""
        owner_says = None if LOOK in request.headers else await self._watch.reasons_of_owner()
        reasons = ["stand-by: no owner answers"] if owner_says is None else owner_says
        body = {"ready": not reasons, "reasons": reasons, "role": "stand-by"}
        if not reasons:
            return json_response(body)
        return json_response(body, status=503, headers={"Retry-After": "1"})

    async def health(self, _request: web.Request) -> web.Response:
        """``GET /health``: of this replica, with who owns."""
        owner = self._watch.owner
        answers = owner is not None and await self._watch.answers(owner)
        detail = "none is known" if owner is None else f"{owner.url}, epoch {owner.epoch}"
        checks: dict[str, Any] = {
            "owner": {"ok": answers, "detail": detail if answers else f"{detail}; it does not answer"}
        }
        trouble = self._standing.trouble
        checks["database"] = {"ok": trouble is None, "detail": trouble or "the lease can be looked at"}
        return json_response(
            {
                "status": "ok" if all(check["ok"] for check in checks.values()) else "degraded",
                "version": self._version,
                "uptime_seconds": round(time.monotonic() - self._started, 3),
                "checks": checks,
                "replica": {
                    "role": "stand-by",
                    "url": self._config.replica.url,
                    "owner": None if owner is None else str(owner.url),
                    "epoch": None if owner is None else owner.epoch,
                },
            }
        )


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """For what is answered here; the owner's answers have theirs."""
    if "Content-Security-Policy" not in response.headers:
        response.headers.update(plain_headers())


async def serving_by_the_owner(
    app: StandByApp, listener: socket.socket, tls: ssl.SSLContext | None
) -> web.AppRunner:
    """Begin to serve; to be cleaned up. The caller's socket goes on listening then, and nobody is refused."""
    runner = web.AppRunner(app.build(), shutdown_timeout=_CLOSE_SECONDS)
    await runner.setup()
    await app.site(runner, listener.dup(), tls).start()
    return runner
