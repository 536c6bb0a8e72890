"""Which code a keeper runs, so that a server can tell whether another one is installed."""

from __future__ import annotations

import hashlib
from pathlib import Path


def code_version() -> str:
    """A name for the content of this package as it is on disk now. Raises ``OSError``."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
