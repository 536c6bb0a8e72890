"""Model keys that users brought themselves, encrypted at rest.

``<data>/gateway/own-keys.json`` has for each user and provider the key under
AES-256-GCM, bound to both names so that no entry works in another's place.
The key to it is ``<data>/own-keys/own-keys.key``: a copy of the gateway's
directory alone tells nothing. The server writes, the gateway reads.
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from server.gateway.private_file import PrivateFileError, read_private_json, write_private_json
from server.gateway.settings import GatewayConfigError

_NONCE_BYTES = 12
_KEY_BITS = 256

Sealed = Mapping[str, Mapping[str, str]]


class OwnKeys:
    """All users' own keys of a data directory. Every method raises ``GatewayConfigError`` for files
    that cannot be used, and ``OSError``; one process at a time may write."""

    def __init__(self, data_dir: Path) -> None:
        self._path = own_keys_path(data_dir)
        self._master = data_dir / "own-keys" / "own-keys.key"
        self._former_master = data_dir / "secrets" / "own-keys.key"

    def settle(self) -> None:
        """Bring the key to the keys to where the gateway's own user can read it. Raises ``OSError``."""
        if self._former_master.exists() and not self._master.exists():
            self._master.parent.mkdir(mode=0o700, exist_ok=True)
            if os.geteuid() == 0:
                owner = self._master.parent.lstat()
                os.chown(self._former_master, owner.st_uid, owner.st_gid, follow_symlinks=False)
            self._former_master.rename(self._master)

    def put(self, user: str, provider: str, key: str) -> None:
        """Keep a user's key for a provider; an earlier one is gone."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._cipher(make=True).encrypt(nonce, key.encode(), _bound_to(user, provider))
        keys = {name: dict(own) for name, own in self.sealed().items()}
        keys.setdefault(user, {})[provider] = base64.b64encode(sealed).decode()
        write_private_json(self._path, {"keys": keys})

    def remove(self, user: str, provider: str | None = None) -> bool:
        """Forget a user's key for a provider, None: for all of them. False if there was none."""
        keys = {name: dict(own) for name, own in self.sealed().items()}
        own = keys.get(user, {})
        gone = list(own) if provider is None else [provider] if provider in own else []
        for name in gone:
            del own[name]
        if not own:
            keys.pop(user, None)
        if gone:
            write_private_json(self._path, {"keys": keys})
        return bool(gone)

    def providers_of(self, user: str) -> list[str]:
        """The providers for which a user has brought a key, sorted."""
        return sorted(self.sealed().get(user, {}))

    def sealed(self) -> Sealed:
        """Everything as it lies in the file: by user, then by provider."""
        try:
            raw = read_private_json(self._path)
        except PrivateFileError as error:
            raise GatewayConfigError(str(error)) from error
        return {} if raw is None else _checked(raw)

    def opened(self, sealed: Sealed, user: str, provider: str) -> str | None:
        """A user's key for a provider in the clear, None if there is none."""
        text = sealed.get(user, {}).get(provider)
        if text is None:
            return None
        try:
            raw = base64.b64decode(text, validate=True)
            nonce, body = raw[:_NONCE_BYTES], raw[_NONCE_BYTES:]
            return self._cipher().decrypt(nonce, body, _bound_to(user, provider)).decode()
        except (ValueError, InvalidTag) as error:
            raise GatewayConfigError(
                "A user's own key cannot be opened: it must be entered again."
            ) from error

    def _cipher(self, *, make: bool = False) -> AESGCM:
        if make:
            self._master.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                self._make_master()
        try:
            raw = read_private_json(self._master)
        except PrivateFileError as error:
            raise GatewayConfigError(str(error)) from error
        if not isinstance(raw, str):
            raise GatewayConfigError(f"{self._master} is missing: users must enter their own keys again.")
        return AESGCM(base64.b64decode(raw))

    def _make_master(self) -> None:
        """Whole or not at all. Raises ``FileExistsError``."""
        temporary = self._master.with_name(f".own-keys-{secrets.token_hex(4)}")
        text = base64.b64encode(AESGCM.generate_key(bit_length=_KEY_BITS)).decode()
        write_private_json(temporary, text)
        try:
            os.link(temporary, self._master)
        finally:
            temporary.unlink()


def own_keys_path(data_dir: Path) -> Path:
    """Where the encrypted keys lie."""
    return data_dir / "gateway" / "own-keys.json"


def _bound_to(user: str, provider: str) -> bytes:
    return f"{user}\0{provider}".encode()


def _checked(raw: Any) -> Sealed:
    keys = raw.get("keys") if isinstance(raw, dict) else None
    if not isinstance(keys, dict) or not all(isinstance(own, dict) for own in keys.values()):
        raise GatewayConfigError("own-keys.json has another shape: remove it, users enter their keys again.")
    return keys
