"""A tree as a tar: what is there comes out the same, links stay links, and nothing outside is read."""

from __future__ import annotations

import io
import os
import socket
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from pool.workspace import archive


def opened(*pieces: bytes) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(b"".join(pieces) + archive.end()))


def contents(tar: tarfile.TarFile) -> dict[str, bytes | None]:
    found: dict[str, bytes | None] = {}
    for info in tar:
        file = tar.extractfile(info) if info.isreg() else None
        found[info.name] = file.read() if file else None
    return found


def test_files_directories_and_odd_names_come_out_as_they_were(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a" / ("long" * 40) / ("name" * 40)).mkdir(parents=True)
    (root / "a" / ("long" * 40) / ("name" * 40) / "ä ☃.txt").write_bytes(b"y" * 1000)
    (root / "empty").write_bytes(b"")
    (root / "odd\nname").write_bytes(b"z" * 512)
    os.link(root / "empty", root / "same")
    found = contents(opened(*archive.tree(root, "workspace")))
    assert found["workspace/a/" + "long" * 40 + "/" + "name" * 40 + "/ä ☃.txt"] == b"y" * 1000
    assert found["workspace/empty"] == found["workspace/same"] == b""
    assert found["workspace/odd\nname"] == b"z" * 512


def test_links_are_stored_as_links_and_nothing_behind_them(tmp_path: Path) -> None:
    root, secret = tmp_path / "root", tmp_path / "secret"
    root.mkdir()
    secret.mkdir()
    (secret / "key").write_text("private")
    (root / "file").symlink_to(secret / "key")
    (root / "directory").symlink_to(secret)
    (root / "loop").symlink_to(".")
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
    pieces = b"".join(archive.tree(root, "w"))
    assert b"private" not in pieces
    tar = opened(pieces)
    assert {info.name: info.linkname for info in tar if info.issym()} == {
        "w/file": str(secret / "key"),
        "w/directory": str(secret),
        "w/loop": ".",
    }
    assert {info.name for info in tar} == {"w", "w/file", "w/directory", "w/loop"}
    (tmp_path / "link").symlink_to(secret)
    assert list(archive.tree(tmp_path / "link", "w")) == []
    assert list(archive.tree(tmp_path / "nowhere", "w")) == []


@pytest.mark.parametrize("now", [10, 3_000_000])
def test_a_file_that_changes_meanwhile_breaks_nothing(tmp_path: Path, now: int) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").write_bytes(b"x" * 1_000_000)
    (root / "b").write_bytes(b"last")
    pieces = archive.tree(root, "w")
    taken = []
    for piece in pieces:
        taken.append(piece)
        if len(taken) == 3:
            (root / "a").write_bytes(b"n" * now)
    found = contents(opened(*taken))
    assert len(found["w/a"] or b"") == 1_000_000
    assert found["w/b"] == b"last"


def test_a_directory_that_becomes_a_link_leads_nowhere(tmp_path: Path) -> None:
    root, secret = tmp_path / "root", tmp_path / "secret"
    (root / "d").mkdir(parents=True)
    secret.mkdir()
    (secret / "key").write_text("private")
    pieces = archive.tree(root, "w")
    taken = [next(pieces), next(pieces)]
    (root / "d").rmdir()
    (root / "d").symlink_to(secret)
    taken += pieces
    assert set(contents(opened(*taken))) == {"w", "w/d"}


def test_memory_is_bounded_by_a_piece(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with (root / "large").open("wb") as file:
        file.truncate(64 << 20)
    tracemalloc.start()
    try:
        size = sum(len(piece) for piece in archive.tree(root, "w"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 64 << 20
    assert peak < 4 << 20
