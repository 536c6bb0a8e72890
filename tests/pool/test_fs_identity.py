"""Root's thread as another user: what it may then, and that it is always root again."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pool.fs_identity import acting_as, acting_as_owner_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as somebody else")

SOMEBODY = 29150
FIELDS = ("Uid", "Gid", "Groups", "CapEff")


def identity() -> dict[str, str]:
    """How the kernel sees this very thread."""
    text = Path(f"/proc/self/task/{threading.get_native_id()}/status").read_text()
    lines = dict(line.split(":", 1) for line in text.splitlines())
    return {field: lines[field].strip() for field in FIELDS}


def test_it_may_what_the_user_may_and_no_more(short_dir: Path) -> None:
    short_dir.chmod(0o711)
    closed, theirs = short_dir / "closed", short_dir / "theirs"
    for directory in (closed, theirs):
        directory.mkdir(mode=0o700)
    (closed / "secret").write_text("root's")
    os.chown(theirs, SOMEBODY, SOMEBODY)
    before = identity()
    with acting_as(SOMEBODY, SOMEBODY):
        assert identity()["Uid"].split() == ["0", "0", "0", str(SOMEBODY)]
        assert identity()["Groups"] == ""
        with pytest.raises(PermissionError):
            (closed / "secret").read_text()
        with pytest.raises(PermissionError):
            os.link(closed / "secret", theirs / "link")
        (theirs / "file").write_text("mine")
    assert identity() == before
    status = (theirs / "file").stat()
    assert (status.st_uid, status.st_gid) == (SOMEBODY, SOMEBODY)
    assert (closed / "secret").read_text() == "root's"


def test_whatever_happens_meanwhile_the_thread_is_root_again() -> None:
    before = identity()
    for error in (KeyboardInterrupt, SystemExit, OSError):
        with pytest.raises(error), acting_as(SOMEBODY, SOMEBODY):
            raise error
        assert identity() == before


def test_only_this_thread_is_somebody_else() -> None:
    entered, leave = threading.Event(), threading.Event()

    def act() -> dict[str, str]:
        with acting_as(SOMEBODY, SOMEBODY):
            entered.set()
            leave.wait(10)
            return identity()

    with ThreadPoolExecutor(1) as pool:
        before = pool.submit(identity).result()
        acting = pool.submit(act)
        assert entered.wait(10)
        mine = identity()
        leave.set()
        assert acting.result()["Uid"].split()[3] == str(SOMEBODY)
        assert mine["Uid"].split()[3] == "0"
        assert pool.submit(identity).result() == before


def test_many_threads_at_once_are_each_who_they_should_be(short_dir: Path) -> None:
    short_dir.chmod(0o777)

    def make(number: int) -> bool:
        uid = SOMEBODY + number % 5
        path = short_dir / str(number)
        with acting_as(uid, uid):
            path.touch()
        return path.stat().st_uid == uid and identity()["Uid"].split()[3] == "0"

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(make, range(400)))


def test_the_owner_of_a_directory_is_who_acts_in_it(short_dir: Path) -> None:
    os.chown(short_dir, SOMEBODY, SOMEBODY)
    descriptor = os.open(short_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with acting_as_owner_of(descriptor):
            assert identity()["Uid"].split()[3] == str(SOMEBODY)
        with acting_as_owner_of(None):
            assert identity()["Uid"].split()[3] == "0"
    finally:
        os.close(descriptor)
