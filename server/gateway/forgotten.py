"""Names whose users were deleted: what they used counts for nobody who gets the name later.

``<data>/gateway/forgotten.json`` has for each name when that was, in seconds
since 1970. The server writes it; the gateway reads it again when it has
changed and passes over what its journal has of the name until then.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from server.gateway.private_file import PrivateFileError, read_private_json, write_private_json
from server.gateway.settings import GatewayConfigError
from server.gateway.spending import month_start

_DAY_SECONDS = 86400.0

Forgotten = Mapping[str, float]


def forgotten_path(data_dir: Path) -> Path:
    """Where the names lie."""
    return data_dir / "gateway" / "forgotten.json"


def forget_user(data_dir: Path, user: str, at: float) -> None:
    """Count nothing of what ``user`` used until ``at``; one process at a time may call this.

    A running gateway heeds it with its next call. Names of an earlier month are left out: no
    counter goes so far back. Raises ``GatewayConfigError``, ``OSError``.
    """
    since = month_start(at) - _DAY_SECONDS
    names = {name: when for name, when in read_forgotten(data_dir).items() if when >= since}
    write_private_json(forgotten_path(data_dir), {**names, user: at})


def read_forgotten(data_dir: Path) -> Forgotten:
    """All names; a missing file has none. Raises ``GatewayConfigError``."""
    try:
        raw = read_private_json(forgotten_path(data_dir))
    except PrivateFileError as error:
        raise GatewayConfigError(str(error)) from error
    if raw is None:
        return {}
    if not isinstance(raw, dict) or not all(isinstance(when, int | float) for when in raw.values()):
        raise GatewayConfigError("forgotten.json has another shape: remove it.")
    return raw
