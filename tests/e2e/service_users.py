"""As whom a server runs in a test, and as whom the kernel runs what it starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from pool.config import PoolConfig
from tests.e2e.escapes import uid_of
from tests.e2e.site import Site, live_pid
from tests.interpreters import SOMEBODY, python_for_all


def service_user(name: str, directory: Path) -> tuple[int | None, str]:
    """``run_as`` of a site in ``directory``: ``"ours"``, or ``"somebody"`` who is not root.

    The directory is made as the parents of a data directory are, to be passed
    through, so that each user gets a uid when the service is root's.
    """
    if name != "ours" and os.geteuid() != 0:
        pytest.skip("only root can run a server as somebody else")
    directory.chmod(0o711)
    return (None if name == "ours" else SOMEBODY), python_for_all(directory / "python")


async def check_users(site: Site, tokens: Sequence[str], run_as: tuple[int | None, str]) -> None:
    """Each user's CLI runs as it should: beneath root as a uid of its own, else as the service."""
    uids = [uid_of(await live_pid(site, token)) for token in tokens]
    service = os.geteuid() if run_as[0] is None else run_as[0]
    assert uid_of(site.pid) == service
    if service == 0:
        first, last = PoolConfig(data_dir=site.data).uid_range
        assert all(first < uid <= last for uid in uids), uids
        assert len(set(uids)) == len(uids)
    else:
        assert set(uids) == {service}
