"""The promises of ``ClaudeInstancePool`` that its users have relied on from the first day."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pool import ClaudeInstancePool, Quota, QuotaBook, errors
from tests.pool.conftest import MakePool, Screen, plan
from tests.waiting import eventually


def alive(pid: int | None) -> bool:
    if pid is None:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def start_waiting() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


async def test_an_instance_is_created_and_its_process_lives(pool: ClaudeInstancePool) -> None:
    instance = await pool.get_or_create_instance("alice")
    assert instance.user_id == "alice"
    assert instance.session_id == "default"
    assert alive(instance.pid)


async def test_the_same_session_gets_the_same_instance(pool: ClaudeInstancePool) -> None:
    first = await pool.get_or_create_instance("alice")
    second = await pool.get_or_create_instance("alice")
    assert (first.id, first.pid) == (second.id, second.pid)
    other = await pool.get_or_create_instance("alice", "other")
    assert other.id != first.id


async def test_two_users_get_two_workspaces(pool: ClaudeInstancePool) -> None:
    alice = await pool.get_or_create_instance("alice")
    bob = await pool.get_or_create_instance("bob")
    assert alice.workspace != bob.workspace
    assert alice.workspace.is_dir()
    assert bob.workspace.is_dir()


async def test_the_readme_is_written_once_and_never_overwritten(pool: ClaudeInstancePool) -> None:
    instance = await pool.get_or_create_instance("alice")
    readme = instance.workspace / "README.md"
    assert readme.read_text()
    readme.write_text("mine now")
    await pool.destroy_instance("alice")
    await pool.get_or_create_instance("alice")
    assert readme.read_text() == "mine now"


async def test_statistics_tell_of_every_instance(pool: ClaudeInstancePool) -> None:
    instance = await pool.get_or_create_instance("alice")
    async for _frame in instance.ask("hello"):
        pass
    stats = pool.get_instance_stats("alice")
    assert stats is not None
    assert stats["user_id"] == "alice"
    assert stats["total_instances"] == 1
    assert stats["turns"] == 1
    assert stats["process_count"] == 1
    assert stats["healthy"] is True
    (info,) = stats["instances"]
    assert (info.id, info.pid, info.session_id) == (instance.id, instance.pid, "default")
    assert info.rss_bytes > 1_000_000


async def test_a_user_without_an_instance_has_no_statistics(pool: ClaudeInstancePool) -> None:
    assert pool.get_instance_stats("nobody") is None


async def test_helper_processes_are_counted_and_forgotten(pool: ClaudeInstancePool) -> None:
    await pool.get_or_create_instance("alice")
    child = start_waiting()
    try:
        pool.register_process("alice", "default", pid=child.pid, kind="terminal")
        stats = pool.get_instance_stats("alice")
        assert stats is not None
        assert stats["process_count"] == 2
        assert stats["processes"] == [{"pid": child.pid, "kind": "terminal", "session_id": "default"}]
        with pytest.raises(errors.Conflict):
            pool.register_process("alice", "default", pid=child.pid, kind="terminal")
        assert pool.unregister_process("alice", "default", pid=child.pid)
        assert not pool.unregister_process("alice", "default", pid=child.pid)
        stats = pool.get_instance_stats("alice")
        assert stats is not None
        assert stats["process_count"] == 1
        assert child.poll() is None
    finally:
        child.communicate(b"\n")


async def test_a_strangers_process_cannot_be_registered(pool: ClaudeInstancePool) -> None:
    for pid in (1, os.getppid(), 2**22 + 1, 2**40):
        with pytest.raises(errors.BadRequest):
            pool.register_process("alice", "default", pid=pid, kind="terminal")


async def test_an_instance_is_healthy_at_first(pool: ClaudeInstancePool) -> None:
    instance = await pool.get_or_create_instance("alice")
    assert instance.is_healthy
    assert instance.failures == 0


async def test_a_health_check_resets_failures(pool: ClaudeInstancePool) -> None:
    instance = await pool.get_or_create_instance("alice")
    instance._instance.failures = 2
    seen = [instance.is_healthy]
    assert await instance.health_check()
    seen.append(instance.is_healthy)
    assert (seen, instance.failures) == ([False, True], 0)


async def test_a_destroyed_instance_is_gone_and_unhealthy(pool: ClaudeInstancePool) -> None:
    instance = await pool.get_or_create_instance("alice")
    pid = instance.pid
    assert await pool.destroy_instance("alice")
    assert not alive(pid)
    assert not instance.is_healthy
    assert not await instance.health_check()
    assert pool.get_instance_stats("alice") is None


async def test_nothing_to_destroy_is_told(pool: ClaudeInstancePool) -> None:
    assert not await pool.destroy_instance("nobody")


async def test_a_quota_of_zero_refuses(make_pool: MakePool) -> None:
    pool = await make_pool(quotas=QuotaBook(default=Quota(max_instances=0)))
    with pytest.raises(errors.QuotaExceeded, match="quota exceeded"):
        await pool.get_or_create_instance("alice")
    assert pool.instances() == []


async def test_a_quota_counts_the_users_own_instances(make_pool: MakePool) -> None:
    pool = await make_pool(
        quotas=QuotaBook(default=Quota(max_instances=2), users={"bob": {"max_instances": 5}})
    )
    await pool.get_or_create_instance("alice", "one")
    await pool.get_or_create_instance("alice", "two")
    with pytest.raises(errors.QuotaExceeded, match="quota exceeded"):
        await pool.get_or_create_instance("alice", "three")
    await pool.get_or_create_instance("alice", "one")
    for name in ("one", "two", "three"):
        await pool.get_or_create_instance("bob", name)
    assert await pool.destroy_instance("alice", "one")
    await pool.get_or_create_instance("alice", "three")


async def test_instances_are_listed_by_name_whoever_came_first(pool: ClaudeInstancePool) -> None:
    for user, name in (("bob", "default"), ("alice", "two"), ("alice", "one")):
        await pool.get_or_create_instance(user, name)
    listed = [(info.user_id, info.session_id) for info in pool.instances()]
    assert listed == [("alice", "one"), ("alice", "two"), ("bob", "default")]


async def test_a_message_over_the_quota_parks_the_users_own_idle_session(make_pool: MakePool) -> None:
    pool = await make_pool(quotas=QuotaBook(default=Quota(max_instances=1)))
    await pool.get_or_create_instance("alice", "one")
    screen = Screen()
    await pool.subscribe("alice", "two", None, screen)
    accepted = await pool.submit("alice", "two", "hello", message_id="m1")
    assert (await screen.ended(accepted.turn_id))["state"] == "succeeded"
    assert [info.session_id for info in pool.instances("alice")] == ["two"]
    assert (await pool.get_session("alice", "one")).state.value == "parked"


async def test_shutdown_leaves_nothing(make_pool: MakePool, short_dir: Path) -> None:
    pool = await make_pool()
    pids = [(await pool.get_or_create_instance(user)).pid for user in ("alice", "bob", "carol")]
    keepers = pool._around.hosts.first.launcher.supervisor_pids()
    await pool.shutdown()
    assert not any(alive(pid) for pid in [*pids, *keepers])
    with pytest.raises(errors.Draining):
        await pool.get_or_create_instance("alice")


async def test_fifty_callers_get_one_process(pool: ClaudeInstancePool) -> None:
    plan(pool, "alice", start="!sleep 0.3")
    instances = await asyncio.gather(*(pool.get_or_create_instance("alice") for _ in range(50)))
    assert len({instance.id for instance in instances}) == 1
    assert len(pool.instances("alice")) == 1


async def test_fifty_callers_get_one_error_and_the_next_call_works(pool: ClaudeInstancePool) -> None:
    plan(pool, "alice", start="!exit 3")
    results = await asyncio.gather(
        *(pool.get_or_create_instance("alice") for _ in range(50)), return_exceptions=True
    )
    assert {type(result) for result in results} == {errors.LaunchFailed}
    failure = results[0]
    assert isinstance(failure, errors.LaunchFailed)
    assert failure.details["exit_code"] == 3
    assert pool.instances() == []
    plan(pool, "alice")
    instance = await pool.get_or_create_instance("alice")
    assert alive(instance.pid)


async def test_a_cancelled_caller_does_not_take_the_others_with_it(pool: ClaudeInstancePool) -> None:
    plan(pool, "alice", start="!sleep 0.3")
    first = asyncio.create_task(pool.get_or_create_instance("alice"), name="first")
    second = asyncio.create_task(pool.get_or_create_instance("alice"), name="second")
    await asyncio.sleep(0.1)
    first.cancel()
    instance = await second
    assert alive(instance.pid)


async def test_a_cli_that_is_never_ready_is_given_up(make_pool: MakePool) -> None:
    pool = await make_pool(start_timeout_seconds=0.7)
    plan(pool, "alice", start="!mute")
    with pytest.raises(errors.LaunchFailed) as caught:
        await pool.get_or_create_instance("alice")
    assert caught.value.details["step"] == "initialize"
    assert pool.instances() == []
    await eventually(lambda: not pool._around.hosts.first.slots.holders)


async def test_an_idle_session_is_parked_and_woken_with_its_memory(make_pool: MakePool) -> None:
    pool = await make_pool(idle_timeout_seconds=0.4)
    instance = await pool.get_or_create_instance("alice")
    async for _frame in instance.ask("the first words"):
        pass
    await eventually(lambda: not alive(instance.pid))
    await eventually(lambda: pool.instances() == [])
    again = await pool.get_or_create_instance("alice")
    assert again.id != instance.id
    texts = [frame async for frame in again.ask("history")]
    answers = [frame["message"]["content"][0]["text"] for frame in texts if frame["type"] == "assistant"]
    assert "the first words" in "".join(answers)


@pytest.mark.parametrize("name", ["", "..", "a/b", "/etc", "a\0b", "é", "-x", ".x", "a" * 65, "a..b"])
async def test_bad_names_are_refused(pool: ClaudeInstancePool, name: str) -> None:
    with pytest.raises(errors.InvalidName):
        await pool.get_or_create_instance(name)
    with pytest.raises(errors.InvalidName):
        await pool.get_or_create_instance("alice", name)
    assert pool.instances() == []


async def test_ids_that_differ_only_in_case_are_refused(pool: ClaudeInstancePool) -> None:
    await pool.create_session("alice", "Work")
    with pytest.raises(errors.Conflict):
        await pool.create_session("alice", "work")
