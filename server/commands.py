"""How a command gets its work done: asked of the running server, or done here when none runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pool import given_to
from server.config import ServerConfig
from server.control_client import NoServer, call
from server.data_lock import DataLock
from server.settings import secret_text


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
            uid = given_to(site.data_dir)
            if uid is not None:
                from server.beside import as_server  # noqa: PLC0415

                return as_server(site, uid, "perform", {"op": op, "arguments": dict(arguments)})
            # Loaded where it is needed: with a running server a command is done much sooner without it.
            from server.offline import perform_here  # noqa: PLC0415

            return asyncio.run(perform_here(site.config, site.data_dir, op, arguments))
        finally:
            lock.release()


def export_user(site: Site, name: str, target: Path) -> int:
    """Write all of a user's data to ``target``, a new file of its owner's only; returns its size.

    That it is exported is written down first. Raises as ``perform``, and ``FileExistsError``.
    """
    perform(site, "user_exported", {"name": name})
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            uid = given_to(site.data_dir)
            if uid is None:
                return asyncio.run(_export(site, name, file))
            from server.beside import as_server  # noqa: PLC0415

            return int(as_server(site, uid, "export", {"name": name}, descriptor))
    except BaseException:
        target.unlink(missing_ok=True)
        raise


async def _export(site: Site, name: str, file: BinaryIO) -> int:
    from pool import export_user_data  # noqa: PLC0415

    async for piece in export_user_data(site.data_dir, secret_text(site.config.storage.url), name):
        await asyncio.to_thread(file.write, piece)
    return file.tell()
