"""Users, their tokens and sign-in links; beside the sessions, on the same writer.

No secret is stored: a password as the hash that the caller made, a token as
its id (jti), a sign-in link as the hash of its secret.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from pool.audit.records import told
from pool.caller import Caller, current_caller
from pool.clock import Clock, SystemClock
from pool.errors import BadRequest, Conflict, NotFound
from pool.names import check_name
from pool.store.database import Database
from pool.store.purge import SLICE_ROWS, delete_in_slices
from pool.store.tables import events, links, placements, sessions, state, tokens, usage, users
from pool.store.uids import retire_uid
from pool.store.writer import T, Work

# A token that has expired proves nothing any more; kept this long for people who look at their list.
_EXPIRED_KEPT_SECONDS = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A local user. ``password_hash`` None: this user cannot sign in by password."""

    user_id: str
    password_hash: str | None
    roles: tuple[str, ...]
    disabled: bool
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecord:
    """A token that was given out. It is good while not revoked and not expired."""

    jti: str
    user_id: str
    kind: str
    scopes: tuple[str, ...]
    created_at: float
    expires_at: float
    revoked_at: float | None

    def is_good(self, now: float) -> bool:
        """May it still be used at ``now`` (seconds since 1970)?"""
        return self.revoked_at is None and now < self.expires_at


class Accounts:
    """Keeps users, tokens and links in an open ``Database``; has nothing to close.

    Each change is written into the audit log in its own commit. Every method
    raises ``StoreUnavailable`` when the database does not work.
    """

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or SystemClock()

    # --- users --------------------------------------------------------------------------

    async def create_user(
        self, user_id: str, password_hash: str | None, roles: Sequence[str] = ()
    ) -> Account:
        """Make a user. ``Conflict`` if the id, or one that differs only in case, exists;
        ``InvalidName`` for an id that breaks the rules."""
        account = Account(
            user_id=check_name(user_id, "user_id"),
            password_hash=password_hash,
            roles=tuple(roles),
            disabled=False,
            created_at=self._clock.wall(),
        )
        columns = {
            "user_id": account.user_id,
            "password_hash": password_hash,
            "roles": json.dumps(account.roles),
            "disabled": False,
            "created_at": account.created_at,
        }
        try:
            await self._change("user.added", user_id, _inserting(users, columns), roles=list(roles))
        except IntegrityError as error:
            raise Conflict(
                f"there is a user {user_id} already, or one whose id differs only in case"
            ) from error
        return account

    async def get_user(self, user_id: str) -> Account | None:
        """The user of exactly this id, or None."""
        row = await self._database.fetch_one(sa.select(users).where(users.c.user_id == user_id))
        return None if row is None else _account(row)

    async def list_users(self) -> list[Account]:
        """All users by id."""
        return [
            _account(row) for row in await self._database.fetch(sa.select(users).order_by(users.c.user_id))
        ]

    async def set_disabled(self, user_id: str, disabled: bool) -> None:
        """Lock a user out or let them in again. Raises ``NotFound``."""
        action = "user.disabled" if disabled else "user.enabled"
        await self._patch_user(action, user_id, disabled=disabled)

    async def set_password(self, user_id: str, password_hash: str | None, *, is_new: bool = True) -> None:
        """Replace the password's hash; ``is_new`` False: the same one, hashed anew. Raises ``NotFound``."""
        action = "user.password" if is_new else "user.password_rehashed"
        await self._patch_user(action, user_id, password_hash=password_hash)

    async def set_roles(self, user_id: str, roles: Sequence[str]) -> None:
        """Replace the roles. Raises ``NotFound``."""
        await self._patch_user("user.roles", user_id, roles=json.dumps(tuple(roles)))

    async def delete_user(self, user_id: str, *, keep_sessions: bool = False) -> None:
        """Remove a user with all tokens, links, state and (unless kept) sessions. Raises ``NotFound``.

        The instances must have ended before. Interrupted in the middle it
        leaves a disabled user; calling it again finishes.
        """

        def lock_out(connection: sa.Connection) -> None:
            _one_changed(connection, sa.update(users).where(users.c.user_id == user_id).values(disabled=True))
            connection.execute(_revoke(self._clock.wall()).where(tokens.c.user_id == user_id))
            connection.execute(sa.delete(links).where(links.c.user_id == user_id))

        def remove(connection: sa.Connection) -> None:
            if not keep_sessions:
                connection.execute(sa.delete(sessions).where(sessions.c.user_id == user_id))
            connection.execute(sa.delete(state).where(state.c.user_id == user_id))
            connection.execute(sa.delete(tokens).where(tokens.c.user_id == user_id))
            connection.execute(sa.delete(placements).where(placements.c.user_id == user_id))
            retire_uid(connection, user_id, self._clock.wall())
            connection.execute(sa.delete(users).where(users.c.user_id == user_id))

        await self._database.submit(lock_out)
        if not keep_sessions:
            own = sa.select(sessions.c.id).where(sessions.c.user_id == user_id)
            await delete_in_slices(self._database, events, events.c.session.in_(own))
        await self._make_nobodys(user_id)
        await self._change("user.deleted", user_id, remove, keep_sessions=keep_sessions or None)

    async def _make_nobodys(self, user_id: str) -> None:
        """What was used stays on the books without a name: the next one of this name must not see it."""
        nobody = f"@deleted-{secrets.token_hex(4)}"
        slice_ = sa.select(usage.c.id).where(usage.c.user_id == user_id).limit(SLICE_ROWS)
        statement = sa.update(usage).where(usage.c.id.in_(slice_)).values(user_id=nobody, session_id="")
        while await self._database.submit(lambda connection: connection.execute(statement).rowcount):
            pass

    async def _patch_user(self, action: str, user_id: str, **columns: Any) -> None:
        statement = sa.update(users).where(users.c.user_id == user_id).values(columns)
        roles = json.loads(columns["roles"]) if "roles" in columns else None
        await self._change(
            action, user_id, lambda connection: _one_changed(connection, statement), roles=roles
        )

    async def _change(
        self, action: str, user_id: str, work: Work[T], *, by: Caller | None = None, **facts: Any
    ) -> T:
        """Do it and write it down, both or neither. A result of 0 says that nothing was done."""
        entry = told(action, self._clock.wall(), user_id=user_id, by=by, **facts)

        def change(connection: sa.Connection) -> T:
            result = work(connection)
            if result != 0:
                self._database.audit.append(connection, [entry])
            return result

        return await self._database.submit(change)

    # --- tokens -------------------------------------------------------------------------

    async def record_token(
        self,
        jti: str,
        user_id: str,
        kind: str,
        expires_at: float,
        scopes: Sequence[str] = (),
        *,
        signed_in_by: str | None = None,
    ) -> None:
        """Note that a token was given out. ``Conflict`` if its id exists. Forgets long expired ones.

        ``signed_in_by`` is the way (``password``, ``link``) of a sign-in that it was given out for.
        """
        now = self._clock.wall()
        columns = {
            "jti": jti,
            "user_id": user_id,
            "kind": kind,
            "scopes": json.dumps(tuple(scopes)),
            "created_at": now,
            "expires_at": expires_at,
        }

        def record(connection: sa.Connection) -> None:
            connection.execute(sa.delete(tokens).where(tokens.c.expires_at < now - _EXPIRED_KEPT_SECONDS))
            _insert(connection, tokens, columns)

        try:
            action = "token.made" if signed_in_by is None else "sign_in"
            facts = {"kind": kind, "scopes": list(scopes) or None, "expires_at": int(expires_at)}
            by = None if signed_in_by is None else replace(current_caller(), actor=user_id)
            await self._change(action, user_id, record, by=by, token=jti, way=signed_in_by, **facts)
        except IntegrityError as error:
            raise Conflict("there is a token of this id already") from error

    async def get_token(self, jti: str) -> TokenRecord | None:
        """The token of this id, revoked and expired ones too, or None."""
        row = await self._database.fetch_one(sa.select(tokens).where(tokens.c.jti == jti))
        return None if row is None else _token(row)

    async def list_tokens(self, user_id: str) -> list[TokenRecord]:
        """A user's tokens, newest first, revoked and expired ones too."""
        statement = sa.select(tokens).where(tokens.c.user_id == user_id)
        order = (tokens.c.created_at.desc(), tokens.c.jti)
        return [_token(row) for row in await self._database.fetch(statement.order_by(*order))]

    async def revoke_token(self, jti: str) -> None:
        """Make a token worthless from now on; again is fine. Raises ``NotFound``."""
        await self._end_token("token.revoked", jti)

    async def sign_out(self, jti: str) -> None:
        """The same, by its bearer who leaves. Raises ``NotFound``."""
        await self._end_token("sign_out", jti)

    async def _end_token(self, action: str, jti: str) -> None:
        record = await self.get_token(jti)
        if record is None:
            raise NotFound("there is no such token")
        statement = _revoke(self._clock.wall()).where(tokens.c.jti == jti)
        await self._change(
            action, record.user_id, lambda connection: connection.execute(statement).rowcount, token=jti
        )

    async def revoke_all(self, user_id: str) -> int:
        """Revoke all of a user's tokens and unused links; returns how many tokens it met."""

        def revoke(connection: sa.Connection) -> int:
            connection.execute(sa.delete(links).where(links.c.user_id == user_id))
            return connection.execute(_revoke(self._clock.wall()).where(tokens.c.user_id == user_id)).rowcount

        return await self._change("token.all_revoked", user_id, revoke)

    # --- sign-in links ------------------------------------------------------------------

    async def put_link(self, link_hash: str, user_id: str, expires_at: float) -> None:
        """Store the hash of a one-time sign-in link. ``Conflict`` if it exists. Forgets expired ones."""
        if not link_hash:
            raise BadRequest("a link needs the hash of its secret")
        now = self._clock.wall()

        def put(connection: sa.Connection) -> None:
            connection.execute(sa.delete(links).where(links.c.expires_at <= now))
            _insert(connection, links, {"hash": link_hash, "user_id": user_id, "expires_at": expires_at})

        try:
            await self._change("link.made", user_id, put, expires_at=int(expires_at))
        except IntegrityError as error:
            raise Conflict("there is a link of this hash already") from error

    async def redeem_link(self, link_hash: str) -> str | None:
        """The user of a link, exactly once: None for a link that is unknown, used or expired,
        or whose user is disabled."""
        now = self._clock.wall()

        def redeem(connection: sa.Connection) -> str | None:
            found = connection.execute(
                sa.select(links.c.user_id, users.c.disabled)
                .outerjoin(users, users.c.user_id == links.c.user_id)
                .where(links.c.hash == link_hash, links.c.expires_at > now)
            ).one_or_none()
            # The count of the delete decides: of two replicas that read the row, one deletes it.
            deleted = connection.execute(sa.delete(links).where(links.c.hash == link_hash)).rowcount
            return str(found.user_id) if found is not None and deleted == 1 and not found.disabled else None

        return await self._database.submit(redeem)


def _inserting(table: sa.Table, columns: dict[str, Any]) -> Work[None]:
    return lambda connection: _insert(connection, table, columns)


def _insert(connection: sa.Connection, table: sa.Table, columns: dict[str, Any]) -> None:
    connection.execute(sa.insert(table), columns)


def _one_changed(connection: sa.Connection, statement: sa.Update) -> None:
    if connection.execute(statement).rowcount != 1:
        raise NotFound("there is no such user")


def _revoke(now: float) -> sa.Update:
    return sa.update(tokens).where(tokens.c.revoked_at.is_(None)).values(revoked_at=now)


def _account(row: sa.RowMapping) -> Account:
    return Account(
        user_id=row["user_id"],
        password_hash=row["password_hash"],
        roles=tuple(json.loads(row["roles"])),
        disabled=bool(row["disabled"]),
        created_at=row["created_at"],
    )


def _token(row: sa.RowMapping) -> TokenRecord:
    return TokenRecord(
        jti=row["jti"],
        user_id=row["user_id"],
        kind=row["kind"],
        scopes=tuple(json.loads(row["scopes"])),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
    )
