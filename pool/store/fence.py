"""The fence of the store: what a replica writes counts only while it owns the pool.

It is the last word of every transaction of the writer. The row of the lease is
locked such that another replica can take the lease only before it, which is
found here, or after the commit; a renewal of the lease waits for neither. An
owner that is stopped in between holds the lock no longer than the database
lets a transaction idle (``Fence.idle_setting``).
"""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from pool.errors import NotOwner, StoreUnavailable

POOL = "pool"
"""The one row of ``pool_lease``."""

_IN_FORCE = "SELECT 1 FROM pool_lease WHERE name = %s AND epoch = %s FOR KEY SHARE"
_OWNED = "SELECT url FROM pool_lease WHERE name = %s AND expires_at > extract(epoch from clock_timestamp())"
_MIN_IDLE_MS = 1000


class Fence:
    """``epoch`` is that of the lease under which this server writes.

    ``on_fenced`` is called in the writer's thread when it is not in force any
    more, before anybody is told; it need not return.
    """

    def __init__(self, epoch: int, lease_seconds: float, on_fenced: Callable[[], None]) -> None:
        self.epoch = epoch
        self._lease_seconds = lease_seconds
        self._on_fenced = on_fenced

    @property
    def idle_setting(self) -> str:
        """For the connection that writes: how long the database keeps a transaction that does nothing."""
        milliseconds = max(_MIN_IDLE_MS, int(self._lease_seconds * 1000 / 3))
        return f"idle_in_transaction_session_timeout={milliseconds}"

    def check(self, connection: sa.Connection) -> None:
        """Before a commit. Raises ``NotOwner``; the transaction must be rolled back then."""
        if connection.exec_driver_sql(_IN_FORCE, (POOL, self.epoch)).first() is not None:
            return
        self._on_fenced()
        raise NotOwner("another replica owns the pool; this one stands by", retry_after_seconds=1)


def refuse_beside_replicas(engine: sa.Engine) -> None:
    """For who writes without a fence. Raises ``StoreUnavailable`` while a replica owns the pool."""
    if engine.dialect.name != "postgresql":
        return
    with engine.connect() as connection:
        owner = connection.exec_driver_sql(_OWNED, (POOL,)).scalar()
    if owner is not None:
        raise StoreUnavailable(
            f"a replica owns the pool of this database: {owner}; configure replica.url to be another one"
        )
