"""With real processes: one that is stopped is found and ended, one that spins is replaced."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from pool.model import InstanceState
from pool.policy import health
from pool.runtime import doubt
from tests.pool.conftest import MakePool, Screen
from tests.waiting import eventually


async def test_a_stopped_cli_is_wedged_not_dead_and_stop_still_works(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doubt, "ANSWER_SECONDS", 1.0)
    pool = await make_pool()
    screen = Screen()
    await pool.subscribe("alice", "default", None, screen)
    first = await pool.submit("alice", "default", "hello", message_id="m1")
    await screen.ended(first.turn_id)
    (info,) = pool.instances("alice")
    assert info.pid is not None
    os.kill(info.pid, signal.SIGSTOP)
    assert pool.instances("alice")[0].state is InstanceState.READY, "it is not dead"
    await eventually(lambda: not Path(f"/proc/{info.pid}").exists(), 20)
    second = await pool.submit("alice", "default", "hello again", message_id="m2")
    assert (await screen.ended(second.turn_id))["state"] == "succeeded"


async def test_a_message_to_a_stopped_cli_is_not_lost(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doubt, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(doubt, "TRUST_SECONDS", 0.3)
    pool = await make_pool()
    screen = Screen()
    await pool.subscribe("alice", "default", None, screen)
    old = await pool.get_or_create_instance("alice")
    assert old.pid is not None
    os.kill(old.pid, signal.SIGSTOP)
    await asyncio.sleep(0.5)
    turn = await pool.submit("alice", "default", "hello", message_id="m1")
    assert (await screen.ended(turn.turn_id, 30))["state"] == "succeeded"
    assert pool.instances("alice")[0].id != old.id


async def test_an_idle_instance_that_takes_too_much_memory_is_replaced(make_pool: MakePool) -> None:
    pool = await make_pool(recycle_idle_memory_bytes=1)
    screen = Screen()
    await pool.subscribe("alice", "default", None, screen)
    await pool.get_or_create_instance("alice")
    await eventually(lambda: not pool.instances("alice"), 20)
    turn = await pool.submit("alice", "default", "hello", message_id="m1")
    assert (await screen.ended(turn.turn_id))["state"] == "succeeded"


@pytest.mark.parametrize("word", ["close-stdout", "freeze"])
async def test_one_that_lives_and_says_nothing_is_ended_with_its_turn(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setattr(doubt, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(health, "TRUST_SECONDS", 1.0)
    pool = await make_pool()
    screen = Screen()
    await pool.subscribe("alice", "default", None, screen)
    turn = await pool.submit("alice", "default", f"stream 3 !{word} !hang", message_id="m1")
    (old,) = await eventually(lambda: [info.pid for info in pool.instances("alice") if info.pid], 20)
    ending = await screen.ended(turn.turn_id, 30)
    assert (ending["state"], ending["reason"]["code"]) == ("lost", "instance_wedged")
    await eventually(lambda: not Path(f"/proc/{old}").exists(), 20)
    again = await pool.submit("alice", "default", "hello", message_id="m2")
    assert (await screen.ended(again.turn_id, 30))["state"] == "succeeded"
