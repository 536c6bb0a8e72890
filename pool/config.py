"""What the pool can be told; read by nobody below it from the environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pool.errors import BadRequest

ISOLATION_MODES = ("auto", "none", "uid", "bwrap")
USER_PROGRAMS = ("auto", "allow", "deny")
AUDIT_PROMPTS = ("hash", "full")
NETWORK_MODES = ("auto", "gateway_only", "outbound", "open")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """The limits of one user. None means no limit; ``models`` are names or patterns that may be asked for."""

    max_instances: int | None = 3
    max_sessions: int | None = 100
    max_queued_turns: int | None = 20
    max_running_turns: int | None = None
    turns_per_minute: int | None = 30
    max_processes: int | None = 256
    memory_bytes: int | None = 4294967296
    tool_file_bytes: int | None = 5368709120
    tool_cpu_seconds: float | None = 14400
    cpu_seconds_per_hour: float | None = None
    workspace_bytes: int | None = 5368709120
    output_bytes_per_day: int | None = None
    tokens_per_day: int | None = None
    usd_per_day: float | None = None
    usd_per_month: float | None = None
    models: tuple[str, ...] | None = None
    model_calls_per_minute: int | None = None
    model_tokens_per_minute: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaBook:
    """Who has which quota: a user's own keys, over their plan's, over the default."""

    default: Quota = field(default_factory=Quota)
    plans: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    users: Mapping[str, str | Mapping[str, Any]] = field(default_factory=dict)

    def for_user(self, user_id: str) -> Quota:
        """The quota in force for ``user_id``."""
        entry = self.users.get(user_id)
        if entry is None:
            return self.default
        keys = self.plans.get(entry, {}) if isinstance(entry, str) else entry
        return replace(self.default, **keys)

    def plan_of(self, user_id: str) -> str | None:
        """The plan that ``user_id`` is on, if it is on one."""
        entry = self.users.get(user_id)
        return entry if isinstance(entry, str) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SshHost:
    """Another machine that runs instances. ``capacity``: how many; None: as its memory carries.

    ``key_file`` None: the keys that SSH finds by itself; ``known_hosts_file`` None: the user's own.
    ``command`` starts the program of ours that is installed there.
    """

    name: str
    address: str
    user: str | None = None
    port: int = 22
    key_file: Path | None = None
    known_hosts_file: Path | None = None
    capacity: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    command: str = "claude-pool host"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """Settings of a ``ClaudeInstancePool``; durations in seconds, sizes in bytes.

    ``gateway_command`` is the program that the keeper starts as the model
    gateway; it is appended ``--data DIR``, or ``--check``, on which it is to end
    with 0 if who starts it can run it. ``check_cli``: after the start, try
    out a CLI that is not known yet (``pool.runtime.conformance``).
    ``plan_rules`` are rules for tools, by plan and then by the names of the
    four lists here, which they add to. ``user_programs``: may the CLI start
    hooks, MCP servers and helpers that a user's own files name? ``auto``: where
    no rule for tools holds. ``audit_prompts``: what of a prompt goes into
    the audit log. Raises ``BadRequest`` naming all bad fields.
    """

    data_dir: Path
    runtime_dir: Path | None = None
    storage_url: str | None = None
    templates_dir: Path | None = None

    cli_path: Path | None = None
    cli_extra_args: tuple[str, ...] = ()
    cli_env: Mapping[str, str] = field(default_factory=dict)
    check_cli: bool = True
    gateway_command: tuple[str, ...] = (sys.executable, "-I", "-m", "server.gateway")
    keeper_command: tuple[str, ...] = (sys.executable, "-I", "-m", "pool.keeper")

    max_instances: int | None = None
    spawn_concurrency: int | None = None
    idle_timeout_seconds: float = 900
    max_age_seconds: float = 86400
    start_timeout_seconds: float = 60
    turn_timeout_seconds: float = 3600
    turn_stall_seconds: float = 600
    stop_grace_seconds: float = 5
    drain_timeout_seconds: float = 25
    orphan_lease_seconds: float = 300
    approval_hold_seconds: float = 3600
    queue_length: int = 100
    queue_timeout_seconds: float = 120
    store_timeout_seconds: float = 10
    spool_max_bytes: int = 536870912
    spool_segment_bytes: int = 67108864
    disk_reserve_bytes: int = 268435456
    delta_retention_seconds: float = 600
    delta_retention_bytes: int = 67108864
    viewer_budget_bytes: int = 262144
    backlog_session_bytes: int = 8388608
    backlog_total_bytes: int = 134217728
    unload_seconds: float = 300
    recycle_turns: int = 0
    recycle_idle_memory_bytes: int = 1073741824
    recycle_idle_cpu_seconds: float = 300
    retention_days: float = 90
    audit_retention_days: float = 365
    audit_prompts: str = "hash"
    max_line_bytes: int = 67108864

    quotas: QuotaBook = field(default_factory=QuotaBook)
    isolation_mode: str = "auto"
    isolation_network: str = "auto"
    cgroup: str = "auto"
    egress_allow: tuple[str, ...] = ()
    uid_range: tuple[int, int] = (200000, 265535)
    permission_modes: tuple[str, ...] = ("default", "acceptEdits", "plan")
    allowed_commands: tuple[str, ...] = ()
    denied_commands: tuple[str, ...] = ()
    allowed_paths: tuple[str, ...] = ()
    denied_paths: tuple[str, ...] = ()
    plan_rules: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    user_programs: str = "auto"
    hosts: tuple[SshHost, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "data_dir", Path(self.data_dir).absolute())
        bad = [*self._bad_numbers(), *self._bad_choices()]
        if bad:
            raise BadRequest("bad pool configuration: " + "; ".join(bad), details={"fields": bad})

    def _bad_numbers(self) -> list[str]:
        bad = []
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name.endswith(("_seconds", "_bytes", "_length")) and (
                not isinstance(value, int | float) or value < 0
            ):
                bad.append(f"{item.name} must be a number of at least 0")
        days = ("retention_days", "audit_retention_days")
        return bad + [f"{name} must be above 0" for name in days if not getattr(self, name) > 0]

    def _bad_choices(self) -> list[str]:
        bad = []
        if self.isolation_mode not in ISOLATION_MODES:
            bad.append(f"isolation_mode must be one of {', '.join(ISOLATION_MODES)}")
        if self.isolation_network not in NETWORK_MODES:
            bad.append(f"isolation_network must be one of {', '.join(NETWORK_MODES)}")
        if self.user_programs not in USER_PROGRAMS:
            bad.append(f"user_programs must be one of {', '.join(USER_PROGRAMS)}")
        if self.audit_prompts not in AUDIT_PROMPTS:
            bad.append(f"audit_prompts must be one of {', '.join(AUDIT_PROMPTS)}")
        if not 1000 <= self.uid_range[0] < self.uid_range[1] - 2:
            bad.append("uid_range must be (first, last) with 1000 <= first < last, four uids at least")
        names = [host.name for host in self.hosts]
        if len({"local", *names}) != len(names) + 1:
            bad.append("hosts must each have a name of its own, and none is called 'local'")
        if "default" not in self.permission_modes:
            bad.append("permission_modes must contain 'default'")
        return bad

    @property
    def spawn_gate(self) -> int:
        """How many CLIs may start at once: two a core start soonest (measured)."""
        return self.spawn_concurrency or 2 * (os.cpu_count() or 1)
