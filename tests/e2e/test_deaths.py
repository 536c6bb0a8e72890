"""kill -9 of the gateway, the keeper and the CLI; SIGTERM to the server. The judge is ``/proc``."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.e2e.site import Client, Site, client, get, live_pid, serving
from tests.procfs import is_alive, marked_processes, process_tree
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("forked_servers")


def helper_pid(site: Site, module: str) -> int:
    """The pid of this site's keeper or gateway, by its command line."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if module.encode() in words and str(site.data).encode() in words:
                return int(entry.name)
    raise AssertionError(f"no {module} runs")


async def instance_ids(site: Site, token: str) -> list[str]:
    answer = await get(site, token, "/api/v1/instances")
    items = answer["instances"] if isinstance(answer, dict) else answer
    return [item["id"] for item in items]


def left_of(ids: Iterable[str]) -> list[object]:
    return list(marked_processes(*ids))


@pytest.mark.real_cli
@pytest.mark.acceptance
async def test_a_killed_gateway_costs_a_retry_and_no_turn(short_dir: Path, real_cli: Path) -> None:
    expected = "\n".join(str(n + 1) for n in range(80))
    async with serving(short_dir, real_cli) as site:
        token = await site.add_user("alice")
        async with client(site, token) as viewer:
            await viewer.subscribe()
            turn = await viewer.send("count to 80 every 20 ms")
            await eventually(lambda: "20" in viewer.streamed())
            pid = await live_pid(site, token)
            os.kill(helper_pid(site, "server.gateway"), signal.SIGKILL)
            assert (await viewer.ended(turn))["state"] == "succeeded"
            retries = [event for event in viewer.events("system") if event.get("subtype") == "api_retry"]
            assert len(retries) == 1
            assert viewer.answer() == expected
            assert viewer.streamed() == expected
            start = len(viewer.frames)
            await viewer.ended(await viewer.send("say it works again"))
            assert "it works again" in viewer.answer(start)
            assert await live_pid(site, token) == pid


async def keeper_dies(site: Site, users: int, first: str, recall: str) -> None:
    names = [f"user{n}" for n in range(users)]
    tokens = [await site.add_user(name) for name in names]
    clients = [Client(site, token) for token in tokens]
    try:
        for number, viewer in enumerate(clients):
            await viewer.connect()
            await viewer.subscribe()
            await viewer.ended(await viewer.send(f"{first} {number}"))
        ids = [instance_id for token in tokens for instance_id in await instance_ids(site, token)]
        assert len(ids) == users
        assert left_of(ids)
        os.kill(helper_pid(site, "pool.keeper"), signal.SIGKILL)
        await eventually(lambda: not left_of(ids), 5, what="nothing of the instances is left")
        for number, viewer in enumerate(clients):
            start = len(viewer.frames)
            turn = await viewer.send(recall)
            assert (await viewer.ended(turn))["state"] == "succeeded"
            assert f"{first} {number}".removeprefix("say ") in viewer.answer(start)
            viewer.check_order()
    finally:
        for viewer in clients:
            await viewer.close()


async def test_a_killed_keeper_leaves_nothing_and_conversations_go_on(
    short_dir: Path, fake_claude: Path
) -> None:
    async with serving(short_dir, fake_claude) as site:
        await keeper_dies(site, 5, "hello from", "history")


@pytest.mark.real_cli
@pytest.mark.acceptance
async def test_a_killed_keeper_and_the_real_cli(short_dir: Path, real_cli: Path) -> None:
    async with serving(short_dir, real_cli) as site:
        await keeper_dies(site, 2, "say hello from", "what did I say")


@pytest.mark.acceptance
async def test_a_keeper_killed_in_a_turn_loses_that_turn_only(short_dir: Path, fake_claude: Path) -> None:
    async with serving(short_dir, fake_claude) as site:
        token = await site.add_user("alice")
        async with client(site, token) as viewer:
            await viewer.subscribe()
            turn = await viewer.send("stream 1000 20")
            await eventually(lambda: "w3" in viewer.streamed())
            os.kill(helper_pid(site, "pool.keeper"), signal.SIGKILL)
            assert (await viewer.ended(turn))["state"] == "lost"
            assert (await viewer.ended(await viewer.send("hello")))["state"] == "succeeded"
            viewer.check_order()


@pytest.mark.real_cli
@pytest.mark.acceptance
async def test_a_killed_cli_is_told_once_and_the_next_one_remembers(short_dir: Path, real_cli: Path) -> None:
    async with serving(short_dir, real_cli) as site:
        token = await site.add_user("alice")
        async with client(site, token) as one, client(site, token) as two:
            await one.subscribe()
            await two.subscribe()
            await one.ended(await one.send("say the blue bird"))
            turn = await one.send("count to 100 every 20 ms")
            await eventually(lambda: "5" in one.streamed())
            pid = await live_pid(site, token)
            os.kill(pid, signal.SIGKILL)
            for viewer in (one, two):
                ending = await viewer.ended(turn)
                assert (ending["state"], ending["reason"]["signal"]) == ("lost", "SIGKILL")
            start = len(one.frames)
            recall = await one.send("what did I say")
            await one.ended(recall)
            assert "blue bird" in one.answer(start)
            assert await live_pid(site, token) != pid
            assert one.states(turn).count("lost") == two.states(turn).count("lost") == 1


async def test_sigterm_with_ten_running_turns_leaves_nothing(short_dir: Path, fake_claude: Path) -> None:
    users = 10
    async with serving(
        short_dir, fake_claude, pool__drain_timeout_seconds=2, pool__stop_grace_seconds=2
    ) as site:
        tokens = [await site.add_user(f"user{n}") for n in range(users)]
        clients = [Client(site, token) for token in tokens]
        turns = []
        for number, viewer in enumerate(clients):
            await viewer.connect()
            await viewer.subscribe()
            # Half of them end by themselves within the deadline, half are cut.
            turns.append(await viewer.send("stream 20 20" if number % 2 else "stream 5000 100"))
        await eventually(lambda: all("w3" in viewer.streamed() for viewer in clients))
        ids = [instance_id for token in tokens for instance_id in await instance_ids(site, token)]
        helpers = {helper_pid(site, "pool.keeper"), site.pid}
        tree = {process.pid for helper in helpers for process in process_tree(helper)} | helpers
        assert await site.stop() == 0
        await eventually(lambda: all(viewer.close_code is not None for viewer in clients))
        assert {viewer.close_code for viewer in clients} == {1012}
        assert not left_of(ids)
        assert not [pid for pid in tree if is_alive(pid)]
        await site.start()
        for number, (viewer, turn) in enumerate(zip(clients, turns, strict=True)):
            await viewer.resume()
            ending = await viewer.ended(turn)
            assert ending["state"] == ("succeeded" if number % 2 else "interrupted")
            viewer.check_order()
            await viewer.close()


@pytest.mark.acceptance
async def test_a_second_server_names_the_holder(short_dir: Path, fake_claude: Path) -> None:
    async with serving(short_dir, fake_claude) as site:
        second = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "server", "serve", "--port", "0", "--data", str(site.data)),
            stderr=asyncio.subprocess.PIPE,
            env=site.environment(),
        )
        _output, errors = await second.communicate()
        assert second.returncode == 1
        assert str(site.pid) in errors.decode()
