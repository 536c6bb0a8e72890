"""Who makes a request, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass, field

from aiohttp import web

from pool.errors import Forbidden
from server.errors import Unauthorized

ADMIN = "admin"
SCOPES = ("read", "write", "admin")


@dataclass(frozen=True, slots=True)
class Identity:
    """The bearer of a credential.

    ``token_id`` names the credential so that it can be revoked (None for an
    identity that a trusted proxy vouches for). ``scopes`` empty means all
    that the user may do; else ``read`` looks only, ``write`` also acts and
    ``admin`` also administers, roles permitting. ``expires_at`` is in seconds
    since 1970.
    """

    user_id: str
    roles: frozenset[str] = frozenset()
    scopes: frozenset[str] = field(default_factory=frozenset)
    token_id: str | None = None
    expires_at: float | None = None
    by_cookie: bool = False

    @property
    def is_admin(self) -> bool:
        """Has the admin role, and a credential that carries it."""
        return ADMIN in self.roles and (not self.scopes or ADMIN in self.scopes)

    @property
    def may_write(self) -> bool:
        """May change something."""
        return not self.scopes or bool(self.scopes & {"write", ADMIN})

    def require_write(self) -> None:
        """Raises ``Forbidden`` when the credential may only look."""
        if not self.may_write:
            raise Forbidden("this token may only read: its scopes lack 'write'")

    def require_admin(self) -> None:
        """Raises ``Forbidden`` for everybody but administrators."""
        if not self.is_admin:
            raise Forbidden("only an administrator may do this")


IDENTITY: web.RequestKey[Identity] = web.RequestKey("identity", Identity)


def identity_of(request: web.Request) -> Identity:
    """The signed-in caller. Raises ``Unauthorized`` on a route that needs none."""
    identity: Identity | None = request.get(IDENTITY)
    if identity is None:
        raise Unauthorized("sign in first")
    return identity
