"""The data directory of a server that is not root: every name but those of its files is root's for good."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pool.config import PoolConfig
from pool.fs_identity import acting_as
from pool.steward.service_user import ROOTS_OWN, give_data, obstacle_to_dropping, service_uid

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")

UID = 265534


@pytest.fixture
def data(short_dir: Path) -> Path:
    short_dir.chmod(0o711)
    data = short_dir / "data"
    data.mkdir()
    return data


def owner(path: Path) -> int:
    return path.lstat().st_uid


def test_files_of_an_earlier_version_become_the_servers(data: Path) -> None:
    (data / "claude-pool.db").write_text("rows")
    (data / "secrets").mkdir(0o700)
    (data / "secrets" / "jwt.key").write_text("key")
    (data / "keeper").mkdir(0o700)
    (data / "keeper" / "lock").write_text("1")
    give_data(data, UID)
    for name in ("claude-pool.db", "secrets", "secrets/jwt.key", "conformance"):
        assert owner(data / name) == UID, name
    for name in ("", "keeper", "keeper/lock", "workspaces", "gateway"):
        assert owner(data / name) == 0, name


def test_links_and_files_with_other_names_stay_whose_they_are(data: Path, short_dir: Path) -> None:
    precious = short_dir / "precious"
    precious.write_text("root's")
    (data / "a-link").symlink_to(precious)
    os.link(precious, data / "another-name")
    (data / "secrets").mkdir()
    (data / "secrets" / "a-link").symlink_to(precious)
    give_data(data, UID)
    assert owner(precious) == 0


def test_the_server_can_put_nothing_in_the_place_of_what_is_roots(data: Path) -> None:
    give_data(data, UID)
    with acting_as(UID, UID):
        (data / "claude-pool.db-wal").write_text("its own")
        (data / "claude-pool.db-wal").rename(data / "moved")
        (data / "moved").unlink()
        for name in ROOTS_OWN:
            with pytest.raises(PermissionError):
                (data / name).rename(data / "aside")
            with pytest.raises(PermissionError):
                (data / name).rmdir()
            with pytest.raises(FileExistsError):
                (data / name).symlink_to("/etc")
        for name in ("keeper", "spool", "gateway", "own-keys", "egress", "kept", "templates-applied"):
            with pytest.raises(PermissionError):
                (data / name / "file").write_text("hostile")
            with pytest.raises(PermissionError):
                os.listdir(data / name)


def test_users_pass_through_and_see_nothing(data: Path) -> None:
    give_data(data, UID)
    assert stat.S_IMODE(data.stat().st_mode) == 0o1771
    with acting_as(200001, 200001):
        assert (data / "workspaces" / ".").exists()
        with pytest.raises(PermissionError):
            os.listdir(data)
        with pytest.raises(PermissionError):
            (data / "mine").write_text("x")


def test_what_is_in_the_way_is_named(data: Path) -> None:
    config = PoolConfig(data_dir=data)
    assert service_uid(config) == UID
    assert obstacle_to_dropping(config, [], ["/bin/true"]) is None
    assert "does not start as uid 265534" in str(obstacle_to_dropping(config, [], ["/bin/false"]))
    assert "/nowhere/at/all" in str(obstacle_to_dropping(config, [], ["/nowhere/at/all"]))
    (data / "workspaces" / "alice").mkdir(parents=True)
    os.chown(data / "workspaces" / "alice", UID, UID)
    assert "that of alice: widen" in str(obstacle_to_dropping(config, [], ["/bin/true"]))
