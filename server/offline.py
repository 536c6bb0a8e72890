"""What a command does by itself beside no running server, with the data directory locked."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pool import (
    AuditLog,
    Fence,
    StewardClient,
    Usage,
    calling,
    check_lives_here,
    open_accounts,
    remove_user_files,
    stewarded_files,
)
from server.auth.live import LiveConnections
from server.auth.passwords import Passwords
from server.auth.sign_in import SignIn
from server.auth.throttle import LoginThrottle
from server.auth.tokens import TokenSigner, signing_secret
from server.auth.users import Users
from server.config import ServerConfig
from server.control import command_caller
from server.gateway_files import GatewayFiles
from server.listening import link_address
from server.operations import Operations
from server.own_keys import OwnModelKeys
from server.replicas.moment import owning_for_a_moment
from server.settings import secret_text
from server.stewarded import RemoteGatewayFiles
from server.usage import UsageBooks


async def perform_here(
    config: ServerConfig,
    data_dir: Path,
    op: str,
    arguments: Mapping[str, Any],
    *,
    steward: StewardClient | None = None,
    uid: int | None = None,
) -> Any:
    """Its result; the lock is the caller's. Raises a ``PoolError``.

    ``steward`` is asked for what is not ours in the data directory; ``uid`` is who gives the command.
    """
    async with owning_for_a_moment(config, data_dir) as fence:
        return await _perform_here(config, data_dir, op, arguments, steward, uid, fence)


async def _perform_here(
    config: ServerConfig,
    data_dir: Path,
    op: str,
    arguments: Mapping[str, Any],
    steward: StewardClient | None,
    uid: int | None,
    fence: Fence | None,
) -> Any:
    store, accounts = open_accounts(data_dir, secret_text(config.storage.url), fence)
    secret, is_configured = signing_secret(config.auth.jwt, data_dir)
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
                paths = None if steward is None else stewarded_files(data_dir, steward)
                await asyncio.to_thread(
                    remove_user_files, data_dir, user_id, keep_workspace=keep_workspace, files=paths
                )
                # The gateway may run on without a server, and has its say to the books before the name goes.
                files = GatewayFiles(data_dir) if steward is None else RemoteGatewayFiles(steward, data_dir)
                files.settle()
                books = UsageBooks(Usage(store.database), files)
                await books.take_in()
                await books.forget(user_id)
                await OwnModelKeys(files).forget(user_id)

            users = Users(accounts, passwords, live, _nothing_runs, forget)
            if op == "user_delete":
                await check_lives_here(store.database, str(arguments.get("name")))
            address = link_address(config.server, config.server.port)
            with calling(command_caller(os.getuid() if uid is None else uid)):
                return await Operations(users, sign_in, None, address, audit).run(op, arguments)
    finally:
        await store.aclose()


async def _nothing_runs(_user_id: str) -> None:
    """Beside no server a user has no instances."""
