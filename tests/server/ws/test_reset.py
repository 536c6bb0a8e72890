"""A client resets its connection while its WebSocket is being opened: nothing went wrong on our side."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from pathlib import Path

import pytest

from server.connections import Patience
from tests.server.site import Site, running
from tests.waiting import eventually


def reset(connection: socket.socket) -> None:
    """Close with a reset, as a client does that is killed or changes its network."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


async def opened_and_reset(site: Site, token: str, steps: int) -> None:
    """Ask for an upgrade and reset after so many turns of the loop."""
    connection = socket.create_connection(("127.0.0.1", int(site.origin.rpartition(":")[2])))
    words = (
        f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    connection.sendall(words.encode())
    for _ in range(steps):
        await asyncio.sleep(0)
    reset(connection)


async def test_a_reset_before_or_in_the_upgrade_is_counted_and_not_an_error(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with running(short_dir, patience=Patience()) as site:
        token = await site.token("alice")
        for steps in (*range(40), *[0] * 10):
            await opened_and_reset(site, token, steps)
        await eventually(lambda: not site.services.counts.connections.metric().samples[0][1])
        client = await site.client("alice")
        async with client.ws_connect("ws") as socket_:
            assert (await socket_.receive_json())["type"] == "welcome"
    bad = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not bad, [
        (record.name, record.getMessage(), vars(record).get("error"), record.exc_text) for record in bad
    ]
    assert site.services.counts.upgrades_lost.value() > 0
