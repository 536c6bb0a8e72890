"""What every connection to a host begins with is done there before anything else, or there is none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from pool.config import PoolConfig
from pool.errors import Conflict, KeeperUnavailable
from pool.hosts.ssh import open_ssh_host
from pool.keeper.program import noted_runtime_dir
from tests.pool.hosts.sshd import Sshd


async def test_each_connection_begins_with_the_greetings(
    sshd: Sshd, settings: dict[str, Any], short_dir: Path
) -> None:
    sshd.let_in(settings)
    host = open_ssh_host(sshd.host(), PoolConfig(data_dir=short_dir / "server", gateway_command=()))
    assert host.client is not None
    told: list[tuple[str, int]] = []
    troubles: list[Exception] = [Conflict("not today"), KeeperUnavailable("nor tomorrow")]

    async def greet(name: str, ask: Callable[..., Awaitable[Any]]) -> None:
        assert noted_runtime_dir(short_dir / "d") is None, "a keeper is there already"
        told.append((name, await ask("pid")))
        if troubles:
            raise troubles.pop(0)

    host.client.greetings.append(greet)
    for reason in ("not today", "nor tomorrow"):
        with pytest.raises(KeeperUnavailable, match=reason):
            await host.launcher.open(1)
        with pytest.raises(KeeperUnavailable, match="not connected"):
            host.client.call("pid")
    assert await host.launcher.open(1) == 1
    await host.launcher.aclose(end_instances=True)
    assert [name for name, _pid in told] == [host.name] * 3
    assert len({pid for _name, pid in told}) == 3
