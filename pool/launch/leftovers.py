"""Directories of instances that nobody knows any more: their record was lost, or could not be removed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from pool.keeper.places import temporary_name as temporary_name


def remove_leftovers(data_dir: Path, known: Collection[str], changed_before: float) -> int:
    """Remove spools and temporary directories of instances that are not ``known``; returns how many.

    Only what was last changed before ``changed_before`` (seconds since 1970),
    so that one that is being started is safe. Symbolic links are not
    followed. What cannot be removed stays. Blocking: call it in a thread.
    """
    kept = {"spool": set(known), "tmp": {temporary_name(instance_id) for instance_id in known}}
    return sum(_sweep(data_dir / place, names, changed_before) for place, names in kept.items())


def _sweep(place: Path, kept: Collection[str], changed_before: float) -> int:
    removed = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(place) as entries:
        for entry in entries:
            if entry.name in kept or not entry.is_dir(follow_symlinks=False):
                continue
            if _changed_at(entry) < changed_before:
                shutil.rmtree(entry.path, ignore_errors=True)
                removed += not os.path.lexists(entry.path)
    return removed


def _changed_at(entry: os.DirEntry[str]) -> float:
    """When the directory or a file right in it was changed last: a spool that grows changes its file only."""
    times = [entry.stat(follow_symlinks=False).st_mtime]
    with contextlib.suppress(OSError), os.scandir(entry.path) as inner:
        times += [item.stat(follow_symlinks=False).st_mtime for item in inner]
    return max(times)
