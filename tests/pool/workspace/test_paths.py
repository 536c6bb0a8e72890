"""No path, link or race leads out of a root; everything inside can be reached."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pool.errors import BadRequest, Conflict, Forbidden, InvalidName, NotFound, PoolError
from pool.workspace import paths
from pool.workspace.paths import clean_relative, open_below, parent_below, resolve_below, user_directory

SECRET = b"not for the user"


@pytest.fixture(params=["openat2", "walk"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace beside a secret, once with the kernel's resolver and once with our own walk."""
    if request.param == "walk":
        monkeypatch.setattr(paths, "_open_beneath", paths._walk)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(SECRET)
    root = tmp_path / "workspace"
    (root / "projects" / "a").mkdir(parents=True)
    (root / "projects" / "a" / "file").write_bytes(b"mine")
    return root


def read(root: Path | int, path: str) -> bytes:
    with os.fdopen(open_below(root, path, os.O_RDONLY), "rb") as file:
        return file.read()


def test_this_kernel_has_openat2() -> None:
    assert paths._open_beneath is paths._openat2


def test_files_inside_are_opened_made_and_pinned(root: Path) -> None:
    assert read(root, "projects/a/file") == b"mine"
    assert read(root, "./projects//a/file") == b"mine"
    with os.fdopen(open_below(root, "projects/new", os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
        file.write(b"new")
    assert (root / "projects" / "new").stat().st_mode & 0o777 == 0o600
    pinned = resolve_below(root, "projects/a")
    try:
        (root / "projects" / "a").rename(root / "moved")
        assert read(pinned, "file") == b"mine"
    finally:
        os.close(pinned)
    os.close(open_below(root, ".", os.O_RDONLY | os.O_DIRECTORY))


def test_a_parent_and_a_name_for_what_is_done_to_names(root: Path) -> None:
    parent, name = parent_below(root, "projects/a/file")
    try:
        os.unlink(name, dir_fd=parent)
    finally:
        os.close(parent)
    assert not (root / "projects" / "a" / "file").exists()
    parent, name = parent_below(root, "top")
    os.close(parent)
    assert name == "top"
    with pytest.raises(BadRequest):
        parent_below(root, ".")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/etc/passwd",
        "//x",
        "..",
        "../outside/secret",
        "projects/../../outside/secret",
        "projects/..",
        "a/../b",
        "a\0b",
        "a\nb",
        "\x7f",
        "x\u202egnp.exe",
        "\ud800",
        "line\u2028end",
        "x" * 4097,
        "d/" * 2049,
        "x" * 256,
        "é" * 128,
        None,
        7,
        b"projects",
    ],
)
def test_a_malformed_path_is_refused_by_its_form(root: Path, path: object) -> None:
    with pytest.raises(BadRequest):
        clean_relative(path)
    with pytest.raises(BadRequest):
        open_below(root, path, os.O_RDONLY)  # type: ignore[arg-type]


def test_long_and_foreign_names_are_names(root: Path) -> None:
    assert clean_relative("x" * 255).name == "x" * 255
    assert clean_relative("projects/日本語 (1)~$.txt") == PurePosixPath("projects/日本語 (1)~$.txt")
    # Look-alikes of dots and slashes are letters: nothing normalises them into what they resemble.
    for alike in ("．．", "‥", "a／b", "..\u200b", "...", "%2e%2e", "..\\x"):
        with pytest.raises(NotFound):
            open_below(root, alike, os.O_RDONLY)


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("file", "../outside/secret"),
        ("absolute", "/etc/passwd"),
        ("absolute-inside", "{root}/projects/a/file"),
        ("deep", "projects/../../outside/secret"),
        ("magic", "/proc/self/cwd"),
        ("loop", "loop"),
    ],
)
def test_a_link_that_leads_out_is_not_followed(root: Path, link: str, target: str) -> None:
    (root / link).symlink_to(target.format(root=root))
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY | os.O_CREAT, os.O_PATH):
        with pytest.raises(Forbidden):
            open_below(root, link, flags)
    assert (root.parent / "outside" / "secret").read_bytes() == SECRET


def test_a_directory_or_a_chain_that_leads_out_is_not_followed(root: Path) -> None:
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("three")
    (root / "three").symlink_to("../outside")
    (root / "up").symlink_to("..")
    for path in ("one/secret", "three/secret", "up/outside/secret", "one/made"):
        with pytest.raises((Forbidden, NotFound)):
            open_below(root, path, os.O_RDWR | os.O_CREAT)
        with pytest.raises((Forbidden, NotFound)):
            parent_below(root, path)
    assert sorted(os.listdir(root.parent / "outside")) == ["secret"]


def test_a_link_that_stays_inside_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"x")
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dir" / "back").symlink_to("../real")
    assert read(tmp_path, "link") == b"x"
    assert read(tmp_path, "dir/back") == b"x"


def test_a_root_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to("real")
    with pytest.raises(PoolError):
        open_below(tmp_path / "root", ".", os.O_RDONLY)


def test_only_files_and_directories_are_opened_and_nothing_waits(root: Path) -> None:
    os.mkfifo(root / "pipe")
    with pytest.raises(Forbidden):
        open_below(root, "pipe", os.O_RDONLY)
    with pytest.raises(Forbidden):
        open_below(root, "pipe", os.O_WRONLY)
    with tempfile.TemporaryDirectory(prefix="cp-") as short, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{short}/s")
        with pytest.raises(Forbidden):
            open_below(Path(short), "s", os.O_RDONLY)


def test_what_is_missing_or_of_another_kind_says_so(root: Path) -> None:
    with pytest.raises(NotFound):
        open_below(root, "nothing", os.O_RDONLY)
    with pytest.raises(NotFound):
        open_below(root, "projects/a/file/below", os.O_RDONLY)
    with pytest.raises(NotFound):
        open_below(root / "no-root", "x", os.O_RDONLY)
    with pytest.raises(Conflict):
        open_below(root, "projects", os.O_WRONLY)
    with pytest.raises(Conflict):
        open_below(root, "projects/a/file", os.O_WRONLY | os.O_CREAT | os.O_EXCL)


def test_an_error_never_shows_our_paths(root: Path) -> None:
    (root / "out").symlink_to("../outside")
    for path in ("nothing", "out/secret", "projects/a/file/x"):
        with pytest.raises(PoolError) as caught:
            open_below(root, path, os.O_RDONLY)
        assert str(root.parent) not in caught.value.message
        assert "outside" not in caught.value.message


@pytest.fixture
def swapping(root: Path) -> Iterator[Path]:
    """A directory that turns into a link to the outside and back, as fast as it can."""
    (root / "good").mkdir()
    (root / "good" / "secret").write_bytes(b"mine")
    (root / "bad").symlink_to("../outside")
    (root / "race").symlink_to("good")
    done = threading.Event()

    def swap() -> None:
        number = 0
        while not done.is_set():
            number += 1
            os.symlink("../outside" if number % 2 else "good", root / "next")
            os.rename(root / "next", root / "race")
            os.rename(root / "good", root / "parked")
            os.rename(root / "bad", root / "good")
            os.rename(root / "good", root / "bad")
            os.rename(root / "parked", root / "good")

    thread = threading.Thread(target=swap, name="swap")
    thread.start()
    yield root
    done.set()
    thread.join()


def test_a_link_swapped_in_during_the_call_never_leads_out(swapping: Path) -> None:
    outcomes: set[str] = set()
    for _ in range(2000):
        for path in ("race/secret", "good/secret"):
            try:
                content = read(swapping, path)
            except (Forbidden, NotFound, Conflict) as error:
                outcomes.add(error.code)
            else:
                assert content == b"mine"
                outcomes.add("read")
    assert "read" in outcomes


_PIECES = st.sampled_from(
    [
        "..",
        ".",
        "",
        "/",
        "a",
        "d",
        "out",
        "up",
        "loop",
        "abs",
        "self",
        "secret",
        "..\\",
        "．．",
        "\0",
        "%2e%2e",
    ]
)


@pytest.fixture(scope="module")
def maze() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cp-") as top:
        (Path(top) / "outside").mkdir()
        (Path(top) / "outside" / "secret").write_bytes(SECRET)
        (Path(top) / "secret").write_bytes(SECRET)
        root = Path(top) / "root"
        (root / "d" / "d").mkdir(parents=True)
        for place in (root, root / "d", root / "d" / "d"):
            (place / "a").write_bytes(b"mine")
            (place / "out").symlink_to(f"{top}/outside")
            (place / "up").symlink_to("..")
            (place / "loop").symlink_to("loop")
            (place / "abs").symlink_to("/")
            (place / "self").symlink_to("/proc/self/root")
        yield root


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.one_of(_PIECES, st.text(max_size=4)), max_size=8), walk=st.booleans())
def test_nothing_that_can_be_written_leads_out(maze: Path, pieces: list[str], walk: bool) -> None:
    path = "/".join(pieces)
    resolver = paths._walk if walk else paths._openat2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "_open_beneath", resolver)
        try:
            descriptor = open_below(maze, path, os.O_RDONLY)
        except PoolError:
            return
        try:
            real = os.readlink(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
    assert Path(real) == maze or maze in Path(real).parents


def test_a_user_has_one_directory_whatever_the_case(tmp_path: Path) -> None:
    assert user_directory(tmp_path / "not-made", "alice") == tmp_path / "not-made" / "alice"
    (tmp_path / "Alice").mkdir()
    assert user_directory(tmp_path, "Alice") == tmp_path / "Alice"
    for other in ("alice", "ALICE"):
        with pytest.raises(Conflict):
            user_directory(tmp_path, other)
    assert user_directory(tmp_path, "bob") == tmp_path / "bob"


@pytest.mark.parametrize(
    "bad", ["", ".", "..", ".hidden", "a/b", "/etc", "a\0", "é", "x" * 65, "-rf", "a..b", "x" * 4096]
)
def test_a_bad_user_id_makes_no_path(tmp_path: Path, bad: str) -> None:
    with pytest.raises(InvalidName):
        user_directory(tmp_path, bad)
