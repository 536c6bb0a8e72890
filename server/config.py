"""Every setting of the server: its name, type and default, as CONTRACT section 2 lists them.

Reading files and the environment is done in ``server.settings``; here is only
what is allowed. Durations are in seconds, sizes in bytes. A secret is a
``SecretStr``: it prints as asterisks.
"""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    Discriminator,
    Field,
    SecretStr,
    Tag,
    field_validator,
    model_validator,
)

from pool import check_name
from pool.errors import InvalidName
from server.secret_files import NotPrivate, check_private
from server.sections import Bytes, Count, FromJson, PositiveCount, Seconds, Section, Texts

HostName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]


class Server(Section):
    """Where the server listens and what it believes of whoever connects."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    base_path: str = ""
    trusted_proxies: Texts = []
    allowed_origins: Texts = []
    metrics_addresses: Texts = []
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    max_connections: PositiveCount | None = None
    max_connections_per_address: PositiveCount = 512
    max_connections_per_user: PositiveCount = 100
    max_message_bytes: Annotated[int, Field(ge=1024)] = 16777216
    max_upload_bytes: Bytes = 1073741824

    @field_validator("trusted_proxies", "metrics_addresses")
    @classmethod
    def _are_networks(cls, value: list[str]) -> list[str]:
        for item in value:
            ipaddress.ip_network(item, strict=False)
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, value: list[str]) -> list[str]:
        for item in value:
            parts = urlsplit(item)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.rstrip("/"):
                raise ValueError("an origin is scheme://host or scheme://host:port, no path")
        return value

    @field_validator("base_path")
    @classmethod
    def _one_form_of_base_path(cls, value: str) -> str:
        value = value.rstrip("/")
        if not re.fullmatch(r"(/[A-Za-z0-9_.~-]+)*", value):
            raise ValueError("must be empty or like /a/b")
        return value


class Jwt(Section):
    """Who may sign API tokens and which claims say who the bearer is."""

    secret: SecretStr | None = None
    jwks_url: str | None = None
    issuer: str | None = None
    audience: str | None = None
    user_claim: str = "sub"
    roles_claim: str = "roles"


class Oidc(Section):
    """Sign-in by an OpenID Connect provider."""

    issuer: str | None = None
    client_id: str | None = None
    client_secret: SecretStr | None = None
    scopes: Texts = ["openid", "email", "profile"]


class Auth(Section):
    """How people and programs sign in."""

    local: bool = True
    jwt: Jwt = Jwt()
    token_ttl_seconds: Annotated[int, Field(ge=1)] = 86400
    oidc: Oidc = Oidc()
    proxy_header: str | None = None


class Storage(Section):
    """Where the durable truth lives; ``url`` may hold a password."""

    url: SecretStr | None = None
    retention_days: Annotated[int, Field(ge=1)] = 90


class Audit(Section):
    """What of the audit log is kept, how long; ``prompts`` hash tells of a prompt what proves it."""

    retention_days: Annotated[int, Field(ge=1)] = 365
    prompts: Literal["hash", "full"] = "hash"


class Cli(Section):
    """Which ``claude`` runs; ``env`` has items ``NAME`` (handed on) or ``NAME=value``."""

    path: Path | None = None
    extra_args: Texts = []
    env: Texts = []
    version: str | None = None


class Provider(Section):
    """One upstream of the model gateway."""

    kind: Literal["anthropic", "gateway", "demo"]
    base_url: str | None = None
    api_key: SecretStr | None = None
    auth_token: SecretStr | None = None
    models: Texts = []
    prices: Annotated[dict[str, Any], FromJson] = {}
    default: bool = False
    allowed_models: Texts = []
    aliases: Annotated[dict[str, str], FromJson] = {}
    max_connections: PositiveCount = 256
    own_keys: bool = False


class Pool(Section):
    """The limits and patience of the pool as a whole; None is worked out from memory and cores."""

    max_instances: Count | None = None
    warm_spares: Count = 0
    idle_timeout_seconds: Seconds = 900
    max_age_seconds: Seconds = 86400
    spawn_concurrency: PositiveCount | None = None
    start_timeout_seconds: Seconds = 60
    turn_timeout_seconds: Seconds = 3600
    turn_stall_seconds: Seconds = 600
    stop_grace_seconds: Seconds = 5
    drain_timeout_seconds: Seconds = 25
    orphan_lease_seconds: Seconds = 300
    approval_hold_seconds: Seconds = 3600
    queue_length: Count = 100
    queue_timeout_seconds: Seconds = 120
    store_timeout_seconds: Seconds = 10
    spool_max_bytes: Bytes = 536870912
    disk_reserve_bytes: Bytes = 268435456
    unload_seconds: Seconds = 300
    recycle_turns: Count = 0
    recycle_idle_memory_bytes: Bytes = 1073741824
    recycle_idle_cpu_seconds: Seconds = 300


class QuotaKeys(Section):
    """The limits of one user; None means no limit."""

    max_instances: Count | None = 3
    max_sessions: Count | None = 100
    max_queued_turns: Count | None = 20
    max_running_turns: PositiveCount | None = None
    turns_per_minute: Count | None = 30
    max_processes: Count | None = 256
    memory_bytes: Bytes | None = 4294967296
    tool_file_bytes: Bytes | None = 5368709120
    tool_cpu_seconds: Seconds | None = 14400
    cpu_seconds_per_hour: Seconds | None = None
    output_bytes_per_day: Bytes | None = None
    workspace_bytes: Bytes | None = 5368709120
    tokens_per_day: Count | None = None
    usd_per_day: Seconds | None = None
    usd_per_month: Seconds | None = None
    models: Texts | None = None
    model_calls_per_minute: Count | None = None
    model_tokens_per_minute: Count | None = None


# Tags that no user name can have, so that they can be told from one in the place of an error.
UserQuota = Annotated[
    Annotated[str, Tag("=plan")] | Annotated[QuotaKeys, Tag("=keys")],
    Discriminator(lambda value: "=plan" if isinstance(value, str) else "=keys"),
]


class Team(Section):
    """What ``members`` may use of the models together, beside what each may alone; None means no limit."""

    members: Texts = []
    tokens_per_day: Count | None = None
    usd_per_day: Seconds | None = None
    usd_per_month: Seconds | None = None
    model_calls_per_minute: Count | None = None
    model_tokens_per_minute: Count | None = None


class Quotas(Section):
    """Who has which limits: a user's own keys, over their plan's, over the default. Teams share theirs."""

    default: QuotaKeys = QuotaKeys()
    plans: Annotated[dict[str, QuotaKeys], FromJson] = {}
    users: Annotated[dict[str, UserQuota], FromJson] = {}
    teams: Annotated[dict[str, Team], FromJson] = {}

    @model_validator(mode="after")
    def _plans_exist(self) -> Quotas:
        missing = {plan for plan in self.users.values() if isinstance(plan, str)} - set(self.plans)
        if missing:
            raise ValueError(f"users name plans that do not exist: {', '.join(sorted(missing))}")
        return self


class Isolation(Section):
    """How instances are kept apart from each other and from the machine."""

    mode: Literal["auto", "none", "uid", "bwrap"] = "auto"
    network: Literal["auto", "gateway_only", "outbound", "open"] = "auto"
    uid_range: Annotated[tuple[int, int], FromJson] = (200000, 265535)
    server_user: Literal["auto", "root"] = "auto"
    egress_allow: Texts = []
    cgroup: str = "auto"

    @field_validator("cgroup")
    @classmethod
    def _group_is_a_path(cls, value: str) -> str:
        if value not in ("auto", "off") and not Path(value).is_absolute():
            raise ValueError("must be auto, off or an absolute path")
        return value

    @field_validator("uid_range")
    @classmethod
    def _range_is_a_range(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 1000 <= value[0] < value[1] - 2:
            raise ValueError("must be [first, last] with 1000 <= first < last, four uids at least")
        return value


class ToolRules(Section):
    """Rules for tool calls, as docs/permissions.md explains them."""

    allowed_commands: Texts = []
    denied_commands: Texts = []
    allowed_paths: Texts = []
    denied_paths: Texts = []


class Security(ToolRules):
    """What sessions may do; ``allowed_slash_commands`` None allows all.

    ``plans``: rules for the users of a plan of ``quotas.plans``, beside those for all.
    """

    plans: Annotated[dict[str, ToolRules], FromJson] = {}
    user_programs: Literal["auto", "allow", "deny"] = "auto"
    permission_modes: Texts = ["default", "acceptEdits", "plan"]
    allowed_slash_commands: Texts | None = None

    @field_validator("permission_modes")
    @classmethod
    def _has_default(cls, value: list[str]) -> list[str]:
        if "default" not in value:
            raise ValueError("must contain 'default'")
        return value


class Host(Section):
    """Another machine that runs instances, reached by SSH."""

    name: HostName
    address: str
    user: str | None = None
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    key_file: Path | None = None
    known_hosts_file: Path | None = None
    capacity: PositiveCount | None = None
    labels: Annotated[dict[str, str], FromJson] = {}
    command: str = "claude-pool host"

    @field_validator("key_file")
    @classmethod
    def _is_private(cls, value: Path | None) -> Path | None:
        if value is not None:
            # one that is missing is told of when the host is to be reached
            with suppress(OSError):
                try:
                    check_private(value)
                except NotPrivate as error:
                    raise ValueError(str(error)) from error
        return value


class Replica(Section):
    """This server as one of several on one database; ``url`` None: it is the only one."""

    url: str | None = None
    lease_seconds: Annotated[float, Field(ge=3, le=600, allow_inf_nan=False)] = 15

    @field_validator("url")
    @classmethod
    def _is_an_origin(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "http://none")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.rstrip("/"):
            raise ValueError("must be scheme://host or scheme://host:port, no path")
        return value.rstrip("/") if value else None


class Logging(Section):
    """``format`` auto is console on a terminal and JSON elsewhere."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class ServerConfig(Section):
    """The whole configuration."""

    multi_user: bool = True
    server: Server = Server()
    auth: Auth = Auth()
    storage: Storage = Storage()
    audit: Audit = Audit()
    cli: Cli = Cli()
    providers: Annotated[dict[str, Provider], FromJson] = {}
    pool: Pool = Pool()
    quotas: Quotas = Quotas()
    isolation: Isolation = Isolation()
    security: Security = Security()
    templates_dir: Path | None = None
    hosts: Annotated[list[Host], FromJson] = []
    replica: Replica = Replica()
    logging: Logging = Logging()

    @field_validator("providers")
    @classmethod
    def _at_most_one_default(cls, value: dict[str, Provider]) -> dict[str, Provider]:
        for name in value:
            try:
                check_name(name, "provider name")
            except InvalidName as error:
                raise ValueError(error.message) from error
        if sum(provider.default for provider in value.values()) > 1:
            raise ValueError("at most one provider can be the default")
        return value

    @model_validator(mode="after")
    def _parts_fit(self) -> ServerConfig:
        if (self.server.tls_cert_file is None) != (self.server.tls_key_file is None):
            raise ValueError("server.tls_cert_file and server.tls_key_file go together")
        missing = set(self.security.plans) - set(self.quotas.plans)
        if missing:
            raise ValueError(f"security.plans names plans that do not exist: {', '.join(sorted(missing))}")
        if self.auth.proxy_header and not self.server.trusted_proxies:
            raise ValueError("auth.proxy_header needs server.trusted_proxies")
        return self
