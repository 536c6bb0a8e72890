"""The event stream: resume, heartbeat, ends."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from server import sse
from tests.server.site import Site, error_of, running
from tests.waiting import eventually


class Stream:
    """A client's end of an event stream."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def line(self) -> str:
        return (await asyncio.wait_for(self.response.content.readline(), 10)).decode().rstrip("\n")

    async def event(self) -> tuple[str | None, dict[str, Any]]:
        """(id, frame) of the next event."""
        name = None
        while True:
            line = await self.line()
            if line.startswith("id: "):
                name = line.removeprefix("id: ")
            elif line.startswith("data: "):
                return name, msgspec.json.decode(line.removeprefix("data: "))


async def test_events_carry_cursors_to_resume_from(site: Site) -> None:
    alice = await site.client("alice")
    await site.pool.submit("alice", "s", "hi", message_id="m1")
    async with alice.get("api/v1/sessions/s/events", params={"after": "0"}) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        stream = Stream(response)
        events = [await stream.event() for _ in range(5)]
    assert events[0][1]["type"] == "subscribed"
    assert [frame["type"] for _, frame in events[1:]] == ["turn", "turn", "event", "turn"]
    assert [name for name, _ in events] == [frame["cursor"] for _, frame in events]
    headers = {"Last-Event-ID": str(events[2][0])}
    async with alice.get("api/v1/sessions/s/events?after=0", headers=headers) as response:
        stream = Stream(response)
        assert (await stream.event())[0] == events[2][0]
        assert [await stream.event() for _ in range(2)] == events[3:]
        await site.pool.submit("alice", "s", "ho", message_id="m2")
        assert (await stream.event())[1]["type"] == "turn"


def test_a_gap_is_no_place_to_resume_from() -> None:
    frame = b'{"type":"gap","session_id":"s","from":"1.0.0","to":"2.0.0"}'
    assert sse.as_event(frame) == b"data: " + frame + b"\n\n"


@pytest.mark.parametrize("cursor", ["x", "1.2"])
async def test_what_is_no_cursor_is_refused(site: Site, cursor: str) -> None:
    await site.pool.create_session("alice", "s")
    alice = await site.client("alice")
    async with alice.get("api/v1/sessions/s/events", params={"after": cursor}) as response:
        assert await error_of(response) == (400, "bad_cursor")
    async with alice.get("api/v1/sessions/s/events", headers={"Last-Event-ID": cursor}) as response:
        assert await error_of(response) == (400, "bad_cursor")
    assert len(site.services.live) == 0


async def test_a_silent_stream_has_heartbeats(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0.05)
    await site.pool.create_session("alice", "s")
    alice = await site.client("alice")
    async with alice.get("api/v1/sessions/s/events") as response:
        stream = Stream(response)
        await stream.event()
        while not (await stream.line()).startswith(":"):
            pass


async def test_a_client_that_left_is_forgotten(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0.05)
    await site.pool.create_session("alice", "s")
    alice = await site.client("alice")
    async with alice.get("api/v1/sessions/s/events") as response:
        await Stream(response).event()
        assert len(site.pool.session("alice", "s").followers) == 1
    await eventually(lambda: not site.pool.session("alice", "s").followers)
    await eventually(lambda: len(site.services.live) == 0)


async def test_revoking_the_token_ends_the_stream(site: Site) -> None:
    await site.pool.create_session("alice", "s")
    alice = await site.client("alice")
    async with alice.get("api/v1/sessions/s/events") as response:
        stream = Stream(response)
        await stream.event()
        async with alice.post("api/v1/auth/logout"):
            pass
        assert (await stream.event())[1]["code"] == "unauthorized"
        assert await asyncio.wait_for(response.content.read(), 10) in (b"", b"\n")


async def test_revoking_cuts_a_client_that_does_not_read(site: Site) -> None:
    await site.pool.create_session("alice", "s")
    session = site.pool.session("alice", "s")
    alice = await site.client("alice")
    async with alice.get("api/v1/sessions/s/events"):
        await eventually(lambda: bool(session.followers))
        for number in range(2000):
            session.publish({"type": "event", "event": {"number": number, "text": "x" * 10_000}})
        await asyncio.sleep(0.1)
        await site.services.users.set_disabled("alice", True)
        await eventually(lambda: not session.followers)


async def test_shutting_down_ends_the_stream(short_dir: Path) -> None:
    async with running(short_dir) as site:
        await site.pool.create_session("alice", "s")
        alice = await site.client("alice")
        async with alice.get("api/v1/sessions/s/events") as response:
            stream = Stream(response)
            await stream.event()
            await site.runner.cleanup()
            assert await asyncio.wait_for(response.content.read(), 10) in (b"", b"\n")


async def test_a_client_that_does_not_read_is_skipped_and_catches_up(site: Site) -> None:
    await site.pool.create_session("alice", "s")
    session = site.pool.session("alice", "s")
    alice = await site.client("alice")
    async with alice.get("api/v1/sessions/s/events") as response:
        await eventually(lambda: bool(session.followers))
        follower = session.followers[0]
        for number in range(2000):
            session.publish({"type": "event", "event": {"number": number, "text": "x" * 10_000}})
            if number % 20 == 0:
                await asyncio.sleep(0)
        assert follower.viewer.backlog_bytes < 2 * site.pool.budget
        assert follower.position < session.head
        stream = Stream(response)
        await stream.event()
        response.content._high_water = 1 << 30
        for number in range(2000):
            assert (await stream.event())[1]["event"]["number"] == number
