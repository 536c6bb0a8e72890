"""From the command line to a running server, and from one image of it to the next."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import sys
import tempfile
import warnings
from pathlib import Path

import jwt

from pool import open_accounts
from pool.errors import BadRequest
from server.allocator import give_memory_back
from server.auth.tokens import MIN_SECRET_BYTES
from server.commands import Site
from server.config import ServerConfig
from server.data_lock import DataLock
from server.listening import tls_context
from server.logs import logging_to, standard_error
from server.model_keys import SETTLE, SETTLED, hand_on, move_keys, new_memory
from server.pool_settings import to_pool_config
from server.rules import check_platform, check_single_user
from server.serving import Ending, Server, Serving, default_check_command
from server.settings import ConfigError, secret_text
from server.threads import BLOCKING_THREADS, whole_pool

_log = logging.getLogger(__name__)

INHERITED = "CLAUDE_POOL_INHERITED"
"""In the environment of the next image: which descriptors hold the lock and the listening socket."""


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
    tls_context(site.config.server)
    try:
        to_pool_config(site.config, site.data_dir, os.environ)
    except BadRequest as error:
        raise ConfigError(error.message) from error


async def _try_migrations(directory: Path) -> None:
    """All of them, on a new database."""
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
    lock = DataLock(site.data_dir, inherited=inherited.get("lock"))
    environment = None if settled else move_keys(site.config, site.data_dir, os.environ)
    if environment is not None:
        descriptor = new_memory()
        hand_on(site.config, descriptor)
        environment[SETTLED] = str(descriptor)
        _execute_anew(environment, lock, inherited.get("listen"))
    _raise_file_limit()
    give_memory_back()
    with logging_to(standard_error(), site.config.logging):
        _warn_of_short_secret(site.config)
        server = Server(
            Serving(
                config=site.config,
                data_dir=site.data_dir,
                environ=os.environ,
                listen_fd=inherited.get("listen"),
                check_command=default_check_command(),
            )
        )
        ending = asyncio.run(_run(server))
    if ending is Ending.RELOAD:
        environment = dict(os.environ)
        if server.settled_fd is not None:
            environment[SETTLED] = str(server.settled_fd)
        _execute_anew(environment, lock, server.listen_fd)
    lock.release()


async def _run(server: Server) -> Ending:
    asyncio.get_running_loop().set_default_executor(whole_pool(BLOCKING_THREADS, "blocking"))
    return await server.run()


def _execute_anew(environment: dict[str, str], lock: DataLock, listen_fd: int | None) -> None:
    """Become the installed code with the same command line; lock and listening socket stay ours."""
    held = {"lock": lock.descriptor}
    if listen_fd is not None:
        held["listen"] = listen_fd
    for descriptor in held.values():
        os.set_inheritable(descriptor, True)
    environment[INHERITED] = json.dumps(held)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def _raise_file_limit() -> None:
    """Each client is a descriptor; the soft limit is often far below the hard one."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _warn_of_short_secret(config: ServerConfig) -> None:
    secret = secret_text(config.auth.jwt.secret)
    if secret is not None and len(secret.encode()) < MIN_SECRET_BYTES:
        _log.warning("auth.jwt.secret has less than %s bytes: it can be guessed", MIN_SECRET_BYTES)
        warnings.simplefilter("ignore", jwt.InsecureKeyLengthWarning)
