"""Signing in and out: passwords, one-time links and tokens become credentials, and stop being ones."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from pool import calling, current_caller
from pool.errors import BadRequest, Forbidden, NotFound, RateLimited
from server.audit import AuditBook
from server.auth.identity import ADMIN, SCOPES, Identity
from server.auth.live import LiveConnections
from server.auth.passwords import Passwords
from server.auth.throttle import LoginThrottle, MovingWindow
from server.auth.tokens import Claims, TokenSigner
from server.door import Account, Accounts, TokenRecord
from server.errors import Unauthorized

LOCAL_USER = "local"
"""The one implicit user of single-user mode."""

LINK_SECONDS = 3600.0
_VOUCHED_SECONDS = 86400.0
MAX_TTL_SECONDS = 10 * 366 * 86400


@dataclass(frozen=True, slots=True)
class Issued:
    """A new credential: the token itself and what it says."""

    token: str
    claims: Claims
    expires_in: int


def link_hash(code: str) -> str:
    """What is stored of a link's code."""
    return hashlib.sha256(code.encode("utf-8", "surrogatepass")).hexdigest()


class SignIn:
    """Everything that makes, checks and ends credentials. ``wall`` gives seconds since 1970."""

    def __init__(
        self,
        accounts: Accounts,
        signer: TokenSigner,
        passwords: Passwords,
        throttle: LoginThrottle,
        live: LiveConnections,
        audit: AuditBook,
        *,
        multi_user: bool,
        local_passwords: bool,
        ttl_seconds: int,
        wall: Callable[[], float],
    ) -> None:
        self._accounts = accounts
        self._signer = signer
        self._passwords = passwords
        self._throttle = throttle
        self._live = live
        self._audit = audit
        self._vouched = MovingWindow(1, _VOUCHED_SECONDS, wall)
        self._multi_user = multi_user
        self._local_passwords = local_passwords
        self._ttl = ttl_seconds
        self._wall = wall

    async def login(self, username: str, password: str, address: str) -> Issued:
        """A browser's credential for a good password. Raises ``Unauthorized``, ``RateLimited``."""
        await self._attempt("password", username, address)
        account = await self._accounts.get_user(username) if _is_plain(username) else None
        usable = account if self._local_passwords and account and self._is_let_in(account) else None
        good = await self._passwords.verify(usable.password_hash if usable else None, password)
        if not good or usable is None or usable.password_hash is None:
            # The name of nobody may be a password that was typed into the wrong field.
            user_id = account.user_id if account is not None else None
            await self._audit.tell("sign_in.failed", user_id=user_id, way="password")
            raise Unauthorized("the user name or the password is wrong")
        self._throttle.succeeded(username, address)
        if self._passwords.needs_rehash(usable.password_hash):
            await self._accounts.set_password(username, await self._passwords.rehash(password), is_new=False)
        return await self.issue(usable, kind="session", signed_in_by="password")

    async def redeem(self, code: str, address: str) -> Issued:
        """A browser's credential for a one-time link's code. Raises ``Unauthorized``, ``RateLimited``."""
        # A code cannot be guessed; only who tries many is slowed, never everybody.
        await self._attempt("link", f"one-time link from {address}", address)
        user_id = await self._accounts.redeem_link(link_hash(code))
        account = await self._accounts.get_user(user_id) if user_id else None
        if account is None or not self._is_let_in(account):
            await self._audit.tell("sign_in.failed", user_id=user_id, way="link")
            raise Unauthorized("this link was used before or has expired; ask for a new one")
        self._throttle.succeeded(f"one-time link from {address}", address)
        return await self.issue(account, kind="session", signed_in_by="link")

    async def _attempt(self, way: str, account: str, address: str) -> None:
        try:
            self._throttle.attempt(account, address)
        except RateLimited:
            # Once a while: whoever hammers must not be able to fill the log.
            if self._throttle.is_first_refusal(address):
                await self._audit.tell("sign_in.throttled", way=way)
            raise

    async def make_link(self, user_id: str, ttl_seconds: float = LINK_SECONDS) -> str:
        """The code of a new one-time link; no credential by itself. Raises ``NotFound``."""
        await self.account(user_id)
        code = secrets.token_urlsafe(24)
        await self._accounts.put_link(link_hash(code), user_id, self._wall() + ttl_seconds)
        return code

    async def issue(
        self,
        account: Account,
        *,
        kind: str,
        ttl_seconds: float | None = None,
        scopes: Iterable[str] = (),
        signed_in_by: str | None = None,
    ) -> Issued:
        """Sign a token and remember its id. Raises ``BadRequest`` for scopes or times that cannot be."""
        scopes = sorted(set(scopes))
        unknown = [scope for scope in scopes if scope not in SCOPES]
        if unknown:
            raise BadRequest(f"unknown scopes {', '.join(unknown)}; there are {', '.join(SCOPES)}")
        ttl = self._ttl if ttl_seconds is None else ttl_seconds
        if not 1 <= ttl <= MAX_TTL_SECONDS:
            raise BadRequest("a token lives from one second to ten years")
        token, claims = self._signer.sign(
            account.user_id, kind=kind, ttl_seconds=ttl, roles=account.roles, scopes=scopes
        )
        await self._accounts.record_token(
            str(claims.token_id),
            account.user_id,
            kind,
            claims.expires_at,
            scopes,
            signed_in_by=signed_in_by,
        )
        return Issued(token, claims, int(ttl))

    async def issue_for(
        self, identity: Identity, *, ttl_seconds: float | None, scopes: Iterable[str]
    ) -> Issued:
        """An API token for the caller, never good for more than the caller's own credential.

        Raises ``Forbidden`` for wider scopes, ``NotFound`` for a caller without a local account.
        """
        wanted = frozenset(scopes) or identity.scopes
        if identity.scopes and not wanted <= identity.scopes:
            raise Forbidden("a token cannot make one that may do more than itself")
        if identity.scopes and identity.expires_at is not None:
            # Else a token could outlive itself by making its own successors.
            left = identity.expires_at - self._wall()
            ttl_seconds = min(self._ttl if ttl_seconds is None else ttl_seconds, max(left, 1))
        account = await self.account(identity.user_id)
        return await self.issue(account, kind="api", ttl_seconds=ttl_seconds, scopes=wanted)

    async def sign_out(self, identity: Identity) -> None:
        """End the caller's own credential and what it opened."""
        if identity.token_id is None:
            return
        if await self._accounts.get_token(identity.token_id) is not None:
            await self._accounts.sign_out(identity.token_id)
        self._live.end_token(identity.token_id)

    async def identify(self, token: str, *, by_cookie: bool = False) -> Identity:
        """Who bears this token. Raises ``Unauthorized`` when it is not (or no longer) good."""
        claims = self._signer.read(token)
        account = await self._accounts.get_user(claims.user_id)
        if claims.kind is not None:
            record = await self._accounts.get_token(claims.token_id or "")
            if account is None or record is None or record.user_id != account.user_id:
                raise Unauthorized("the token is not valid")
            if not record.is_good(self._wall()):
                raise Unauthorized("the token was revoked; sign in again")
        roles = claims.roles if account is None else frozenset(account.roles)
        self._require_let_in(claims.user_id, account)
        if claims.kind is None:
            await self._tell_vouched(claims.user_id, "foreign_token")
        return Identity(
            user_id=claims.user_id,
            roles=roles,
            scopes=claims.scopes,
            token_id=claims.token_id,
            expires_at=claims.expires_at,
            by_cookie=by_cookie,
        )

    async def vouched(self, user_id: str) -> Identity:
        """An identity that a trusted proxy names. Raises ``Unauthorized`` when it is locked out."""
        account = await self._accounts.get_user(user_id)
        self._require_let_in(user_id, account)
        await self._tell_vouched(user_id, "proxy")
        return Identity(user_id=user_id, roles=frozenset(account.roles if account else ()))

    async def _tell_vouched(self, user_id: str, way: str) -> None:
        """Others sign these people in, with each request: told once a day for each address."""
        caller = current_caller()
        name = f"{way} {user_id} {caller.address}"
        if self._vouched.wait_seconds(name) == 0:
            self._vouched.hit(name)
            with calling(replace(caller, actor=user_id)):
                await self._audit.tell("sign_in", user_id=user_id, way=way)

    async def revoke(self, token_id: str, *, of_user: str | None = None) -> None:
        """End a token and what it opened. Raises ``NotFound``, also for another user's than ``of_user``."""
        record = await self._accounts.get_token(token_id)
        if record is None or (of_user is not None and record.user_id != of_user):
            raise NotFound("there is no such token")
        await self._accounts.revoke_token(token_id)
        self._live.end_token(token_id)

    async def tokens(self, user_id: str) -> list[TokenRecord]:
        """The user's tokens that are still good, newest first."""
        now = self._wall()
        return [token for token in await self._accounts.list_tokens(user_id) if token.is_good(now)]

    async def account(self, user_id: str) -> Account:
        """The account. Raises ``NotFound``."""
        account = await self._accounts.get_user(user_id) if _is_plain(user_id) else None
        if account is None:
            raise NotFound(f"there is no user {user_id}")
        return account

    async def ensure_first_account(self) -> Account | None:
        """The account that a newcomer signs in to by the printed link; None when people sign in otherwise.

        In single-user mode that is always ``local``; else the administrator
        made here when there is no user at all, as long as it has no password.
        """
        if not self._multi_user:
            local = await self._accounts.get_user(LOCAL_USER)
            return local or await self._accounts.create_user(LOCAL_USER, None, [ADMIN])
        users = await self._accounts.list_users()
        if not users:
            return await self._accounts.create_user(ADMIN, None, [ADMIN])
        if len(users) == 1 and users[0].password_hash is None and ADMIN in users[0].roles:
            return None if users[0].disabled else users[0]
        return None

    def _is_let_in(self, account: Account) -> bool:
        return not account.disabled and (self._multi_user or account.user_id == LOCAL_USER)

    def _require_let_in(self, user_id: str, account: Account | None) -> None:
        if account is not None and account.disabled:
            raise Unauthorized("the account is disabled")
        if not self._multi_user and user_id != LOCAL_USER:
            raise Unauthorized("this server serves one user only")


def _is_plain(text: str) -> bool:
    """Can a database take it as a text?"""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
