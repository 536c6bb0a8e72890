"""Files of the gateway: of its directory's owner, and of nobody else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from server.gateway.own_keys import OwnKeys
from server.gateway.private_file import PrivateFileError, read_private_json, write_private_json
from server.gateway.usage_journal import journal_files, read_entries

UID, OTHER = 200199, 200198
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@as_root
def test_what_root_writes_there_is_the_owners_of_the_directory(tmp_path: Path) -> None:
    path = tmp_path / "gateway" / "config.json"
    write_private_json(path, 1)
    assert path.stat().st_uid == 0
    os.chown(path.parent, UID, UID)
    # until it is given away with its directory it is root's, who may read it
    assert read_private_json(path) == 1
    write_private_json(path, 2)
    assert (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode & 0o777) == (UID, UID, 0o600)
    assert read_private_json(path) == 2


@as_root
def test_a_third_ones_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    write_private_json(path, 1)
    os.chown(tmp_path, UID, UID)
    os.chown(path, OTHER, OTHER)
    with pytest.raises(PrivateFileError, match=f"belongs to uid {OTHER}: chown it to {UID}"):
        read_private_json(path)


def test_the_key_to_users_keys_moves_to_where_the_gateway_can_read_it(tmp_path: Path) -> None:
    keys = OwnKeys(tmp_path)
    keys.put("alice", "up", "a-key")
    (tmp_path / "own-keys").rename(tmp_path / "secrets")
    if os.geteuid() == 0:
        (tmp_path / "own-keys").mkdir(mode=0o700)
        os.chown(tmp_path / "own-keys", UID, UID)
    keys.settle()
    keys.settle()
    assert keys.opened(keys.sealed(), "alice", "up") == "a-key"
    assert not list((tmp_path / "secrets").iterdir())
    owner = (tmp_path / "own-keys").stat().st_uid
    assert (tmp_path / "own-keys" / "own-keys.key").stat().st_uid == owner


def test_a_journal_that_is_no_file_leads_its_reader_nowhere(tmp_path: Path) -> None:
    directory = tmp_path / "gateway"
    directory.mkdir()
    (directory / "usage-1.jsonl").write_text("")
    (directory / "usage-2.jsonl").symlink_to("/etc/passwd")
    os.mkfifo(directory / "usage-3.jsonl")
    assert [path.name for path in journal_files(tmp_path)] == ["usage-1.jsonl"]
    with pytest.raises(OSError, match="symbolic links"):
        read_entries(directory / "usage-2.jsonl", 0)
    # at once, although nobody writes to it
    with pytest.raises(OSError, match="not seekable"):
        read_entries(directory / "usage-3.jsonl", 0)
