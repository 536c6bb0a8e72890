"""Becoming a user without rights, and giving such a user its directories."""

from __future__ import annotations

import json
import os
import subprocess
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


def told(program: str) -> Any:
    command = as_service_user(UID, ["/usr/bin/python3", "-I", "-S", "-c", program])
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


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
