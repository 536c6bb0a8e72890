"""The check of the CLI: what holds, what is missing, and that turns still end exactly once without it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pool import ClaudeInstancePool, PoolConfig, errors
from pool.runtime.conformance.behaviours import BEHAVIOURS, TESTED_VERSION, Findings
from pool.runtime.conformance.features import Features
from pool.runtime.conformance.record import Records, key_of
from server.gateway import write_gateway_config
from tests.pool.conftest import MakePool, Screen
from tests.waiting import eventually

GATEWAY = (sys.executable, "-I", "-m", "server.gateway")
ALL_HELD = Findings(TESTED_VERSION, {behaviour.name: True for behaviour in BEHAVIOURS})


async def checked(pool: ClaudeInstancePool, seconds: float = 50) -> dict[str, Any]:
    """The health page's word on the CLI, once there is one."""
    await eventually(
        lambda: pool.health()["checks"]["cli"]["detail"] != "not checked yet", seconds, what="the check"
    )
    await eventually(lambda: pool._conformance._task is None or pool._conformance._task.done(), seconds)
    told = pool.health()["checks"]["cli"]
    assert isinstance(told, dict)
    return told


def left_over(pool: ClaudeInstancePool) -> list[str]:
    """What trials have left in the data directory, the records apart."""
    data = pool.config.data_dir
    found = [*data.glob("conformance/probe-*"), *data.glob("tmp/*"), *data.glob("spool/*")]
    return [str(path.relative_to(data)) for path in found]


def started(pool: ClaudeInstancePool) -> int:
    """How many CLIs the keeper has had to end."""
    log = (pool.config.data_dir / "keeper" / "keeper.log").read_text()
    return log.count("instance_exited")


async def follow(pool: ClaudeInstancePool) -> Screen:
    screen = Screen()
    await pool.subscribe("alice", "default", "0", screen)
    return screen


async def say(pool: ClaudeInstancePool, text: str, message_id: str, **more: Any) -> str:
    return (await pool.submit("alice", "default", text, message_id=message_id, **more)).turn_id


# --- the check ------------------------------------------------------------------------------


@pytest.mark.real_cli
@pytest.mark.parametrize("mode", [pytest.param("none", marks=pytest.mark.acceptance), "auto"])
async def test_the_real_cli_does_everything_that_we_rely_on(
    make_pool: MakePool, pool_config: Callable[..., PoolConfig], real_cli: Path, mode: str
) -> None:
    # the check must neither need nor use a configured provider
    dead = {"kind": "gateway", "base_url": "http://127.0.0.1:9"}
    write_gateway_config(pool_config().data_dir, {"dead": dead})
    settings = {"cli_path": real_cli, "gateway_command": GATEWAY, "isolation_mode": mode}
    pool = await make_pool(check_cli=True, **settings)
    told = await checked(pool)
    assert (told["ok"], told["missing"]) == (True, []), told
    assert told["version"] == TESTED_VERSION
    assert pool._around.features == Features()
    assert pool.instances() == []
    await eventually(lambda: left_over(pool) == [])


async def test_a_cli_that_is_known_to_be_good_is_not_tried_again(
    make_pool: MakePool, short_dir: Path
) -> None:
    first = await make_pool(check_cli=True)
    assert (await checked(first))["ok"] is True
    assert started(first) == 1
    await first.shutdown()
    left = first.config.data_dir / "trials" / "probe-of-a-killed-server"
    left.mkdir()
    again = await make_pool(check_cli=True)
    assert (await checked(again))["ok"] is True
    assert started(again) == 1
    await eventually(lambda: not left.exists())
    await again.shutdown()
    other = await make_pool(check_cli=True, cli_env={"FAKE_CLAUDE_START": "!sleep 0"})
    assert (await checked(other))["ok"] is True
    assert started(other) == 2, "it is started in another way, so it must be tried"
    assert len(list(other.config.data_dir.glob("conformance/*.json"))) == 1


@pytest.mark.timeout(120)
@pytest.mark.acceptance
async def test_what_is_missing_is_told_with_its_fallback_and_tried_again_at_the_next_start(
    make_pool: MakePool,
) -> None:
    lacks = "!without-lifecycle !without-state !without-pending !without-repeats !without-literal"
    environment = {"FAKE_CLAUDE_START": f"{lacks} !without-unknown !without-prefix"}
    pool = await make_pool(check_cli=True, cli_env=environment)
    told = await checked(pool)
    assert told["ok"] is False
    missing = ["lifecycle", "session_state", "repeats_ignored", "literal", "tool_prefix", "pending_asks"]
    assert told["missing"] == [*missing, "unknown_request"]
    assert "missing lifecycle" in told["detail"]
    assert "a turn is ended by its result" in told["detail"]
    assert pool.health()["status"] == "degraded"
    assert pool._around.features == Features(
        lifecycle=False,
        session_state=False,
        pending_asks=False,
        repeats_ignored=False,
        literal=False,
        tool_limits=False,
    )
    screen = await follow(pool)
    for number in range(2):
        await screen.ended(await say(pool, f"hello {number}", f"m{number}"))
    await pool.shutdown()
    next_pool = await make_pool(check_cli=True, cli_env=environment)
    assert next_pool._around.features.lifecycle is False, "known before anything is taken over"
    assert next_pool._conformance._task is not None
    assert not next_pool._conformance._task.done(), "it may have been a busy machine"


async def test_without_a_cli_the_reason_is_told_and_all_else_works(
    make_pool: MakePool, tmp_path: Path
) -> None:
    pool = await make_pool(check_cli=True, cli_path=tmp_path / "nowhere")
    await eventually(lambda: not pool.health()["checks"]["cli"]["ok"])
    told = pool.health()["checks"]["cli"]
    assert "it could not be checked" in told["detail"]
    assert "nowhere is not an executable file" in told["detail"]
    assert pool.unready_reasons() == []
    assert pool._around.features == Features()
    with pytest.raises(errors.LaunchFailed):
        await pool.get_or_create_instance("alice")


async def test_a_model_that_cannot_be_reached_is_told_and_nothing_is_kept(
    make_pool: MakePool, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"every": "!api-error 502"}))
    pool = await make_pool(check_cli=True, isolation_mode="none", cli_env={"FAKE_CLAUDE_PLAN": str(plan)})
    await eventually(lambda: not pool.health()["checks"]["cli"]["ok"], 30)
    told = pool.health()["checks"]["cli"]
    assert told["missing"] == ["model_socket"]
    assert "API Error: 502" in told["detail"]
    assert not list(pool.config.data_dir.glob("conformance/*.json"))


async def test_a_shutdown_in_the_middle_of_the_check_leaves_nothing(make_pool: MakePool) -> None:
    pool = await make_pool(check_cli=True, cli_env={"FAKE_CLAUDE_START": "!mute"})
    await eventually(lambda: any("spool" in name for name in left_over(pool)))
    await pool.shutdown()
    assert not list(pool.config.data_dir.glob("conformance/*"))


# --- life without --------------------------------------------------------------------------


LACKS = {
    "lifecycle": Features(lifecycle=False),
    "order": Features(lifecycle=False),
    "state": Features(session_state=False),
    "lifecycle !without-state": Features(lifecycle=False, session_state=False),
}


# what the first does without is in the last too
@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.acceptance] * (name == "lifecycle")) for name in LACKS]
)
async def poor_pool(request: pytest.FixtureRequest, make_pool: MakePool) -> ClaudeInstancePool:
    """A pool whose CLI lacks something, and which knows it."""
    pool = await make_pool(cli_env={"FAKE_CLAUDE_START": f"!without-{request.param}"})
    pool._around.features = LACKS[request.param]
    return pool


async def test_turns_still_run_one_at_a_time_and_end_once(poor_pool: ClaudeInstancePool) -> None:
    screen = await follow(poor_pool)
    turns = [await say(poor_pool, f"stream 5 {number}", f"m{number}") for number in range(3)]
    for turn in turns:
        assert (await screen.ended(turn))["state"] == "succeeded"
    steps = [(f["turn_id"], f["state"]) for f in screen.of_type("turn") if f["state"] != "queued"]
    assert steps == [step for turn in turns for step in ((turn, "running"), (turn, "succeeded"))]


async def test_approvals_failures_and_interrupts_still_end_a_turn_once(
    poor_pool: ClaudeInstancePool,
) -> None:
    screen = await follow(poor_pool)
    asked = await say(poor_pool, "write a.txt hello", "m1")
    (ask,) = await eventually(lambda: screen.of_type("permission_request"))
    await poor_pool.answer_permission("alice", "default", ask["request_id"], "allow", answered_by="alice")
    assert (await screen.ended(asked))["state"] == "succeeded"
    refused = await say(poor_pool, "hello !api-error 400", "m2")
    assert (await screen.ended(refused))["state"] == "failed"
    long = await say(poor_pool, "stream 500 20", "m3")
    await eventually(lambda: "w1" in screen.text())
    await poor_pool.interrupt("alice", "default")
    assert (await screen.ended(long))["state"] == "interrupted"
    last = await say(poor_pool, "hello again", "m4")
    assert (await screen.ended(last))["state"] == "succeeded"
    assert len(poor_pool.instances()) == 1


async def test_a_turn_that_the_cli_begins_by_itself_is_still_another_one(
    poor_pool: ClaudeInstancePool,
) -> None:
    screen = await follow(poor_pool)
    mine = await say(poor_pool, "hello !idle !turn", "m1")
    assert (await screen.ended(mine))["state"] == "succeeded"
    by_cli = await eventually(
        lambda: [frame["turn_id"] for frame in screen.of_type("turn") if frame["origin"] == "cli"]
    )
    await screen.ended(by_cli[0])
    assert screen.turn_states(by_cli[0]) == ["running", "succeeded"]
    assert (await screen.ended(await say(poor_pool, "hello", "m2")))["state"] == "succeeded"


async def test_a_turn_that_ran_before_it_was_known_ends_when_it_is(make_pool: MakePool) -> None:
    pool = await make_pool(cli_env={"FAKE_CLAUDE_START": "!without-lifecycle"})
    screen = await follow(pool)
    turn = await say(pool, "hello", "m1")
    await eventually(lambda: any(f["event"]["type"] == "result" for f in screen.of_type("event")))
    assert "succeeded" not in screen.turn_states(turn)
    pool._around.features = Features(lifecycle=False)
    pool._supervisor.features_changed()
    assert (await screen.ended(turn))["state"] == "succeeded"
    assert (await screen.ended(await say(pool, "hello", "m2")))["state"] == "succeeded"


async def test_a_turn_goes_on_over_a_restart_and_the_next_one_follows(make_pool: MakePool) -> None:
    settings: dict[str, Any] = {"cli_env": {"FAKE_CLAUDE_START": "!without-state"}}
    first = await make_pool(**settings)
    screen = await follow(first)
    turn = await say(first, "stream 60 30", "m1")
    await eventually(lambda: "w1" in screen.text())
    await first.shutdown(end_instances=False)
    second = ClaudeInstancePool(first.config)
    second._around.features = Features(session_state=False)
    await second.start()
    try:
        later = await follow(second)
        assert (await later.ended(turn))["state"] == "succeeded"
        assert (await later.ended(await say(second, "next", "m2")))["state"] == "succeeded"
    finally:
        await second.shutdown(drain_timeout_seconds=0)


async def test_open_approvals_are_kept_over_a_restart(make_pool: MakePool) -> None:
    settings: dict[str, Any] = {"cli_env": {"FAKE_CLAUDE_START": "!without-pending"}}
    first = await make_pool(**settings)
    screen = await follow(first)
    turn = await say(first, "write a.txt hello", "m1")
    await eventually(lambda: screen.of_type("permission_request"))
    await first.shutdown(end_instances=False)
    second = await make_pool(**settings)
    (ask,) = await second.permissions("alice", "default")
    later = await follow(second)
    await second.answer_permission("alice", "default", ask.request_id, "allow", answered_by="alice")
    assert (await later.ended(turn))["state"] == "succeeded"
    assert (second.config.data_dir / "workspaces" / "alice" / "a.txt").read_text() == "hello"


@pytest.mark.parametrize("may_repeat", [True, False])
async def test_a_message_that_the_cli_may_have_is_written_again_only_if_that_is_safe(
    make_pool: MakePool, short_dir: Path, monkeypatch: pytest.MonkeyPatch, may_repeat: bool
) -> None:
    first = await make_pool()
    screen = await follow(first)
    await screen.ended(await say(first, "hello", "m1"))
    monkeypatch.setenv("CLAUDE_POOL_PAUSE", f"dispatch.before_write:{short_dir}")
    turn = await say(first, "hello again", "m2")
    await eventually((short_dir / "dispatch.before_write.reached").exists)
    await first.shutdown(end_instances=False)
    monkeypatch.delenv("CLAUDE_POOL_PAUSE")
    second = ClaudeInstancePool(first.config)
    second._around.features = Features(repeats_ignored=may_repeat)
    await second.start()
    try:
        later = await follow(second)
        ended = await later.ended(turn)
        assert ended["state"] == ("succeeded" if may_repeat else "lost")
        assert may_repeat or ended["reason"]["code"] == "not_repeatable"
        assert (await later.ended(await say(second, "next", "m3")))["state"] == "succeeded"
    finally:
        await second.shutdown(drain_timeout_seconds=0)


async def test_a_literal_message_is_refused_rather_than_obeyed(pool: ClaudeInstancePool) -> None:
    pool._around.features = Features(literal=False)
    with pytest.raises(errors.BadRequest, match="literally"):
        await say(pool, "/clear", "m1", literal=True)
    screen = await follow(pool)
    await screen.ended(await say(pool, "hello", "m1"))


# --- findings and their record ---------------------------------------------------------------


def test_what_was_seen_in_one_of_two_trials_the_cli_can_do() -> None:
    first = Findings("1", {"ping": False, "asks": False, "lifecycle": True}, {"ping": "slow"})
    second = Findings("1", {"ping": True, "asks": False}, {"asks": "not asked"}, "it exited")
    both = first.merged(second)
    assert both.seen == {"ping": True, "asks": False, "lifecycle": True}
    assert both.notes == {"asks": "not asked"}
    assert both.problem == "it exited"
    assert [behaviour.name for behaviour in both.missing] == ["asks"]


def test_another_version_that_behaves_is_good_and_named() -> None:
    told = Findings("9.9.9", ALL_HELD.seen).summary()
    assert told["ok"] is True
    assert f"version 9.9.9 (this release was tested with {TESTED_VERSION})" in str(told["detail"])


def test_findings_come_back_as_they_were_kept_and_only_for_the_same_question(
    tmp_path: Path, pool_config: Callable[..., PoolConfig]
) -> None:
    records = Records(tmp_path)
    key = key_of("claude:1:2", pool_config(), "bwrap/gateway_only")
    poor = Findings(TESTED_VERSION, {**ALL_HELD.seen, "asks": False}, {"asks": "why"})
    records.save(key, poor)
    assert records.load(key) == poor
    others = [
        key_of("claude:1:3", pool_config(), "bwrap/gateway_only"),
        key_of("claude:1:2", pool_config(), "none/open"),
        key_of("claude:1:2", pool_config(cli_extra_args=("--bare",)), "bwrap/gateway_only"),
    ]
    assert [records.load(other) for other in others] == [None, None, None]
    for damaged in ("", "[]", '{"version": "1"}', '{"version": "1", "seen": {}, "notes": {}}'):
        (tmp_path / f"{key}.json").write_text(damaged)
        assert records.load(key) is None


def test_every_behaviour_is_explained() -> None:
    text = (Path(__file__).parents[3] / "docs" / "claude-cli.md").read_text()
    assert [b.name for b in BEHAVIOURS if f"`{b.name}`" not in text] == []
    assert f"`{TESTED_VERSION}`" in text
