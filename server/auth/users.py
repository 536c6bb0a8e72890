"""Local accounts, as administrators manage them: by REST, by the control socket, by commands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pool.errors import NotFound
from server.auth.identity import ADMIN
from server.auth.live import LiveConnections
from server.auth.passwords import Passwords
from server.door import Account, Accounts


def user_object(account: Account) -> dict[str, Any]:
    """What is told of an account."""
    return {
        "user_id": account.user_id,
        "roles": list(account.roles),
        "disabled": account.disabled,
        "has_password": account.password_hash is not None,
        "created_at": account.created_at,
    }


class Users:
    """Adds, disables and deletes accounts, with all that hangs on them.

    ``stop_user`` ends a user's instances and ``forget_user`` removes what is
    theirs in memory and (unless it is to be kept) on disk: the pool's, or with
    no server running what ``pool.remove_user_files`` does.
    """

    def __init__(
        self,
        accounts: Accounts,
        passwords: Passwords,
        live: LiveConnections,
        stop_user: Callable[[str], Awaitable[None]],
        forget_user: Callable[[str, bool], Awaitable[None]],
    ) -> None:
        self._accounts = accounts
        self._passwords = passwords
        self._live = live
        self._stop_user = stop_user
        self._forget_user = forget_user

    async def add(self, user_id: str, *, password: str | None = None, admin: bool = False) -> Account:
        """A new account. Raises ``InvalidName``, ``Conflict``, ``BadRequest``."""
        stored = await self._passwords.hash(password) if password is not None else None
        return await self._accounts.create_user(user_id, stored, [ADMIN] if admin else [])

    async def everyone(self) -> list[Account]:
        """All accounts by name."""
        return list(await self._accounts.list_users())

    async def set_disabled(self, user_id: str, disabled: bool) -> None:
        """Lock out: credentials end, sockets close, instances stop. Or let in. Raises ``NotFound``."""
        await self._accounts.set_disabled(user_id, disabled)
        if disabled:
            await self._put_out(user_id)

    async def set_password(self, user_id: str, password: str | None) -> None:
        """Another password; every credential given out before ends. Raises ``NotFound``."""
        stored = await self._passwords.hash(password) if password is not None else None
        await self._accounts.set_password(user_id, stored)
        await self._accounts.revoke_all(user_id)
        self._live.end_user(user_id)

    async def set_admin(self, user_id: str, admin: bool) -> None:
        """Make or unmake an administrator. Raises ``NotFound``."""
        await self._accounts.set_roles(user_id, [ADMIN] if admin else [])
        # What is open was let in with the old roles.
        self._live.end_user(user_id)

    async def delete(self, user_id: str, *, keep_workspace: bool = False) -> None:
        """Remove the account, its sessions and (unless kept) its files. Raises ``NotFound``, ``Conflict``."""
        if await self._accounts.get_user(user_id) is None:
            raise NotFound(f"there is no user {user_id}")
        await self._accounts.set_disabled(user_id, True)
        await self._put_out(user_id)
        await self._forget_user(user_id, keep_workspace)
        await self._accounts.delete_user(user_id)

    async def _put_out(self, user_id: str) -> None:
        await self._accounts.revoke_all(user_id)
        self._live.end_user(user_id)
        await self._stop_user(user_id)
