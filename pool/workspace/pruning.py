"""Removes what the CLI has left in a home and nobody needs any more, in slices.

Old are files that were not changed for long. Of them go: transcripts of
conversations that nobody can go on with, and the CLI's notes to itself
(snapshots of the shell, to-do lists, logs, copies of files, keys of dead
processes). Memories, plans, settings and plugins are the user's and stay.
Symbolic links are not followed; an old link is removed itself. Blocking: take
each slice in a thread.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from pool.fs_identity import acting_as_owner_of

LEFTOVERS = (
    "backups",
    "debug",
    "file-history",
    "image-cache",
    "jobs",
    "logs",
    "paste-cache",
    "session-env",
    "sessions",
    "shell-snapshots",
    "statsig",
    "tasks",
    "telemetry",
    "todos",
    "tool-results",
    "traces",
)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_SLICE_ENTRIES = 200
_DEEPEST = 16


def prune_home(home: Path, kept_sessions: Collection[str], changed_before: float) -> Iterator[int]:
    """Remove old things of the CLI's in ``home``; each item is how many went in one slice.

    ``kept_sessions`` are the CLI's ids of conversations that somebody can go
    on with: nothing that has one of them in its name goes. Files count as old
    when they were last changed before ``changed_before`` (seconds since 1970).
    """
    with contextlib.ExitStack() as stack:
        try:
            top = os.open(home, _DIRECTORY)
            stack.callback(os.close, top)
            with acting_as_owner_of(top):
                config = os.open(".claude", _DIRECTORY, dir_fd=top)
            stack.callback(os.close, config)
        except OSError:
            return
        sweep = _Sweep(top, kept_sessions, changed_before)
        for name in LEFTOVERS:
            yield from sweep.directory(config, name, 0)
        yield from sweep.projects(config)


class _Sweep:
    """``top`` is a descriptor of the home, which tells whose it is."""

    def __init__(self, top: int, kept_sessions: Collection[str], changed_before: float) -> None:
        self._top = top
        self._kept = frozenset(kept_sessions)
        self._before = changed_before

    def directory(self, parent: int, name: str, depth: int) -> Iterator[int]:
        """Everything old in a directory, then the directories in it that are empty and old; never itself."""
        with self._opened(parent, name) as (descriptor, names):
            yield from self._in_slices(descriptor, names)
            if depth >= _DEEPEST:
                return
            for inner in names:
                if not self._is_kept(inner) and self._is_directory(descriptor, inner):
                    yield from self.directory(descriptor, inner, depth + 1)
                    yield self._remove_empty(descriptor, inner)

    def projects(self, config: int) -> Iterator[int]:
        """Transcripts and what belongs to them; everything else of a project is the user's."""
        with self._opened(config, "projects") as (projects, names):
            for name in names:
                with self._opened(projects, name) as (project, entries):
                    ours = [entry for entry in entries if _UUID.fullmatch(entry.removesuffix(".jsonl"))]
                    yield from self._in_slices(project, ours)
                    for entry in ours:
                        if not self._is_kept(entry) and self._is_directory(project, entry):
                            yield from self.directory(project, entry, 1)
                            yield self._remove_empty(project, entry)

    @contextlib.contextmanager
    def _opened(self, parent: int, name: str) -> Iterator[tuple[int, list[str]]]:
        descriptor = -1
        names: list[str] = []
        try:
            with contextlib.suppress(OSError), acting_as_owner_of(self._top):
                descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
                names = os.listdir(descriptor)
            yield descriptor, names
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _in_slices(self, directory: int, names: list[str]) -> Iterator[int]:
        for start in range(0, len(names), _SLICE_ENTRIES):
            with acting_as_owner_of(self._top):
                removed = sum(
                    self._remove_old(directory, name) for name in names[start : start + _SLICE_ENTRIES]
                )
            yield removed

    def _remove_old(self, directory: int, name: str) -> bool:
        if self._is_kept(name):
            return False
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode) or status.st_mtime >= self._before:
                return False
            os.unlink(name, dir_fd=directory)
        except OSError:
            return False
        return True

    def _remove_empty(self, parent: int, name: str) -> int:
        try:
            with acting_as_owner_of(self._top):
                if os.stat(name, dir_fd=parent, follow_symlinks=False).st_mtime < self._before:
                    os.rmdir(name, dir_fd=parent)
                    return 1
        except OSError:
            pass
        return 0

    def _is_directory(self, parent: int, name: str) -> bool:
        try:
            with acting_as_owner_of(self._top):
                return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
        except OSError:
            return False

    def _is_kept(self, name: str) -> bool:
        return any(found.group() in self._kept for found in _UUID.finditer(name))
