"""One run of the server in this process, with everything that it loads."""

from __future__ import annotations

import asyncio
import logging
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jwt

from pool import Host
from server.auth.tokens import MIN_SECRET_BYTES
from server.commands import Site
from server.config import ServerConfig
from server.gateway_files import GatewayFiles
from server.serving import Server, Serving
from server.settings import secret_text
from server.stewarded import CAME_BACK
from server.threads import BLOCKING_THREADS, whole_pool

_log = logging.getLogger(__name__)


def run(
    site: Site,
    host: Host,
    files: GatewayFiles,
    listen_fd: int | None,
    check: Callable[[], Any],
    notes: Mapping[str, dict[str, Any]],
    come_back: Callable[[int, str], None],
) -> Server:
    """Serve until told to end; the server, which says how it ended. Raises as ``Server.run``."""
    _tell_why_it_came_back()
    _warn_of_short_secret(site.config)
    server = Server(
        Serving(
            config=site.config,
            data_dir=site.data_dir,
            environ=os.environ,
            host=host,
            gateway_files=files,
            listen_fd=listen_fd,
            check=check,
            notes=notes,
            come_back=come_back,
        )
    )
    asyncio.run(_run(server))
    return server


async def _run(server: Server) -> None:
    asyncio.get_running_loop().set_default_executor(whole_pool(BLOCKING_THREADS, "blocking"))
    await server.run()


def _tell_why_it_came_back() -> None:
    reason = os.environ.pop(CAME_BACK, None)
    if reason is not None:
        _log.error("this replica owned the pool and does no more: %s; it stands by again", reason)


def _warn_of_short_secret(config: ServerConfig) -> None:
    secret = secret_text(config.auth.jwt.secret)
    if secret is not None and len(secret.encode()) < MIN_SECRET_BYTES:
        _log.warning("auth.jwt.secret has less than %s bytes: it can be guessed", MIN_SECRET_BYTES)
        warnings.simplefilter("ignore", jwt.InsecureKeyLengthWarning)
