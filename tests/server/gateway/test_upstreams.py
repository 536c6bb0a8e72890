"""An upstream's hiccups, its long troubles, its limits of connections; models that may be asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from server.gateway import write_gateway_config
from server.gateway.breaker import FAILURES, FIRST_PAUSE_SECONDS
from server.gateway.budgets import write_budgets
from tests.server.gateway.harness import KEY, Script, Upstream, asking, gateway_here, scripted_upstream
from tests.server.gateway.test_metering import ask
from tests.waiting import eventually


def point_to(data_dir: Path, upstream: Upstream, **more: Any) -> None:
    write_gateway_config(
        data_dir, {"up": {"kind": "gateway", "base_url": upstream.url, "api_key": KEY, **more}}
    )


def answering(statuses: Iterator[int], **headers: str) -> Script:
    async def script(_request: web.Request) -> web.StreamResponse:
        status = next(statuses)
        return web.json_response({"status": status}, status=status, headers=headers if status != 200 else {})

    return script


@pytest.mark.parametrize("status", [429, 502, 503, 529])
async def test_a_hiccup_is_retried_with_the_same_bytes(status: int, tmp_path: Path) -> None:
    script = answering(iter([status, 200]))
    async with scripted_upstream(script) as upstream, gateway_here(tmp_path) as caller:
        point_to(tmp_path, upstream)
        sent = json.dumps(asking("x" * 300_000)).encode()
        async with caller.post("/v1/messages", data=sent) as response:
            assert response.status == 200
    assert upstream.bodies == [sent, sent]


async def test_the_last_answer_is_passed_on_when_retries_do_not_help(tmp_path: Path) -> None:
    script = answering(iter([529, 529, 503]))
    async with scripted_upstream(script) as upstream, gateway_here(tmp_path) as caller:
        point_to(tmp_path, upstream)
        assert await ask(caller) == (503, {"status": 503})
    assert len(upstream.targets) == 3


@pytest.mark.parametrize(
    ("status", "headers"),
    [(429, {"retry-after": "30"}), (529, {"x-should-retry": "false"}), (500, {}), (400, {}), (401, {})],
)
async def test_what_is_no_hiccup_is_passed_on_at_once(
    status: int, headers: dict[str, str], tmp_path: Path
) -> None:
    script = answering(iter([status]), **headers)
    async with scripted_upstream(script) as upstream, gateway_here(tmp_path) as caller:
        point_to(tmp_path, upstream)
        async with caller.post("/v1/messages", json=asking("x")) as response:
            assert response.status == status
            assert {name: response.headers[name] for name in headers} == headers
    assert len(upstream.targets) == 1


async def test_a_connection_that_breaks_before_the_answer_is_retried(tmp_path: Path) -> None:
    breaks = iter([True, False])

    async def script(request: web.Request) -> web.StreamResponse:
        if next(breaks):
            assert request.transport is not None
            request.transport.close()
        return web.json_response({})

    async with scripted_upstream(script) as upstream, gateway_here(tmp_path) as caller:
        point_to(tmp_path, upstream)
        assert (await ask(caller))[0] == 200
    assert len(upstream.targets) == 2


async def test_nothing_is_retried_once_a_byte_went_out(tmp_path: Path) -> None:
    async def script(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"x")
        assert request.transport is not None
        request.transport.close()
        return response

    async with scripted_upstream(script) as upstream, gateway_here(tmp_path) as caller:
        point_to(tmp_path, upstream)
        async with caller.post("/v1/messages", json=asking("x")) as response:
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
    assert len(upstream.targets) == 1


async def test_an_upstream_that_keeps_failing_is_left_alone_and_tried_again(tmp_path: Path) -> None:
    now, status = [0.0], [504]

    async def script(_request: web.Request) -> web.StreamResponse:
        return web.json_response({}, status=status[0])

    async with (
        scripted_upstream(script) as upstream,
        gateway_here(tmp_path, monotonic=lambda: now[0]) as caller,
    ):
        point_to(tmp_path, upstream)
        for _ in range(FAILURES):
            assert (await ask(caller))[0] == 504
        async with caller.post("/v1/messages", json=asking("x")) as response:
            assert (response.status, response.headers["retry-after"]) == (529, "5")
            assert "provider up keeps failing" in await response.text()
        assert len(upstream.targets) == FAILURES
        now[0] += FIRST_PAUSE_SECONDS
        assert (await ask(caller))[0] == 504
        assert (await ask(caller))[0] == 529
        now[0] += 2 * FIRST_PAUSE_SECONDS
        status[0] = 200
        assert [(await ask(caller))[0] for _ in range(2)] == [200, 200]


async def test_calls_wait_for_a_free_connection(tmp_path: Path) -> None:
    busy, most, go_on = [0], [0], asyncio.Event()

    async def script(_request: web.Request) -> web.StreamResponse:
        busy[0] += 1
        most[0] = max(most[0], busy[0])
        await go_on.wait()
        busy[0] -= 1
        return web.json_response({})

    async with scripted_upstream(script) as upstream, gateway_here(tmp_path) as caller:
        point_to(tmp_path, upstream, max_connections=2)
        calls = [asyncio.create_task(ask(caller)) for _ in range(6)]
        await eventually(lambda: busy[0] == 2)
        go_on.set()
        assert [status for status, _ in await asyncio.gather(*calls)] == [200] * 6
    assert most[0] == 2


async def test_an_alias_is_sent_under_the_name_it_stands_for(tmp_path: Path) -> None:
    async with scripted_upstream(answering(iter([503, 200]))) as upstream, gateway_here(tmp_path) as caller:
        point_to(tmp_path, upstream, aliases={"fast": "claude-haiku-9"}, allowed_models=["claude-x"])
        sent = b'{"model": "fast",  "messages": []}'
        async with caller.post("/v1/messages", data=sent) as response:
            assert response.status == 200
    assert upstream.bodies == [b'{"model": "claude-haiku-9",  "messages": []}'] * 2


async def test_only_allowed_models_pass(tmp_path: Path) -> None:
    async with scripted_upstream(answering(iter([200] * 9))) as upstream, gateway_here(tmp_path) as caller:
        point_to(tmp_path, upstream, allowed_models=["claude-x", "claude-haiku-*"])
        text = ""
        for model, status in (("claude-x", 200), ("claude-haiku-7", 200), ("claude-opus", 400)):
            async with caller.post("/v1/messages", json={"model": model, "messages": []}) as response:
                assert response.status == status
                text = await response.text()
        assert "claude-opus is not allowed at the provider up; allowed: claude-x, claude-haiku-*" in text
        write_budgets(tmp_path, {"models": ["claude-haiku-*"]}, {})
        assert (await ask(caller))[0] == 400
        write_budgets(tmp_path, {"models": ["claude-haiku-*"]}, {"alice": {}})
        assert (await ask(caller))[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "claude-x", "model": "claude-opus", "messages": []}',
        b'{"model": "claude-x", "mod\\u0065l": "claude-opus"}',
        b'{"max_tokens": 1, "model": "claude-opus"}',
        b'{"messages": []}',
        b'{"model": 1}',
        b"{",
        b"",
    ],
)
async def test_a_body_whose_model_can_be_misread_is_refused(body: bytes, tmp_path: Path) -> None:
    async with scripted_upstream(answering(iter([200]))) as upstream, gateway_here(tmp_path) as caller:
        point_to(tmp_path, upstream, allowed_models=["claude-x"])
        async with caller.post("/v1/messages", data=body) as response:
            assert response.status == 400
    assert upstream.targets == []
