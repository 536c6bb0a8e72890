"""The composition root of the HTTP side: every part is made and joined here."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from aiohttp import web

from server import health, metrics, sse
from server.auth.addresses import TrustedProxies
from server.auth.live import RESTARTING, LiveConnections
from server.auth.middleware import Gate
from server.auth.origin import OriginRules
from server.auth.passwords import Passwords
from server.auth.sign_in import SignIn
from server.auth.throttle import LoginThrottle
from server.auth.tokens import TokenSigner, signing_secret
from server.auth.users import Users
from server.config import ServerConfig
from server.door import Pool
from server.errors import count_errors, errors_as_json
from server.gateway_files import GatewayFiles
from server.headers import add_security_headers
from server.many_gateways import ManyGateways
from server.notices import Notices
from server.openapi import with_document
from server.own_keys import OwnModelKeys
from server.replicas.arriving import Arrivals
from server.rest import account, admin, audit, export, model_keys, sessions, sign_in, turns, usage
from server.routes import Access, Route, add_routes
from server.services import SERVICES, Services
from server.static import WEB_DIR, static_files
from server.team_use import TeamUse
from server.usage import UsageBooks
from server.usage import reader as usage_reader
from server.ws import connection

API_ROUTES: list[Route] = [
    *health.ROUTES,
    *metrics.ROUTES,
    *sign_in.ROUTES,
    *account.ROUTES,
    *sessions.ROUTES,
    *turns.ROUTES,
    *sse.ROUTES,
    *admin.ROUTES,
    *audit.ROUTES,
    *export.ROUTES,
    *usage.ROUTES,
    *model_keys.ROUTES,
    *connection.ROUTES,
]


def installed_version() -> str:
    """The version of this package."""
    try:
        return version("claude-pool")
    except PackageNotFoundError:
        return "0"


def build_services(
    config: ServerConfig,
    pool: Pool,
    data_dir: Path,
    passwords: Passwords,
    *,
    wall: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
    notes: dict[str, dict[str, Any]] | None = None,
    gateway_files: GatewayFiles | None = None,
    place: Callable[[str], Awaitable[object]] | None = None,
    replica: Mapping[str, Any] | None = None,
) -> Services:
    """The parts behind the routes. ``pool`` is started; ``passwords`` stays the caller's to close.

    ``place`` decides on which host a user lives, where there are several.
    """
    secret, is_configured = signing_secret(config.auth.jwt, data_dir)
    live = LiveConnections(config.server.max_connections_per_user)
    sign_in_service = SignIn(
        pool.accounts,
        TokenSigner(secret, config.auth.jwt, foreign=is_configured, wall=wall),
        passwords,
        LoginThrottle(monotonic),
        live,
        pool.audit,
        multi_user=config.multi_user,
        local_passwords=config.auth.local,
        ttl_seconds=config.auth.token_ttl_seconds,
        wall=wall,
    )
    (gateway_files := gateway_files or GatewayFiles(data_dir)).settle()
    own_keys, usage_books = OwnModelKeys(gateway_files, place), UsageBooks(pool.usage, gateway_files, wall)
    forget = _forgetting(pool, gateway_files, own_keys, usage_books)
    return Services(
        config=config,
        pool=pool,
        sign_in=sign_in_service,
        users=Users(pool.accounts, passwords, live, pool.stop_user, forget),
        live=live,
        proxies=TrustedProxies(config.server.trusted_proxies),
        model=gateway_files.describe,
        model_of=gateway_files.describe_to,
        version=installed_version(),
        usage=usage_books,
        own_keys=own_keys,
        team_use=_team_use(config, usage_books, gateway_files),
        notices=Notices(config.quotas, usage_books, live.tell_user, monotonic),
        notes=notes or {},
        replica=replica,
    )


def _team_use(config: ServerConfig, books: UsageBooks, files: GatewayFiles) -> TeamUse | None:
    return TeamUse(config.quotas.teams, books, files) if isinstance(files, ManyGateways) else None


def _forgetting(
    pool: Pool, gateway_files: GatewayFiles, own_keys: OwnModelKeys, usage_books: UsageBooks
) -> Callable[[str, bool], Awaitable[None]]:
    async def forget(user_id: str, keep_workspace: bool) -> None:
        gateway_files.bear_in_mind(user_id)
        await pool.forget_user(user_id, keep_workspace=keep_workspace)
        # What the gateway has told of them so far must be in the books when their name is taken out.
        await usage_books.take_in()
        await usage_books.forget(user_id)
        await own_keys.forget(user_id)

    return forget


def build_app(
    services: Services, *, web_dir: Path = WEB_DIR, arrivals: Arrivals | None = None
) -> web.Application:
    """The application: middlewares, routes, background work, in this order.

    ``arrivals`` of an owner looks at what other replicas send.
    """
    config = services.config.server
    base = config.base_path
    routes = with_document(API_ROUTES, version=services.version, base_path=base)
    scrapers = metrics.Scrapers(config.metrics_addresses, services.proxies)
    is_open = _open_paths(routes, base, scrapers)
    gate = Gate(
        OriginRules(config.host, config.allowed_origins),
        services.sign_in,
        services.proxies,
        proxy_header=services.config.auth.proxy_header,
        is_open=is_open,
    )
    before = [] if arrivals is None else [arrivals]
    app = web.Application(
        middlewares=[errors_as_json, *before, gate], client_max_size=config.max_message_bytes
    )
    app[SERVICES] = services
    app[export.UNDER_WAY] = set()
    app[health.LAG] = health.LoopLag(services.counts.loop_lag, services.counts.loop_work)
    app[health.STARTED] = time.monotonic()
    app.on_response_prepare.append(add_security_headers)
    app.on_response_prepare.append(count_errors(services.counts))
    app.on_shutdown.append(_end_connections)
    app.cleanup_ctx.append(health.background_checks)
    app.cleanup_ctx.append(usage_reader(services.usage, services.notices, services.tell_team_use))
    add_routes(app, routes, base)
    _add_static(app, base, web_dir)
    return app


def _open_paths(routes: list[Route], base: str, scrapers: metrics.Scrapers) -> Callable[[web.Request], bool]:
    """Which requests need no sign-in: by their route or address, and whatever is not of the API."""
    opened = {(route.method, base + route.path) for route in routes if route.access is Access.OPEN}
    scraped = {base + route.path for route in routes if route.access is Access.SCRAPER}
    guarded = {base + route.path for route in routes if route.access is not Access.OPEN}

    def is_open(request: web.Request) -> bool:
        resource = request.match_info.route.resource
        path = resource.canonical if resource is not None else ""
        method = "GET" if request.method == "HEAD" else request.method
        if path in scraped and scrapers.may_read(request):
            return True
        return (method, path) in opened or path not in guarded

    return is_open


def _add_static(app: web.Application, base: str, web_dir: Path) -> None:
    index, file = static_files(web_dir)

    async def to_index(_request: web.Request) -> web.StreamResponse:
        raise web.HTTPPermanentRedirect(f"{base}/")

    if base:
        app.router.add_get(base, to_index)
    app.router.add_get(f"{base}/", index)
    # Not for the API: an unknown route there is 404 with any method.
    app.router.add_get(base + "/{path:(?!api/).+}", file)


async def _end_connections(app: web.Application) -> None:
    app[SERVICES].live.end_all(RESTARTING, "the server restarts")
