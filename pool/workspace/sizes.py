"""How much each part of the data directory takes, counted in slices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pool.workspace.trees import measure

PARTS = ("workspaces", "homes", "spool", "kept", "tmp")
_MAX_ENTRIES = 2_000_000


def measure_parts(data_dir: Path, *, max_entries: int = _MAX_ENTRIES) -> Iterator[dict[str, int]]:
    """Bytes on disk by part; the last item is the result. Of too many entries some are left out."""
    sizes = {"database": _database(data_dir)}
    for name in PARTS:
        sizes[name] = 0
        for usage in measure(data_dir / name, max_entries=max_entries):
            sizes[name] = usage.bytes
            yield dict(sizes)
    yield dict(sizes)


def _database(data_dir: Path) -> int:
    """The SQLite file with its journal and the copies from before migrations."""
    size = 0
    for path in data_dir.glob("claude-pool.db*"):
        try:
            size += path.lstat().st_blocks * 512
        except FileNotFoundError:
            continue
    return size
