"""A WebSocket through a stand-by: each frame, ping and close as it was sent; 1012 when the owner is lost."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from pool.errors import Draining
from tests.server.replicas.stand_by import EPOCH, owning, standing_by
from tests.waiting import eventually


class Chat:
    """An owner's socket that does as it is told."""

    def __init__(self) -> None:
        self.app = web.Application()
        self.app.router.add_get("/ws", self.serve)
        self.app.router.add_get("/refused", self.refuse)
        self.open: list[web.WebSocketResponse] = []
        self.closed_with: list[int | None] = []
        self.pings: list[bytes] = []

    async def refuse(self, _request: web.Request) -> web.Response:
        raise Draining("it ends", retry_after_seconds=7)

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(max_msg_size=0, autoping=False, protocols=("chat",))
        await ws.prepare(request)
        self.open.append(ws)
        async for message in ws:
            if message.type is WSMsgType.PING:
                self.pings.append(message.data)
                await ws.pong(message.data)
            elif message.type is WSMsgType.PONG:
                self.pings.append(b"pong:" + bytes(message.data))
            elif message.type is WSMsgType.TEXT and message.data.startswith("close "):
                await ws.close(code=int(message.data.split()[1]), message=b"as told")
            elif message.type is WSMsgType.TEXT:
                await ws.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await ws.send_bytes(message.data)
        self.closed_with.append(ws.close_code)
        return ws


async def test_frames_of_any_size_go_through_in_order() -> None:
    chat = Chat()
    async with (
        owning(chat.app) as (owner, _),
        standing_by(owner, server={"max_message_bytes": 20_000_000}) as it,
    ):
        async with (
            aiohttp.ClientSession() as http,
            http.ws_connect(f"{it.url}/ws", max_msg_size=0, protocols=("chat",)) as ws,
        ):
            assert ws.protocol == "chat"
            large = os.urandom(20_000_000)
            text = "é" * 1_000_000
            for number in range(50):
                await ws.send_str(str(number))
            await ws.send_bytes(large)
            await ws.send_str(text)
            for number in range(50):
                assert await ws.receive_str() == str(number)
            assert await ws.receive_bytes() == large
            assert await ws.receive_str() == text
        await eventually(lambda: chat.closed_with == [1000])


async def test_pings_are_the_other_ends_to_answer() -> None:
    chat = Chat()
    async with (
        owning(chat.app) as (owner, _),
        standing_by(owner) as it,
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{it.url}/ws", autoping=False) as ws,
    ):
        await ws.ping(b"are you there")
        message = await ws.receive()
        assert (message.type, bytes(message.data)) == (WSMsgType.PONG, b"are you there")
        await chat.open[0].ping(b"and you")
        message = await ws.receive()
        assert (message.type, bytes(message.data)) == (WSMsgType.PING, b"and you")
        await ws.pong(b"and you")
        await eventually(lambda: b"pong:and you" in chat.pings)


@pytest.mark.parametrize("code", [1000, 1008, 1012, 4401])
async def test_the_owners_close_is_the_clients(code: int) -> None:
    chat = Chat()
    async with (
        owning(chat.app) as (owner, _),
        standing_by(owner) as it,
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{it.url}/ws") as ws,
    ):
        await ws.send_str(f"close {code}")
        message = await ws.receive()
        assert (message.type, message.data, message.extra) == (WSMsgType.CLOSE, code, "as told")


async def test_the_clients_close_is_the_owners() -> None:
    chat = Chat()
    async with owning(chat.app) as (owner, _), standing_by(owner) as it, aiohttp.ClientSession() as http:
        async with http.ws_connect(f"{it.url}/ws") as ws:
            await ws.close(code=4000)
        await eventually(lambda: chat.closed_with == [4000])
        async with http.ws_connect(f"{it.url}/ws") as ws:
            connection = ws._response.connection
            assert connection is not None
            assert connection.transport is not None
            connection.transport.abort()
        await eventually(lambda: chat.closed_with == [4000, 1001])


async def cut(chat: Chat) -> None:
    request: Any = chat.open[0]._req
    request.transport.abort()


@pytest.mark.parametrize("how", ["cut", "another owns", "the stand-by ends"])
async def test_a_lost_owner_is_told_as_a_restart(how: str) -> None:
    chat = Chat()
    async with owning(chat.app) as (owner, _), aiohttp.ClientSession() as http:
        async with standing_by(owner) as it:
            ws = await http.ws_connect(f"{it.url}/ws")
            await ws.send_str("hello")
            assert await ws.receive_str() == "hello"
            if how == "cut":
                await cut(chat)
            elif how == "another owns":
                it.owned_by("http://127.0.0.1:9", EPOCH + 1)
            else:
                await it.watch.let_go()
            message = await ws.receive()
            assert (message.type, message.data) == (WSMsgType.CLOSE, 1012)
        await ws.close()


async def test_what_the_owner_refuses_is_refused_with_its_status() -> None:
    chat = Chat()
    async with owning(chat.app) as (owner, _), standing_by(owner) as it, aiohttp.ClientSession() as http:
        for path, status, after in (("/refused", 503, "7"), ("/nowhere", 404, None)):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await http.ws_connect(f"{it.url}{path}")
            assert refused.value.status == status
            assert refused.value.headers is not None
            assert refused.value.headers.get("Retry-After") == after


async def test_a_message_above_the_bound_is_refused_as_the_owner_would() -> None:
    chat = Chat()
    async with owning(chat.app) as (owner, _), standing_by(owner, server={"max_message_bytes": 1024}) as it:
        async with aiohttp.ClientSession() as http, http.ws_connect(f"{it.url}/ws") as ws:
            await ws.send_bytes(os.urandom(3000))
            message = await ws.receive()
            assert (message.type, message.data) == (WSMsgType.CLOSE, 1009)
        await eventually(lambda: len(chat.closed_with) == 1)
        await asyncio.sleep(0)
