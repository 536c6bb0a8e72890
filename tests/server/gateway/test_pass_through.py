"""Calls passed through to a provider: the same bytes both ways, another credential, nothing kept."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from server.gateway import write_gateway_config
from tests.server.gateway.harness import (
    DEADLINE,
    DUMMY,
    KEY,
    Script,
    Upstream,
    asking,
    gateway_here,
    scripted_upstream,
)
from tests.waiting import eventually

SSE = b'event: message_start\ndata: {"odd":  "spacing \xc3\xa9"}\n\n'


def point_to(data_dir: Path, upstream: Upstream, **more: object) -> None:
    provider = {"kind": "gateway", "base_url": upstream.url, "api_key": KEY, **more}
    write_gateway_config(data_dir, {"up": provider})


def log_of(data_dir: Path) -> str:
    return (data_dir / "gateway" / "gateway.log").read_text()


async def fine(_request: web.Request) -> web.StreamResponse:
    return web.json_response({"ok": True})


async def test_the_body_is_forwarded_byte_by_byte(tmp_path: Path) -> None:
    sent = b'{"model":"m",   "odd":"\\u00e9 \xc3\xa9", "messages":[]}\n'
    async with scripted_upstream(fine) as upstream, gateway_here(tmp_path) as caller:
        point_to(tmp_path, upstream)
        headers = {"content-type": "application/json"}
        async with caller.post("/v1/messages?beta=true", data=sent, headers=headers) as response:
            assert (response.status, await response.json()) == (200, {"ok": True})
    assert upstream.targets == ["POST /v1/messages?beta=true"]
    assert upstream.bodies == [sent]
    assert upstream.headers[0]["content-length"] == str(len(sent))


async def test_headers_go_by_allow_list_and_the_credential_is_ours(tmp_path: Path) -> None:
    async with scripted_upstream(fine) as upstream, gateway_here(tmp_path) as caller:
        point_to(tmp_path, upstream)
        headers = {
            "anthropic-version": "2023-06-01",
            "anthropic-beta": "one,two",
            "User-Agent": "claude-cli/x",
            "X-Stainless-OS": "Linux",
            "x-api-key": DUMMY,
            "Authorization": f"Bearer {DUMMY}",
            "Cookie": "a=b",
            "X-Forwarded-For": "10.0.0.1",
            "X-Other": "private",
        }
        async with caller.post("/v1/messages", json=asking("x"), headers=headers):
            pass
    [seen] = upstream.headers
    assert {name: seen[name] for name in list(headers)[:4]} == dict(list(headers.items())[:4])
    assert seen["x-api-key"] == KEY
    assert not {"Authorization", "Cookie", "X-Forwarded-For", "X-Other"} & set(seen)
    assert DUMMY not in str(seen)


async def test_an_auth_token_goes_as_bearer(tmp_path: Path) -> None:
    async with scripted_upstream(fine) as upstream, gateway_here(tmp_path) as caller:
        write_gateway_config(
            tmp_path, {"up": {"kind": "gateway", "base_url": upstream.url + "/sub/", "auth_token": KEY}}
        )
        async with caller.get("/v1/models?limit=5", headers={"x-api-key": DUMMY}):
            pass
    assert upstream.targets == ["GET /sub/v1/models?limit=5"]
    assert upstream.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert "x-api-key" not in upstream.headers[0]


async def test_a_stream_comes_through_as_it_arrives(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def script(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(SSE)
        await go_on.wait()
        await response.write(SSE[::-1])
        return response

    async with scripted_upstream(script) as upstream, gateway_here(tmp_path) as caller:
        point_to(tmp_path, upstream)
        async with asyncio.timeout(DEADLINE), caller.post("/v1/messages", json=asking("x")) as response:
            assert response.headers["content-type"] == "text/event-stream"
            assert await response.content.readexactly(len(SSE)) == SSE
            go_on.set()
            assert await response.content.read() == SSE[::-1]


async def test_status_and_useful_headers_come_back(tmp_path: Path) -> None:
    async def script(_request: web.Request) -> web.StreamResponse:
        headers = {
            "retry-after": "7",
            "request-id": "req_1",
            "anthropic-ratelimit-requests-remaining": "0",
            "set-cookie": "a=b",
            "anthropic-organization-id": "org",
        }
        return web.json_response({"type": "error"}, status=429, headers=headers)

    async with scripted_upstream(script) as upstream, gateway_here(tmp_path) as caller:
        point_to(tmp_path, upstream)
        async with caller.post("/v1/messages", json=asking("x")) as response:
            assert response.status == 429
            assert await response.json() == {"type": "error"}
            got = response.headers
    assert (got["retry-after"], got["request-id"]) == ("7", "req_1")
    assert got["anthropic-ratelimit-requests-remaining"] == "0"
    assert not {"set-cookie", "anthropic-organization-id"} & set(got)


async def test_calls_share_kept_connections(tmp_path: Path) -> None:
    async with scripted_upstream(fine) as upstream, gateway_here(tmp_path) as caller:
        point_to(tmp_path, upstream)
        for _ in range(5):
            async with caller.post("/v1/messages", json=asking("x")) as response:
                await response.read()
        assert len(upstream.connections) == 1


async def test_a_huge_prompt_is_streamed(tmp_path: Path) -> None:
    chunk, count = b"x" * 1_000_000, 50
    total = hashlib.sha256(chunk * count).hexdigest()

    async def prompt() -> AsyncIterator[bytes]:
        for _ in range(count):
            yield chunk

    async with scripted_upstream(fine) as upstream, gateway_here(tmp_path) as caller:
        point_to(tmp_path, upstream)
        headers = {"content-length": str(len(chunk) * count), "content-type": "application/json"}
        async with caller.post("/v1/messages", data=prompt(), headers=headers) as response:
            assert response.status == 200
    assert hashlib.sha256(upstream.bodies[0]).hexdigest() == total


async def test_a_caller_that_leaves_cancels_the_upstream_call(tmp_path: Path) -> None:
    async def script(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(SSE)
        await asyncio.sleep(3600)
        return response

    async with scripted_upstream(script) as upstream, gateway_here(tmp_path) as caller:
        point_to(tmp_path, upstream)
        async with caller.post("/v1/messages", json=asking("x")) as response:
            await response.content.readexactly(len(SSE))
            response.close()
        async with asyncio.timeout(DEADLINE):
            await upstream.gone.wait()


async def test_a_caller_that_leaves_before_the_answer_cancels_too(tmp_path: Path) -> None:
    async def script(_request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(3600)
        return web.Response()

    async with scripted_upstream(script) as upstream, gateway_here(tmp_path) as caller:
        point_to(tmp_path, upstream)
        call = asyncio.create_task(caller.post("/v1/messages", json=asking("x")))
        await eventually(lambda: upstream.targets)
        call.cancel()
        async with asyncio.timeout(DEADLINE):
            await upstream.gone.wait()


async def test_an_answer_that_breaks_off_breaks_off(tmp_path: Path) -> None:
    async def script(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(SSE)
        assert request.transport is not None
        request.transport.close()
        return response

    async with scripted_upstream(script) as upstream, gateway_here(tmp_path) as caller:
        point_to(tmp_path, upstream)
        async with caller.post("/v1/messages", json=asking("x")) as response:
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()


async def test_an_unreachable_provider_is_an_error_that_is_retried(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        write_gateway_config(tmp_path, {"up": {"kind": "gateway", "base_url": url, "api_key": KEY}})
        async with (
            gateway_here(tmp_path) as caller,
            caller.post("/v1/messages", json=asking("x")) as response,
        ):
            assert response.status == 502
            error = await response.json()
    assert (error["type"], error["error"]["type"]) == ("error", "api_error")
    assert "provider up" in error["error"]["message"]


async def test_a_redirect_is_not_followed_with_our_key(tmp_path: Path) -> None:
    async def script(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"location": "/elsewhere"})

    async with scripted_upstream(script) as upstream, gateway_here(tmp_path) as caller:
        point_to(tmp_path, upstream)
        async with caller.post("/v1/messages", json=asking("x"), allow_redirects=False) as response:
            assert response.status == 307
    assert upstream.targets == ["POST /v1/messages"]


async def test_the_environments_proxy_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted_upstream(fine) as proxy, gateway_here(tmp_path) as caller:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        provider = {"kind": "gateway", "base_url": "http://models.example", "api_key": KEY}
        write_gateway_config(tmp_path, {"up": provider})
        async with caller.post("/v1/messages", json=asking("x")) as response:
            assert response.status == 200
        assert proxy.headers[0]["Host"] == "models.example"
        point_to(tmp_path, proxy)
        async with caller.post("/v1/messages", json=asking("x")) as response:
            assert response.status == 200
        assert proxy.headers[1]["Host"] == proxy.url.removeprefix("http://")


async def test_only_the_calls_of_a_conversation_pass(tmp_path: Path) -> None:
    async with scripted_upstream(fine) as upstream, gateway_here(tmp_path) as caller:
        point_to(tmp_path, upstream)
        for method, path in (
            ("GET", "/v1/organizations/users"),
            ("POST", "/v1/files"),
            ("DELETE", "/v1/messages"),
            ("GET", "/v1/models/..%2Ffiles"),
        ):
            async with caller.request(method, URL(path, encoded=True)) as response:
                assert response.status == 404
        async with caller.head("/") as response:
            assert response.status == 200
    assert upstream.targets == []


async def test_the_model_chooses_among_several_providers(tmp_path: Path) -> None:
    async with (
        scripted_upstream(fine) as one,
        scripted_upstream(fine) as two,
        gateway_here(tmp_path) as caller,
    ):
        write_gateway_config(
            tmp_path,
            {
                "one": {"kind": "gateway", "base_url": one.url, "models": ["m1"]},
                "two": {"kind": "gateway", "base_url": two.url, "models": ["m2"], "default": True},
            },
        )
        for model in ("m1", "m2", "m3"):
            async with caller.post("/v1/messages", json={"model": model, "rest": "x" * 300_000}):
                pass
    assert [json.loads(body)["model"] for body in one.bodies] == ["m1"]
    assert [json.loads(body)["model"] for body in two.bodies] == ["m2", "m3"]
    assert len(one.bodies[0]) > 300_000


async def test_a_refused_configuration_is_told_and_not_retried(tmp_path: Path) -> None:
    write_gateway_config(tmp_path, {"up": {"kind": "anthropic", "api_key": KEY}})
    (tmp_path / "gateway" / "config.json").chmod(0o644)
    async with gateway_here(tmp_path) as caller, caller.post("/v1/messages", json=asking("x")) as response:
        assert response.status == 500
        assert response.headers["x-should-retry"] == "false"
        text = await response.text()
    assert "chmod it to 600" in text
    assert "configuration refused" in log_of(tmp_path)
    assert KEY not in text + log_of(tmp_path)


async def test_the_log_names_the_call_and_nothing_that_was_said(tmp_path: Path) -> None:
    async def script(_request: web.Request) -> web.StreamResponse:
        return web.Response(text="the answer")

    script_of_answer: Script = script
    async with scripted_upstream(script_of_answer) as upstream, gateway_here(tmp_path) as caller:
        point_to(tmp_path, upstream)
        body = asking("my deepest secret")
        async with caller.post("/v1/messages", json=body, headers={"x-api-key": DUMMY}) as response:
            await response.read()
    log = log_of(tmp_path)
    [call] = [line for line in map(json.loads, log.splitlines()) if line["event"] == "call"]
    assert (call["instance"], call["user"], call["session"]) == ("i1", "alice", "default")
    assert (call["call"], call["status"], call["provider"]) == ("POST /v1/messages", 200, "up")
    assert not any(word in log for word in (KEY, DUMMY, "deepest", "the answer", "x-api-key"))
