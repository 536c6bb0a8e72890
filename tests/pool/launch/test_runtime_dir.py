"""The directory for sockets is short, ours and nobody else's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pool.errors import KeeperUnavailable
from pool.launch.runtime_dir import make_runtime_dir, runtime_dir_for


def test_it_is_named_by_the_data_directory_and_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 100) / ("y" * 100)
    first, second = runtime_dir_for(deep, None, {}), runtime_dir_for(tmp_path, None, {})
    assert first != second
    assert first == runtime_dir_for(deep, None, {})
    assert len(str(first)) < 60
    (tmp_path / "link").symlink_to(tmp_path)
    assert runtime_dir_for(tmp_path / "link", None, {}) == second


def test_who_is_not_root_gets_it_below_their_session_or_tmp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    assert runtime_dir_for(tmp_path, None, {}).parent == Path("/tmp/claude-pool-1234")
    session = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert runtime_dir_for(tmp_path, None, session).parent == tmp_path / "claude-pool"
    for useless in ("", "relative", "/nonexistent/1234"):
        assert runtime_dir_for(tmp_path, None, {"XDG_RUNTIME_DIR": useless}).parent.parent == Path("/tmp")


def test_root_has_it_below_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert runtime_dir_for(tmp_path, None, {"XDG_RUNTIME_DIR": "/tmp"}).parent == Path("/run/claude-pool")


def test_it_is_made_private_and_found_again(short_dir: Path) -> None:
    directory = short_dir / "claude-pool" / "abc"
    make_runtime_dir(directory)
    make_runtime_dir(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == stat.S_IMODE(directory.parent.stat().st_mode) == 0o700


def test_an_open_one_is_refused(short_dir: Path) -> None:
    (short_dir / "run").mkdir()
    (short_dir / "run").chmod(0o755)
    with pytest.raises(KeeperUnavailable, match="chmod 700"):
        make_runtime_dir(short_dir / "run")


def test_one_below_a_parent_that_others_may_enter_is_refused(short_dir: Path) -> None:
    (short_dir / "claude-pool-7").mkdir()
    (short_dir / "claude-pool-7").chmod(0o777)
    with pytest.raises(KeeperUnavailable, match="open to others"):
        make_runtime_dir(short_dir / "claude-pool-7" / "abc")


def test_a_planted_link_or_file_is_refused(short_dir: Path) -> None:
    (short_dir / "elsewhere").mkdir(mode=0o700)
    (short_dir / "link").symlink_to(short_dir / "elsewhere")
    (short_dir / "file").touch()
    for planted in ("link", "file"):
        with pytest.raises(KeeperUnavailable):
            make_runtime_dir(short_dir / planted)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_somebody_elses_is_refused(short_dir: Path) -> None:
    (short_dir / "run").mkdir(mode=0o700)
    os.chown(short_dir / "run", 12345, 12345)
    with pytest.raises(KeeperUnavailable, match="12345"):
        make_runtime_dir(short_dir / "run")


def test_one_too_long_for_a_socket_is_refused_with_the_way_out(short_dir: Path) -> None:
    with pytest.raises(KeeperUnavailable, match="set runtime_dir"):
        make_runtime_dir(short_dir / ("x" * 100))
