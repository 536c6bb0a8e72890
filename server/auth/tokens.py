"""API tokens: JWTs signed with a secret of the data directory, or by whoever shares the configured one.

A token that we signed carries ``cpk`` (its kind) and is good only while the
store knows its ``jti`` as not revoked. A token of another issuer, possible
only with a configured secret, is good by its signature and expiry alone.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt

from pool import check_name
from pool.errors import InvalidName
from server.config import Jwt
from server.errors import Unauthorized
from server.secret_files import NotPrivate, read_secret
from server.settings import ConfigError, secret_text

_ALGORITHM = "HS256"
_KIND = "cpk"
_SCOPE = "scope"
_LEEWAY_SECONDS = 5
MIN_SECRET_BYTES = 32
"""Below this an HS256 secret is weaker than its hash; such a one is warned of."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says. ``kind`` is None for a token of another issuer."""

    user_id: str
    roles: frozenset[str]
    scopes: frozenset[str]
    token_id: str | None
    kind: str | None
    expires_at: float


def signing_secret(config: Jwt, data_dir: Path) -> tuple[str, bool]:
    """The secret, and whether it is a configured one; made on first use, readable by its owner only.

    Raises ``ConfigError`` when others could have read it.
    """
    configured = secret_text(config.secret)
    if configured:
        return configured, True
    path = data_dir / "secrets" / "jwt.key"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        _write_once(path, secrets.token_urlsafe(48))
    try:
        return read_secret(path).strip(), False
    except NotPrivate as error:
        raise ConfigError(f"refusing to sign with a secret that others know: {error}") from error


def _write_once(path: Path, text: str) -> None:
    """Create ``path`` whole or not at all. Raises ``FileExistsError``."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    finally:
        temporary.unlink()


class TokenSigner:
    """Signs and reads tokens. ``wall`` gives seconds since 1970."""

    def __init__(self, secret: str, config: Jwt, *, foreign: bool, wall: Callable[[], float]) -> None:
        self._secret = secret
        self._config = config
        self._foreign = foreign
        self._wall = wall

    def sign(
        self, user_id: str, *, kind: str, ttl_seconds: float, roles: Iterable[str], scopes: Iterable[str] = ()
    ) -> tuple[str, Claims]:
        """A new token and what it says."""
        now = self._wall()
        claims = Claims(
            user_id=user_id,
            roles=frozenset(roles),
            scopes=frozenset(scopes),
            token_id=secrets.token_hex(16),
            kind=kind,
            expires_at=float(int(now + ttl_seconds)),
        )
        body: dict[str, Any] = {
            self._config.user_claim: user_id,
            self._config.roles_claim: sorted(claims.roles),
            _SCOPE: " ".join(sorted(claims.scopes)),
            _KIND: kind,
            "jti": claims.token_id,
            "iat": int(now),
            "exp": int(claims.expires_at),
        }
        if self._config.issuer:
            body["iss"] = self._config.issuer
        if self._config.audience:
            body["aud"] = self._config.audience
        return jwt.encode(body, self._secret, algorithm=_ALGORITHM), claims

    def read(self, token: str) -> Claims:
        """What a valid token says. Raises ``Unauthorized``."""
        try:
            body = jwt.decode(
                token,
                self._secret,
                algorithms=[_ALGORITHM],
                audience=self._config.audience,
                issuer=self._config.issuer,
                leeway=_LEEWAY_SECONDS,
                options={"require": ["exp"], "verify_sub": False, "verify_jti": False},
            )
            return self._claims(body)
        except jwt.ExpiredSignatureError as error:
            raise Unauthorized("the token has expired; sign in again") from error
        except (jwt.PyJWTError, InvalidName, ValueError, TypeError, OverflowError) as error:
            raise Unauthorized("the token is not valid") from error

    def _claims(self, body: dict[str, Any]) -> Claims:
        kind, token_id = body.get(_KIND), body.get("jti")
        if kind is None and not self._foreign:
            raise ValueError("a token without a kind is not ours")
        return Claims(
            user_id=check_name(body.get(self._config.user_claim), "user_id"),
            roles=_words(body.get(self._config.roles_claim)),
            scopes=_words(body.get(_SCOPE)) if kind is not None else frozenset(),
            token_id=token_id if isinstance(token_id, str) else None,
            kind=kind if isinstance(kind, str) else None,
            expires_at=float(body["exp"]),
        )


def _words(value: object) -> frozenset[str]:
    """Roles and scopes as issuers write them: a list, or words in one text."""
    if isinstance(value, str):
        return frozenset(value.split())
    if isinstance(value, list):
        return frozenset(item for item in value if isinstance(item, str))
    return frozenset()
