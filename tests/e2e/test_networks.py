"""The real CLI and its Bash tool in every network that a session can have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pool import ClaudeInstancePool, PoolConfig
from pool.launch.isolation import probe
from pool.launch.way_out import find_way_out

pytestmark = pytest.mark.real_cli

NETWORKS: dict[str, dict[str, Any]] = {
    "gateway_only": {"isolation_network": "gateway_only"},
    "outbound": {"isolation_network": "outbound"},
    "named hosts": {"egress_allow": ("example.org",)},
    "open": {"isolation_network": "open"},
}


# Without a network is how every other test of the real CLI has it.
@pytest.mark.parametrize(
    "network",
    [
        pytest.param(name, marks=() if name in ("outbound", "named hosts") else pytest.mark.acceptance)
        for name in NETWORKS
    ],
)
async def test_a_turn_with_the_bash_tool(network: str, real_cli: Path, short_dir: Path) -> None:
    if not probe().works:
        pytest.skip(f"no bubblewrap that works: {probe().detail}")
    if network == "outbound" and (found := find_way_out(probe().path or "bwrap")).remedy is not None:
        pytest.skip(found.remedy)
    config = PoolConfig(
        data_dir=short_dir / "data",
        runtime_dir=short_dir / "run",
        cli_path=real_cli,
        check_cli=False,
        cli_extra_args=("--allowedTools", "Bash"),
        **NETWORKS[network],
    )
    async with ClaudeInstancePool(config) as pool:
        instance = await pool.get_or_create_instance("alice")
        frames = [frame async for frame in instance.ask("run `echo $((6 * 7)) $http_proxy`")]
    proxy = " http://127.0.0.1:3128" if network == "named hosts" else ""
    assert f"42{proxy}\\n" in json.dumps(frames)
