"""What the servers of this run found of their CLIs, for the servers that start later.

A server tries out a CLI that it does not know, and keeps the result in its data
directory: with every new directory it would do so again.
"""

from __future__ import annotations

from pathlib import Path

_records: dict[str, bytes] = {}


def tell(data: Path) -> None:
    """Let a server of a new data directory know what is known."""
    directory = data / "conformance"
    if _records and not directory.exists():
        for path in (data, directory):
            path.mkdir(mode=0o711, exist_ok=True)
        for name, content in _records.items():
            (directory / name).write_bytes(content)


def learn(data: Path) -> None:
    """Keep what a server has found."""
    for record in (data / "conformance").glob("*.json"):
        _records[record.name] = record.read_bytes()
