"""A user's directories: made once, never overwritten, measured, removed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pool.errors import Conflict, InvalidName, NotFound
from pool.workspace.trees import measure
from pool.workspace.workspaces import Workspaces

UUID = "0f1e2d3c-4b5a-4687-9788-a9bacbdcedfe"


@pytest.fixture
def workspaces(tmp_path: Path) -> Workspaces:
    return Workspaces(tmp_path / "data")


@pytest.fixture
def loose_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def tight_umask() -> Iterator[None]:
    before = os.umask(0o777)
    yield
    os.umask(before)


def modes(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.stat().st_mode & 0o777 for path in root.rglob("*")}


def test_a_new_user_gets_the_template(workspaces: Workspaces, tmp_path: Path) -> None:
    paths = workspaces.ensure("alice")
    assert paths.workspace == tmp_path / "data" / "workspaces" / "alice"
    assert paths.home == tmp_path / "data" / "homes" / "alice"
    assert paths.config == paths.home / ".claude"
    assert sorted(os.listdir(paths.workspace)) == [
        ".claude",
        "CLAUDE.md",
        "README.md",
        "projects",
        "temp",
        "uploads",
    ]
    assert "template.yaml" not in os.listdir(paths.workspace)
    assert os.listdir(paths.workspace / "projects") == []
    assert workspaces.paths("alice") == paths


@pytest.mark.parametrize("umask", ["loose_umask", "tight_umask"])
def test_only_the_owner_may_look_whatever_the_umask(
    workspaces: Workspaces, tmp_path: Path, umask: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(umask)
    paths = workspaces.ensure("alice")
    for directory in (paths.workspace, paths.home, paths.config):
        assert directory.stat().st_mode & 0o777 == 0o700
    assert set(modes(paths.workspace).values()) == {0o700, 0o600}
    assert (tmp_path / "data" / "workspaces").stat().st_mode & 0o777 == 0o711


def test_a_directory_that_was_open_to_others_is_closed(workspaces: Workspaces, tmp_path: Path) -> None:
    made = tmp_path / "data" / "workspaces" / "alice"
    made.mkdir(parents=True)
    made.chmod(0o755)
    workspaces.ensure("alice")
    assert made.stat().st_mode & 0o007 == 0


def test_again_changes_nothing_and_what_was_deleted_stays_deleted(workspaces: Workspaces) -> None:
    paths = workspaces.ensure("alice")
    (paths.workspace / "README.md").unlink()
    (paths.workspace / "CLAUDE.md").write_text("mine")
    (paths.workspace / "temp").rmdir()
    assert workspaces.ensure("alice") == paths
    assert not (paths.workspace / "README.md").exists()
    assert not (paths.workspace / "temp").exists()
    assert (paths.workspace / "CLAUDE.md").read_text() == "mine"


def test_what_exists_is_never_overwritten_and_links_are_not_followed(
    workspaces: Workspaces, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    made = tmp_path / "data" / "workspaces" / "alice"
    made.mkdir(parents=True)
    (made / "README.md").write_text("mine")
    (made / "CLAUDE.md").symlink_to(outside / "planted")
    (made / ".claude").symlink_to(outside)
    (made / "projects").write_text("a file")
    workspaces.ensure("alice")
    assert (made / "README.md").read_text() == "mine"
    assert (made / "CLAUDE.md").is_symlink()
    assert (made / "projects").read_text() == "a file"
    assert os.listdir(outside) == []
    assert (made / "uploads").is_dir()


def test_a_directory_of_ours_that_is_a_link_is_refused(workspaces: Workspaces, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data" / "homes").mkdir(parents=True)
    (tmp_path / "data" / "homes" / "alice").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Conflict):
        workspaces.ensure("alice")
    assert os.listdir(tmp_path / "elsewhere") == []


def test_a_half_made_workspace_is_finished(workspaces: Workspaces) -> None:
    """As after a crash: the directory is there, the note that it is complete is not."""
    paths = workspaces.ensure("alice")
    (paths.workspace / "README.md").unlink()
    for note in (paths.workspace.parents[1] / "templates-applied" / "alice").iterdir():
        note.unlink()
    workspaces.ensure("alice")
    assert (paths.workspace / "README.md").exists()


def test_many_at_once_make_one_workspace(tmp_path: Path) -> None:
    several = [Workspaces(tmp_path / "data") for _ in range(4)]
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda number: several[number % 4].ensure("alice"), range(32)))
    assert len(set(made)) == 1
    names = [path.name for path in made[0].workspace.rglob("*")]
    assert "README.md" in names
    assert not [name for name in names if name.endswith(".part")]


def test_a_second_template_adds_what_is_missing(tmp_path: Path) -> None:
    for name, file in (("default", "README.md"), ("data", "notebook.txt")):
        (tmp_path / "t" / name).mkdir(parents=True)
        (tmp_path / "t" / name / file).write_text(name)
        (tmp_path / "t" / name / "README.md").write_text(name)
    script = tmp_path / "t" / "data" / "run.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    (tmp_path / "t" / "data" / "link").symlink_to("/etc/passwd")
    workspaces = Workspaces(tmp_path / "data", tmp_path / "t")
    assert workspaces.template_names() == ["data", "default"]
    paths = workspaces.ensure("alice")
    workspaces.ensure("alice", "data")
    assert (paths.workspace / "README.md").read_text() == "default"
    assert (paths.workspace / "notebook.txt").read_text() == "data"
    assert modes(paths.workspace) == {"README.md": 0o600, "notebook.txt": 0o600, "run.sh": 0o700}


def test_bad_names_and_missing_templates_make_nothing(workspaces: Workspaces, tmp_path: Path) -> None:
    for bad in ("../x", "", "a/b", "é", "."):
        with pytest.raises(InvalidName):
            workspaces.ensure(bad)
        with pytest.raises(InvalidName):
            workspaces.ensure("alice", bad)
        with pytest.raises(InvalidName):
            workspaces.remove(bad)
    with pytest.raises(NotFound):
        workspaces.ensure("alice", "missing")
    assert not (tmp_path / "data").exists()


def test_a_user_that_differs_only_in_case_is_refused(workspaces: Workspaces) -> None:
    workspaces.ensure("alice")
    with pytest.raises(Conflict):
        workspaces.ensure("Alice")
    with pytest.raises(Conflict):
        workspaces.paths("ALICE")


def test_a_transcript_is_found_wherever_the_sandbox_shows_the_workspace(workspaces: Workspaces) -> None:
    paths = workspaces.ensure("alice")
    assert not paths.has_transcript(UUID)
    project = paths.config / "projects" / "-workspace"
    project.mkdir(parents=True)
    assert not paths.has_transcript(UUID)
    (project / f"{UUID}.jsonl").write_text("{}\n")
    assert paths.has_transcript(UUID)
    assert not paths.has_transcript("../../x")
    assert not paths.has_transcript("not a uuid")


@pytest.mark.parametrize(
    ("content", "spoilt"),
    [
        (b"", True),
        (b"\0" * 4096, True),
        (b'{"type":"queue-operation"}\n{"type":"user","mess', True),
        (b'{"type":"queue-operation"}\n{"type":"user","message":{}}\n{"type":"assi', False),
        (b'7\n[]\n{"type":"assistant"}\n', False),
        (b"\xff\xfe\n" * 600_000, False),
    ],
)
def test_a_transcript_without_a_message_is_spoilt(
    workspaces: Workspaces, content: bytes, spoilt: bool
) -> None:
    paths = workspaces.ensure("alice")
    assert not paths.is_spoilt(UUID)
    project = paths.config / "projects" / "-workspace"
    project.mkdir(parents=True)
    assert not paths.is_spoilt(UUID)
    (project / f"{UUID}.jsonl").write_bytes(content)
    assert paths.is_spoilt(UUID) is spoilt
    assert not paths.is_spoilt("../../x")


def test_a_transcript_behind_a_link_that_leads_out_is_none(workspaces: Workspaces, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / f"{UUID}.jsonl").write_text("{}")
    paths = workspaces.ensure("alice")
    (paths.config / "projects").mkdir()
    (paths.config / "projects" / "p").symlink_to(tmp_path / "other")
    assert not paths.has_transcript(UUID)


def test_size_counts_files_once_and_follows_nothing(workspaces: Workspaces, tmp_path: Path) -> None:
    assert workspaces.size_bytes("alice") == 0
    paths = workspaces.ensure("alice")
    before = workspaces.size_bytes("alice")
    (tmp_path / "big").write_bytes(b"x" * 1_000_000)
    (paths.workspace / "link").symlink_to(tmp_path)
    (paths.workspace / "up").symlink_to("..")
    mine = paths.workspace / "projects" / "mine"
    mine.write_bytes(b"x" * 400_000)
    os.link(mine, paths.workspace / "again")
    (paths.home / "cache").write_bytes(b"x" * 100_000)
    grown = workspaces.size_bytes("alice") - before
    assert 500_000 <= grown < 700_000


def test_counting_can_be_done_in_slices_and_is_bounded(workspaces: Workspaces) -> None:
    paths = workspaces.ensure("alice")
    for number in range(2500):
        (paths.workspace / "temp" / f"f{number}").touch()
    slices = list(workspaces.measure("alice"))
    assert len(slices) >= 4
    assert [usage.complete for usage in slices] == [False] * (len(slices) - 1) + [True]
    bounded = list(workspaces.measure("alice", max_entries=100))[-1]
    assert not bounded.complete
    assert bounded.entries <= 101


def test_a_tree_too_deep_to_open_is_not_called_complete(tmp_path: Path) -> None:
    make_deep(tmp_path / "deep", 2200)
    usage = list(measure(tmp_path / "deep", max_entries=10_000))[-1]
    assert not usage.complete
    assert usage.entries > 1000
    workspaces = Workspaces(tmp_path / "data")
    home = workspaces.ensure("alice").home
    os.rename(tmp_path / "deep", home / "deep")
    workspaces.remove("alice")
    assert not home.exists()


def make_deep(top: Path, depth: int) -> None:
    """A tree deeper than any path can name and any recursion can walk."""
    top.mkdir()
    current = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir("dd", dir_fd=current)
        following = os.open("dd", os.O_RDONLY | os.O_DIRECTORY, dir_fd=current)
        os.close(current)
        current = following
    os.close(current)


def test_removal_takes_one_users_things_and_nothing_else(workspaces: Workspaces, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    bob = workspaces.ensure("bob")
    paths = workspaces.ensure("alice")
    (paths.workspace / "link").symlink_to(outside)
    (paths.workspace / "projects" / "link").symlink_to(bob.workspace)
    closed = paths.workspace / "closed"
    (closed / "inner").mkdir(parents=True)
    closed.chmod(0)
    os.mkfifo(paths.workspace / "pipe")
    for user in ("alice", "bob"):
        connections = tmp_path / "data" / "egress" / user
        connections.mkdir(parents=True)
        (connections / "connections.jsonl").write_text("{}")
    workspaces.remove("alice")
    workspaces.remove("alice")
    assert os.listdir(tmp_path / "data" / "workspaces") == ["bob"]
    assert os.listdir(tmp_path / "data" / "homes") == ["bob"]
    assert os.listdir(tmp_path / "data" / "egress") == ["bob"]
    assert (outside / "kept").read_text() == "kept"
    assert (bob.workspace / "README.md").exists()
    workspaces.ensure("alice")
    assert (paths.workspace / "README.md").exists()
