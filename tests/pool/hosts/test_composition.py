"""What a pool is made of when it is to run on other machines, and when it is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pool import PoolConfig, SshHost
from pool.composition import compose
from pool.errors import BadRequest, HostUnavailable
from pool.hosts.routing import RoutedFiles
from pool.hosts.ssh import SshLauncher
from pool.launch.local import LocalLauncher
from pool.model import UserId
from pool.workspace.host_files import HostFiles

FAR = SshHost(name="far", address="far.example")
NEAR = SshHost(name="near", address="near.example", capacity=7)


def config(directory: Path, *hosts: SshHost, max_instances: int | None = 3) -> PoolConfig:
    return PoolConfig(
        data_dir=directory,
        isolation_mode="none",
        gateway_command=(),
        hosts=hosts,
        max_instances=max_instances,
    )


def test_one_machine_has_nothing_in_between(short_dir: Path) -> None:
    around = compose(config(short_dir / "d")).surroundings
    (host,) = around.hosts
    assert (type(host.launcher), type(host.files)) == (LocalLauncher, HostFiles)
    assert around.workspaces is host.files
    assert (host.is_here, host.slots.limit) == (True, 3)


def test_other_machines_stand_beside_this_one_or_instead_of_it(short_dir: Path) -> None:
    around = compose(config(short_dir / "d", FAR, NEAR)).surroundings
    assert [(host.name, host.is_here, host.slots.limit) for host in around.hosts] == [
        ("local", True, 3),
        ("far", False, 4),
        ("near", False, 7),
    ]
    assert isinstance(around.workspaces, RoutedFiles)
    around = compose(config(short_dir / "d", FAR, max_instances=0)).surroundings
    (host,) = around.hosts
    assert isinstance(host.launcher, SshLauncher)
    assert around.hosts.here is None


def test_a_machine_that_is_not_configured_any_more_is_never_reached(short_dir: Path) -> None:
    hosts = compose(config(short_dir / "d", FAR)).surroundings.hosts
    gone = hosts.named("gone")
    assert gone is hosts.named("gone")
    assert gone not in list(hosts)
    with pytest.raises(HostUnavailable):
        gone.check()


def test_names_are_names_of_one_machine(short_dir: Path) -> None:
    for name in ("far", "local"):
        with pytest.raises(BadRequest, match="hosts"):
            config(short_dir / "d", FAR, SshHost(name=name, address="x"))


async def test_who_has_directories_here_stays_here(short_dir: Path) -> None:
    around = compose(config(short_dir / "d", FAR)).surroundings
    await around.store.open()
    try:
        await around.hosts.load()
        (short_dir / "d" / "workspaces" / "alice").mkdir(parents=True)
        assert (await around.hosts.placed(UserId("alice"))).name == "local"
        with pytest.raises(HostUnavailable):
            await around.hosts.placed(UserId("bob"))
        assert await around.store.placements() == {"alice": "local"}
    finally:
        await around.store.aclose()


def test_nobody_loads_ssh_who_has_no_other_machine(short_dir: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from pool import ClaudeInstancePool, PoolConfig;"
        "ClaudeInstancePool(PoolConfig(data_dir=Path(sys.argv[1]), isolation_mode='none'));"
        "sys.exit('asyncssh' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(short_dir / "d")], check=False).returncode == 0
