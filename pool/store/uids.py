"""Which Linux user each user is: given out in order, never to a second one.

A uid outlives its user. What a deleted account may have left somewhere (in a
shared ``/tmp``, on a disk that was not mounted) must not become a newcomer's,
not even that of a newcomer of the same name.
"""

from __future__ import annotations

import sqlalchemy as sa

from pool.errors import UidsExhausted
from pool.store.tables import uids


def give_uid(connection: sa.Connection, user_id: str, first: int, last: int, above: int, now: float) -> int:
    """The user's uid, the next free one of [``first``, ``last``] if they have none there.

    ``above``: uids up to it are in use, whatever the table says (a database
    from a backup does not know the newest); one out of the range counts for
    nothing. Raises ``UidsExhausted``.
    """
    mine = sa.select(uids.c.uid).where(uids.c.user_id == user_id, uids.c.retired_at.is_(None))
    held = connection.execute(mine).scalar()
    if held is not None and first <= held <= last:
        return int(held)
    in_range = sa.select(sa.func.max(uids.c.uid)).where(uids.c.uid.between(first, last))
    highest = connection.execute(in_range).scalar() or 0
    uid = max(first - 1, int(highest), above if first <= above <= last else 0) + 1
    if uid > last:
        raise UidsExhausted(
            f"every uid from {first} to {last} was given to a user: widen isolation.uid_range",
            details={"first": first, "last": last},
        )
    retire_uid(connection, user_id, now)
    connection.execute(sa.insert(uids), {"uid": uid, "user_id": user_id, "given_at": now})
    return uid


def retire_uid(connection: sa.Connection, user_id: str, now: float) -> None:
    """The user is no more, or gets another uid: the one they have is nobody's from now on."""
    statement = sa.update(uids).where(uids.c.user_id == user_id, uids.c.retired_at.is_(None))
    connection.execute(statement.values(retired_at=now))
