"""Becoming a user without rights, what such a user is shown, and giving it its directories."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pool.keeper.service_user import as_service_user, give_directories

UID, OTHER = 200199, 200198

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

# by a set-uid program of root it would be root again, if it could gain anything
ASK = """
import json, subprocess
fields = dict(line.split(':', 1) for line in open('/proc/self/status').read().splitlines())
names = ('Uid', 'Gid', 'Groups', 'CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb', 'NoNewPrivs', 'Umask')
gained = subprocess.run([ID, '-u'], capture_output=True, text=True).stdout.strip()
print(json.dumps({'gained': gained, **{name: fields[name].split() for name in names}}))
"""


def told(program: str, *, shown: Sequence[Path] = (), python: Path = Path("/usr/bin/python3")) -> Any:
    command = as_service_user(UID, [str(python), "-I", "-S", "-c", program], shown=shown)
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# a word for what can be done with each of the paths
TRY = """
import json, os
def outcome(path):
    try:
        if os.path.isdir(path):
            return sorted(os.listdir(path))
        with open(path) as file:
            return file.read()
    except OSError as error:
        return type(error).__name__
def written(path):
    try:
        with open(path, 'a') as file:
            file.write('x')
    except OSError as error:
        return os.strerror(error.errno)
print(json.dumps([{path: outcome(path) for path in READ}, {path: written(path) for path in WRITE}]))
"""


def tried(read: Sequence[Path], write: Sequence[Path], *, shown: Sequence[Path]) -> tuple[Any, Any]:
    """What the user gets of ``read``, and what it is told when it writes to ``write``."""
    names = [repr([str(path) for path in paths]) for paths in (read, write)]
    first, second = told(TRY.replace("READ", names[0]).replace("WRITE", names[1]), shown=shown)
    return list(first.values()), list(second.values())


@pytest.fixture
def home(short_dir: Path) -> Path:
    """A directory that is closed to the user, with files in it that everybody could read and change."""
    short_dir.chmod(0o711)
    home = short_dir / "home"
    for name in ("a/lib/code", "a/private/key", "b/config", "c/notes", "secret"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(f"of {name}")
        (home / name).chmod(0o666)
    (home / "a" / "private" / "key").chmod(0o600)
    home.chmod(0o700)
    return home


@contextmanager
def unchanged_mounts() -> Iterator[None]:
    """The mounts of this machine, other tests' left out, are the same afterwards."""

    def ours() -> list[str]:
        return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "/home" in line]

    before = ours()
    yield
    assert ours() == before


def test_the_user_has_nothing_and_can_gain_nothing(short_dir: Path) -> None:
    short_dir.chmod(0o711)
    set_uid = short_dir / "id"
    set_uid.write_bytes(Path("/usr/bin/id").read_bytes())
    set_uid.chmod(0o4755)
    plain = subprocess.run(
        [set_uid, "-u"], user=UID, group=UID, extra_groups=[], capture_output=True, text=True, check=True
    )
    assert plain.stdout.strip() == "0", "a set-uid program does nothing here: the test could not fail"
    nothing = ["0" * 16]
    assert told(ASK.replace("ID", repr(str(set_uid)))) == {
        "gained": str(UID),
        **dict.fromkeys(("Uid", "Gid"), [str(UID)] * 4),
        "Groups": [],
        **dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), nothing),
        "NoNewPrivs": ["1"],
        "Umask": ["0077"],
    }


def test_a_program_that_the_user_cannot_run_is_named(short_dir: Path) -> None:
    done = subprocess.run(
        as_service_user(UID, [str(short_dir / "none")]), capture_output=True, text=True, check=False
    )
    assert done.returncode == 126
    assert done.stderr.startswith(f"uid {UID} cannot run {short_dir}/none: ")
    assert as_service_user(None, ["a", "b"]) == ["a", "b"]


def test_of_a_closed_directory_there_is_what_is_shown_and_nothing_else(home: Path) -> None:
    read = [home, home / "secret", home / "c" / "notes", home / "a", home / "a/lib/code", home / "b"]
    read += [home / "b/config", home / "a/private/key"]
    write = [home / "new", home / "b" / "new", home / "a/lib/code", home / "a/new", home / "b/config"]
    closed = "PermissionError"
    assert tried(read, write, shown=())[0] == [closed] * len(read)
    with unchanged_mounts():
        # one inside another, one that is not there, and a file
        shown = [home / "b/config", home / "a", home / "a/lib", home / "a/lib/code", home / "none"]
        got, told_of_writes = tried(read, write, shown=shown)
    absent = "FileNotFoundError"
    assert got == [closed, absent, absent, ["lib", "private"], "of a/lib/code", closed, "of b/config", closed]
    assert told_of_writes == ["Read-only file system"] * len(write)
    assert sorted(path.name for path in home.iterdir()) == ["a", "b", "c", "secret"]
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    shutil.rmtree(home)


def test_links_on_the_way_lead_where_they_do_for_root(home: Path) -> None:
    """As in a virtual environment: its Python is a link to a link to one in somebody's home."""
    base = home / "versions" / "3"
    (base / "bin").mkdir(parents=True)
    shutil.copy(Path("/usr/bin/python3").resolve(), base / "bin" / "python3.x")
    (home / "current").symlink_to("versions/../versions/3")
    environment = home.parent / "environment"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").symlink_to("python3")
    (environment / "bin" / "python3").symlink_to(home / "current" / "bin" / "python3.x")
    (home / "loop").symlink_to("loop")
    python = environment / "bin" / "python"
    look = f"import json, os; print(json.dumps([os.getuid(), os.path.exists({str(home / 'secret')!r})]))"
    with unchanged_mounts():
        assert told(look, shown=[python, home / "loop"], python=python) == [UID, False]
        assert told(look, shown=[home / "current", environment], python=python) == [UID, False]


def test_what_is_mounted_is_the_programs_alone_and_ends_with_it(home: Path) -> None:
    command = as_service_user(UID, ["/bin/sh", "-c", "echo up; read word"], shown=[home / "a", home / "b"])
    with (
        unchanged_mounts(),
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/") as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        assert str(home) not in Path("/proc/self/mountinfo").read_text()
        lines = [line.split() for line in Path(f"/proc/{process.pid}/mountinfo").read_text().splitlines()]
        mounts = {fields[4]: set(fields[5].split(",")) for fields in lines if str(home) in fields[4]}
        assert set(mounts) == {str(home), str(home / "a"), str(home / "b")}
        assert all({"ro", "nosuid", "nodev"} <= flags for flags in mounts.values())
        # and what is mounted there is seen by nobody else, who can still remove it
        assert (home / "secret").read_text() == "of secret"
        process.communicate(b"\n")
    shutil.rmtree(home)


def without_right_to_mount(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """As in a container: root cannot mount."""
    drop = "import ctypes, os, sys; ctypes.CDLL(None).prctl(24, 21, 0, 0, 0)"
    words = ["/usr/bin/python3", "-I", "-c", f"{drop}; os.execv(sys.argv[1], sys.argv[1:])", *command]
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd="/")


def test_where_nothing_can_be_mounted_it_says_so_and_where_nothing_is_in_the_way_it_need_not(
    home: Path,
) -> None:
    done = without_right_to_mount(as_service_user(UID, ["/bin/true"], shown=[home / "a"]))
    assert done.returncode == 126
    assert done.stderr.startswith(f"uid {UID} cannot run /bin/true: what is in the way cannot be covered")
    assert done.stderr.count("\n") == 1
    home.chmod(0o711)
    look = ["/bin/readlink", "/proc/self/ns/mnt"]
    done = without_right_to_mount(as_service_user(UID, look, shown=[home / "a"]))
    assert (done.returncode, done.stdout.strip()) == (0, os.readlink("/proc/self/ns/mnt")), done.stderr


def test_directories_are_made_and_their_files_given(tmp_path: Path) -> None:
    give_directories(tmp_path, OTHER)
    (tmp_path / "gateway" / "config.json").write_text("{}")
    (tmp_path / "own-keys" / "own-keys.key").write_text("x")
    (tmp_path / "gateway").chmod(0o755)
    give_directories(tmp_path, UID)
    for path in ("gateway", "gateway/config.json", "own-keys", "own-keys/own-keys.key"):
        assert (tmp_path / path).stat().st_uid == (tmp_path / path).stat().st_gid == UID
    assert (tmp_path / "gateway").stat().st_mode & 0o777 == 0o700


def test_what_leads_elsewhere_stays_whose_it_is(tmp_path: Path) -> None:
    """Whoever had the directory before may have hoped for a file of root's."""
    secret = tmp_path / "shadow"
    secret.write_text("of root")
    give_directories(tmp_path, OTHER)
    directory = tmp_path / "gateway"
    (directory / "soft").symlink_to(secret)
    (directory / "hard").hardlink_to(secret)
    os.mkfifo(directory / "pipe")
    (directory / "below").mkdir()
    give_directories(tmp_path, UID)
    assert secret.stat().st_uid == 0
    assert {(directory / name).lstat().st_uid for name in ("soft", "hard", "pipe", "below")} == {0}
    (tmp_path / "own-keys").rmdir()
    (tmp_path / "own-keys").symlink_to(tmp_path)
    with pytest.raises(OSError, match="own-keys"):
        give_directories(tmp_path, UID)
    assert tmp_path.stat().st_uid == 0
