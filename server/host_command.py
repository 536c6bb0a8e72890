"""The command ``claude-pool host``: what a server elsewhere runs on this machine, over SSH.

It reads this machine's own configuration, as ``serve`` does: model credentials
go from it to the gateway's file, and then it executes itself anew without
them, to be ``server.host_program``. So that a link is soon back, it loads
little.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from pool.errors import BadRequest
from server.commands import Site
from server.config import Auth, Server, ServerConfig, Storage
from server.data_lock import DataLock, HeldElsewhere
from server.gateway.budgets import budgets_path
from server.model_keys import SETTLED, hand_on, move_keys, new_memory
from server.pool_settings import to_pool_config
from server.rules import check_platform
from server.settings import ENV_PREFIX, ConfigError

_ASKED = re.compile(r"(?:(?:\S*/)?claude-pool host )?(files|keeper)", re.ASCII)
_ORIGINAL_COMMAND = "SSH_ORIGINAL_COMMAND"
# of a login, which ends: what goes on here must not depend on it
_OF_A_LOGIN = ("XDG_", "SSH_", "DBUS_")


def part_asked_for(word: str | None, environ: Mapping[str, str]) -> str:
    """``files``, ``keeper`` or ``check``: the command line's word, else the one that the client of SSH
    asked for where this is the only command that its key may run.

    Raises ``BadRequest``.
    """
    if word is not None:
        return word
    asked = _ASKED.fullmatch(environ.get(_ORIGINAL_COMMAND, "").strip())
    if asked is None:
        raise BadRequest("say what of the host is wanted: files, keeper or check")
    return asked[1]


def pump(data_dir: Path) -> NoReturn:
    """Be the way to this machine's keeper until either side ends."""
    from pool import PoolConfig, pump_keeper  # noqa: PLC0415 - a channel for files loads them later

    os._exit(pump_keeper(PoolConfig(data_dir=data_dir)))


def settle(site: Site) -> NoReturn:
    """Move the model credentials and execute this command anew, to serve.

    Raises ``ConfigError``, ``HeldElsewhere`` where a server runs on the data directory, ``OSError``.
    """
    check_platform()
    try:
        to_pool_config(site.config, site.data_dir, os.environ)
    except BadRequest as error:
        raise ConfigError(error.message) from error
    site.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    _refuse_beside_server(site.data_dir)
    # those that a server has told go on to hold
    limits_too = not budgets_path(site.data_dir).exists()
    environment = move_keys(site.config, site.data_dir, os.environ, limits_too=limits_too) or os.environ
    settings = new_memory()
    hand_on(_of_a_host(site.config), settings)
    left_out = (ENV_PREFIX, *_OF_A_LOGIN)
    kept = {name: text for name, text in environment.items() if not name.startswith(left_out)}
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**kept, SETTLED: str(settings)})


def _refuse_beside_server(data_dir: Path) -> None:
    """Another host program is no reason: the server that has come last goes on with ours."""
    try:
        DataLock(data_dir, is_host=True).release()
    except HeldElsewhere as error:
        if not error.is_host:
            raise


def _of_a_host(config: ServerConfig) -> ServerConfig:
    """``config`` without what means nothing here, and may be secret."""
    nothing = {"server": Server(), "auth": Auth(), "storage": Storage(), "hosts": []}
    return config.model_copy(update=nothing)
