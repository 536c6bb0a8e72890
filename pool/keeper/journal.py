"""What the keeper knows of its instances, on disk, so that its successor can clean up after it.

A record is written before the process exists (the intent), again when its
identity is known, and again when it has ended. Nothing is synced: after a
power cut no process is left that a record could tell of.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class Identity:
    """A process that cannot be mistaken for a later one with its pid."""

    pid: int
    start_ticks: int


@dataclass(slots=True)
class Record:
    """One instance. ``exited_at`` is None while it lives, as far as the keeper knew.

    ``code`` and ``signal`` are both None for an instance whose exit status
    nobody collected. ``cause`` is what the kernel ended it for. Times are seconds since 1970, for people.
    """

    instance: str
    boot_id: str
    created_at: float
    wrapper: str
    isolation: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    tmp_dir: str | None = None
    shell: Identity | None = None
    cli: Identity | None = None
    exited_at: float | None = None
    code: int | None = None
    signal: str | None = None
    stderr_tail: str = ""
    cause: str | None = None

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Record:
        """Read what ``asdict`` wrote; keys of a later version are ignored. Raises ``TypeError``."""
        known = {item.name for item in fields(cls)}
        values = {key: value for key, value in body.items() if key in known}
        for key in ("shell", "cli"):
            if values.get(key) is not None:
                values[key] = Identity(**values[key])
        return cls(**values)


class Journal:
    """The directory of records, one file each, replaced as a whole."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, record: Record) -> None:
        """Store the record. Raises ``OSError``; the former content stays then."""
        path = self._path(record.instance)
        temporary = path.with_suffix(".new")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(json.dumps(asdict(record)).encode())
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def load(self) -> tuple[list[Record], list[str]]:
        """All records, and the names of the files that are none."""
        records, unreadable = [], []
        for path in sorted(self._directory.glob("*.json")):
            try:
                records.append(Record.from_dict(json.loads(path.read_bytes())))
            except (OSError, ValueError, TypeError):
                unreadable.append(path.name)
        return records, unreadable

    def remove(self, instance_id: str) -> None:
        """Forget the instance; unknown: no effect."""
        self._path(instance_id).unlink(missing_ok=True)

    def _path(self, instance_id: str) -> Path:
        return self._directory / f"{instance_id}.json"
