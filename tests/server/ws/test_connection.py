"""The chat socket, by a real client over a real connection."""

from __future__ import annotations

import asyncio
import json
import re
import socket as sockets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.server.site import Site, error_of, running
from tests.waiting import eventually


class Chat:
    """A client's end. Every wait has a deadline."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def say(self, **frame: Any) -> None:
        await self.socket.send_json(frame)

    async def hear(self, kind: str | None = None) -> dict[str, Any]:
        """The next frame, or the next of ``kind``."""
        while True:
            frame: dict[str, Any] = await asyncio.wait_for(self.socket.receive_json(), 10)
            if kind is None or frame["type"] == kind:
                return frame

    async def closed(self) -> int | None:
        """The code that the server closed with."""
        while True:
            message = await asyncio.wait_for(self.socket.receive(), 10)
            if message.type is aiohttp.WSMsgType.CLOSE:
                return int(message.data)
            if message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING):
                return self.socket.close_code


@asynccontextmanager
async def chatting(site: Site, user_id: str = "alice", **options: Any) -> AsyncIterator[Chat]:
    client = await site.client(user_id, **options)
    async with client.ws_connect("ws", max_msg_size=0) as socket:
        chat = Chat(socket)
        welcome = await chat.hear()
        assert (welcome["type"], welcome["protocol"], welcome["user_id"]) == ("welcome", 1, user_id)
        yield chat


async def test_without_a_credential_there_is_no_socket(site: Site) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await site.http.ws_connect("ws")
    assert refused.value.status == 401
    alice = await site.client("alice")
    async with alice.get("ws") as response:
        assert await error_of(response) == (400, "bad_request")


async def test_accepted_comes_before_any_frame_of_the_turn(site: Site) -> None:
    async with chatting(site) as chat:
        await chat.say(type="subscribe")
        subscribed = await chat.hear()
        assert (subscribed["type"], subscribed["session_id"]) == ("subscribed", "default")
        await chat.say(type="send", content="hi", message_id="m1")
        frames = [await chat.hear() for _ in range(5)]
        assert [frame["type"] for frame in frames] == ["accepted", "turn", "turn", "event", "turn"]
        assert frames[0] == {
            "type": "accepted",
            "session_id": "default",
            "message_id": "m1",
            "turn_id": "t0",
            "position": 0,
        }
        await chat.say(type="send", content="hi", message_id="m1")
        assert await chat.hear() == frames[0]
        await chat.say(type="send", content="ho", message_id="m1")
        error = await chat.hear()
        assert (error["code"], error["message_id"], error["session_id"]) == ("key_reused", "m1", "default")


async def test_sending_does_not_subscribe(site: Site) -> None:
    async with chatting(site) as chat:
        await chat.say(type="send", content="hi", message_id="m1", session_id="quiet")
        assert (await chat.hear())["type"] == "accepted"
        await chat.say(type="ping")
        assert await chat.hear() == {"type": "pong"}


async def test_two_viewers_see_the_same_and_one_can_leave(site: Site) -> None:
    async with chatting(site) as first, chatting(site) as second:
        for chat in (first, second):
            await chat.say(type="subscribe", session_id="s")
            await chat.hear("subscribed")
        await first.say(type="send", session_id="s", content="one", message_id="m1")
        seen = [await first.hear() for _ in range(5)][1:]
        assert [await second.hear() for _ in range(4)] == seen
        await second.say(type="unsubscribe", session_id="s")
        await second.say(type="ping")
        await second.hear("pong")
        await first.say(type="send", session_id="s", content="two", message_id="m2")
        await first.hear("event")
        await second.say(type="ping")
        assert (await second.hear())["type"] == "pong"


async def test_a_cursor_resumes_just_after_it_and_subscribing_again_replaces(site: Site) -> None:
    async with chatting(site) as chat:
        await chat.say(type="send", content="hi", message_id="m1")
        await chat.hear("accepted")
        await chat.say(type="subscribe", cursor="0")
        await chat.hear("subscribed")
        frames = [await chat.hear() for _ in range(4)]
        await chat.say(type="subscribe", cursor=frames[1]["cursor"])
        assert (await chat.hear())["cursor"] == frames[1]["cursor"]
        assert [await chat.hear() for _ in range(2)] == frames[2:]
        await chat.say(type="send", content="ho", message_id="m2")
        assert len({json.dumps(await chat.hear()) for _ in range(5)}) == 5
        await chat.say(type="ping")
        assert (await chat.hear())["type"] == "pong"


@pytest.mark.parametrize("cursor", ["x", "", "1.2", "-1.0.0", 5, ["0"], "1.2.3.4", "\u0660.1.1"])
async def test_what_is_no_cursor_is_refused_and_nothing_is_followed(site: Site, cursor: object) -> None:
    async with chatting(site) as chat:
        await chat.say(type="subscribe", session_id="s", cursor=cursor)
        error = await chat.hear()
        assert (error["type"], error["code"], error["session_id"]) == ("error", "bad_cursor", "s")
        await site.pool.submit("alice", "s", "hi", message_id="m")
        await chat.say(type="ping")
        assert (await chat.hear())["type"] == "pong"


@pytest.mark.parametrize("name", ["../x", "", 5, "a/b", "--flag", "x" * 65, {"a": 1}])
async def test_bad_names_are_refused(site: Site, name: object) -> None:
    async with chatting(site) as chat:
        await chat.say(type="send", session_id=name, content="x", message_id="m")
        error = await chat.hear()
        assert (error["code"], error["message_id"]) == ("invalid_name", "m")


async def test_approvals_models_modes_and_interrupts(site: Site) -> None:
    async with chatting(site) as chat:
        await chat.say(type="subscribe", session_id="s")
        await chat.hear("subscribed")
        site.pool.ask("alice", "s", "r1")
        await chat.say(type="permission", session_id="s", request_id="r1", decision="deny", message="no")
        assert (await chat.hear())["type"] == "permission_resolved"
        await chat.say(type="permission", session_id="s", request_id="r1", decision="allow")
        error = await chat.hear()
        assert (error["code"], error["request_id"]) == ("already_resolved", "r1")
        await chat.say(type="set_permission_mode", session_id="s", value="bypassPermissions")
        assert (await chat.hear())["code"] == "forbidden"
        await chat.say(type="set_permission_mode", session_id="s", value="plan")
        await chat.say(type="set_model", session_id="s", value="opus")
        await chat.say(type="interrupt", session_id="s")
        await chat.say(type="interrupt", session_id="none")
        assert (await chat.hear())["code"] == "not_found"
        session = site.pool.session("alice", "s")
        await eventually(lambda: "interrupt" in session.resolved)
        assert (session.info.permission_mode, session.info.model) == ("plan", "opus")


async def test_another_users_session_is_another_session(site: Site) -> None:
    await site.pool.submit("bob", "s", "secret", message_id="m")
    async with chatting(site, "alice") as chat:
        await chat.say(type="subscribe", session_id="s", cursor="0")
        assert (await chat.hear())["type"] == "subscribed"
        await chat.say(type="ping")
        assert (await chat.hear())["type"] == "pong"


async def test_a_token_that_only_reads_may_follow_but_not_send(site: Site) -> None:
    await site.pool.create_session("alice", "s")
    async with chatting(site, "alice", scopes=["read"]) as chat:
        await chat.say(type="subscribe", session_id="s")
        assert (await chat.hear())["type"] == "subscribed"
        await chat.say(type="subscribe", session_id="new")
        assert (await chat.hear())["code"] == "not_found"
        await chat.say(type="send", session_id="s", content="x", message_id="m")
        assert (await chat.hear())["code"] == "forbidden"


async def test_bad_frames_are_answered_and_ten_in_a_row_close(site: Site) -> None:
    async with chatting(site) as chat:
        for _ in range(9):
            await chat.socket.send_str("{")
            assert (await chat.hear())["code"] == "bad_frame"
        await chat.say(type="ping")
        await chat.hear("pong")
        for _ in range(5):
            await chat.socket.send_bytes(b"binary")
            await chat.socket.send_str('{"type":"nonsense"}')
        assert [(await chat.hear())["code"] for _ in range(10)] == ["bad_frame"] * 10
        assert await chat.closed() == 1008


async def test_large_frames_are_refused_and_huge_ones_close(short_dir: Path) -> None:
    async with running(short_dir, {"server": {"max_message_bytes": 2000}}) as site, chatting(site) as chat:
        await chat.say(type="send", content="x" * 1900, message_id="fits")
        assert (await chat.hear())["type"] == "accepted"
        for size in (2000, 3900):
            await chat.say(type="send", content="x" * size, message_id="m")
            error = await chat.hear()
            assert (error["code"], error["message_id"]) == ("too_large", "m")
        await chat.say(type="send", content="x" * 4100, message_id="m")
        assert await chat.closed() == 1009


async def test_errors_of_the_pool_reach_the_client_without_details(site: Site) -> None:
    site.pool.fails_with = RuntimeError("private")
    async with chatting(site) as chat:
        await chat.say(type="send", content="x", message_id="m")
        error = await chat.hear()
        assert (error["code"], error["message_id"]) == ("internal", "m")
        assert "private" not in str(error)


async def test_draining_tells_when_to_come_back(site: Site) -> None:
    site.pool.drain()
    async with chatting(site) as chat:
        await chat.say(type="send", content="x", message_id="m")
        error = await chat.hear()
        assert (error["code"], error["retry_after"]) == ("draining", 3)


async def test_a_slow_session_does_not_hold_up_another(site: Site) -> None:
    gate = asyncio.Event()
    site.pool.before_submit = gate.wait
    await site.pool.create_session("alice", "b")
    async with chatting(site) as chat:
        await chat.say(type="send", session_id="a", content="x", message_id="m")
        await chat.say(type="interrupt", session_id="b")
        session = site.pool.session("alice", "b")
        await eventually(lambda: "interrupt" in session.resolved)
        await chat.say(type="ping")
        assert (await chat.hear())["type"] == "pong"
        gate.set()
        assert (await chat.hear())["type"] == "accepted"


async def test_revoking_a_token_closes_what_it_opened_and_nothing_else(site: Site) -> None:
    async with chatting(site, "alice") as ended:
        (token,) = await site.services.sign_in.tokens("alice")
        async with chatting(site, "alice") as kept:
            await site.services.sign_in.revoke(token.jti)
            assert await ended.closed() == 4401
            await kept.say(type="ping")
            assert (await kept.hear())["type"] == "pong"


async def test_disabling_a_user_closes_all_of_theirs(site: Site) -> None:
    async with chatting(site, "alice") as one, chatting(site, "alice") as two, chatting(site, "bob") as bob:
        await site.services.users.set_disabled("alice", True)
        assert await one.closed() == 4401
        assert await two.closed() == 4401
        await bob.say(type="ping")
        assert (await bob.hear())["type"] == "pong"
    assert site.pool.stopped_users == ["alice"]


async def test_an_expired_credential_closes(site: Site) -> None:
    async with chatting(site, "alice", ttl_seconds=1) as chat:
        assert await chat.closed() == 4401


async def test_shutting_down_closes_with_1012(short_dir: Path) -> None:
    async with running(short_dir) as site, chatting(site) as chat:
        closing = asyncio.create_task(site.runner.cleanup())
        assert await chat.closed() == 1012
        await closing


async def test_a_client_that_does_not_read_is_skipped_and_catches_up(site: Site) -> None:
    alice = await site.client("alice")
    token = alice.headers["Authorization"]
    host, port = site.base.removeprefix("http://").split(":")
    with sockets.create_connection((host, int(port))) as slow:
        slow.sendall(
            f"GET /ws HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
            f"Authorization: {token}\r\n\r\n".encode()
        )
        frame = b'{"type":"subscribe","session_id":"s"}'
        slow.sendall(bytes([0x81, 0x80 | len(frame), 0, 0, 0, 0]) + frame)
        await eventually(lambda: ("alice", "s") in site.pool.sessions)
        session = site.pool.session("alice", "s")
        await eventually(lambda: bool(session.followers))
        follower = session.followers[0]
        text = "x" * 10_000
        for number in range(2000):
            session.publish({"type": "event", "event": {"number": number, "text": text}})
            if number % 20 == 0:
                await asyncio.sleep(0)
        assert follower.viewer.backlog_bytes < 2 * site.pool.budget
        assert follower.position < session.head
        received = bytearray()
        slow.setblocking(False)
        loop = asyncio.get_running_loop()
        while b'"number": 1999' not in received[-20_000:]:
            received += await asyncio.wait_for(loop.sock_recv(slow, 1 << 20), 10)
        numbers = re.findall(rb'"number": (\d+),', received)
        assert [int(number) for number in numbers] == list(range(2000))


async def test_a_client_that_asks_and_never_reads_is_not_answered_without_end(site: Site) -> None:
    async with chatting(site) as chat:
        for _ in range(5000):
            await chat.say(type="ping")
        assert [(await chat.hear())["type"] for _ in range(5000)] == ["pong"] * 5000
