"""As whom a server of a service of root runs, and what keeps it from that."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pool.config import PoolConfig
from pool.steward.service_user import obstacle_to_dropping, service_uid

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")

UID = 265534


@pytest.fixture
def data(short_dir: Path) -> Path:
    short_dir.chmod(0o711)
    data = short_dir / "data"
    data.mkdir()
    return data


def test_what_is_in_the_way_is_named(data: Path) -> None:
    config = PoolConfig(data_dir=data)
    assert service_uid(config) == UID
    assert obstacle_to_dropping(config, [], ["/bin/true"]) is None
    assert "does not start as uid 265534" in str(obstacle_to_dropping(config, [], ["/bin/false"]))
    assert "/nowhere/at/all" in str(obstacle_to_dropping(config, [], ["/nowhere/at/all"]))
    (data / "workspaces" / "alice").mkdir(parents=True)
    os.chown(data / "workspaces" / "alice", UID, UID)
    assert "that of alice: widen" in str(obstacle_to_dropping(config, [], ["/bin/true"]))


def test_a_data_directory_of_somebody_elses_keeps_the_server_root(data: Path) -> None:
    os.chown(data, 1234, -1)
    assert "is not root's" in str(obstacle_to_dropping(PoolConfig(data_dir=data), [], ["/bin/true"]))
