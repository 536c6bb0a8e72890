"""Counters: what they add up to, what a life of a session leaves in them, and what the log says of it."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest

from pool.config import Quota, QuotaBook
from pool.errors import LaunchFailed, PoolError, QuotaExceeded
from pool.launch.base import StopGraces
from pool.model import BEGINNING, Cursor, ExitStatus
from pool.runtime.counters import Count, Histogram, Level, Metric, Spread
from pool.runtime.counting import Counters
from pool.runtime.edges import rungs_climbed
from pool.runtime.hub import ITEM_BYTES, Channel
from tests.pool.runtime.conftest import World, follow, manual, say, session_of, soon


def test_a_count_grows_by_label() -> None:
    count = Count("n", "m", ("a", "b"), known=[("x", "y")])
    assert dict(count.metric().samples) == {("x", "y"): 0}
    count.add("x", "y")
    count.add("x", "z", by=5)
    assert (count.value("x", "y"), count.value("x", "z"), count.value("no", "no")) == (1, 5, 0)


def test_a_count_without_labels_begins_at_zero() -> None:
    count = Count("n", "m")
    assert list(count.metric().samples) == [((), 0)]
    count.add(by=3)
    assert list(count.metric().samples) == [((), 3)]


def test_a_duration_falls_into_the_first_bucket_that_holds_it() -> None:
    histogram = Histogram("n", "m", (0.1, 1.0), ("how",))
    for seconds in (0.05, 0.1, 0.5, 1.0, 7.0):
        histogram.observe(seconds, "x")
    ((labels, spread),) = histogram.metric().samples
    assert isinstance(spread, Spread)
    assert (labels, spread.counts) == (("x",), (2, 2, 1))
    assert spread.total == pytest.approx(8.65)
    assert histogram.count("x") == 5


def test_a_block_is_timed_also_when_it_fails() -> None:
    histogram = Histogram("n", "m", (60.0,))
    with pytest.raises(ValueError, match="no"), histogram.timed():
        raise ValueError("no")
    assert histogram.count() == 1


def test_a_level_rises_and_falls() -> None:
    level = Level("n", "m", "view", ("ws", "sse"))
    level.change("ws", 2)
    level.change("ws", -1)
    assert dict(level.metric().samples) == {("ws",): 1, ("sse",): 0}


@pytest.mark.parametrize(
    ("graces", "status", "seconds", "rungs"),
    [
        (StopGraces(2, 5, 5), ExitStatus(code=0), 0.1, ["end_of_input"]),
        (StopGraces(2, 5, 5), ExitStatus(signal="SIGTERM"), 2.1, ["end_of_input", "term"]),
        (StopGraces(2, 5, 5), ExitStatus(code=0), 2.5, ["end_of_input", "term"]),
        (StopGraces(2, 5, 5), ExitStatus(signal="SIGKILL"), 7.1, ["end_of_input", "term", "kill"]),
        (StopGraces(0, 5, 5), ExitStatus(code=0), 0.1, ["term"]),
        (StopGraces(0, 0, 5), ExitStatus(signal="SIGKILL"), 0.1, ["kill"]),
        (None, ExitStatus(code=0), 0.1, ["end_of_input"]),
    ],
)
def test_the_rungs_that_ended_an_instance(
    graces: StopGraces | None, status: ExitStatus, seconds: float, rungs: list[str]
) -> None:
    assert rungs_climbed(graces, status, seconds) == rungs


def samples(metrics: list[Metric]) -> dict[str, dict[tuple[str, ...], Any]]:
    return {metric.name: dict(metric.samples) for metric in metrics}


async def test_a_conversation_is_counted(world: World) -> None:
    pool = await world.start()
    await follow(pool)
    await say(pool, "m1")
    await say(pool, "m2")
    counters = pool.counters
    await soon(lambda: counters.turns.value("succeeded", "user") == 2, "both turns end")
    found = samples(await pool.metrics())
    assert found["claude_pool_instances"]["ready",] == 1
    assert found["claude_pool_sessions"][()] == 1
    assert found["claude_pool_viewers"][()] == 1
    assert found["claude_pool_keeper_up"][()] == 1
    assert found["claude_pool_waiting"][()] == 0
    assert counters.spawn.count("ready") == 1
    steps = ("slot", "gate", "workspace", "process", "handshake")
    assert [counters.spawn_step.count(step, "done") for step in steps] == [1] * 5
    assert counters.turn.count("succeeded") == 2
    assert counters.commit.count() == counters.commits.value("stored") > 0
    assert counters.events.value("own") >= 6
    await pool.destroy_instance("alice")
    assert counters.exits.value("stopped") == 1
    assert len(counters.stop.metric().samples) == 1


async def test_frames_that_leave_the_ring_and_starts_that_fail_are_counted(world: World) -> None:
    channel = Channel(head=BEGINNING, budget_bytes=1000, ring_bytes=3 * (10 + ITEM_BYTES))
    channel.counters = Counters()
    channel.publish([(Cursor(1, n, 0), b"0123456789") for n in range(1, 6)])
    channel.publish([(Cursor(1, 6, 0), b"0123456789")])
    assert channel.counters.ring_dropped.value() == 3
    pool = await world.start()
    world.host.fail("start", LaunchFailed("no", details={"step": "exec"}))
    with pytest.raises(LaunchFailed):
        await pool.get_or_create_instance("alice")
    assert pool.counters.spawn_step.count("process", "failed") == 1
    assert pool.counters.spawn_step.count("workspace", "done") == 1


async def test_what_the_front_door_refuses_is_counted_by_code(world: World) -> None:
    pool = await world.start(quotas=QuotaBook(default=Quota(max_sessions=1)))
    await pool.create_session("alice", "one")
    with pytest.raises(QuotaExceeded):
        await pool.create_session("alice", "two")
    pool.drain()
    for verb in (pool.get_or_create_instance("alice"), say(pool, "m1", "one")):
        with pytest.raises(PoolError):
            await verb
    assert pool.counters.rejected.value("quota_exceeded") == 1
    assert pool.counters.rejected.value("draining") == 2


async def test_a_crash_and_an_adoption_are_counted(world: World) -> None:
    world.host.prepare = manual
    first = await world.start()
    await follow(first)
    await say(first, "m1")
    await soon(lambda: session_of(first).turns.open_turn is not None)
    await world.crash(first)
    second = await world.start()
    assert second.counters.adoptions.value("taken_over") == 1
    assert second.counters.reconcile.count() == 1
    world.host.cli().die(signal="SIGKILL")
    await soon(lambda: second.counters.turns.value("lost", "user") == 1, "the turn is lost")
    assert second.counters.exits.value("crashed") == 1


async def test_the_log_tells_every_edge_with_ids_and_nothing_that_was_said(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "sk-ant-api03-" + "x" * 20
    caplog.set_level(logging.DEBUG)
    pool = await world.start(cli_env={"PRIVATE_SETTING": "environment-words"})
    await follow(pool)
    turn = (await pool.submit("alice", "default", f"my key is {secret}", message_id="m1")).turn_id
    await soon(lambda: pool.counters.turns.value("succeeded", "user") == 1)
    instance = session_of(pool).instance
    assert instance is not None
    await pool.destroy_instance("alice")
    edges = {record.message: record for record in caplog.records if record.name == "pool.runtime.edges"}
    assert list(edges) == ["instance started", "instance ready", "turn ended", "instance exited"]
    for record in edges.values():
        assert (record.levelno, record.__dict__["user"]) == (logging.INFO, "alice")
        assert (record.__dict__["session"], record.__dict__["instance"]) == ("default", instance.id)
    assert edges["turn ended"].__dict__["turn"] == turn
    everything = io.StringIO()
    for record in caplog.records:
        everything.write(json.dumps(record.__dict__ | {"text": record.getMessage()}, default=repr))
    for words in (secret, "my key is", "environment-words"):
        assert words not in everything.getvalue()


async def test_a_failed_launch_is_logged_by_code_and_step_without_its_stderr(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    pool = await world.start()
    details = {"step": "exec", "exit_code": 3, "stderr": "words of stderr"}
    world.host.fail("start", LaunchFailed("it ended: words of stderr", details=details))
    screen = await follow(pool)
    await say(pool, "m1")
    await soon(lambda: pool.counters.turns.value("failed", "user") == 1, str(screen))
    await soon(lambda: pool.counters.spawn.count("launch_failed") == 1)
    (line,) = [record for record in caplog.records if record.message == "instance not started"]
    assert (line.__dict__["code"], line.__dict__["step"]) == ("launch_failed", "exec")
    assert "words of stderr" not in caplog.text


async def test_keepers_that_die_are_counted(world: World) -> None:
    pool = await world.start()
    await pool.get_or_create_instance("alice")
    world.host.lose_keeper()
    await soon(lambda: pool.counters.keeper_restarts.value() == 1, "another keeper")
    await soon(lambda: pool.counters.exits.value("keeper_lost") == 1, "the instance is known to be gone")
