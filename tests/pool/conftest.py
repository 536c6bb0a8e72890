"""A pool over the fake CLI, and viewers that keep what they are shown."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pool import ClaudeInstancePool, PoolConfig, Quota, QuotaBook
from tests.waiting import eventually

OUTCOMES = ("succeeded", "failed", "interrupted", "lost", "withdrawn")
MakePool = Callable[..., Awaitable[ClaudeInstancePool]]


class Screen:
    """A viewer: keeps every frame; ``backlog_bytes`` can be set to play a slow one."""

    def __init__(self) -> None:
        self.frames: list[dict[str, Any]] = []
        self.backlog_bytes = 0

    def deliver(self, frames: Sequence[bytes]) -> None:
        self.frames += [json.loads(frame) for frame in frames]

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if frame["type"] == kind]

    def text(self) -> str:
        """The streamed text, delta by delta."""
        return "".join(
            frame["event"]["event"]["delta"].get("text", "")
            for frame in self.of_type("event")
            if frame["event"].get("type") == "stream_event"
            and frame["event"]["event"]["type"] == "content_block_delta"
        )

    def turn_states(self, turn_id: str) -> list[str]:
        return [frame["state"] for frame in self.of_type("turn") if frame["turn_id"] == turn_id]

    async def ended(self, turn_id: str, seconds: float = 60) -> dict[str, Any]:
        """The turn's one terminal frame."""

        def endings() -> list[dict[str, Any]]:
            return [
                frame
                for frame in self.of_type("turn")
                if frame["turn_id"] == turn_id and frame["state"] in OUTCOMES
            ]

        await eventually(endings, seconds, what=f"turn {turn_id} ended; {self.turn_states(turn_id)}")
        assert len(endings()) == 1
        return endings()[0]


@pytest.fixture
def pool_config(short_dir: Path, fake_claude: Path) -> Callable[..., PoolConfig]:
    """Settings for a pool in this test's own directories."""

    def make(**changes: Any) -> PoolConfig:
        settings: dict[str, Any] = {
            "data_dir": short_dir / "data",
            "runtime_dir": short_dir / "run",
            "cli_path": fake_claude,
            "gateway_command": (),
            "check_cli": False,
            "start_timeout_seconds": 20,
            "stop_grace_seconds": 2,
            "quotas": QuotaBook(default=Quota(turns_per_minute=None)),
        }
        return PoolConfig(**{**settings, **changes})

    return make


@pytest.fixture
async def make_pool(pool_config: Callable[..., PoolConfig], forked_keepers: None) -> AsyncIterator[MakePool]:
    """``await make_pool(**settings)`` gives a started pool; all are shut down at the end."""
    pools: list[ClaudeInstancePool] = []

    async def make(**changes: Any) -> ClaudeInstancePool:
        pool = ClaudeInstancePool(pool_config(**changes))
        pools.append(pool)
        await pool.start()
        return pool

    yield make
    for pool in reversed(pools):
        await pool.shutdown(drain_timeout_seconds=0)


@pytest.fixture
async def pool(make_pool: MakePool) -> ClaudeInstancePool:
    """A pool with default limits."""
    return await make_pool()


def plan(pool: ClaudeInstancePool, user_id: str, **behaviour: Any) -> None:
    """Tell the fake CLI of ``user_id`` how to behave from its start on."""
    workspace = pool.config.data_dir / "workspaces" / user_id
    workspace.mkdir(parents=True, exist_ok=True)
    (workspace / ".fake-claude.json").write_text(json.dumps(behaviour))
