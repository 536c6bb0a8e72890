"""The gateway's configuration file: its shape, its writing, its reading.

``<data>/gateway/config.json`` holds model credentials, so it is a file of
mode 0600 that belongs to the one who runs the gateway; any other is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from server.gateway.prices import SORTS
from server.gateway.private_file import (
    PrivateFileError,
    check_private_file,
    read_private_json,
    write_private_json,
)

ANTHROPIC_URL = "https://api.anthropic.com"
DEMO_PROVIDER = "demo"

_MODEL_NAME = re.compile(r"[\w.:@/\[\]-]{1,200}", re.ASCII)
_Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class GatewayConfigError(Exception):
    """The configuration cannot be used; the text says why and what to do, and holds no secret."""


class Provider(BaseModel):
    """Where model calls go to, and with which credential.

    ``kind`` ``anthropic`` is Anthropic itself, ``gateway`` any server that
    speaks its Messages API, ``demo`` the built-in model. ``models`` are the
    names that choose this provider when there are several; ``prices`` maps a
    model's name (``*``: any other) to US dollars per million tokens of each
    sort. ``allowed_models`` are names or patterns (``claude-haiku-*``) that may
    be asked for, none: all; ``aliases`` are names that stand for another one.
    At most ``max_connections`` calls are open at once, others wait.
    ``own_keys``: users may bring keys of their own for it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    kind: Literal["anthropic", "gateway", "demo"]
    base_url: str | None = None
    api_key: SecretStr | None = None
    auth_token: SecretStr | None = None
    models: tuple[str, ...] = ()
    prices: dict[str, dict[str, _Price]] = Field(default_factory=dict)
    default: bool = False
    allowed_models: tuple[str, ...] = ()
    aliases: dict[str, str] = Field(default_factory=dict)
    max_connections: Annotated[int, Field(ge=1)] = 256
    own_keys: bool = False

    @field_validator("prices")
    @classmethod
    def _sorts_are_known(cls, value: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        if any(sort not in SORTS for price in value.values() for sort in price):
            raise ValueError(f"a price is of one of {', '.join(SORTS)}")
        return value

    @field_validator("aliases")
    @classmethod
    def _names_fit(cls, value: dict[str, str]) -> dict[str, str]:
        if not all(_MODEL_NAME.fullmatch(name) for pair in value.items() for name in pair):
            raise ValueError("an alias and what it stands for are model names")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "gateway" and not self.base_url:
            raise ValueError("a provider of kind 'gateway' needs a base_url")
        if self.kind == "anthropic" and not (self.api_key or self.auth_token or self.own_keys):
            raise ValueError("a provider of kind 'anthropic' needs an api_key or an auth_token, or own_keys")
        if self.base_url is not None:
            _check_url(self.base_url)
        for secret in (self.api_key, self.auth_token):
            if secret and not is_credential(secret.get_secret_value()):
                raise ValueError("a credential holds white space or characters that no header can carry")
        return self

    @property
    def has_credential(self) -> bool:
        """Can calls be made without a user's own key?"""
        return self.kind != "anthropic" or self.api_key is not None or self.auth_token is not None

    @property
    def url(self) -> str:
        """The upstream's address without a slash at the end."""
        return (self.base_url or ANTHROPIC_URL).rstrip("/")


def is_credential(text: str) -> bool:
    """Can ``text`` be sent in a header?"""
    return text == text.strip() and text.isascii() and text.isprintable()


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("base_url must be an http:// or https:// address")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("base_url must hold no credential, query or fragment")


class GatewaySettings(BaseModel):
    """All providers by name; none at all means the demo model."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    providers: dict[str, Provider] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sum(provider.default for provider in self.providers.values()) > 1:
            raise ValueError("more than one provider is the default")
        return self

    def default(self) -> tuple[str, Provider]:
        """The provider marked as default, else the first, else the demo model."""
        for name, provider in self.providers.items():
            if provider.default:
                return name, provider
        return next(iter(self.providers.items()), (DEMO_PROVIDER, Provider(kind="demo")))

    def choose(self, model: str | None) -> tuple[str, Provider]:
        """The provider that names ``model`` among its models or aliases, else the default one."""
        for name, provider in self.providers.items():
            if model is not None and (model in provider.models or model in provider.aliases):
                return name, provider
        return self.default()


def config_path(data_dir: Path) -> Path:
    """Where the configuration file lies."""
    return data_dir / "gateway" / "config.json"


def write_gateway_config(data_dir: Path, providers: Mapping[str, Provider | Mapping[str, Any]]) -> None:
    """Replace the gateway's configuration; a running gateway takes it up with its next call.

    The file is written beside the old one, synced and renamed over it: no
    reader ever sees half of it. Raises ``GatewayConfigError`` for providers
    that cannot be used, ``OSError`` when the file cannot be written.
    """
    settings = _validated({"providers": {name: _plain(provider) for name, provider in providers.items()}})
    plain = {"providers": {name: _plain(provider) for name, provider in settings.providers.items()}}
    write_private_json(config_path(data_dir), plain)
    shown = {
        name: ShownProvider.model_validate(provider.model_dump(include=set(ShownProvider.model_fields)))
        for name, provider in settings.providers.items()
    }
    write_private_json(shown_path(data_dir), {name: one.model_dump() for name, one in shown.items()})


def read_gateway_config(data_dir: Path) -> GatewaySettings:
    """Read the configuration; a missing file is the demo model. Raises ``GatewayConfigError``."""
    path = config_path(data_dir)
    try:
        raw = read_private_json(path)
    except PrivateFileError as error:
        raise GatewayConfigError(str(error)) from error
    if raw is None:
        return GatewaySettings()
    try:
        return _validated(raw)
    except GatewayConfigError as error:
        raise GatewayConfigError(f"{path}: {error}") from error


def shown_path(data_dir: Path) -> Path:
    """Where that lies of the configuration which is no secret."""
    return data_dir / "gateway" / "providers.json"


class ShownProvider(BaseModel):
    """What the server may know of a provider."""

    model_config = ConfigDict(frozen=True)

    kind: str
    default: bool = False
    own_keys: bool = False


def read_shown_providers(data_dir: Path) -> dict[str, ShownProvider]:
    """The providers without their credentials, which are not read and so never in the reader's memory.

    Raises ``GatewayConfigError`` when they cannot be used.
    """
    try:
        check_private_file(config_path(data_dir))
        raw = read_private_json(shown_path(data_dir))
        return {name: ShownProvider.model_validate(one) for name, one in (raw or {}).items()}
    except (PrivateFileError, ValidationError, AttributeError) as error:
        raise GatewayConfigError(str(error)) from error


def describe(data_dir: Path) -> dict[str, Any]:
    """Which model answers, without secrets: ``{"provider", "kind", "demo"}``.

    With a configuration that cannot be used ``provider`` and ``kind`` are
    None and ``error`` says why.
    """
    try:
        providers = read_shown_providers(data_dir)
    except GatewayConfigError as error:
        return {"provider": None, "kind": None, "demo": False, "error": str(error)}
    chosen = [name for name, one in providers.items() if one.default] or list(providers) or [DEMO_PROVIDER]
    kind = providers[chosen[0]].kind if providers else DEMO_PROVIDER
    return {"provider": chosen[0], "kind": kind, "demo": kind == DEMO_PROVIDER}


def _validated(raw: object) -> GatewaySettings:
    try:
        return GatewaySettings.model_validate(raw)
    except ValidationError as error:
        # Only places and messages: pydantic's own text could quote a value.
        wrong = (f"{'.'.join(map(str, e['loc'])) or 'configuration'}: {e['msg']}" for e in error.errors())
        raise GatewayConfigError("; ".join(wrong)) from None


def _plain(provider: Provider | Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(provider, Provider):
        return dict(provider)
    plain = provider.model_dump(mode="json", exclude={"api_key", "auth_token"})
    for name in ("api_key", "auth_token"):
        secret: SecretStr | None = getattr(provider, name)
        if secret is not None:
            plain[name] = secret.get_secret_value()
    return plain
