"""One replica's way: it stands by until it owns the pool, owns, and gives the pool back."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import uuid
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from pool import LeaseRules, PoolLease
from pool.errors import StoreUnavailable
from server.auth.hop import HopKey
from server.config import ServerConfig
from server.replicas.arriving import Arrivals
from server.replicas.owner import OwnerWatch
from server.replicas.owning import Ownership
from server.replicas.standing_by import StandByApp, Standing, serving_by_the_owner
from server.settings import secret_text

_log = logging.getLogger(__name__)


class Replica:
    """This server among the others. ``open`` it first, ``aclose`` it after all that an owner does."""

    def __init__(self, config: ServerConfig, data_dir: Path, version: str) -> None:
        self._config = config
        self._version = version
        self._rules = LeaseRules(lease_seconds=config.replica.lease_seconds)
        self._url = config.replica.url or ""
        self._lease = PoolLease(
            secret_text(config.storage.url),
            data_dir,
            holder=f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}",
            url=self._url,
            lease_seconds=config.replica.lease_seconds,
        )
        self._key = HopKey(secret_text(config.auth.jwt.secret) or "")
        self.ownership: Ownership | None = None

    async def own(
        self,
        listener: socket.socket,
        tls: ssl.SSLContext | None,
        *,
        stop: asyncio.Event,
        come_back: Callable[[str], None],
        stands_by: Callable[[], None],
    ) -> bool:
        """Stand by on ``listener`` until the pool is this replica's; False when it was told to stop first.

        ``stands_by`` is called once it serves by the owner's hands, ``come_back`` as ``Ownership`` says.
        """
        watch = OwnerWatch(self._url, self._config.server.base_path)
        standing = Standing(self._lease, self._rules, watch)
        tenure = None
        try:
            tenure = await standing.try_once()
        except StoreUnavailable as error:
            _log.warning("the lease cannot be looked at: %s", error)
        if tenure is None:
            app = StandByApp(self._config, watch, self._key, self._version, standing)
            async with AsyncExitStack() as stack:
                await watch.start()
                stack.push_async_callback(watch.aclose)
                runner = await serving_by_the_owner(app, listener, tls)
                stack.push_async_callback(runner.cleanup)
                # What goes through here ends first, so that nothing of it is waited for.
                stack.push_async_callback(watch.let_go)
                stands_by()
                tenure = await standing.until_owner(stop)
                if tenure is not None:
                    self._begin(Ownership(self._lease, tenure, come_back))
            await standing.leave()
        else:
            self._begin(Ownership(self._lease, tenure, come_back))
        return self.ownership is not None

    def _begin(self, ownership: Ownership) -> None:
        ownership.start()
        self.ownership = ownership
        _log.info("this replica owns the pool", extra={"epoch": ownership.epoch})

    @property
    def arrivals(self) -> Arrivals:
        """For the owner's application: what the other replicas send to it."""
        assert self.ownership is not None
        return Arrivals(self._key, self.ownership.epoch)

    def described(self) -> Mapping[str, Any]:
        """The owner's part of the health page."""
        assert self.ownership is not None
        return {
            "role": "owner",
            "url": self._url,
            "owner": self._url,
            "epoch": self.ownership.epoch,
        }

    async def aclose(self) -> None:
        """Give the pool back if it is this replica's, and disconnect."""
        ownership, self.ownership = self.ownership, None
        if ownership is not None:
            await ownership.aclose()
        await self._lease.aclose()
