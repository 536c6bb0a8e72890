"""Frames on ``/ws`` and raw bytes on the port, of every kind that Hypothesis thinks of."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from tests.fuzz.ground import SECONDS, Ground, ground, rounds

pytestmark = [pytest.mark.timeout(int(SECONDS) + 180), pytest.mark.usefixtures("forked_servers")]

_EXAMPLES = 60 if SECONDS else 10
_ANSWER_SECONDS = 30.0
_QUIET_SECONDS = 0.15

sessions = st.sampled_from(["default", "second", "", "..", "a/b", "x" * 65, "bob:default"]) | st.text(
    max_size=8
)
texts = st.text(max_size=60)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | sessions,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)
cursors = st.sampled_from(["0", "1.0.0", "9.9.9", "-1.0.0", "1.2", "99999999999999999999.1.1"]) | texts
blocks = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": texts}), max_size=3)
decisions = st.sampled_from(["allow", "deny", "maybe"])
scopes = st.sampled_from(["once", "session", "always", "ever"])
modes = texts | st.sampled_from(["plan", "bypassPermissions", "default"])
session = {"session_id": sessions}


def frame(kind: str, needed: dict[str, Any], more: dict[str, Any] | None = None) -> st.SearchStrategy[Any]:
    """A frame with the fields that it takes."""
    return st.fixed_dictionaries({"type": st.just(kind), **needed}, optional=more or {})


fields = st.one_of(
    frame("subscribe", session, {"cursor": cursors}),
    frame("unsubscribe", session),
    frame("send", {"content": texts | blocks, "message_id": texts}, {**session, "literal": st.booleans()}),
    frame("interrupt", {}, session),
    frame(
        "permission",
        {"request_id": texts, "decision": decisions},
        {**session, "scope": scopes, "message": texts, "updated_input": values},
    ),
    frame("set_model", {"value": texts}, session),
    frame("set_permission_mode", {"value": modes}, session),
    frame("ping", {}),
)
spoilt = st.builds(lambda one, more: {**one, **more}, fields, st.dictionaries(texts, values, max_size=2))
frames = st.one_of(
    fields.map(json.dumps),
    fields.map(json.dumps),
    spoilt.map(json.dumps),
    values.map(json.dumps),
    st.builds(lambda one, at: json.dumps(one)[:at], fields, st.integers(0, 80)),
    texts,
    st.sampled_from(
        ["[" * 5000, '{"type":' * 2000, "9" * 20000, "\\ud800", '{"type":"send","content":"\\ud800"}']
    ),
)
frames_sent = st.lists(frames | st.binary(max_size=40), min_size=1, max_size=8)


def attacks(seed: int) -> Callable[..., Any]:
    """Hypothesis, the same for the same seed."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        chosen = settings(
            max_examples=_EXAMPLES,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        return seeded(seed)(chosen(test))

    return decorate


async def test_no_frame_breaks_the_socket_or_tells_of_others(short_dir: Path, fake_claude: Path) -> None:
    async with ground(short_dir, fake_claude) as here, aiohttp.ClientSession() as http:
        loop = asyncio.get_running_loop()

        def wait_for(work: Awaitable[None]) -> None:
            asyncio.run_coroutine_threadsafe(_awaited(work), loop).result()

        for seed in rounds(0.25):

            @attacks(seed)
            @given(frames_sent)
            def attack(sent: list[str | bytes]) -> None:
                wait_for(_talk(here, http, sent))

            await asyncio.to_thread(attack)
        print(f"\nframes answered by type: {dict(here.counts)}")


async def _awaited(work: Awaitable[None]) -> None:
    await work


async def _talk(here: Ground, http: aiohttp.ClientSession, sent: list[str | bytes]) -> None:
    """Everything is answered, and the socket lives on unless it was closed for bad frames."""
    headers = {"Authorization": f"Bearer {here.tokens['alice']}"}
    async with http.ws_connect(f"{here.site.url}/ws", headers=headers) as socket:
        for one in sent:
            with contextlib.suppress(ConnectionError):
                if isinstance(one, bytes):
                    await socket.send_bytes(one)
                else:
                    # Also as a text frame what is no text: the parser has to say so.
                    await socket.send_frame(one.encode("utf-8", "surrogatepass"), aiohttp.WSMsgType.TEXT)
        with contextlib.suppress(ConnectionError):
            await socket.send_str('{"type":"ping"}')
        is_alive = False
        while True:
            # Commands are carried out beside the ping: what they lead to may come after its answer.
            try:
                message = await socket.receive(_QUIET_SECONDS if is_alive else _ANSWER_SECONDS)
            except TimeoutError:
                assert is_alive, sent
                break
            if message.type is not aiohttp.WSMsgType.TEXT:
                assert is_alive or socket.close_code in (1007, 1008, 1009), (socket.close_code, sent)
                break
            here.check_answer(message.data.encode(), "", of="alice")
            told = json.loads(message.data)
            here.counts[f"{told['type']} {told.get('code', '')}".strip()] += 1
            assert told.get("code") != "internal", (sent, told)
            assert told.get("user_id", "alice") == "alice"
            is_alive = is_alive or told["type"] == "pong"


# --- raw bytes ---------------------------------------------------------------------------

_LAST = b"\r\n\r\nGET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
methods = st.sampled_from(
    ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "PRI", "X"]
)
paths = st.sampled_from(
    ["/", "/ws", "/api/v1/me", "/api/v1/sessions", "/api/v1/auth/login", "/livez", "*", "//"]
)
names = st.sampled_from(
    [
        "Host",
        "Content-Length",
        "Transfer-Encoding",
        "Content-Encoding",
        "Content-Type",
        "Connection",
        "Upgrade",
        "Expect",
        "Cookie",
        "Authorization",
        "Origin",
        "Range",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Version",
        "X-Forwarded-For",
        "Last-Event-ID",
        "Idempotency-Key",
    ]
)
header_values = st.sampled_from(
    [
        "127.0.0.1",
        "localhost:1",
        "0",
        "5",
        "-1",
        "99999999999999999999",
        "chunked",
        "gzip",
        "deflate, br",
        "application/json",
        "upgrade",
        "websocket",
        "100-continue",
        "close",
        "13",
        "bytes=0-",
    ]
) | st.text(st.characters(max_codepoint=255), max_size=20)
requests = st.builds(
    lambda method, path, more, version, headers, body: (
        f"{method} {path}{more} HTTP/{version}\r\n".encode("latin-1", "replace")
        + b"".join(f"{name}: {value}\r\n".encode("latin-1", "replace") for name, value in headers)
        + b"\r\n"
        + body
    ),
    methods,
    paths,
    st.just("") | st.just("?after=0&limit=x") | st.text(max_size=12),
    st.sampled_from(["1.1", "1.1", "1.1", "1.0", "0.9", "2.0"]),
    st.lists(st.tuples(names, header_values), max_size=6).map(lambda some: [("Host", "127.0.0.1"), *some]),
    st.binary(max_size=40) | st.sampled_from([b"5\r\nhello\r\n0\r\n\r\n", b"{}", b"fffffffffff\r\n"]),
)


def _spoil(raw: bytes, at: int, byte: int) -> bytes:
    at %= len(raw) + 1
    return raw[:at] + bytes([byte]) + raw[at + 1 :]


raws = st.one_of(
    requests,
    st.builds(_spoil, requests, st.integers(0, 300), st.integers(0, 255)),
    st.binary(max_size=200),
    st.lists(requests, min_size=2, max_size=4).map(b"".join),
)


@pytest.mark.acceptance
async def test_no_bytes_break_the_port_or_tell_of_others(short_dir: Path, fake_claude: Path) -> None:
    async with ground(short_dir, fake_claude) as here:
        for seed in rounds(0.15):

            @attacks(seed)
            @given(raws, st.booleans())
            def attack(raw: bytes, is_signed_in: bool) -> None:
                if is_signed_in:
                    raw = raw.replace(
                        b"\r\n\r\n", f"\r\nAuthorization: Bearer {here.tokens['alice']}\r\n\r\n".encode(), 1
                    )
                asyncio.run(_say(here, raw))

            await asyncio.to_thread(attack)
        print(f"\nanswers to raw bytes by status: {dict(sorted(here.counts.items()))}")


async def _say(here: Ground, raw: bytes) -> None:
    """Whatever the bytes are: answers that are none of 500, or an end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", here.site.port)
    try:
        writer.write(raw + _LAST)
        answer = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            # A body that was announced and does not come is waited for longer than we do.
            async with asyncio.timeout(0.3):
                while piece := await reader.read(65536):
                    answer += piece
        here.check_answer(answer, "", of="alice")
        for line in answer.split(b"\r\n"):
            if line.startswith(b"HTTP/1."):
                status = line.split()[1].decode()
                here.counts[status] += 1
                assert status not in ("500", "502", "504"), (raw, answer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
