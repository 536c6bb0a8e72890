"""The one place of the pool that names concrete adapters."""

from __future__ import annotations

import asyncio
import os.path
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypedDict, Unpack

from pool.clock import Clock, SystemClock
from pool.config import PoolConfig
from pool.errors import Conflict, NotFound
from pool.hosts.base import LOCAL, PoolHost
from pool.hosts.facts import default_max_instances
from pool.hosts.machines import Machines
from pool.hosts.routing import AbsentLauncher, RoutedFiles
from pool.launch.base import Launcher
from pool.launch.cli import find_cli
from pool.launch.local import LocalLauncher
from pool.model import UserId
from pool.names import check_name
from pool.runtime.backlog import Backlog
from pool.runtime.exporting import export
from pool.runtime.hosts import Host as RunHost
from pool.runtime.hosts import Hosts
from pool.runtime.launches import Launches
from pool.runtime.placements import Placements
from pool.runtime.slots import Slots
from pool.runtime.surroundings import Surroundings
from pool.steward.hosting import Host, open_host
from pool.store.accounts import Accounts
from pool.store.audit import AuditLog
from pool.store.database import Database
from pool.store.fence import Fence
from pool.store.personal import PersonalData
from pool.store.sql import SqlStore
from pool.store.usage import Usage
from pool.workspace.host_files import HostFiles

# of another machine, until it has told how many it carries
_UNTOLD = 4


@dataclass(frozen=True, slots=True)
class Parts:
    """What a pool is made of."""

    surroundings: Surroundings
    accounts: Accounts
    usage: Usage
    audit: AuditLog
    personal: PersonalData
    machines: Machines


def open_accounts(
    data_dir: Path, storage_url: str | None, fence: Fence | None = None
) -> tuple[SqlStore, Accounts]:
    """The store and the accounts on it, for commands that run beside no server. Not opened yet."""
    store = SqlStore(storage_url, data_dir, fence=fence)
    return store, Accounts(store.database)


def remove_user_files(
    data_dir: Path, user_id: str, *, keep_workspace: bool = False, files: HostFiles | None = None
) -> None:
    """Remove a user's workspace (or move it aside), home and transcripts while no server runs.

    ``files`` are the steward's for a command that has one. Raises ``PoolError``.
    """
    files = files or HostFiles(data_dir)
    if keep_workspace:
        files.keep_aside(user_id)
    files.remove(user_id)


async def check_lives_here(database: Database, user_id: str) -> None:
    """Raises ``Conflict`` for a user who lives on another machine: a command cannot reach it."""
    home = await PersonalData(database).home_of(user_id)
    if home not in (None, LOCAL):
        raise Conflict(
            f"{user_id} lives on the host {home}, which only a running server reaches: start it and use "
            "its pages or its HTTP interface",
            details={"host": home},
        )


async def export_user_data(
    data_dir: Path, storage_url: str | None, user_id: str, *, files: HostFiles | None = None
) -> AsyncGenerator[bytes]:
    """``ClaudeInstancePool.export_user`` for a command, with a server running or not; reads only.

    ``files`` are the steward's for a command that has one. Raises ``Conflict`` for a user whose files are
    on another machine, which only the server reaches.
    """
    database = Database(storage_url, data_dir)
    await database.open_for_reading()
    try:
        await check_lives_here(database, user_id)
        async for piece in export(PersonalData(database), files or HostFiles(data_dir), user_id):
            yield piece
    finally:
        await database.aclose()


class Given(TypedDict, total=False):
    """Adapters that are there already; the others are made. ``hosts`` are all machines that run instances."""

    launcher: Launcher | None
    host: Host | None
    hosts: Sequence[PoolHost] | None
    clock: Clock | None
    fence: Fence | None


def compose(config: PoolConfig, **given: Unpack[Given]) -> Parts:
    """Build the adapters for ``config``, all that are not given; nothing is opened or started yet.

    Raises ``IsolationUnavailable``.
    """
    config.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    store, accounts = open_accounts(config.data_dir, config.storage_url, given.get("fence"))
    clock = given.get("clock") or SystemClock()
    machines = given.get("hosts") or _machines(config, given)
    here = next((machine.files for machine in machines if machine.name == LOCAL), None)
    if here is None:
        host = given.get("host")
        here = host.files if host is not None else HostFiles(config.data_dir, config.templates_dir)
    placements = Placements(store, partial(_lives_here, here))
    hosts = Hosts(
        [_host(config, clock, machine) for machine in machines],
        placements,
        lambda name: _host(config, clock, PoolHost(name=name, launcher=AbsentLauncher(name), files=files)),
    )
    files: HostFiles = here
    if [machine.name for machine in machines] != [LOCAL]:
        others = {machine.name: machine.files for machine in machines if machine.name != LOCAL}
        files = RoutedFiles(here, others, placements.name_of)
    surroundings = Surroundings(
        config=config,
        clock=clock,
        store=store,
        hosts=hosts,
        workspaces=files,
        backlog=Backlog(config.backlog_session_bytes, config.backlog_total_bytes),
        cli_stamp=partial(_cli_stamp, config.cli_path) if hosts.here is not None else _no_cli_here,
    )
    database = store.database
    return Parts(
        surroundings=surroundings,
        accounts=accounts,
        usage=Usage(database),
        audit=AuditLog(database),
        personal=PersonalData(database),
        machines=Machines(
            clients={one.name: one.client for one in machines if one.client is not None},
            runs_here=hosts.here is not None,
            home_of=placements.name_of,
            place=lambda user_id: hosts.placed(UserId(check_name(user_id, "user_id"))),
        ),
    )


def _machines(config: PoolConfig, given: Given) -> list[PoolHost]:
    """This machine, unless it is to run nothing beside others; then the others."""
    others: list[PoolHost] = []
    if config.hosts:
        # whoever has no other machines loads no SSH
        from pool.hosts.ssh import open_ssh_host  # noqa: PLC0415

        others = [open_ssh_host(settings, config) for settings in config.hosts]
        if config.max_instances == 0:
            return others
    host, launcher = given.get("host"), given.get("launcher")
    if launcher is None:
        host = host or open_host(config)
        launcher = LocalLauncher(config, host=host.local)
    files = host.files if host is not None else HostFiles(config.data_dir, config.templates_dir)
    return [PoolHost(name=LOCAL, launcher=launcher, files=files, capacity=config.max_instances), *others]


def _host(config: PoolConfig, clock: Clock, machine: PoolHost) -> RunHost:
    is_here = machine.name == LOCAL
    limit = machine.capacity
    if limit is None:
        limit = default_max_instances() if is_here else _UNTOLD
    return RunHost(
        name=machine.name,
        launcher=machine.launcher,
        files=machine.files,
        slots=Slots(config.quotas, limit, config.queue_length, config.queue_timeout_seconds),
        launches=Launches(clock, config.queue_timeout_seconds),
        spawn_gate=asyncio.Semaphore(config.spawn_gate),
        is_here=is_here,
        has_given_capacity=machine.capacity is not None,
    )


def _lives_here(files: HostFiles, user_id: str) -> bool:
    return os.path.lexists(files.unchecked_paths(user_id).workspace)


def _cli_stamp(configured: Path | None) -> str:
    cli = find_cli(configured)
    status = cli.stat()
    return f"{cli}:{status.st_size}:{status.st_mtime_ns}"


def _no_cli_here() -> str:
    raise NotFound("no instance runs on this machine: which CLI others have is not known")
