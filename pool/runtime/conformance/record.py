"""What was found of a CLI, kept in the data directory so that the same one is not tried out again."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from pool.config import PoolConfig
from pool.runtime.conformance.behaviours import BEHAVIOURS, Findings


def key_of(stamp: str, config: PoolConfig, isolation: str) -> str:
    """The name of a CLI's record: its program, how it is started, and what is asked of it.

    ``stamp`` tells the program from every other one.
    """
    asked = [[behaviour.name, behaviour.promise] for behaviour in BEHAVIOURS]
    parts = [stamp, isolation, list(config.cli_extra_args), sorted(config.cli_env.items()), asked]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


class Records:
    """The records in one directory. Blocking; every file is small."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self, key: str) -> Findings | None:
        """The findings under ``key``; None when there are none, or none that can be read."""
        try:
            plain = json.loads(self._path(key).read_bytes())
            findings = Findings(plain["version"], dict(plain["seen"]), dict(plain["notes"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return findings if findings.is_complete else None

    def save(self, key: str, findings: Findings) -> None:
        """Keep complete findings, and those of no other CLI. Raises ``OSError``."""
        plain: Mapping[str, object] = {
            "version": findings.version,
            "seen": dict(findings.seen),
            "notes": dict(findings.notes),
        }
        path = self._path(key)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(plain, indent=1))
        temporary.replace(path)
        for other in self._directory.glob("*.json"):
            if other != path:
                with contextlib.suppress(OSError):
                    other.unlink()

    def _path(self, key: str) -> Path:
        return self._directory / f"{key}.json"
