"""A database with rows that cannot be read: the server starts, and only their session feels it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from pool.store.engines import DATABASE_NAME
from tests.e2e.site import Client, Site, client, get, live_pid, serving
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("forked_servers")


def spoil(site: Site) -> None:
    """As another version, or a hand at the database, leaves it: every way that stopped a start."""
    bad = "session = (SELECT id FROM sessions WHERE session_id = 'bad')"
    with closing(sqlite3.connect(site.data / DATABASE_NAME)) as database, database:
        database.execute(f"UPDATE turns SET state = 'thinking' WHERE {bad} AND state = 'awaiting'")
        database.execute(f"UPDATE permissions SET request = '{{\"secret' WHERE {bad}")
        database.execute("UPDATE sessions SET state = 'hibernating' WHERE session_id IN ('bad', 'rest')")


async def states(site: Site, token: str) -> dict[str, Any]:
    found = await get(site, token, "/api/v1/sessions")
    return {one["session_id"]: one["state"] for one in found["sessions"]}


async def running_turn(viewer: Client, session: str, text: str) -> str:
    await viewer.subscribe(session)
    turn = await viewer.send(text, session)
    await eventually(lambda: "running" in viewer.states(turn))
    return turn


async def test_a_server_starts_with_rows_that_it_cannot_read(short_dir: Path, fake_claude: Path) -> None:
    async with serving(short_dir, fake_claude) as site:
        token = await site.add_user("alice")
        async with client(site, token) as viewer:
            await viewer.subscribe("rest")
            await viewer.ended(await viewer.send("hello", "rest"))
            good = await running_turn(viewer, "good", "stream 300 10")
            bad = await running_turn(viewer, "bad", "write note.txt hello")
            await eventually(lambda: viewer.of_type("permission_request"))
            pids = {name: await live_pid(site, token, name) for name in ("good", "bad")}
            await site.kill()
            spoil(site)
            await site.start()
            # The list is whole, over REST; the bad ones are shown as what they are.
            assert await states(site, token) == {"good": "live", "bad": "faulted", "rest": "faulted"}
            # The other turn goes on in the same process, without a mark in its stream.
            await viewer.resume("good")
            assert (await viewer.ended(good))["state"] == "succeeded"
            assert viewer.states(good) == ["queued", "running", "succeeded"]
            assert await live_pid(site, token, "good") == pids["good"]
            # Over the WebSocket the bad one tells why; it asks for nothing and its process is gone.
            await viewer.subscribe("bad", "0")
            ending = await viewer.ended(bad)
            assert (ending["state"], ending["reason"]["code"]) == ("lost", "not_restored")
            await eventually(lambda: not os.path.exists(f"/proc/{pids['bad']}"))
            # Its owner begins anew in one, and puts the other one away.
            assert (await viewer.ended(await viewer.send("hello", "bad")))["state"] == "succeeded"
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as http,
            http.delete(f"{site.url}/api/v1/sessions/rest") as answer,
        ):
            assert answer.status == 204
        assert set(await states(site, token)) == {"good", "bad"}
        # Operators read which rows these were, and nothing of what stands in them.
        log = site.log()
        assert log.count("a row of the database cannot be read") == 4
        assert "secret" not in log
        assert "hibernating" not in log
        assert "ok   rows: every session can be read" in site.command("doctor")
        await site.kill()
        spoil(site)
        assert "warn rows: cannot be read: sessions " in site.command("doctor")
