"""How a command gets its work done: asked of the running server, or done here when none runs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pool import AuditLog, Usage, calling, export_user_data, open_accounts, remove_user_files
from server.auth.live import LiveConnections
from server.auth.passwords import Passwords
from server.auth.sign_in import SignIn
from server.auth.throttle import LoginThrottle
from server.auth.tokens import TokenSigner, signing_secret
from server.auth.users import Users
from server.config import ServerConfig
from server.control import NoServer, call, command_caller
from server.data_lock import DataLock
from server.listening import link_address
from server.operations import Operations
from server.own_keys import OwnModelKeys
from server.settings import secret_text
from server.usage import UsageBooks


@dataclass(frozen=True, slots=True)
class Site:
    """Which installation a command is about."""

    config: ServerConfig
    data_dir: Path


def perform(site: Site, op: str, arguments: Mapping[str, Any]) -> Any:
    """The operation's result. Raises ``ControlError``, a ``PoolError`` or ``HeldElsewhere``."""
    try:
        return call(site.data_dir, op, arguments)
    except NoServer:
        site.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        lock = DataLock(site.data_dir)
        try:
            return asyncio.run(_perform_here(site, op, arguments))
        finally:
            lock.release()


async def _perform_here(site: Site, op: str, arguments: Mapping[str, Any]) -> Any:
    config = site.config
    store, accounts = open_accounts(site.data_dir, secret_text(config.storage.url))
    secret, is_configured = signing_secret(config.auth.jwt, site.data_dir)
    live, audit = LiveConnections(), AuditLog(store.database)
    loop = asyncio.get_running_loop()
    await store.open()
    try:
        async with Passwords() as passwords:
            sign_in = SignIn(
                accounts,
                TokenSigner(secret, config.auth.jwt, foreign=is_configured, wall=time.time),
                passwords,
                LoginThrottle(loop.time),
                live,
                audit,
                multi_user=config.multi_user,
                local_passwords=config.auth.local,
                ttl_seconds=config.auth.token_ttl_seconds,
                wall=time.time,
            )

            async def forget(user_id: str, keep_workspace: bool) -> None:
                await asyncio.to_thread(
                    remove_user_files, site.data_dir, user_id, keep_workspace=keep_workspace
                )
                # The gateway may run on without a server, and has its say to the books before the name goes.
                books = UsageBooks(Usage(store.database), site.data_dir)
                await books.take_in()
                await books.forget(user_id)
                await OwnModelKeys(site.data_dir).forget(user_id)

            users = Users(accounts, passwords, live, _nothing_runs, forget)
            address = link_address(config.server, config.server.port)
            with calling(command_caller(os.getuid())):
                return await Operations(users, sign_in, None, address, audit).run(op, arguments)
    finally:
        await store.aclose()


async def export_user(site: Site, name: str, target: Path) -> int:
    """Write all of a user's data to ``target``, a new file of its owner's only; returns its size.

    That it is exported is written down first. Raises as ``perform``, and ``FileExistsError``.
    """
    await asyncio.to_thread(perform, site, "user_exported", {"name": name})
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            pieces = export_user_data(site.data_dir, secret_text(site.config.storage.url), name)
            async for piece in pieces:
                await asyncio.to_thread(file.write, piece)
            return file.tell()
    except BaseException:
        target.unlink(missing_ok=True)
        raise


async def _nothing_runs(_user_id: str) -> None:
    """Beside no server a user has no instances."""
