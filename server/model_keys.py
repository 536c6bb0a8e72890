"""Model credentials leave this process: they go to the gateway's own file, and out of the environment.

What is in a process's environment at its start can be read in ``/proc`` for
as long as it lives. So a key found there is written to the gateway's 0600
file, and the server executes itself anew without it; ``MOVED`` tells the new
image which providers came that way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from server.config import Provider, ServerConfig
from server.gateway.budgets import write_budgets
from server.gateway.settings import GatewayConfigError, read_gateway_config, write_gateway_config
from server.pool_settings import quota_book
from server.settings import ENV_PREFIX, ConfigError

MOVED = "CLAUDE_POOL_MOVED_PROVIDERS"
_KEY_NAMES = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")
_PROVIDERS_PREFIX = f"{ENV_PREFIX}PROVIDERS"


def move_keys(config: ServerConfig, data_dir: Path, environ: Mapping[str, str]) -> dict[str, str] | None:
    """Write the gateway's configuration; the environment to execute anew with, or None to go on.

    Raises ``ConfigError`` when the providers cannot be used.
    """
    found = {
        name
        for name, value in environ.items()
        if value and (name in _KEY_NAMES or name.startswith(_PROVIDERS_PREFIX))
    }
    moved = {name for name in environ.get(MOVED, "").split(",") if name}
    providers: dict[str, Any] = {name: _plain(one) for name, one in config.providers.items()}
    try:
        if moved and not found:
            kept = read_gateway_config(data_dir).providers
            providers |= {name: kept[name] for name in moved if name in kept}
        write_gateway_config(data_dir, providers)
        _write_budgets(config, data_dir)
    except GatewayConfigError as error:
        raise ConfigError(f"bad configuration:\n  providers: {error}") from error
    if not found:
        return None
    rest = {name: value for name, value in environ.items() if name not in found}
    rest[MOVED] = ",".join(sorted(config.providers))
    return rest


def _write_budgets(config: ServerConfig, data_dir: Path) -> None:
    """The gateway holds users to their limits of model use by itself, also while no server runs."""
    book = quota_book(config.quotas)
    users = {user: asdict(book.for_user(user)) for user in book.users}
    write_budgets(data_dir, asdict(book.default), users)


def _plain(provider: Provider) -> dict[str, Any]:
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in provider
        if value is not None
    }
