"""Workspaces of Linux users: made theirs, given to them, and never a way out for a root server."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pool.errors import Forbidden, NotFound, PoolError
from pool.workspace.ownership import give_tree
from pool.workspace.paths import open_below
from pool.workspace.workspaces import Workspaces

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")

ALICE, BOB = 29151, 29152
UUID = "0c5d0c0e-0000-4000-8000-000000000001"


@pytest.fixture
def workspaces(short_dir: Path) -> Workspaces:
    return Workspaces(short_dir / "data")


def owners(root: Path) -> set[tuple[int, int]]:
    """Of everything in a tree, the top included."""
    return {(path.lstat().st_uid, path.lstat().st_gid) for path in (root, *root.rglob("*"))}


def read(root: Path, path: str) -> str:
    with os.fdopen(open_below(root, path, os.O_RDONLY)) as file:
        return file.read()


def test_all_that_is_made_for_a_user_is_theirs_alone(workspaces: Workspaces, short_dir: Path) -> None:
    paths = workspaces.ensure("alice", uid=ALICE)
    assert paths.uid == ALICE
    assert owners(paths.workspace) == owners(paths.home) == {(ALICE, ALICE)}
    modes = {path.stat().st_mode & 0o777 for path in (paths.workspace, paths.home, paths.config)}
    assert modes == {0o700}
    shared = (short_dir / "data", paths.workspace.parent, paths.home.parent)
    assert {(path.stat().st_uid, path.stat().st_mode & 0o777) for path in shared} == {(0, 0o711)}
    assert workspaces.ensure("alice", uid=ALICE) == paths
    assert workspaces.highest_uid() == ALICE


def test_a_tree_of_an_earlier_version_is_given_away_once_and_only_when_allowed(
    workspaces: Workspaces,
) -> None:
    before = workspaces.ensure("alice")
    (before.workspace / "deep" / "er").mkdir(parents=True)
    (before.workspace / "deep" / "er" / "file").write_text("kept")
    assert before.uid is None
    assert not workspaces.ensure("alice", uid=ALICE).is_settled
    assert workspaces.ensure("alice", uid=ALICE).uid is None
    assert owners(before.workspace) == {(0, 0)}
    after = workspaces.ensure("alice", uid=ALICE, may_change_owner=True)
    assert after.is_settled
    assert after.uid == ALICE
    assert owners(after.workspace) == owners(after.home) == {(ALICE, ALICE)}
    assert (after.workspace / "deep" / "er" / "file").read_text() == "kept"
    assert workspaces.ensure("alice", uid=ALICE) == after
    # and back, for a service that can have no uids any more
    assert workspaces.ensure("alice", may_change_owner=True).uid is None
    assert owners(after.workspace) == {(0, 0)}


def test_a_tree_given_away_by_half_is_given_away_anew(workspaces: Workspaces) -> None:
    paths = workspaces.ensure("alice")
    for path in (paths.home, paths.config):  # the top of each goes last, so the home was done
        os.chown(path, ALICE, ALICE)
    assert not workspaces.ensure("alice", uid=ALICE).is_settled
    assert not workspaces.ensure("alice").is_settled
    settled = workspaces.ensure("alice", uid=ALICE, may_change_owner=True)
    assert settled.is_settled
    assert settled.uid == ALICE
    assert owners(paths.workspace) == owners(paths.home) == {(ALICE, ALICE)}


def test_what_is_not_surely_the_users_is_not_given_away(workspaces: Workspaces, short_dir: Path) -> None:
    paths = workspaces.ensure("alice")
    secret = short_dir / "secret"
    secret.write_text("root's")
    (paths.workspace / "hard").hardlink_to(secret)
    (paths.workspace / "soft").symlink_to(secret)
    (paths.workspace / "up").symlink_to("..")
    (paths.workspace / "two").write_text("mine")
    (paths.workspace / "names").hardlink_to(paths.workspace / "two")
    os.mknod(paths.workspace / "disk", 0o60600, os.makedev(254, 0))
    os.mkfifo(paths.workspace / "pipe")
    descriptor = os.open(paths.workspace, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert give_tree(descriptor, ALICE, ALICE) == 3
    finally:
        os.close(descriptor)
    assert (secret.stat().st_uid, paths.workspace.parent.stat().st_uid) == (0, 0)
    of = {path.name: path.lstat().st_uid for path in paths.workspace.iterdir()}
    assert {of[name] for name in ("hard", "disk", "pipe")} == {0}
    assert {of[name] for name in ("soft", "up", "two", "names")} == {ALICE}


def test_a_root_server_opens_no_more_than_the_user_could(workspaces: Workspaces) -> None:
    alice = workspaces.ensure("alice", uid=ALICE).workspace
    bob = workspaces.ensure("bob", uid=BOB).workspace
    (bob / "secret").write_text("bob's")
    os.chown(bob / "secret", BOB, BOB)
    (bob / "secret").chmod(0o600)
    (alice / "mine").write_text("alice's")
    # planted by a root that was careless once: by its name it is in alice's workspace
    (alice / "hard").hardlink_to(bob / "secret")
    (alice / "soft").symlink_to(bob / "secret")
    (alice / "closed").mkdir(mode=0o700)
    (alice / "closed" / "file").write_text("root's")
    assert read(alice, "mine") == "alice's"
    for path in ("hard", "soft", "closed/file"):
        for flags in (os.O_RDONLY, os.O_WRONLY | os.O_TRUNC):
            with pytest.raises(Forbidden):
                open_below(alice, path, flags)
    with pytest.raises(Forbidden):
        open_below(alice, "closed/new", os.O_WRONLY | os.O_CREAT)
    assert (bob / "secret").read_text() == "bob's"
    os.close(open_below(alice, "new", os.O_WRONLY | os.O_CREAT))
    assert (alice / "new").stat().st_uid == ALICE


def test_a_link_that_comes_and_goes_never_leads_a_root_server_out(workspaces: Workspaces) -> None:
    alice = workspaces.ensure("alice", uid=ALICE).workspace
    bob = workspaces.ensure("bob", uid=BOB).workspace
    (bob / "file").write_text("bob's")
    os.chown(bob / "file", BOB, BOB)
    (bob / "file").chmod(0o600)
    (alice / "real").mkdir()
    (alice / "real" / "file").write_text("alice's")
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            for target in (bob, alice / "real"):
                (alice / "next").symlink_to(target)
                (alice / "next").rename(alice / "way")

    swapper = threading.Thread(target=swap)
    swapper.start()
    seen = set()
    try:
        for _ in range(2000):
            try:
                seen.add(read(alice, "way/file"))
            except (Forbidden, NotFound):
                seen.add("")
    finally:
        done.set()
        swapper.join()
    assert "bob's" not in seen


@pytest.fixture
def planted(workspaces: Workspaces, short_dir: Path) -> Iterator[Path]:
    """Alice's workspace as she would like it before the template comes: names that lead to bob's."""
    bob = workspaces.ensure("bob", uid=BOB)
    (short_dir / "data" / "workspaces" / "alice").mkdir(mode=0o700)
    alice = short_dir / "data" / "workspaces" / "alice"
    os.chown(alice, ALICE, ALICE)
    (alice / "README.md").symlink_to(bob.workspace / "new")
    (alice / "projects").symlink_to(bob.workspace)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(alice / "temp"))
        yield alice


def test_a_template_is_copied_as_the_user_and_around_what_is_planted(
    workspaces: Workspaces, planted: Path
) -> None:
    before = sorted(path.name for path in (planted.parent / "bob").rglob("*"))
    paths = workspaces.ensure("alice", uid=ALICE)
    assert sorted(path.name for path in (planted.parent / "bob").rglob("*")) == before
    made = [path for path in paths.workspace.iterdir() if path.name not in ("README.md", "projects", "temp")]
    assert made
    assert {path.lstat().st_uid for path in made} == {ALICE}


def test_what_a_user_hides_is_counted_and_removed_all_the_same(workspaces: Workspaces) -> None:
    paths = workspaces.ensure("alice", uid=ALICE)
    hidden = paths.workspace / "hidden"
    hidden.mkdir()
    (hidden / "much").write_bytes(bytes(1 << 20))
    for path in (hidden / "much", hidden):
        os.chown(path, ALICE, ALICE)
        path.chmod(0)
    assert workspaces.size_bytes("alice") > 1 << 20
    workspaces.remove("alice")
    assert not paths.workspace.exists()
    assert not paths.home.exists()


def test_a_transcript_is_looked_for_as_the_user(workspaces: Workspaces) -> None:
    paths = workspaces.ensure("alice", uid=ALICE)
    bobs = workspaces.ensure("bob", uid=BOB).config / "projects" / "p"
    bobs.mkdir(parents=True)
    (bobs / f"{UUID}.jsonl").write_text("{}")
    (paths.config / "projects").mkdir()
    (paths.config / "projects" / "p").symlink_to(bobs)
    assert not paths.has_transcript(UUID)
    (paths.config / "projects" / "p").unlink()
    (paths.config / "projects" / "q").mkdir()
    (paths.config / "projects" / "q" / f"{UUID}.jsonl").write_text("{}")
    assert paths.has_transcript(UUID)


def test_a_user_who_locks_their_own_home_is_told_and_nothing_is_broken(workspaces: Workspaces) -> None:
    paths = workspaces.ensure("alice", uid=ALICE)
    paths.config.rmdir()
    paths.home.chmod(0o500)
    with pytest.raises(PoolError):
        workspaces.ensure("alice", uid=ALICE)
    paths.home.chmod(0o700)
    assert workspaces.ensure("alice", uid=ALICE).config.is_dir()
