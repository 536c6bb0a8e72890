"""What the CLI leaves in a home goes when it is old and nobody needs it; what is the user's stays."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from pool.workspace.pruning import LEFTOVERS, prune_home

OLD, YOUNG, BEFORE = 1_000_000.0, 3_000_000.0, 2_000_000.0
LIVE = "11111111-1111-4111-8111-111111111111"
GONE = "22222222-2222-4222-8222-222222222222"


def put(path: Path, at: float = OLD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    os.utime(path, (at, at))
    return path


def prune(home: Path, kept: frozenset[str] = frozenset({LIVE})) -> int:
    return sum(prune_home(home, kept, BEFORE))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_transcripts_go_unless_they_are_young_or_somebody_can_go_on_with_them(home: Path) -> None:
    project = home / ".claude/projects/-workspace"
    gone = put(project / f"{GONE}.jsonl")
    subagent = put(project / GONE / "subagents/agent-1.jsonl")
    kept = [
        put(project / f"{LIVE}.jsonl"),
        put(project / LIVE / "tool-results/one.txt"),
        put(project / "33333333-3333-4333-8333-333333333333.jsonl", YOUNG),
        put(project / "memory/notes.md"),
        put(project / "other.txt"),
    ]
    assert prune(home) == 2
    assert not gone.exists()
    assert not subagent.exists()
    assert all(path.exists() for path in kept)


def test_every_kind_of_leftover_goes_and_the_users_own_things_stay(home: Path) -> None:
    config = home / ".claude"
    old = [put(config / name / "deep/er/file") for name in LEFTOVERS]
    young = [put(config / name / "file", YOUNG) for name in LEFTOVERS]
    of_live = [put(config / "file-history" / LIVE / "a@v1"), put(config / "todos" / f"{LIVE}-agent-1.json")]
    own = [
        put(config / name)
        for name in (
            "settings.json",
            ".claude.json",
            "plans/plan.md",
            "plugins/p",
            "agents/a.md",
            "CLAUDE.md",
        )
    ]
    own.append(put(home / "notes.txt"))
    assert prune(home) == len(old)
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in [*young, *of_live, *own])


def test_links_are_removed_and_never_followed(home: Path, tmp_path: Path) -> None:
    outside = put(tmp_path / "outside/precious")
    inside = put(home / "private/precious")
    config = home / ".claude"
    config.mkdir(parents=True)
    (config / "debug").symlink_to(outside.parent)
    (config / "logs").symlink_to(inside.parent)
    (config / "todos").mkdir()
    link = config / "todos/link"
    link.symlink_to(outside)
    os.utime(link, (OLD, OLD), follow_symlinks=False)
    (config / "todos/dir").symlink_to(outside.parent, target_is_directory=True)
    projects = config / "projects"
    projects.symlink_to(outside.parent)
    put(outside.parent / "p" / f"{GONE}.jsonl")
    assert prune(home) == 1
    assert not link.is_symlink()
    assert outside.exists()
    assert inside.exists()
    assert (outside.parent / "p" / f"{GONE}.jsonl").exists()


def test_sockets_go_too_and_empty_directories_that_are_old(home: Path) -> None:
    place = home / ".claude/sessions"
    place.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(place)
        listener.bind("4711.sock")
        os.chdir("/")
    os.utime(place / "4711.sock", (OLD, OLD))
    (home / ".claude/session-env" / GONE).mkdir(parents=True)
    os.utime(home / ".claude/session-env" / GONE, (OLD, OLD))
    assert prune(home) == 2
    assert list(place.iterdir()) == []
    assert list((home / ".claude/session-env").iterdir()) == []


def test_a_home_without_anything_is_fine_and_one_that_is_a_link_is_left_alone(home: Path) -> None:
    assert prune(home) == 0
    real = put(home.with_name("real") / ".claude/debug/file")
    home.symlink_to(home.with_name("real"))
    assert prune(home) == 0
    assert real.exists()


def test_the_work_is_done_in_slices_that_are_bounded(home: Path) -> None:
    for number in range(450):
        put(home / ".claude/shell-snapshots" / f"snapshot-{number}.sh")
    assert [removed for removed in prune_home(home, (), BEFORE) if removed] == [200, 200, 50]
