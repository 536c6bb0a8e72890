"""Starts a pool's keeper off an interpreter that has it imported; see ``tests/forking.py``."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from pool.config import PoolConfig
from pool.keeper import starter
from pool.keeper.gateway import GATEWAY_ENVIRONMENT
from tests.forking import KEEPER, forker

_USUAL = PoolConfig.__dataclass_fields__["keeper_command"].default


def run_keeper(command: starter.KeeperCommand, environment: Mapping[str, str]) -> None:
    """As ``starter.run_keeper``; a program of the test's own is started as ever."""
    keepers = forker(KEEPER)
    if keepers is None or tuple(command.program) != _USUAL:
        starter.run_keeper(command, environment)
        return
    words = command.argv()[len(command.program) :]
    env = {key: environment[key] for key in GATEWAY_ENVIRONMENT if key in environment}
    try:
        done = keepers.run(words, env, "", starter.START_SECONDS, Path("/"))
    except subprocess.TimeoutExpired as error:
        raise starter.KeeperNotStarted(str(error)) from error
    if done.returncode != 0:
        raise starter.KeeperNotStarted(done.stderr.strip()[-2000:] or f"it exited with {done.returncode}")
