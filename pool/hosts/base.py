"""What a machine that runs instances is to the pool: the same for this one and for one over SSH."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pool.hosts.conversation import HostClient
from pool.launch.base import Launcher
from pool.model import LOCAL
from pool.workspace.host_files import HostFiles

__all__ = ["LOCAL", "PoolHost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolHost:
    """One machine. ``capacity`` None: as its memory carries.

    ``launcher.open`` connects, raises ``KeeperUnavailable`` while the machine
    cannot be reached, and connects again after ``on_lost`` was told. While
    it is not connected every other method of launcher and files raises
    ``KeeperUnavailable``. What runs there meanwhile goes on, until its keeper
    has heard of no server for the orphan lease. ``client`` asks the host program for what is
    neither the launcher's nor the files'; None of this machine.
    """

    name: str
    launcher: Launcher
    files: HostFiles
    capacity: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    client: HostClient | None = None
