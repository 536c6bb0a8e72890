"""Somebody has the server: what its Linux user can plant in the data directory leads root nowhere."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pool.config import PoolConfig
from pool.fs_identity import acting_as
from pool.steward.data_directory import give_data
from tests.e2e.site import Site

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has a server that is not root")

SERVER = PoolConfig(data_dir=Path("/nowhere")).uid_range[1] - 1
NAMES = {
    "claude-pool.db-wal": "precious",
    "claude-pool.db-journal": "precious",
    "audit.head": "precious",
    "secrets": "",
}
"""Names that the server may put a link in place of, and what of root's it points to."""


@pytest.fixture
def site(short_dir: Path) -> Site:
    """A site whose server ran once and was dropped; now nothing runs."""
    short_dir.chmod(0o711)
    site = Site(short_dir)
    site.data.mkdir()
    give_data(site.data, SERVER)
    return site


def ran(site: Site, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [site.python, "-m", "server", *words, "--data", str(site.data)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=site.environment(),
    )


def everything_below(directory: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        found[str(path)] = (status.st_uid, status.st_mode, status.st_size)
    return found


@pytest.mark.acceptance
def test_commands_beside_no_server_work_as_the_servers_user(site: Site, short_dir: Path) -> None:
    site.command("user", "add", "alice")
    assert "alice" in site.command("user", "list")
    assert "whole" in site.command("audit", "verify")
    records = [json.loads(line) for line in site.command("audit", "export").splitlines()]
    assert [record for record in records if "uid 0" in json.dumps(record)]
    (site.data / "workspaces" / "alice").mkdir(mode=0o700)
    (site.data / "workspaces" / "alice" / "notes").write_text("hers")
    target = short_dir / "alice.tar"
    site.command("user", "export", "alice", "--to", str(target))
    with tarfile.open(target) as archive:
        assert "workspace/notes" in archive.getnames()
    assert (target.stat().st_uid, target.stat().st_mode & 0o777) == (0, 0o600)
    site.command("user", "delete", "alice")
    assert not (site.data / "workspaces" / "alice").exists()
    for name in ("claude-pool.db", "audit.head", "secrets/jwt.key"):
        assert (site.data / name).stat().st_uid == SERVER, name


@pytest.mark.acceptance
def test_links_that_the_server_left_lead_no_command_of_roots_anywhere(site: Site, short_dir: Path) -> None:
    roots = short_dir / "roots"
    roots.mkdir(mode=0o755)
    (roots / "precious").write_text("x" * 300)
    before = everything_below(roots)
    with acting_as(SERVER, SERVER):
        (site.data / "secrets").rename(site.data / "moved")
        for name, target in NAMES.items():
            (site.data / name).symlink_to(roots / target)
    ran(site, "user", "add", "mallory")
    assert everything_below(roots) == before
    with acting_as(SERVER, SERVER):
        (site.data / "claude-pool.db").unlink(missing_ok=True)
        (site.data / "claude-pool.db").symlink_to(roots / "new")
    for words in (("user", "add", "mallory"), ("audit", "verify")):
        ran(site, *words)
        assert everything_below(roots) == before, words
    assert (site.data / "server.lock").stat().st_uid == 0


def test_a_configuration_that_the_server_left_is_not_obeyed(site: Site) -> None:
    with acting_as(SERVER, SERVER):
        (site.data / "config.yaml").write_text("isolation: {mode: none, server_user: root}")
    done = ran(site, "serve", "--check")
    assert done.returncode != 0
    assert "may be the work of a server that was taken over" in done.stderr


@pytest.fixture
def another_service(short_dir: Path) -> Iterator[list[bytes]]:
    """A service of root's that obeys whoever is root; what it was told."""
    told: list[bytes] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(short_dir / "service.sock"))
    listener.listen()

    def serve() -> None:
        connection, _address = listener.accept()
        with connection:
            told.append(connection.recv(4096))

    thread = threading.Thread(target=serve)
    thread.start()
    yield told
    thread.join()
    listener.close()


def test_a_control_socket_that_leads_to_another_service_is_told_nothing(
    site: Site, short_dir: Path, another_service: list[bytes]
) -> None:
    with acting_as(SERVER, SERVER):
        (site.data / "control.sock").symlink_to(short_dir / "service.sock")
    done = ran(site, "user", "add", "alice")
    assert done.returncode == 1
    assert "leads to uid 0" in done.stderr
    assert another_service in ([], [b""])
