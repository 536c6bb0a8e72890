"""What the server needs of the pool, as protocols: the front door and nothing behind it.

``pool.ClaudeInstancePool`` is the real one. Every method may raise the errors
of ``pool.errors``; those that are usual are named.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Protocol

from pool import Accepted, InstanceInfo, Metric, PermissionInfo, ProcessReport, SessionInfo, Viewer
from server.audit import AuditBook
from server.usage import UsageStore


class Subscription(Protocol):
    """One viewer's way through one session."""

    def drained(self) -> None:
        """The viewer's backlog fell below half the budget."""

    def close(self) -> None:
        """Follow no more."""


class Account(Protocol):
    """A local user; ``password_hash`` None: signs in by link or token only."""

    @property
    def user_id(self) -> str:
        """The name."""

    @property
    def password_hash(self) -> str | None:
        """An argon2 hash."""

    @property
    def roles(self) -> tuple[str, ...]:
        """``admin`` or nothing."""

    @property
    def disabled(self) -> bool:
        """May not sign in."""

    @property
    def created_at(self) -> float:
        """Seconds since 1970."""


class TokenRecord(Protocol):
    """What is remembered of a token that we signed; never the token."""

    @property
    def jti(self) -> str:
        """Its id."""

    @property
    def user_id(self) -> str:
        """Whose it is."""

    @property
    def kind(self) -> str:
        """``session`` (a browser's) or ``api``."""

    @property
    def scopes(self) -> tuple[str, ...]:
        """What it is good for; empty: everything."""

    @property
    def created_at(self) -> float:
        """Seconds since 1970."""

    @property
    def expires_at(self) -> float:
        """Seconds since 1970."""

    def is_good(self, now: float) -> bool:
        """Neither revoked nor expired at ``now``."""


class Accounts(Protocol):
    """Users, their tokens and sign-in links, as the store keeps them."""

    async def create_user(
        self, user_id: str, password_hash: str | None, roles: Sequence[str] = ()
    ) -> Account:
        """Make a user. Raises ``Conflict``, ``InvalidName``."""

    async def get_user(self, user_id: str) -> Account | None:
        """The user, or None."""

    async def list_users(self) -> Sequence[Account]:
        """All users by id."""

    async def set_disabled(self, user_id: str, disabled: bool) -> None:
        """Lock out or let in. Raises ``NotFound``."""

    async def set_password(self, user_id: str, password_hash: str | None, *, is_new: bool = True) -> None:
        """``is_new`` False: the same one, hashed anew. Raises ``NotFound``."""

    async def set_roles(self, user_id: str, roles: Sequence[str]) -> None:
        """Raises ``NotFound``."""

    async def delete_user(self, user_id: str, *, keep_sessions: bool = False) -> None:
        """Remove with tokens, links, sessions. Raises ``NotFound``."""

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
        """Note that a token was given out, at a sign-in by ``signed_in_by`` or without one."""

    async def get_token(self, jti: str) -> TokenRecord | None:
        """The token, also a revoked or expired one, or None."""

    async def list_tokens(self, user_id: str) -> Sequence[TokenRecord]:
        """Newest first."""

    async def revoke_token(self, jti: str) -> None:
        """Raises ``NotFound``."""

    async def sign_out(self, jti: str) -> None:
        """Revoke a token as its bearer. Raises ``NotFound``."""

    async def revoke_all(self, user_id: str) -> int:
        """All tokens and unused links of a user."""

    async def put_link(self, link_hash: str, user_id: str, expires_at: float) -> None:
        """Store the hash of a one-time sign-in link."""

    async def redeem_link(self, link_hash: str) -> str | None:
        """The user of a link, exactly once, else None."""


Notify = Callable[[Accepted], None]


class Pool(Protocol):
    """``ClaudeInstancePool``, as far as the server uses it."""

    @property
    def accounts(self) -> Accounts:
        """Usable after ``start``."""

    @property
    def usage(self) -> UsageStore:
        """What model calls used; usable after ``start``."""

    @property
    def audit(self) -> AuditBook:
        """Who did what; usable after ``start``."""

    async def start(self) -> None:
        """Take over what runs. Raises ``IsolationUnavailable``, ``KeeperUnavailable``."""

    async def shutdown(
        self, *, end_instances: bool = True, drain_timeout_seconds: float | None = None
    ) -> None:
        """End, or leave the instances to the next server."""

    async def create_session(
        self,
        user_id: str,
        session_id: str | None = None,
        *,
        template: str | None = None,
        title: str | None = None,
        model: str | None = None,
        permission_mode: str | None = None,
    ) -> tuple[SessionInfo, bool]:
        """The session, and whether it is new. Raises ``InvalidName``, ``Conflict``, ``QuotaExceeded``."""

    async def get_session(self, user_id: str, session_id: str) -> SessionInfo:
        """Raises ``NotFound``."""

    async def list_sessions(
        self,
        user_id: str,
        *,
        search: str = "",
        include_archived: bool = False,
        limit: int = 100,
        after: str | None = None,
    ) -> list[SessionInfo]:
        """Last active first."""

    async def update_session(
        self,
        user_id: str,
        session_id: str,
        *,
        title: str | None = None,
        model: str | None = None,
        permission_mode: str | None = None,
    ) -> SessionInfo:
        """Raises ``NotFound``, ``Forbidden``."""

    async def archive_session(self, user_id: str, session_id: str) -> None:
        """Stop and put away. Raises ``NotFound``."""

    async def fork_session(
        self, user_id: str, session_id: str, new_session_id: str | None = None
    ) -> SessionInfo:
        """A new session from the same conversation. Raises ``NotFound``, ``Conflict``."""

    async def submit(
        self,
        user_id: str,
        session_id: str,
        content: object,
        *,
        message_id: str,
        literal: bool = False,
        on_accepted: Notify | None = None,
    ) -> Accepted:
        """Store and queue a turn. ``on_accepted`` is called before any viewer gets a frame of it."""

    async def interrupt(self, user_id: str, session_id: str) -> None:
        """End what runs, withdraw what is queued. Raises ``NotFound``."""

    async def answer_permission(
        self,
        user_id: str,
        session_id: str,
        request_id: str,
        decision: str,
        *,
        message: str | None = None,
        updated_input: dict[str, Any] | None = None,
        scope: str = "once",
        answered_by: str,
    ) -> None:
        """Raises ``NotFound``, ``AlreadyResolved``."""

    async def permissions(self, user_id: str, session_id: str) -> list[PermissionInfo]:
        """The open approvals. Raises ``NotFound``."""

    async def set_model(self, user_id: str, session_id: str, model: str | None) -> None:
        """Raises ``NotFound``."""

    async def set_permission_mode(self, user_id: str, session_id: str, mode: str) -> None:
        """Raises ``NotFound``, ``Forbidden``."""

    async def subscribe(
        self, user_id: str, session_id: str, cursor: str | None, viewer: Viewer, *, create: bool = True
    ) -> Subscription:
        """Deliver ``subscribed``, then what follows the cursor. Raises ``BadCursor``, ``NotFound``."""

    async def history(
        self,
        user_id: str,
        session_id: str,
        *,
        after: str | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> tuple[list[bytes], str | None, str | None]:
        """Durable wire frames, oldest first, and the cursors of the next and previous page."""

    async def status(self, user_id: str, session_id: str) -> dict[str, Any]:
        """``state``, ``turn``, ``queued`` (``TurnInfo``), ``usage``. Raises ``NotFound``."""

    def instances(self, user_id: str | None = None) -> list[InstanceInfo]:
        """The live instances, of one user or of all."""

    async def stop_instance(self, instance_id: str) -> bool:
        """False when there is none of this id."""

    async def forget_user(self, user_id: str, *, keep_workspace: bool = False) -> None:
        """End a user's instances, forget their sessions and remove their files."""

    async def stop_user(self, user_id: str) -> None:
        """End all instances of a user."""

    def health(self) -> dict[str, Any]:
        """``instances``, ``users``, ``queue``, ``checks``, ``status``."""

    async def run_checks(self) -> None:
        """Look again at what ``health`` tells of the database, the disk and the keeper."""

    async def metrics(self) -> list[Metric]:
        """Counters, gauges and histograms, as they are now."""

    def hosts(self) -> list[dict[str, Any]]:
        """The machines that run instances: who they are, whether they are reached, what they carry."""

    async def process_report(self) -> ProcessReport:
        """The trees of the live instances, and processes that nobody knows of."""

    def export_user(self, user_id: str) -> AsyncGenerator[bytes]:
        """All of a user's data as pieces of a tar archive. Raises ``NotFound`` before the first one."""

    def isolation(self) -> tuple[str, str, Sequence[str]]:
        """(mode in force, network in force, remedies for what is missing)."""

    def uid_range(self) -> tuple[int, int] | None:
        """(first, last) of the Linux uids that users get, None where all run as the service."""

    def gateway_user(self) -> tuple[int | None, str | None]:
        """(uid of the model gateway, None for the service's own; what is in the way of one, or None)."""

    def unready_reasons(self) -> list[str]:
        """Why no new work is admitted; empty when it is."""

    async def upgrade(self, *, force: bool = False) -> Mapping[str, str]:
        """Have keeper and gateway go over to the installed code. Raises ``Conflict`` and others."""

    def drain(self) -> None:
        """Admit nothing new."""

    def resume(self) -> None:
        """Admit again."""
