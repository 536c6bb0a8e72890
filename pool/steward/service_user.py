"""As which Linux user the server runs where the service is root and users have uids; found out by trying."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pool.config import PoolConfig
from pool.keeper.program import noted_runtime_dir
from pool.keeper.server import SOCKET_NAME
from pool.launch.shown import problem_of


def service_uid(config: PoolConfig) -> int:
    """The uid that is the server's, where there are uids: the last but one of the range."""
    return config.uid_range[1] - 1


def obstacle_to_dropping(config: PoolConfig, shown: Sequence[Path], trial: Sequence[str]) -> str | None:
    """What keeps the server from being its own user, None if nothing does.

    ``trial`` is a command that ends with 0 when whoever runs it can run the server.
    """
    return next(_obstacles(config, shown, trial), None)


def _obstacles(config: PoolConfig, shown: Sequence[Path], trial: Sequence[str]) -> Iterator[str]:
    uid = service_uid(config)
    if os.stat(config.data_dir).st_uid != 0:
        yield f"the server runs as root, since {config.data_dir} is not root's: chown root {config.data_dir}"
    owner = _owner_with(uid, config.data_dir)
    if owner is not None:
        yield f"the server runs as root, since uid {uid} is that of {owner}: widen isolation.uid_range"
    runtime_dir = noted_runtime_dir(config.data_dir)
    if runtime_dir is not None and os.stat(runtime_dir / SOCKET_NAME).st_gid != uid:
        yield (
            "the server runs as root, since the keeper that runs was started for one that is: "
            "claude-pool stop, then serve"
        )
    problem = problem_of(trial, uid, shown)
    if problem is not None:
        yield f"the server runs as root, since it does not start as uid {uid} ({problem})"


def _owner_with(uid: int, data_dir: Path) -> str | None:
    """A user who got this uid when the range was another one."""
    for parent in (data_dir / "workspaces", data_dir / "homes"):
        with contextlib.suppress(FileNotFoundError), os.scandir(parent) as entries:
            for entry in entries:
                if entry.stat(follow_symlinks=False).st_uid == uid:
                    return entry.name
    return None
