"""A server that is told to stop: while it starts, and with children that do not want to go."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.site import Client, Site, serving
from tests.e2e.test_deaths import instance_ids, left_of
from tests.procfs import Process, processes
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("forked_servers")


def belonging_to(site: Site) -> list[Process]:
    """Every process that names the data directory: server, keeper, gateway."""
    return [p for p in processes() if not p.is_zombie and any(str(site.data) in word for word in p.argv)]


def keeper_is_there(site: Site) -> bool:
    return any("pool.keeper" in process.argv for process in belonging_to(site))


MOMENTS: dict[str, Callable[[Site], bool]] = {
    "at once": lambda site: bool(belonging_to(site)),
    "with its database": lambda site: (site.data / "claude-pool.db").exists(),
    "with its keeper": keeper_is_there,
}


@pytest.mark.parametrize(
    "moment",
    [pytest.param(name, marks=pytest.mark.acceptance) if name != "at once" else name for name in MOMENTS],
)
async def test_a_server_that_is_stopped_while_it_starts_leaves_nothing(
    short_dir: Path, fake_claude: Path, moment: str
) -> None:
    site = Site(short_dir, fake_claude)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server", "serve", "--port", str(site.port), "--data", str(site.data)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=site.environment(),
    )
    await eventually(lambda: MOMENTS[moment](site), 60)
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(45):
        assert process.stdout is not None
        await process.stdout.read()
        code = await process.wait()
    # Before it listens to signals it ends as any program; from then on it ends in order.
    assert code in ((0, -signal.SIGTERM) if moment == "at once" else (0,))
    await eventually(lambda: not belonging_to(site), what=f"an end of {belonging_to(site)}")
    await site.start()
    assert await site.stop() == 0
    assert not belonging_to(site)


def wants_to_stay(site: Site, user: str) -> None:
    workspace = site.data / "workspaces" / user
    workspace.mkdir(parents=True, exist_ok=True)
    plan = {"start": "!ignore-term !ignore-eof !double-fork"}
    (workspace / ".fake-claude.json").write_text(json.dumps(plan))


@pytest.mark.parametrize("users", [pytest.param(count, marks=pytest.mark.acceptance) for count in (6, 100)])
async def test_children_that_want_to_stay_are_gone_by_the_deadline(
    short_dir: Path, fake_claude: Path, users: int
) -> None:
    settings = {"pool__drain_timeout_seconds": 3, "pool__stop_grace_seconds": 2}
    async with serving(short_dir, fake_claude, pool__max_instances=users, **settings) as site:
        tokens = [await site.add_user(f"user{n}") for n in range(users)]
        for number in range(3):
            wants_to_stay(site, f"user{number}")
        viewers = [Client(site, token) for token in tokens]
        for viewer in viewers:
            await viewer.connect()
            await viewer.subscribe()
        # The stubborn ones are in the middle of a turn, deaf to everything; the others rest.
        turns = [await viewer.send("hello !freeze" if n < 3 else "hello") for n, viewer in enumerate(viewers)]
        for viewer, turn in list(zip(viewers, turns, strict=True))[3:]:
            await viewer.ended(turn, 120)
        await eventually(
            lambda: all("running" in v.states(t) for v, t in list(zip(viewers, turns, strict=True))[:3])
        )
        ids = [one for token in tokens for one in await instance_ids(site, token)]
        assert len(ids) == users
        stopping = asyncio.create_task(site.stop(), name="stop")
        refusal = await refused(site, tokens[-1])
        assert refusal is None or refusal.get("Retry-After")
        assert await stopping == 0
        await eventually(lambda: all(viewer.close_code is not None for viewer in viewers))
        assert {viewer.close_code for viewer in viewers} == {1012}
        assert not left_of(ids)
        assert not belonging_to(site)
        for viewer in viewers:
            await viewer.close()


async def refused(site: Site, token: str) -> dict[str, str] | None:
    """The headers of the first refusal of a message; None when the server was gone before it said one."""
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(headers=headers) as http:
        for _ in range(400):
            try:
                url = f"{site.url}/api/v1/sessions/other/messages"
                async with http.post(url, json={"content": "hello"}) as answer:
                    if answer.status == 503:
                        return dict(answer.headers)
            except aiohttp.ClientError:
                return None
            await asyncio.sleep(0.02)
    raise AssertionError("a server that stops took new work for too long")
