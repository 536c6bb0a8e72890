"""The data directory of a server that is not root: every name but those of its files is root's for good."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pool.errors import Conflict
from pool.fs_identity import acting_as
from pool.steward.data_directory import ROOTS_OWN, check_roots, give_data, given_to, take_data

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


def test_only_what_the_server_needs_is_given(data: Path) -> None:
    (data / "config.yaml").write_text("cli: {}")
    (data / "server.lock").write_text("1")
    (data / "key.pem").write_text("tls")
    (data / "secrets").mkdir()
    (data / "secrets" / "own-keys.key").write_text("of an earlier version")
    give_data(data, UID)
    for name in ("config.yaml", "server.lock", "key.pem", "secrets/own-keys.key"):
        assert owner(data / name) == 0, name


def test_root_believes_no_file_that_the_server_put_there(data: Path, short_dir: Path) -> None:
    real = short_dir / "real.yaml"
    real.write_text("{}")
    give_data(data, UID)
    with acting_as(UID, UID):
        (data / "config.yaml").write_text("isolation: {server_user: root}")
        (data / "a-link").symlink_to(real)
    for name in ("config.yaml", "a-link"):
        with pytest.raises(Conflict, match="taken over"):
            check_roots(data / name, data)
    os.link(real, data / "another-name")
    with pytest.raises(Conflict, match="taken over"):
        check_roots(data / "another-name", data)
    (data / "another-name").unlink()
    (data / "roots-link").symlink_to(real)
    check_roots(data / "roots-link", data)
    check_roots(real, data)


@pytest.mark.parametrize("name", ["secrets", "conformance"])
def test_a_link_in_the_place_of_a_directory_leads_nowhere(data: Path, short_dir: Path, name: str) -> None:
    elsewhere = short_dir / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "jwt.key").write_text("root's")
    give_data(data, UID)
    with acting_as(UID, UID):
        (data / name).rmdir()
        (data / name).symlink_to(elsewhere)
    with pytest.raises(Conflict):
        give_data(data, UID)
    assert owner(elsewhere) == owner(elsewhere / "jwt.key") == 0


def test_a_name_of_roots_that_the_server_took_first_is_refused(data: Path) -> None:
    give_data(data, UID)
    (data / "kept").rmdir()
    with acting_as(UID, UID):
        (data / "kept").mkdir()
    with pytest.raises(Conflict, match="kept"):
        give_data(data, UID)


def test_a_server_of_roots_takes_the_directory_back_without_what_was_planted(
    data: Path, short_dir: Path
) -> None:
    precious = short_dir / "precious"
    precious.write_text("root's")
    give_data(data, UID)
    with acting_as(UID, UID):
        (data / "claude-pool.db").write_text("rows")
        (data / "claude-pool.db-wal").symlink_to(precious)
        (data / "secrets" / "jwt.key").symlink_to(precious)
        os.mkfifo(data / "audit.head")
    assert given_to(data) == UID
    take_data(data)
    assert given_to(data) is None
    assert owner(data / "claude-pool.db") == owner(data / "secrets") == 0
    for name in ("claude-pool.db-wal", "secrets/jwt.key", "audit.head"):
        assert not os.path.lexists(data / name), name
    with acting_as(UID, UID), pytest.raises(PermissionError):
        (data / "claude-pool.db-wal").write_text("again")
    give_data(data, UID)
    assert owner(data / "claude-pool.db") == UID


def test_a_range_that_was_changed_gives_the_next_user_what_the_last_one_had(data: Path) -> None:
    (data / "claude-pool.db").write_text("rows")
    give_data(data, UID)
    give_data(data, UID + 10)
    assert owner(data / "claude-pool.db") == owner(data / "secrets") == given_to(data) == UID + 10
