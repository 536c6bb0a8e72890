"""One session, wanted by fifty callers at once over WebSocket, REST and Python: one process, or one error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from pool import ClaudeInstancePool, PoolConfig, Quota, QuotaBook, errors
from server.app import build_app, build_services
from server.auth.passwords import Passwords
from server.services import Services
from server.settings import load_config
from tests.procfs import marked_processes

CALLERS = 51
OUTCOMES = {"succeeded", "failed", "interrupted", "lost", "withdrawn"}


@dataclass
class House:
    """A real pool and the real server around it, in this process."""

    pool: ClaudeInstancePool
    url: str
    token: str
    services: Services

    def http(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(headers={"Authorization": f"Bearer {self.token}"})


@asynccontextmanager
async def house(directory: Path, cli: Path) -> AsyncIterator[House]:
    """Everything but the process boundary between the server and the test."""
    config = PoolConfig(
        data_dir=directory / "data",
        runtime_dir=directory / "run",
        cli_path=cli,
        gateway_command=(),
        check_cli=False,
        stop_grace_seconds=2,
        quotas=QuotaBook(default=Quota(max_queued_turns=None, turns_per_minute=None)),
    )
    pool = ClaudeInstancePool(config)
    await pool.start()
    try:
        async with Passwords() as passwords:
            services = build_services(load_config(None, {}, None), pool, config.data_dir, passwords)
            runner = web.AppRunner(build_app(services), shutdown_timeout=2)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            account = await services.users.add("alice", admin=False)
            token = (await services.sign_in.issue(account, kind="api")).token
            yield House(pool, f"http://127.0.0.1:{runner.addresses[0][1]}", token, services)
            await runner.cleanup()
    finally:
        await pool.shutdown(drain_timeout_seconds=0)


def behave(place: House, **plan: str) -> None:
    workspace = place.pool.config.data_dir / "workspaces/alice"
    workspace.mkdir(parents=True, exist_ok=True)
    (workspace / ".fake-claude.json").write_text(json.dumps(plan))


async def over_websocket(place: House, number: int) -> dict[str, Any]:
    """Send a message and follow its turn to the end: the ending."""
    async with place.http() as http, http.ws_connect(f"{place.url}/ws") as socket:
        await socket.send_json({"type": "subscribe"})
        await socket.send_json({"type": "send", "content": "hello", "message_id": f"ws-{number}"})
        turn_id = None
        async for message in socket:
            frame: dict[str, Any] = json.loads(message.data)
            assert frame["type"] != "error", frame
            if frame["type"] == "accepted":
                turn_id = frame["turn_id"]
            if frame["type"] == "turn" and frame["turn_id"] == turn_id and frame["state"] in OUTCOMES:
                return frame
    raise AssertionError("the socket was closed")


async def over_rest(place: House, number: int) -> dict[str, Any]:
    """Post a message and read the log until its turn has ended: the ending."""
    async with place.http() as http:
        url = f"{place.url}/api/v1/sessions/default"
        async with http.post(
            f"{url}/messages", json={"content": "hello"}, headers={"Idempotency-Key": f"rest-{number}"}
        ) as answer:
            assert answer.status == 202, await answer.text()
            turn_id = (await answer.json())["turn_id"]

        async def ending() -> list[dict[str, Any]]:
            async with http.get(f"{url}/history?limit=500&after=0") as page:
                frames: list[dict[str, Any]] = (await page.json())["frames"]
            return [
                frame
                for frame in frames
                if frame["type"] == "turn" and frame["turn_id"] == turn_id and frame["state"] in OUTCOMES
            ]

        async with asyncio.timeout(30):
            while not (ended := await ending()):
                await asyncio.sleep(0.25)
        return ended[0]


async def over_python(place: House, _number: int) -> object:
    """Ask for the instance: its handle."""
    return await place.pool.get_or_create_instance("alice")


async def everybody(place: House) -> list[Any]:
    ways = (over_websocket, over_rest, over_python)
    return await asyncio.gather(*(ways[n % 3](place, n) for n in range(CALLERS)), return_exceptions=True)


async def test_everybody_gets_the_one_process(short_dir: Path, fake_claude: Path) -> None:
    async with house(short_dir, fake_claude) as place:
        behave(place, start="!sleep 1")
        results = await everybody(place)
        assert not [result for result in results if isinstance(result, BaseException)]
        (info,) = place.pool.instances()
        handles = {result.id for result in results[2::3]}
        assert handles == {info.id}
        endings = [result for n, result in enumerate(results) if n % 3 != 2]
        assert {ending["state"] for ending in endings} == {"succeeded"}
        assert info.turns == len(endings)
        assert marked_processes(info.id)


async def test_everybody_gets_the_one_error_and_the_next_call_works(
    short_dir: Path, fake_claude: Path
) -> None:
    async with house(short_dir, fake_claude) as place:
        behave(place, start="!sleep 1 !exit 3")
        results = await everybody(place)
        for number, result in enumerate(results):
            if number % 3 == 2:
                assert isinstance(result, errors.LaunchFailed)
                assert result.details["exit_code"] == 3
            else:
                assert (result["state"], result["reason"]["code"]) == ("failed", "launch_failed")
                assert result["reason"]["exit_code"] == 3
        assert place.pool.instances() == []
        behave(place)
        assert (await over_websocket(place, 1000))["state"] == "succeeded"
        assert len(place.pool.instances()) == 1
