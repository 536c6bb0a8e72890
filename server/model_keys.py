"""Model credentials leave this process: they go to the gateway's own file, and nothing of them stays.

What is in a process's environment at its start can be read in ``/proc`` for
as long as it lives, and what it once held may lie in its memory for as long.
So the server that has read a credential, from the environment or from a file,
writes it to the gateway's 0600 file and executes itself anew: with
``PLACEHOLDER`` in its place in the environment, and with the configuration
handed on in memory that has no name, without the credentials.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from server.config import Provider, ServerConfig
from server.gateway.budgets import write_budgets
from server.gateway.settings import GatewayConfigError, read_gateway_config, write_gateway_config
from server.pool_settings import limits_of
from server.settings import ConfigError

PLACEHOLDER = "moved-to-the-gateway"
"""In the place of a credential that the gateway's file has already."""

SETTLED = "CLAUDE_POOL_SETTLED"
"""In the environment of the next image: the descriptor with its configuration."""

SETTLE = "CLAUDE_POOL_SETTLE"
"""In the environment of a check before a reload: the descriptor to settle the configuration into."""

_CREDENTIALS = ("api_key", "auth_token")
_KEY_NAMES = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")
# A shorter one might stand in a variable by accident.
_LONG_ENOUGH = 8


def move_keys(
    config: ServerConfig, data_dir: Path, environ: Mapping[str, str], *, limits_too: bool = True
) -> dict[str, str] | None:
    """Write the gateway's configuration; the environment to execute anew with, or None to go on.

    A placeholder stands for what the gateway's file has. ``limits_too``: the users' limits of
    model use are this configuration's too. Raises ``ConfigError`` when the providers cannot be used.
    """
    providers = {name: _plain(one) for name, one in config.providers.items()}
    try:
        _put_back(providers, data_dir)
        write_gateway_config(data_dir, providers)
        if limits_too:
            write_budgets(data_dir, **limits_of(config.quotas))
    except GatewayConfigError as error:
        raise ConfigError(f"bad configuration:\n  providers: {error}") from error
    secrets = {one[key] for one in providers.values() for key in _CREDENTIALS if one.get(key)}
    cleaned = {name: _cleaned(name, value, secrets) for name, value in environ.items()}
    return cleaned if secrets or cleaned != dict(environ) else None


def _put_back(providers: dict[str, dict[str, Any]], data_dir: Path) -> None:
    for name, provider in providers.items():
        for key in _CREDENTIALS:
            if provider.get(key) != PLACEHOLDER:
                continue
            kept = read_gateway_config(data_dir).providers.get(name)
            secret = getattr(kept, key, None)
            if secret is None:
                raise GatewayConfigError(f"providers.{name}.{key} is not known any more: give it again")
            provider[key] = secret.get_secret_value()


def _cleaned(name: str, value: str, secrets: set[str]) -> str:
    """A variable's value with the placeholder where a credential stood, as it is or inside JSON."""
    if name in _KEY_NAMES and value:
        return PLACEHOLDER
    for secret in sorted(secrets, key=len, reverse=True):
        if value == secret:
            return PLACEHOLDER
        if len(secret) >= _LONG_ENOUGH:
            value = value.replace(secret, PLACEHOLDER).replace(json.dumps(secret)[1:-1], PLACEHOLDER)
    return value


def new_memory() -> int:
    """A descriptor for a configuration to be handed on in, that the next image inherits."""
    descriptor = os.memfd_create("configuration", os.MFD_CLOEXEC)
    os.set_inheritable(descriptor, True)
    return descriptor


def hand_on(config: ServerConfig, descriptor: int) -> None:
    """Write ``config`` there for the next image, without any model credential."""
    plain = _revealed(config)
    for provider in plain.get("providers", {}).values():
        for key in _CREDENTIALS:
            provider.pop(key, None)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(json.dumps(plain).encode())


def settled_config(environ: dict[str, str] | os._Environ[str]) -> ServerConfig | None:
    """The configuration that the image before has handed on, once; None for a first image."""
    descriptor = environ.pop(SETTLED, None)
    if descriptor is None:
        return None
    with os.fdopen(int(descriptor), "rb") as file:
        file.seek(0)
        return ServerConfig.model_validate(json.load(file))


def _revealed(value: Any) -> Any:
    """Settings as plain data with only the keys that were given: which those are means something."""
    if isinstance(value, BaseModel):
        return {name: _revealed(getattr(value, name)) for name in sorted(value.model_fields_set)}
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, dict):
        return {key: _revealed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_revealed(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _plain(provider: Provider) -> dict[str, Any]:
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in provider
        if value is not None
    }
