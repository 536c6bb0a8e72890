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


def test_each_users_files_are_where_the_user_lives(tmp_path: Path) -> None:
    homes = {"alice": "local", "bob": "far"}
    files = RoutedFiles(HostFiles(tmp_path / "here"), {"far": HostFiles(tmp_path / "far")}, homes.get)
    for user, name in (("alice", "here"), ("bob", "far"), ("nobody-yet", "here")):
        made = files.ensure(user)
        assert made.workspace == tmp_path / name / "workspaces" / user == files.paths(user).workspace
        (made.workspace / "file").write_bytes(bytes(1000))
        assert [usage.bytes >= 1000 for usage in files.measure(user)][-1]
    assert b"workspace/file" in b"".join(files.archive("bob"))
    files.remove("bob")
    assert not (tmp_path / "far" / "workspaces" / "bob").exists()
    assert (tmp_path / "here" / "workspaces" / "alice").exists()


def test_what_somebody_left_who_lives_nowhere_is_pruned_where_it_was_found(tmp_path: Path) -> None:
    far = HostFiles(tmp_path / "far")
    files = RoutedFiles(HostFiles(tmp_path / "here"), {"far": far}, lambda _user: None)
    old = far.ensure("long-gone").config / "projects" / "-workspace"
    old.mkdir(parents=True)
    (old / "00000000-0000-4000-8000-000000000000.jsonl").write_text("{}")
    assert files.homes() == ["long-gone"]
    assert sum(files.prune_home("long-gone", (), 2**40)) > 0
    assert not list(old.glob("*.jsonl"))
