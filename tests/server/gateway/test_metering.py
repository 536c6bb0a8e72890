"""Metering and budgets over HTTP: the upstream's own figures, the same bytes, limits that hold."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from server.gateway import write_gateway_config
from server.gateway.budgets import write_budgets
from server.gateway.meter import Tokens
from server.gateway.spending import next_day
from server.gateway.usage_journal import Entry
from tests.server.gateway.harness import KEY, Script, Upstream, asking, gateway_for, scripted_upstream
from tests.server.gateway.test_usage_journal import all_entries
from tests.server.gateway.wire import cut_at, message, stream
from tests.waiting import eventually

NOON = datetime(2026, 3, 15, 12, tzinfo=UTC).timestamp()
PRICES = {"claude-x": {"input": 3.0, "output": 15.0, "cache_read": 0.3, "cache_write": 3.75}}
USED = Tokens(input=100, output=20, cache_write=3, cache_read=400)


def point_to(data_dir: Path, upstream: Upstream, **more: Any) -> None:
    provider = {"kind": "gateway", "base_url": upstream.url, "api_key": KEY, "prices": PRICES, **more}
    write_gateway_config(data_dir, {"up": provider})


def streaming(pieces: Callable[[], list[bytes]], *, breaks_off: bool = False) -> Script:
    """An upstream that streams ``pieces``, each in a packet of its own as far as the kernel lets it."""

    async def script(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces():
            await response.write(piece)
            await asyncio.sleep(0)
        if breaks_off:
            assert request.transport is not None
            request.transport.close()
        return response

    return script


def whole(tokens: Tokens = USED) -> Script:
    async def script(_request: web.Request) -> web.StreamResponse:
        return web.json_response(message(tokens))

    return script


def tokens_of(entry: Entry) -> Tokens:
    return Tokens(entry.input_tokens, entry.output_tokens, entry.cache_write_tokens, entry.cache_read_tokens)


async def ask(caller: aiohttp.ClientSession, text: str = "x") -> tuple[int, Any]:
    async with caller.post("/v1/messages", json=asking(text, model="claude-x")) as response:
        return response.status, await response.json()


async def test_a_thousand_streams_are_metered_exactly_and_pass_unchanged(tmp_path: Path) -> None:
    dice = random.Random(7)
    told: list[Tokens] = []
    sent: list[bytes] = []

    def pieces() -> list[bytes]:
        told.append(Tokens(*(dice.randrange(1, 10**6) for _ in range(4))))
        words = [dice.choice(["word ", '"usage": {}', "é\n\n", "x" * 3000]) for _ in range(dice.randrange(6))]
        raw = b"".join(stream(told[-1], words))
        sent.append(raw)
        return cut_at(raw, [dice.randrange(len(raw)) for _ in range(dice.randrange(8))])

    async with scripted_upstream(streaming(pieces)) as upstream, gateway_for(tmp_path, "alice") as (caller,):
        point_to(tmp_path, upstream)
        for _ in range(1000):
            async with caller.post("/v1/messages", json=asking("x")) as response:
                assert await response.read() == sent[-1]
    entries = all_entries(tmp_path)
    assert [tokens_of(entry) for entry in entries] == told
    assert all(entry.complete for entry in entries)


async def test_a_call_is_written_with_whose_it_was_and_what_it_cost(tmp_path: Path) -> None:
    async with scripted_upstream(whole()) as upstream, gateway_for(tmp_path, "alice") as (caller,):
        point_to(tmp_path, upstream)
        assert (await ask(caller))[0] == 200
    [entry] = all_entries(tmp_path)
    assert (entry.instance, entry.user, entry.session) == ("i1", "alice", "default")
    assert (entry.provider, entry.model, entry.priced) == ("up", "claude-x", True)
    assert tokens_of(entry) == USED
    assert entry.usd == pytest.approx((100 * 3 + 20 * 15 + 3 * 3.75 + 400 * 0.3) / 1e6)


async def test_a_cut_stream_counts_as_far_as_it_went(tmp_path: Path) -> None:
    script = streaming(lambda: stream(USED, ["some", "words"])[:5], breaks_off=True)
    async with scripted_upstream(script) as upstream, gateway_for(tmp_path, "alice") as (caller,):
        point_to(tmp_path, upstream)
        async with caller.post("/v1/messages", json=asking("x")) as response:
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
        await eventually(lambda: all_entries(tmp_path))
    [entry] = all_entries(tmp_path)
    assert tokens_of(entry) == Tokens(USED.input, 1, USED.cache_write, USED.cache_read)
    assert not entry.complete


async def test_a_caller_that_leaves_pays_for_what_was_told(tmp_path: Path) -> None:
    async def script(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"".join(stream(USED, ["a"])[:4]))
        await asyncio.sleep(3600)
        return response

    async with scripted_upstream(script) as upstream, gateway_for(tmp_path, "alice") as (caller,):
        point_to(tmp_path, upstream)
        async with caller.post("/v1/messages", json=asking("x")) as response:
            await response.content.readuntil(b"content_block_delta")
            response.close()
        await eventually(lambda: all_entries(tmp_path))
    assert all_entries(tmp_path)[0].input_tokens == USED.input


async def test_failures_and_free_calls_are_not_in_the_journal(tmp_path: Path) -> None:
    async def script(request: web.Request) -> web.StreamResponse:
        status = 400 if request.path == "/v1/messages" else 200
        return web.json_response({"input_tokens": 7, "usage": {"input_tokens": 7}}, status=status)

    async with scripted_upstream(script) as upstream, gateway_for(tmp_path, "alice") as (caller,):
        point_to(tmp_path, upstream)
        assert (await ask(caller))[0] == 400
        async with caller.post("/v1/messages/count_tokens", json=asking("x")) as response:
            assert response.status == 200
    assert all_entries(tmp_path) == []


async def test_a_model_without_a_price_is_free_and_told_once(tmp_path: Path) -> None:
    async with scripted_upstream(whole()) as upstream, gateway_for(tmp_path, "alice") as (caller,):
        point_to(tmp_path, upstream, prices={"other": {"input": 1.0}})
        for _ in range(2):
            await ask(caller)
    assert [(entry.usd, entry.priced) for entry in all_entries(tmp_path)] == [(0.0, False)] * 2
    assert (tmp_path / "gateway" / "gateway.log").read_text().count("no price for a model") == 1


async def test_the_demo_model_is_metered_and_free(tmp_path: Path) -> None:
    async with gateway_for(tmp_path, "alice") as (caller,):
        _, answer = await ask(caller, "say hello")
        async with caller.post("/v1/messages", json=asking("count to 9", stream=True)) as response:
            await response.read()
    first, second = all_entries(tmp_path)
    assert (first.provider, first.model, first.usd) == ("demo", "claude-pool-demo", 0.0)
    assert first.output_tokens == answer["usage"]["output_tokens"]
    assert second.complete


async def test_a_user_at_the_limit_is_stopped_and_others_are_not(tmp_path: Path) -> None:
    async with (
        scripted_upstream(whole()) as upstream,
        gateway_for(tmp_path, "alice", "bob", wall=lambda: NOON) as (alice, bob),
    ):
        point_to(tmp_path, upstream)
        write_budgets(tmp_path, {}, {"alice": {"tokens_per_day": 2 * USED.total}})
        assert [(await ask(alice))[0] for _ in range(2)] == [200, 200]
        async with alice.post("/v1/messages", json=asking("x")) as response:
            assert (response.status, response.headers["x-should-retry"]) == (429, "false")
            error = (await response.json())["error"]
        assert error["type"] == "rate_limit_error"
        assert "tokens_per_day: 1,046 of 1,046 used, resets at 2026-03-16 00:00 UTC" in error["message"]
        assert (await ask(bob))[0] == 200
    assert len(upstream.targets) == 3


@pytest.mark.parametrize(
    ("limit", "resets"), [("usd_per_day", "2026-03-16"), ("usd_per_month", "2026-04-01")]
)
async def test_money_is_limited_too(limit: str, resets: str, tmp_path: Path) -> None:
    async with (
        scripted_upstream(whole()) as upstream,
        gateway_for(tmp_path, "alice", wall=lambda: NOON) as (alice,),
    ):
        point_to(tmp_path, upstream)
        write_budgets(tmp_path, {limit: 0.0007}, {})
        assert (await ask(alice))[0] == 200
        status, body = await ask(alice)
    assert status == 429
    assert limit in body["error"]["message"]
    assert f"resets at {resets} 00:00 UTC" in body["error"]["message"]


async def test_the_day_begins_anew_at_midnight_and_over_a_restart(tmp_path: Path) -> None:
    now = [NOON]
    write_budgets(tmp_path, {"tokens_per_day": 1, "usd_per_month": 1.0}, {})
    async with scripted_upstream(whole()) as upstream:
        point_to(tmp_path, upstream)
        async with gateway_for(tmp_path, "alice", wall=lambda: now[0]) as (alice,):
            assert [(await ask(alice))[0] for _ in range(2)] == [200, 429]
        async with gateway_for(tmp_path, "alice", wall=lambda: now[0]) as (alice,):
            assert (await ask(alice))[0] == 429
            now[0] = next_day(NOON) - 1
            assert (await ask(alice))[0] == 429
            now[0] = next_day(NOON)
            assert [(await ask(alice))[0] for _ in range(2)] == [200, 429]


async def test_a_call_under_way_counts_already(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    first = itertools.chain([True], itertools.repeat(False))

    async def script(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(stream(USED, [])[0])
        if next(first):
            await go_on.wait()
        return response

    async with scripted_upstream(script) as upstream, gateway_for(tmp_path, "alice") as (alice,):
        point_to(tmp_path, upstream)
        write_budgets(tmp_path, {"tokens_per_day": USED.total - USED.output}, {})
        async with alice.post("/v1/messages", json=asking("x")) as response:
            await response.content.readuntil(b"\n\n")
            assert (await ask(alice))[0] == 429
            go_on.set()
            await response.read()


async def test_four_fifths_of_a_limit_are_told_once(tmp_path: Path) -> None:
    async with scripted_upstream(whole()) as upstream, gateway_for(tmp_path, "alice") as (alice,):
        point_to(tmp_path, upstream)
        write_budgets(tmp_path, {"tokens_per_day": int(USED.total * 5)}, {})
        for _ in range(5):
            assert (await ask(alice))[0] == 200
        assert (await ask(alice))[0] == 429
    lines = map(json.loads, (tmp_path / "gateway" / "gateway.log").read_text().splitlines())
    [warning] = [line for line in lines if line["event"] == "four fifths of a limit are used"]
    assert (warning["user"], warning["limit"]) == ("alice", "tokens_per_day")


async def test_limits_that_cannot_be_read_refuse_every_call(tmp_path: Path) -> None:
    write_budgets(tmp_path, {"tokens_per_day": 5}, {})
    (tmp_path / "gateway" / "budgets.json").chmod(0o666)
    async with gateway_for(tmp_path, "alice") as (alice,):
        status, body = await ask(alice)
    assert status == 500
    assert "budgets.json" in body["error"]["message"]
