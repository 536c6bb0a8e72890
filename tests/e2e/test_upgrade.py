"""A reload replaces server, keeper and gateway; those who talk to a session see a close code, no more."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from server.gateway.usage_journal import Entry, journal_files, read_entries
from tests.e2e.site import Client, Site, client, live_pid, serving
from tests.procfs import is_alive
from tests.waiting import eventually

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("forked_servers")]


def logged(site: Site, event: str) -> list[dict[str, Any]]:
    """The entries of the keeper's log with this name."""
    lines = (site.data / "keeper" / "keeper.log").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["event"] == event]


def entries_of(site: Site, pid: int) -> list[Entry]:
    """What one gateway has metered."""
    files = [path for path in journal_files(site.data) if f"-{pid}-" in path.name]
    return [entry for path in files for entry in read_entries(path, 0)[0]]


async def reload(site: Site, *viewers: Client) -> str:
    """Reload by command; the viewers come back. What the command said."""
    said = await asyncio.to_thread(site.command, "reload", "--force")
    for viewer in viewers:
        await eventually(lambda viewer=viewer: viewer.close_code == 1012)  # type: ignore[misc]
        await viewer.resume()
    return said


@pytest.mark.acceptance
async def test_a_reload_leaves_no_mark_in_a_stream(short_dir: Path, fake_claude: Path) -> None:
    text, expected = "stream 300 20", " ".join(f"w{n}" for n in range(300))
    async with serving(short_dir, fake_claude) as site:
        await reload_in_mid_stream(site, text, expected)
        assert len(logged(site, "keeper_upgraded")) == 1


async def reload_in_mid_stream(site: Site, text: str, expected: str) -> None:
    """One turn with a reload in it."""
    token = await site.add_user("alice")
    async with client(site, token) as viewer:
        await viewer.subscribe()
        await viewer.ended(await viewer.send("hello"))
        start, pid = len(viewer.frames), await live_pid(site, token)
        turn = await viewer.send(text)
        await eventually(lambda: len(viewer.streamed(start)) > 10)
        assert "the keeper runs the installed code" in await reload(site, viewer)
        assert (await viewer.ended(turn))["state"] == "succeeded"
        assert viewer.states(turn) == ["queued", "running", "succeeded"]
        assert await live_pid(site, token) == pid
        assert not viewer.of_type("gap")
        viewer.check_order()
        assert viewer.streamed(start) == viewer.answer(start) == expected
        # and the next one is as good
        await viewer.ended(await viewer.send("hello again"))


@pytest.mark.real_cli
@pytest.mark.acceptance
async def test_a_model_call_of_the_real_cli_goes_on_in_the_gateway_that_is_replaced(
    short_dir: Path, real_cli: Path
) -> None:
    numbers = "\n".join(str(n + 1) for n in range(5000))
    async with serving(short_dir, real_cli) as site:
        token = await site.add_user("alice")
        async with client(site, token) as viewer:
            await viewer.subscribe()
            await viewer.ended(await viewer.send("hello"))
            start, pid = len(viewer.frames), await live_pid(site, token)
            # it ends when the test has seen enough, however long the reload takes
            turn = await viewer.send("count to 5000 every 60 ms")
            await eventually(lambda: len(viewer.streamed(start)) > 10, 60)
            await reload(site, viewer)
            (replaced,) = logged(site, "gateway_replaced")
            seen = len(viewer.streamed(start))
            await eventually(lambda: len(viewer.streamed(start)) > seen + 60, 60)
            await viewer.put(type="interrupt")
            assert (await viewer.ended(turn))["state"] == "interrupted"
            assert numbers.startswith(viewer.streamed(start))
            assert not [event for event in viewer.events("system") if event.get("subtype") == "api_retry"]
            assert await live_pid(site, token) == pid
            viewer.check_order()
            await viewer.ended(await viewer.send("hello again"))
        # metered once, by the gateway that had been replaced long before
        await eventually(lambda: not is_alive(replaced["former"]), 20)
        by_former, by_new = (entries_of(site, replaced[name]) for name in ("former", "gateway_pid"))
        (call,) = [entry for entry in by_former if entry.at > replaced["time"]]
        assert (call.complete, call.input_tokens > 0) == (False, True)
        assert by_new, "the next call went to the new gateway"
        assert is_alive(replaced["gateway_pid"])


@pytest.mark.real_cli
@pytest.mark.acceptance
async def test_an_open_approval_outlives_the_upgrade(short_dir: Path, real_cli: Path) -> None:
    async with serving(short_dir, real_cli) as site:
        token = await site.add_user("alice")
        async with client(site, token) as viewer:
            await viewer.subscribe()
            turn = await viewer.send("create a file note.txt with hello")
            (ask,) = await eventually(lambda: viewer.of_type("permission_request"), 60)
            pid = await live_pid(site, token)
            await reload(site, viewer)
            answer = {"type": "permission", "request_id": ask["request_id"], "decision": "allow"}
            await viewer.put(**answer)
            assert (await viewer.ended(turn))["state"] == "succeeded"
            assert await live_pid(site, token) == pid
            assert len(viewer.of_type("permission_request")) == 1
        assert (site.data / "workspaces/alice/note.txt").read_text().strip() == "hello"
