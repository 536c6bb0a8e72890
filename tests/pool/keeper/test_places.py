"""Root works in directories of root's only, in a data directory where a server may write."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pool.keeper.places import check_places, temporary_directory

SERVICE, GATEWAY = 200198, 200199

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories away")


def test_they_are_made_roots_whatever_the_mask_is(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        check_places(tmp_path, GATEWAY)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"keeper": 0o700, "spool": 0o700, "egress": 0o700, "tmp": 0o711, "sandbox": 0o711}
    check_places(tmp_path, GATEWAY)
    assert temporary_directory(tmp_path, "one").parent == tmp_path / "tmp"
    assert temporary_directory(tmp_path, "one") != temporary_directory(tmp_path, "two")


@pytest.mark.parametrize("name", ["keeper", "spool", "tmp", "egress", "sandbox", "gateway", "own-keys"])
def test_what_somebody_else_put_there_is_refused(name: str, tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    data.mkdir()
    elsewhere.mkdir()
    place = data / name
    place.symlink_to(elsewhere)
    with pytest.raises(PermissionError, match=name):
        check_places(data, GATEWAY)
    place.unlink()
    place.write_text("")
    with pytest.raises(PermissionError, match=name):
        check_places(data, GATEWAY)
    place.unlink()
    place.mkdir()
    os.chown(place, SERVICE, SERVICE)
    with pytest.raises(PermissionError, match=name):
        check_places(data, GATEWAY)
    os.chown(place, 0, 0)
    place.chmod(0o770)
    with pytest.raises(PermissionError, match=name):
        check_places(data, GATEWAY)
    place.chmod(0o700)
    check_places(data, GATEWAY)
    assert list(elsewhere.iterdir()) == []


def test_the_gateways_are_its_own(tmp_path: Path) -> None:
    for name in ("gateway", "own-keys"):
        (tmp_path / name).mkdir()
        os.chown(tmp_path / name, GATEWAY, GATEWAY)
    check_places(tmp_path, GATEWAY)


def test_others_may_write_beside_them_only_where_they_cannot_rename(tmp_path: Path) -> None:
    check_places(tmp_path, GATEWAY)
    tmp_path.chmod(0o1771)
    check_places(tmp_path, GATEWAY)
    tmp_path.chmod(0o771)
    with pytest.raises(PermissionError, match="others may rename"):
        check_places(tmp_path, GATEWAY)
    tmp_path.chmod(0o711)
    os.chown(tmp_path, SERVICE, SERVICE)
    with pytest.raises(PermissionError, match="is not root's"):
        check_places(tmp_path, GATEWAY)
    os.chown(tmp_path, 0, 0)
    shutil.rmtree(tmp_path / "tmp")
