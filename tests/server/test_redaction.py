"""A secret in any place of a request is in no line of the log."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from server.config import Logging
from server.logs import logging_to
from tests.server.site import Site, running
from tests.server.test_connections import HOST, said

SECRET = "canary9f31c2e7"
"""Nothing by its look: what is masked by its look is tested in ``test_logs``."""

HEADERS = (
    "Authorization",
    "Cookie",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-User",
    "Idempotency-Key",
    "Last-Event-ID",
    "If-Match",
    "Range",
    "Accept",
    "Accept-Language",
    "User-Agent",
    "Referer",
    "Sec-WebSocket-Protocol",
    "Content-Type",
    "Origin",
    "Host",
    SECRET,
)


@contextmanager
def log() -> Iterator[io.StringIO]:
    """All that is logged, at its most talkative."""
    stream = io.StringIO()
    with logging_to(stream, Logging(level="debug", format="json")):
        yield stream


@pytest.fixture
async def told(short_dir: Path) -> Any:
    with log() as stream:
        config = {"server": {"trusted_proxies": ["127.0.0.1"]}, "auth": {"proxy_header": "X-User"}}
        async with running(short_dir, config) as site:
            yield site, stream
    text = stream.getvalue()
    assert '"request"' in text, "the test has heard nothing"
    assert SECRET not in text, next(line for line in text.splitlines() if SECRET in line)


async def get(http: ClientSession, method: str, url: str, **options: Any) -> int:
    async with http.request(method, url, allow_redirects=False, **options) as answer:
        await answer.read()
        return answer.status


async def test_in_headers(told: tuple[Site, io.StringIO]) -> None:
    site, _stream = told
    client = await site.client("alice")
    for name in HEADERS:
        for value in (SECRET, f"Bearer {SECRET}", f"a={SECRET}", f"https://{SECRET}"):
            for path in ("api/v1/me", "livez", "nowhere"):
                await get(client, "GET", path, headers={name: value})
            await get(client, "POST", "api/v1/sessions", headers={name: value}, json={})


@pytest.mark.acceptance
async def test_in_every_field_path_and_query_of_the_interface(told: tuple[Site, io.StringIO]) -> None:
    site, _stream = told
    clients = [await site.client("alice"), await site.client("root", admin=True)]
    async with clients[0].get("api/v1/openapi.json") as answer:
        paths = (await answer.json())["paths"]
    for path, operations in paths.items():
        for method, operation in operations.items():
            url = path.lstrip("/")
            for parameter in operation.get("parameters", []):
                url = url.replace(f"{{{parameter['name']}}}", SECRET)
            queries = [p["name"] for p in operation.get("parameters", []) if p["in"] == "query"]
            schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            bodies: list[Any] = [{SECRET: SECRET}, {"x": [SECRET]}, SECRET]
            fields = await fields_of(clients[0], schema)
            bodies += [dict.fromkeys(fields, SECRET), {name: [SECRET] for name in fields}]
            for client in clients:
                if url.endswith("/events"):
                    continue
                for body in bodies if method != "get" else [None]:
                    query = dict.fromkeys(queries, SECRET)
                    await get(client, method.upper(), url, params=query, json=body)
                    await get(client, method.upper(), url, params={SECRET: SECRET}, json=body)
                await get(client, method.upper(), url, data=SECRET, headers={"Content-Type": SECRET})


async def fields_of(client: ClientSession, schema: dict[str, Any]) -> list[str]:
    name = schema.get("schema", {}).get("$ref", "").rpartition("/")[2]
    async with client.get("api/v1/openapi.json") as answer:
        known = (await answer.json())["components"]["schemas"]
    return list(known.get(name, {}).get("properties", {}))


async def test_in_frames(told: tuple[Site, io.StringIO]) -> None:
    site, _stream = told
    client = await site.client("alice")
    for frame in (
        SECRET,
        json.dumps({"type": SECRET}),
        json.dumps({"type": "subscribe", "session_id": SECRET, "cursor": SECRET}),
        json.dumps({"type": "send", "session_id": "default", "content": SECRET, "message_id": SECRET}),
        json.dumps({"type": "permission", "request_id": SECRET, "decision": SECRET}),
        json.dumps({"type": "set_model", "value": SECRET}),
        json.dumps({"type": "set_permission_mode", "value": SECRET}),
        json.dumps({"type": "ping", SECRET: SECRET}),
    ):
        async with client.ws_connect("ws") as socket:
            await socket.receive()
            await socket.send_str(frame)
            await socket.send_bytes(SECRET.encode())
            await socket.receive()


async def test_in_what_is_no_http(told: tuple[Site, io.StringIO]) -> None:
    site, _stream = told
    await get(site.http, "GET", "livez")
    for raw in (
        f"{SECRET} / HTTP/1.1\r\n\r\n",
        f"GET /{SECRET} HTTP/{SECRET}\r\n\r\n",
        f"GET / HTTP/1.1\r\n{SECRET}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: {SECRET}@\r\n\r\n",
        f"GET / HTTP/1.1\r\nExpect: {SECRET}\r\n{HOST.decode()}\r\n",
        f"POST / HTTP/1.1\r\n{HOST.decode()}Transfer-Encoding: {SECRET}\r\n\r\n",
    ):
        await said(site, raw.encode())


def test_nothing_else_writes_to_the_log_by_itself() -> None:
    """The libraries that could tell of contents are quiet."""
    with log():
        for name in ("sqlalchemy", "asyncio", "alembic"):
            assert not logging.getLogger(name).isEnabledFor(logging.INFO)
