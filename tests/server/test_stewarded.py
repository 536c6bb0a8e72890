"""What a server that is not root gets of files that only root may read."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pool.config import PoolConfig
from server.config import Host, ServerConfig
from server.settings import load_config
from server.stewarded import readable_by

SERVER = PoolConfig(data_dir=Path("/nowhere")).uid_range[1] - 1


def as_server(path: Path | None, descriptors: list[int]) -> str:
    """What the server's user reads there, each time that it opens it."""
    done = subprocess.run(
        ["/bin/cat", str(path), str(path)],
        user=SERVER,
        group=SERVER,
        extra_groups=[],
        cwd="/",
        pass_fds=descriptors,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a server that is not root")
def test_keys_of_ssh_come_to_it_in_memory(short_dir: Path) -> None:
    home = short_dir / "home" / ".ssh"
    home.mkdir(parents=True)
    for name in ("id_rsa", "id_ed25519", "known_hosts"):
        (home / name).write_text(f"root's own {name}")
    own = {"key_file": short_dir / "farm.key", "known_hosts_file": short_dir / "farm.hosts"}
    for path in own.values():
        path.write_text(path.name)
        path.chmod(0o600)
    hosts = [
        {"name": "one", "address": "h1", **{name: str(path) for name, path in own.items()}},
        {"name": "two", "address": "h2"},
        {"name": "three", "address": "h3", "key_file": str(short_dir / "is-not-there")},
    ]
    config, descriptors = readable_by(SERVER, load_config(None, {}, {"hosts": hosts}), home.parent)
    try:
        one, two, three = config.hosts

        def told(host: Host) -> tuple[str, str]:
            return as_server(host.key_file, descriptors), as_server(host.known_hosts_file, descriptors)

        assert told(one) == ("farm.key" * 2, "farm.hosts" * 2)
        assert told(two) == ("root's own id_ed25519" * 2, "root's own known_hosts" * 2)
        # named when the host is to be reached
        assert three.key_file == short_dir / "is-not-there"
        assert as_server(own["key_file"], descriptors) == ""
        assert {os.stat(f"/proc/self/fd/{descriptor}").st_mode & 0o777 for descriptor in descriptors} == {
            0o600
        }
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def test_without_such_files_nothing_is_read() -> None:
    assert readable_by(SERVER, ServerConfig(), Path("/nonexistent")) == (ServerConfig(), [])
