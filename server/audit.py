"""What the server itself writes into the audit log: its starts, and what changed in its configuration.

A start notes a fingerprint of every setting, so that the next one can say
which were changed. Values are told of the settings that decide what may be
done; those of the others, which may be private, are never told.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec
from pydantic import BaseModel, SecretStr

from pool import AuditRecord, Caller, calling
from server.config import ServerConfig

_log = logging.getLogger(__name__)

_SHOWN = ("security.", "isolation.", "audit.", "multi_user", "storage.retention_days", "auth.local")
_FINGERPRINT_CHARACTERS = 16
SERVER = Caller(actor="@server", channel="server")


class AuditBook(Protocol):
    """The audit log: ``pool.AuditLog``, as far as the server uses it. Raises ``StoreUnavailable``."""

    @property
    def trouble(self) -> str | None:
        """Why a cut tail would not be found, if so."""

    async def tell(self, action: str, *, user_id: str | None = None, **facts: Any) -> None:
        """Store one deed of whoever asks now."""

    async def page(
        self,
        *,
        after: int = 0,
        before: int | None = None,
        user_id: str | None = None,
        action: str | None = None,
        newest_first: bool = False,
        limit: int = 100,
    ) -> Sequence[AuditRecord]:
        """Records with after < seq < before."""


async def note_start(audit: AuditBook, config: ServerConfig, version: str, key: str) -> None:
    """Write down the start, and before it what is configured otherwise than at the last one.

    ``key`` makes fingerprints that only who has it can try values against.
    """
    now = fingerprints(config, key)
    with calling(SERVER):
        last = await audit.page(action="server.started", newest_first=True, limit=1)
        before = last[0].as_line()["facts"].get("settings") if last else None
        if isinstance(before, dict):
            changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
            if changed:
                values = {name: value for name, value in _settings(config).items() if name in changed}
                shown = {name: _plain(value) for name, value in values.items() if name.startswith(_SHOWN)}
                await audit.tell("config.changed", keys=changed, values=shown or None)
        await audit.tell("server.started", version=version, settings=now)
    newest = await audit.page(newest_first=True, limit=1)
    if newest:
        _log.info("audit log", extra={"end": f"{newest[0].seq}:{newest[0].hash.hex()}"})


def fingerprints(config: ServerConfig, key: str) -> dict[str, str]:
    """Every setting with a keyed hash of its value, secrets included."""
    return {
        name: hmac.new(key.encode(), _text(name, value), hashlib.sha256).hexdigest()[:_FINGERPRINT_CHARACTERS]
        for name, value in _settings(config).items()
    }


def _settings(model: BaseModel, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            found |= _settings(value, f"{prefix}{name}.")
        elif isinstance(value, Mapping) and all(isinstance(item, BaseModel) for item in value.values()):
            for key, item in value.items():
                found |= _settings(item, f"{prefix}{name}.{key}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value, enc_hook=str)


def _text(name: str, value: Any) -> bytes:
    return f"{name}={msgspec.json.encode(value, enc_hook=_revealed).decode()}".encode()


def _revealed(value: Any) -> Any:
    """For a fingerprint only: the secret itself, so that a changed one is seen."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return value.model_dump() if isinstance(value, BaseModel) else str(value)
