"""From the command line to a running server, and from one image of it to the next."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pool import StewardClient, open_host, stewarded_host, take_data
from pool.errors import BadRequest, IsolationUnavailable
from server.allocator import give_memory_back
from server.commands import Site
from server.data_lock import DataLock
from server.gateway_files import GatewayFiles
from server.listening import tls_context
from server.logs import logging_to, standard_error
from server.model_keys import SETTLE, SETTLED, hand_on, move_keys, new_memory
from server.next_image import NextImage
from server.pool_settings import to_pool_config
from server.rules import check_platform, check_replica, check_single_user
from server.settings import ConfigError
from server.stewarded import (
    CAME_BACK,
    FENCED_CODE,
    INHERITED,
    RELOAD_CODE,
    RemoteGatewayFiles,
    StewardedServer,
    take_steward,
    whom_to_be,
)

_log = logging.getLogger(__name__)


def check(site: Site) -> None:
    """Prove configuration, imports and migrations without touching what runs. Raises ``ConfigError``.

    For a server that is about to reload it settles the configuration too, so that a model credential
    in it never comes into that server's memory.
    """
    _check_configuration(site)
    with tempfile.TemporaryDirectory(prefix="cp-check-") as directory:
        asyncio.run(_try_migrations(Path(directory)))
    settle = os.environ.get(SETTLE)
    if settle is not None:
        move_keys(site.config, site.data_dir, os.environ)
        hand_on(site.config, int(settle))


def _check_configuration(site: Site) -> None:
    check_platform()
    check_single_user(site.config)
    check_replica(site.config)
    tls_context(site.config.server)
    try:
        to_pool_config(site.config, site.data_dir, os.environ)
    except BadRequest as error:
        raise ConfigError(error.message) from error


async def _try_migrations(directory: Path) -> None:
    """All of them, on a new database."""
    from pool import open_accounts  # noqa: PLC0415 - a steward loads none of it

    store, _accounts = open_accounts(directory, None)
    await store.open()
    await store.aclose()


def serve_until_told(site: Site, *, settled: bool = False) -> None:
    """Serve; returns when the server has ended gracefully, and not at all on a reload.

    ``settled``: the image before this one has written the gateway's files.
    Raises ``ConfigError``, ``HeldElsewhere``, a ``PoolError`` or an ``OSError``.
    """
    _check_configuration(site)
    site.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    inherited = json.loads(os.environ.pop(INHERITED, "{}"))
    steward = take_steward(os.environ)
    # a server's steward holds it
    lock = DataLock(site.data_dir, inherited=inherited.get("lock")) if steward is None else None
    environment = None if settled else move_keys(site.config, site.data_dir, os.environ)
    if environment is not None:
        descriptor = new_memory()
        hand_on(site.config, descriptor)
        environment[SETTLED] = str(descriptor)
        _execute_anew(environment, lock, inherited.get("listen"))
    _raise_file_limit()
    give_memory_back()
    with logging_to(standard_error(), site.config.logging):
        serve = partial(_serve_here, lock) if steward is None else partial(_serve_with, steward)
        following = serve(site, inherited.get("listen"))
    if following:
        if steward is not None:
            sys.exit(RELOAD_CODE)
        environment = dict(os.environ)
        if following["settled"] is not None:
            environment[SETTLED] = str(following["settled"])
        _execute_anew(environment, lock, following["listen"])
    if lock is not None:
        lock.release()


def _serve_here(lock: DataLock | None, site: Site, listen_fd: int | None) -> dict[str, Any]:
    """Serve in this process, or as its steward; what the next image inherits, empty when it is the last."""
    pool_config = to_pool_config(site.config, site.data_dir, os.environ)
    try:
        host = open_host(pool_config)
    except IsolationUnavailable as error:
        raise ConfigError(error.message) from error
    uid, obstacle = whom_to_be(site.config, pool_config, host)
    if uid is not None:
        return StewardedServer(site, pool_config, host, uid).run(listen_fd, _check_command())
    take_data(site.data_dir)
    image = NextImage(_check_command())
    from server.running import run  # noqa: PLC0415 - a steward loads none of it

    server = run(
        site,
        host,
        GatewayFiles(site.data_dir),
        listen_fd,
        image.check,
        _note(None, obstacle),
        _coming_back(site, lock),
    )
    return {"listen": server.listen_fd, "settled": image.descriptor} if server.is_reloading else {}


def _serve_with(steward: StewardClient, site: Site, listen_fd: int | None) -> dict[str, Any]:
    """As ``_serve_here``, for a server that has a steward: who has what the next image inherits."""
    host = stewarded_host(to_pool_config(site.config, site.data_dir, os.environ), steward)
    files = RemoteGatewayFiles(steward, site.data_dir)
    check = partial(steward.call, "check_next_image")
    from server.running import run  # noqa: PLC0415 - a steward loads none of it

    try:
        server = run(site, host, files, listen_fd, check, _note(os.geteuid(), None), _end_for_steward)
    finally:
        steward.close()
    return {"listen": server.listen_fd} if server.is_reloading else {}


def _coming_back(site: Site, lock: DataLock | None) -> Callable[[int, str], None]:
    """What an owner that is fenced does, at any instruction: execute itself anew as it is configured."""
    descriptor = new_memory()
    hand_on(site.config, descriptor)
    os.set_inheritable(descriptor, False)

    def come_back(listen_fd: int, reason: str) -> None:
        os.set_inheritable(descriptor, True)
        environment = {**os.environ, SETTLED: str(descriptor), CAME_BACK: reason}
        _execute_anew(environment, lock, listen_fd)

    return come_back


def _end_for_steward(_listen_fd: int, reason: str) -> None:
    """The same for a server that has a steward, which starts the next one."""
    os.write(2, f"fenced: {reason}\n".encode())
    os._exit(FENCED_CODE)


def _note(uid: int | None, obstacle: str | None) -> dict[str, dict[str, Any]]:
    """What the health page tells of the server's user."""
    if obstacle is not None:
        _log.warning("server: %s", obstacle)
        return {"server": {"ok": False, "detail": obstacle}}
    return {} if uid is None else {"server": {"ok": True, "detail": f"runs as uid {uid}, without any rights"}}


def _check_command() -> list[str]:
    """This very command line, only checking."""
    return [sys.executable, *sys.orig_argv[1:], "--check"]


def _execute_anew(environment: dict[str, str], lock: DataLock | None, listen_fd: int | None) -> None:
    """Become the installed code with the same command line; lock and listening socket stay ours."""
    held = {} if lock is None else {"lock": lock.descriptor}
    if listen_fd is not None:
        held["listen"] = listen_fd
    for descriptor in held.values():
        os.set_inheritable(descriptor, True)
    environment[INHERITED] = json.dumps(held)
    # from a handler of a signal it may meet a write under way
    with contextlib.suppress(RuntimeError):
        sys.stdout.flush()
        sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def _raise_file_limit() -> None:
    """Each client is a descriptor; the soft limit is often far below the hard one."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
