"""The CLI's program: where it is, what it needs, and a copy of it that every Linux user can run."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from pool.errors import LaunchFailed

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_PART = ".part-"
_COPIES_KEPT = 2


def find_cli(configured: Path | None) -> Path:
    """The CLI to run: the configured one, the wheel's, or ``claude`` on PATH. Raises ``LaunchFailed``."""
    found = configured or _bundled_cli()
    if found is None:
        on_path = shutil.which("claude")
        found = None if on_path is None else Path(on_path)
    if found is None:
        raise LaunchFailed("no claude CLI: install claude-agent-sdk or set cli.path", details={"step": "cli"})
    real = found.resolve()
    if not real.is_file() or not os.access(real, os.X_OK):
        raise LaunchFailed(f"the CLI {found} is not an executable file", details={"step": "cli"})
    return real


def _bundled_cli() -> Path | None:
    spec = find_spec("claude_agent_sdk")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "_bundled" / "claude"
    return path if path.exists() else None


def interpreter_of(cli: Path) -> Path | None:
    """What runs a CLI that is a script, as its first line says; None for a program."""
    with cli.open("rb") as file:
        first = file.readline(512)
    words = os.fsdecode(first[2:]).split() if first.startswith(b"#!") else []
    return Path(words[0]) if words else None


def interpreter_prefixes(cli: Path) -> Sequence[Path]:
    """Directories that a CLI which is a script needs to run; none for a real binary."""
    interpreter = interpreter_of(cli)
    if interpreter is None:
        return []
    prefixes = [Path(sys.prefix), Path(sys.base_prefix)]
    if interpreter.parent.name == "bin":
        prefixes += [interpreter.parent.parent, interpreter.resolve().parent.parent]
    unique = dict.fromkeys(prefix for prefix in prefixes if prefix.is_dir() and prefix != Path("/"))
    return [prefix for prefix in unique if str(prefix) != "/usr"]


def for_everybody(cli: Path, data_dir: Path) -> Path:
    """``cli`` itself if every Linux user can run it and only root change it, else a copy of root's.

    A program that is fine where it is is not copied: it has hundreds of
    megabytes, on disk and in the page cache. A copy is named after the file
    it is of, so that one process never runs what another was replaced by.
    Blocking. Raises ``LaunchFailed``.
    """
    if interpreter_of(cli) is not None or _is_for_everybody(cli):
        return cli
    try:
        return _copied(cli, data_dir / "cli")
    except OSError as error:
        raise LaunchFailed(f"the CLI cannot be copied: {error}", details={"step": "cli"}) from error


def _is_for_everybody(cli: Path) -> bool:
    """By owners and modes alone; a stricter rule somewhere only costs a copy."""
    for directory in cli.parents:
        status = directory.stat()
        # in a sticky directory such as /tmp nobody can rename what is root's
        may_change = status.st_mode & _OTHERS_WRITE and not status.st_mode & stat.S_ISVTX
        if status.st_uid != 0 or may_change or not status.st_mode & stat.S_IXOTH:
            return False
    status = cli.stat()
    is_readable = status.st_mode & 0o005 == 0o005
    return status.st_uid == 0 and is_readable and not status.st_mode & _OTHERS_WRITE


def _copied(cli: Path, place: Path) -> Path:
    status = cli.stat()
    stamp = f"{cli}:{status.st_size}:{status.st_mtime_ns}"
    final = place / hashlib.sha256(stamp.encode()).hexdigest()[:16]
    if not final.is_dir():
        place.mkdir(mode=0o755, parents=True, exist_ok=True)
        place.chmod(0o755)
        part = place / f"{_PART}{secrets.token_hex(8)}"
        part.mkdir(mode=0o755)
        try:
            part.chmod(0o755)
            shutil.copyfile(cli, part / cli.name)
            (part / cli.name).chmod(0o755)
            part.rename(final)
        except OSError:
            shutil.rmtree(part, ignore_errors=True)
            if not final.is_dir():  # another one has not been faster either
                raise
        _remove_old(place, final)
    return final / cli.name


def _remove_old(place: Path, current: Path) -> None:
    """All but the current copy and the one before, which instances that were started earlier still run."""
    others = [path for path in place.iterdir() if path != current]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in others[_COPIES_KEPT - 1 :]:
        shutil.rmtree(path, ignore_errors=True)
