"""Parking is a decision and then a stop: a message in between is neither lost nor run twice."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from pool.model import InstanceState
from pool.runtime.faults import VARIABLE
from tests.pool.conftest import MakePool, Screen
from tests.pool.runtime.conftest import World, follow, say, session_of, soon


async def test_a_message_between_decision_and_stop_goes_to_the_next_instance(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = await world.start()
    screen = await follow(pool)
    await screen.ended(await say(pool, "m1"))
    monkeypatch.setenv(VARIABLE, f"park.before_stop:{tmp_path}")
    old = world.host.cli()
    session_of(pool).idleness.park("idle")
    await soon((tmp_path / "park.before_stop.reached").exists)
    turn = await say(pool, "m2")
    assert old.is_alive
    assert screen.turn_states(turn) == ["queued"]
    instance = session_of(pool).instance
    assert instance is not None
    assert instance.state is InstanceState.STOPPING, "it was decided: the message comes too late for this one"
    (tmp_path / "park.before_stop.go").touch()
    assert (await screen.ended(turn))["state"] == "succeeded"
    assert turn not in old.runs
    assert [turn in cli.runs for cli in world.host.living] == [True]


async def test_a_message_before_the_decision_keeps_the_instance(world: World) -> None:
    pool = await world.start()
    screen = await follow(pool)
    await screen.ended(await say(pool, "m1"))
    turn = await say(pool, "m2")
    session_of(pool).idleness._over()
    assert (await screen.ended(turn))["state"] == "succeeded"
    assert len(world.host.clis) == 1


async def test_raced_trials_have_one_winner_each(world: World) -> None:
    """Any number of steps of the event loop between the two."""
    pool = await world.start(idle_timeout_seconds=0)
    screen = await follow(pool)
    winners: Counter[str] = Counter()
    for trial in range(60):
        await pool.get_or_create_instance("alice")
        old, session = world.host.cli(), session_of(pool)
        asyncio.get_running_loop().call_later(0.0002 * (trial % 20), session.idleness._over)
        await asyncio.sleep(0.0002 * (trial % 7))
        turn = await say(pool, f"m{trial}")
        assert (await screen.ended(turn))["state"] == "succeeded"
        runs = Counter(run for cli in world.host.clis.values() for run in cli.runs)
        assert runs[turn] == 1
        winners["message" if turn in old.runs else "parking"] += 1
    assert set(winners) == {"message", "parking"}, winners
    print(f"raced in memory: {dict(winners)}")


@pytest.mark.parametrize("trials", [8, pytest.param(300, marks=pytest.mark.acceptance)])
async def test_raced_trials_with_processes(trials: int, make_pool: MakePool) -> None:
    """A real keeper and processes; the message is sent around the very moment of the decision."""
    chance, timeout = random.Random(trials), 0.05
    pool = await make_pool(idle_timeout_seconds=timeout)
    screen = Screen()
    await pool.subscribe("alice", "default", None, screen)
    winners: Counter[str] = Counter()
    for trial in range(trials):
        old = await pool.get_or_create_instance("alice")
        await asyncio.sleep(max(0.0, timeout + chance.uniform(-0.006, 0.006)))
        accepted = await pool.submit("alice", "default", f"echo {trial}", message_id=f"m{trial}")
        assert (await screen.ended(accepted.turn_id, 30))["state"] == "succeeded"
        assert screen.turn_states(accepted.turn_id) == ["queued", "running", "succeeded"]
        ran_in = await pool._around.store.get_turn(session_of(pool).key, accepted.turn_id)
        assert ran_in is not None
        winners["message" if ran_in.instance_id == old.id else "parking"] += 1
        screen.frames.clear()
    assert sum(winners.values()) == trials
    assert _answers_in_transcripts(pool.config.data_dir) == trials
    if trials >= 100:
        assert set(winners) == {"message", "parking"}, winners
    print(f"raced with processes: {dict(winners)}")


def _answers_in_transcripts(data_dir: Path) -> int:
    """How many messages of the user the conversation has, over all its instances."""
    count = 0
    for path in data_dir.rglob("*.jsonl"):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            content = entry.get("message", {}).get("content")
            count += entry.get("type") == "user" and isinstance(content, str) and content.startswith("echo ")
    return count
