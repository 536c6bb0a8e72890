"""What no keeper knows goes; what is known, young or outside stays."""

from __future__ import annotations

import os
from pathlib import Path

from pool.launch.leftovers import remove_leftovers, temporary_name

OLD = 1000.0
LONG_AGO = 100.0


def make(place: Path, changed_at: float, *, file_changed_at: float | None = None) -> Path:
    place.mkdir(parents=True)
    file = place / "0"
    file.write_text("output")
    os.utime(file, (changed_at, file_changed_at or changed_at))
    os.utime(place, (changed_at, changed_at))
    return place


def test_only_what_nobody_knows_and_nobody_changed_goes(tmp_path: Path) -> None:
    data = tmp_path / "data"
    known = [make(data / "spool/known", LONG_AGO), make(data / "tmp" / temporary_name("known"), LONG_AGO)]
    young = [
        make(data / "spool/young", 2000.0),
        make(data / "spool/growing", LONG_AGO, file_changed_at=2000.0),
    ]
    gone = [make(data / "spool/lost", LONG_AGO), make(data / "tmp/0123456789ab", LONG_AGO)]
    assert remove_leftovers(data, {"known"}, OLD) == 2
    assert all(place.exists() for place in known + young)
    assert not any(place.exists() for place in gone)


def test_a_link_leads_nowhere(tmp_path: Path) -> None:
    outside = make(tmp_path / "outside", LONG_AGO)
    leftover = tmp_path / "data/tmp/0123456789ab"
    leftover.mkdir(parents=True)
    (leftover / "link").symlink_to(outside)
    (tmp_path / "data/tmp/itself").symlink_to(outside)
    os.utime(leftover / "link", (LONG_AGO, LONG_AGO), follow_symlinks=False)
    os.utime(leftover, (LONG_AGO, LONG_AGO))
    assert remove_leftovers(tmp_path / "data", (), OLD) == 1
    assert (outside / "0").exists()
    assert (tmp_path / "data/tmp/itself").is_symlink()


def test_a_data_directory_without_them_is_fine(tmp_path: Path) -> None:
    assert remove_leftovers(tmp_path, (), OLD) == 0
