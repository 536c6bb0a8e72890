"""A command beside no server owns the pool for as long as it takes, so that no owner is written past."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pool import Fence, PoolLease
from pool.errors import Conflict
from server.config import ServerConfig
from server.settings import secret_text


@asynccontextmanager
async def owning_for_a_moment(config: ServerConfig, data_dir: Path) -> AsyncIterator[Fence | None]:
    """The fence to write under; None where there are no replicas. Raises ``Conflict`` while one owns."""
    if config.replica.url is None:
        yield None
        return
    lease = _lease(config, data_dir)
    try:
        await lease.open()
        epoch = await lease.take()
        if epoch is None:
            row = await lease.look()
            where = "another replica" if row is None else row.url
            raise Conflict(f"{where} owns the pool: give the command where that runs")
        try:
            # One that takes longer than its lease stores nothing; it is to be given again.
            yield Fence(epoch, config.replica.lease_seconds, lambda: None)
        finally:
            await lease.give_back(epoch)
    finally:
        await lease.aclose()


async def who_owns(config: ServerConfig, data_dir: Path) -> str:
    """In a few words. Raises ``StoreUnavailable``."""
    lease = _lease(config, data_dir)
    try:
        await lease.open()
        row = await lease.look()
    finally:
        await lease.aclose()
    return "no replica owns the pool" if row is None or row.is_free else f"{row.url} owns the pool"


def _lease(config: ServerConfig, data_dir: Path) -> PoolLease:
    return PoolLease(
        secret_text(config.storage.url),
        data_dir,
        holder=f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}",
        url=config.replica.url or "",
        lease_seconds=config.replica.lease_seconds,
    )
