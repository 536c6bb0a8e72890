"""The server's configuration in the pool's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pool import PoolConfig, Quota, QuotaBook, SshHost, compile_rules
from pool.errors import BadRequest
from server.config import QuotaKeys, Quotas, ServerConfig, ToolRules
from server.settings import secret_text

_POOL_KEYS = (
    "max_instances",
    "spawn_concurrency",
    "idle_timeout_seconds",
    "max_age_seconds",
    "start_timeout_seconds",
    "turn_timeout_seconds",
    "turn_stall_seconds",
    "stop_grace_seconds",
    "drain_timeout_seconds",
    "orphan_lease_seconds",
    "approval_hold_seconds",
    "queue_length",
    "queue_timeout_seconds",
    "store_timeout_seconds",
    "spool_max_bytes",
    "disk_reserve_bytes",
    "unload_seconds",
    "recycle_turns",
    "recycle_idle_memory_bytes",
    "recycle_idle_cpu_seconds",
)


def to_pool_config(config: ServerConfig, data_dir: Path, environ: Mapping[str, str]) -> PoolConfig:
    """What the pool needs to know of ``config``.

    ``environ`` gives the values of the names in ``cli.env``. Raises
    ``BadRequest`` naming all fields that the pool does not take, or the rule
    for tools that is none.
    """
    if config.pool.max_instances == 0 and not config.hosts:
        raise BadRequest("pool.max_instances: 0 is for a machine that runs nothing beside others (hosts)")
    tool_rules = _tool_rules(config.security)
    plan_rules = {plan: _tool_rules(rules) for plan, rules in config.security.plans.items()}
    for rules in (tool_rules, *plan_rules.values()):
        compile_rules(**rules)
    return PoolConfig(
        data_dir=data_dir,
        storage_url=secret_text(config.storage.url),
        retention_days=config.storage.retention_days,
        audit_retention_days=config.audit.retention_days,
        audit_prompts=config.audit.prompts,
        templates_dir=config.templates_dir,
        cli_path=config.cli.path,
        cli_extra_args=tuple(config.cli.extra_args),
        cli_env=_cli_environment(config.cli.env, environ),
        quotas=quota_book(config.quotas),
        isolation_mode=config.isolation.mode,
        isolation_network=config.isolation.network,
        cgroup=config.isolation.cgroup,
        egress_allow=tuple(config.isolation.egress_allow),
        uid_range=config.isolation.uid_range,
        permission_modes=tuple(config.security.permission_modes),
        allowed_commands=tool_rules["allowed_commands"],
        denied_commands=tool_rules["denied_commands"],
        allowed_paths=tool_rules["allowed_paths"],
        denied_paths=tool_rules["denied_paths"],
        plan_rules=plan_rules,
        user_programs=config.security.user_programs,
        hosts=tuple(SshHost(**host.model_dump()) for host in config.hosts),
        **{key: getattr(config.pool, key) for key in _POOL_KEYS},
    )


def _tool_rules(rules: ToolRules) -> dict[str, tuple[str, ...]]:
    return {name: tuple(getattr(rules, name)) for name in ToolRules.model_fields}


def _cli_environment(items: list[str], environ: Mapping[str, str]) -> dict[str, str]:
    result = {}
    for item in items:
        name, given, value = item.partition("=")
        if given:
            result[name] = value
        elif name in environ:
            result[name] = environ[name]
    return result


def quota_book(quotas: Quotas) -> QuotaBook:
    """The quotas in the pool's words."""
    return QuotaBook(
        default=Quota(**quotas.default.model_dump()),
        plans={name: plan.model_dump(exclude_unset=True) for name, plan in quotas.plans.items()},
        users={
            user: entry.model_dump(exclude_unset=True) if isinstance(entry, QuotaKeys) else entry
            for user, entry in quotas.users.items()
        },
    )


def limits_of(quotas: Quotas) -> dict[str, dict[str, Any]]:
    """What a gateway is told, to hold users to their limits of model use by itself, also while no server
    runs; it is plain data: ``default``, ``users`` by name, ``teams`` by name."""
    book = quota_book(quotas)
    return {
        "default": asdict(book.default),
        "users": {user: asdict(book.for_user(user)) for user in book.users},
        "teams": {name: team.model_dump() for name, team in quotas.teams.items()},
    }


def keys_not_in_effect(config: ServerConfig) -> list[str]:
    """Keys that were set but that this version does not act on yet: to be told, never to be swallowed."""
    blank = ServerConfig()
    checks = {
        "auth.jwt.jwks_url": config.auth.jwt.jwks_url is not None,
        "auth.oidc": config.auth.oidc != blank.auth.oidc,
        "cli.version": config.cli.version is not None,
        "pool.warm_spares": config.pool.warm_spares > 0,
        "security.allowed_slash_commands": config.security.allowed_slash_commands is not None,
    }
    return [key for key, is_set in checks.items() if is_set]
