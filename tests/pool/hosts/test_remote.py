"""What is known of another machine comes from there, and nothing of it is looked for on this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pool.config import PoolConfig, SshHost
from pool.errors import KeeperUnavailable
from pool.hosts.conversation import HostClient
from pool.hosts.facts import HostFacts
from pool.hosts.remote import OtherFiles
from pool.hosts.ssh import open_ssh_host
from pool.launch.base import Launcher
from pool.launch.tool_limits import ToolLimits
from pool.model import InstanceId
from pool.workspace.host_files import HostFiles

_READ_HERE = {"template", "template_names"}
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "ensure": ("alice",),
    "paths": ("alice",),
    "unchecked_paths": ("alice",),
    "measure": ("alice",),
    "size_bytes": ("alice",),
    "prune_home": ("alice", (), 0.0),
    "keep_aside": ("alice",),
    "remove": ("alice",),
    "archive": ("alice",),
    "make_scratch": (None,),
    "scratch": ("probe-1",),
    "scratch_has": (Path("/there/trials/probe-1"), "file"),
    "remove_scratch": (Path("/there/trials/probe-1"),),
}


def public(kind: type) -> list[str]:
    return [name for name in dir(kind) if not name.startswith("_") and callable(getattr(kind, name))]


def ask(files: HostFiles, name: str) -> Any:
    verb: Callable[..., Any] = getattr(files, name)
    found = verb(*_ARGUMENTS.get(name, ()))
    return list(found) if isinstance(found, Iterator) else found


def test_without_a_connection_no_file_is_there_nor_looked_for(short_dir: Path) -> None:
    config = PoolConfig(data_dir=short_dir / "d")
    host = open_ssh_host(SshHost(name="h1", address="127.0.0.1"), config)
    # of the same name on this machine
    (config.data_dir / "workspaces" / "alice").mkdir(parents=True)
    for name in set(public(HostFiles)) - _READ_HERE:
        with pytest.raises(KeeperUnavailable):
            ask(host.files, name)
    assert "default" in host.files.template_names()
    assert (config.data_dir / "workspaces" / "alice").is_dir()


async def test_without_a_connection_nothing_is_told_of_instances(short_dir: Path) -> None:
    launcher: Launcher = open_ssh_host(
        SshHost(name="h1", address="127.0.0.1"), PoolConfig(data_dir=short_dir)
    ).launcher
    one = InstanceId("one")
    for wait in (launcher.list, lambda: launcher.abandon(one), lambda: launcher.forget(one)):
        with pytest.raises(KeeperUnavailable):
            await wait()
    tell: tuple[Callable[[], Any], ...] = (
        launcher.describe_isolation,
        launcher.uid_range,
        launcher.gateway_user,
        lambda: launcher.tool_prefix(ToolLimits(None, 1)),
        lambda: launcher.remove_leftovers((), 0.0),
        lambda: launcher.process_report({}, (), ()),
    )
    for ask in tell:
        with pytest.raises(KeeperUnavailable):
            ask()
    assert launcher.supervisor_pids() == set()
    await launcher.aclose(end_instances=True)


def test_paths_are_those_of_the_host(facts: HostFacts, short_dir: Path) -> None:
    files = OtherFiles(HostClient("h1"), PoolConfig(data_dir=short_dir / "ours"), lambda: facts)
    paths = files.paths("alice")
    assert paths.workspace == facts.data_dir / "workspaces" / "alice"
    assert paths.home == facts.data_dir / "homes" / "alice"
    assert files.scratch("probe-1") == facts.data_dir / "trials" / "probe-1"
    with pytest.raises(KeeperUnavailable):
        paths.has_transcript("5f3c6b0e-6f1e-4f0e-9d0b-000000000000")
