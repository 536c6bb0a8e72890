"""A launcher over SSH keeps the contract of ``pool.launch.base`` as the launcher of this machine does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from pool.config import PoolConfig
from pool.hosts.ssh import open_ssh_host
from tests.pool.hosts.sshd import Sshd
from tests.pool.launch.conftest import script_cli
from tests.pool.launch.rig import Stand
from tests.pool.launch.test_local import (
    test_a_cancelled_start_leaves_nothing,
    test_a_cli_that_does_not_read_is_told_of_in_time,
    test_a_higher_epoch_is_taken_without_losing_what_is_attached,
    test_a_keeper_that_dies_is_told_of_and_replaced,
    test_a_life_from_start_to_forget,
    test_a_server_that_was_taken_over_stays_away,
    test_a_start_that_fails_says_why,
    test_nothing_of_the_servers_environment_reaches_the_cli,
    test_the_end_of_all_is_waited_for,
    test_the_next_server_takes_over,
    test_two_opens_at_once_start_one_keeper,
)

__all__ = [
    "script_cli",
    "test_a_cancelled_start_leaves_nothing",
    "test_a_cli_that_does_not_read_is_told_of_in_time",
    "test_a_higher_epoch_is_taken_without_losing_what_is_attached",
    "test_a_keeper_that_dies_is_told_of_and_replaced",
    "test_a_life_from_start_to_forget",
    "test_a_server_that_was_taken_over_stays_away",
    "test_a_start_that_fails_says_why",
    "test_nothing_of_the_servers_environment_reaches_the_cli",
    "test_the_end_of_all_is_waited_for",
    "test_the_next_server_takes_over",
    "test_two_opens_at_once_start_one_keeper",
]

pytestmark = pytest.mark.acceptance


@pytest.fixture
def mode() -> str:
    """Without a sandbox, of which the link knows nothing."""
    return "none"


@pytest.fixture
async def stand_of(short_dir: Path, script_cli: Path, sshd: Sshd) -> AsyncIterator[Callable[..., Stand]]:
    """Makes launchers to one host; all are closed and its keepers ended at the end."""
    async with AsyncExitStack() as stack:

        def make(mode: str, **options: Any) -> Stand:
            usual = {
                "data_dir": str(short_dir / "data"),
                "runtime_dir": str(short_dir / "run"),
                "cli_path": str(script_cli),
                "stop_grace_seconds": 1.0,
                "isolation_mode": mode,
            }
            sshd.let_in(usual | {name: str(value) for name, value in options.items()})
            server = PoolConfig(data_dir=short_dir / "server", gateway_command=(), stop_grace_seconds=1.0)
            stand = Stand(open_ssh_host(sshd.host(), server).launcher, short_dir)
            stack.push_async_callback(stand.aclose)
            return stand

        yield make
