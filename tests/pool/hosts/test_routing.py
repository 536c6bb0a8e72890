"""Files of several machines: one that cannot be reached costs the others nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from pool.config import PoolConfig, SshHost
from pool.errors import HostUnavailable, KeeperUnavailable
from pool.hosts.routing import RoutedFiles
from pool.hosts.ssh import open_ssh_host
from pool.workspace.host_files import HostFiles


def test_what_is_asked_of_all_machines_leaves_out_those_that_are_away(short_dir: Path) -> None:
    config = PoolConfig(data_dir=short_dir / "d")
    here = HostFiles(config.data_dir)
    here.ensure("alice")
    away = open_ssh_host(SshHost(name="h1", address="127.0.0.1"), config).files
    homes = {"alice": "local", "bob": "h1", "carol": "gone"}
    files = RoutedFiles(here, {"h1": away}, homes.get)
    *_, sizes = files.data_sizes()
    *_, alone = here.data_sizes()
    assert sizes == alone
    assert files.homes() == ["alice"]
    assert list(files.measure("bob")) == []
    assert list(files.measure("alice"))
    with pytest.raises(KeeperUnavailable):
        files.keep_aside("bob")
    with pytest.raises(HostUnavailable):
        files.keep_aside("carol")
