"""What a host tells of itself when a server begins to speak with its host program."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pool.config import PoolConfig
from pool.keeper import procfs
from pool.keeper.code_version import code_version
from pool.launch.isolation import Isolation
from pool.steward.hosting import Host

_BYTES_PER_INSTANCE = 200 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """Of one machine, as its own configuration and trials have it.

    ``keeper_code`` names the keeper's code that is installed, ``keeper_uid`` is whose process a keeper is,
    ``uid_range`` that of the users, None where all instances run as the service. ``capacity`` is how many
    instances it carries.
    """

    version: str
    keeper_code: str
    keeper_uid: int
    boot_id: str
    data_dir: Path
    isolation: Isolation
    uid_range: tuple[int, int] | None
    gateway_uid: int | None
    gateway_obstacle: str | None
    gateway_shown: Sequence[Path]
    capacity: int
    orphan_lease_seconds: float
    spool_max_bytes: int
    spool_segment_bytes: int


def default_max_instances() -> int:
    """How many instances this machine carries: by memory at 200 MiB each, at least four."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(4, int(total * 0.8) // _BYTES_PER_INSTANCE)


def installed_version() -> str:
    """Which Claude Pool this is."""
    try:
        return version("claude-pool")
    except PackageNotFoundError:
        return "unknown"


def facts_of(config: PoolConfig, host: Host) -> HostFacts:
    """The facts of this machine."""
    local = host.local
    uid, obstacle = local.gateway_user.describe()
    return HostFacts(
        version=installed_version(),
        keeper_code=code_version(),
        keeper_uid=os.geteuid(),
        boot_id=procfs.boot_id(),
        data_dir=config.data_dir,
        isolation=local.isolation,
        uid_range=config.uid_range if local.isolation.has_uids else None,
        gateway_uid=uid,
        gateway_obstacle=obstacle,
        gateway_shown=tuple(local.gateway_user.shown),
        capacity=default_max_instances() if config.max_instances is None else config.max_instances,
        orphan_lease_seconds=config.orphan_lease_seconds,
        spool_max_bytes=config.spool_max_bytes,
        spool_segment_bytes=config.spool_segment_bytes,
    )
