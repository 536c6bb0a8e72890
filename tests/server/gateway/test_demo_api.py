"""The demo model over HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.server.gateway.harness import asking, gateway_here


async def posted(caller: aiohttp.ClientSession, path: str, body: Any) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with caller.post(path, data=data) as response:
        assert response.headers["request-id"].startswith("req_demo_")
        return response.status, await response.json()


async def test_a_plain_answer(tmp_path: Path) -> None:
    async with gateway_here(tmp_path) as caller:
        status, message = await posted(caller, "/v1/messages?beta=true", asking("say hello"))
    assert status == 200
    assert (message["type"], message["role"], message["model"]) == (
        "message",
        "assistant",
        "claude-pool-demo",
    )
    assert message["content"] == [{"type": "text", "text": "hello"}]
    assert message["stop_reason"] == "end_turn"


async def test_a_streamed_answer(tmp_path: Path) -> None:
    async with gateway_here(tmp_path) as caller:
        body = asking("count to 3", stream=True)
        async with caller.post("/v1/messages", json=body) as response:
            assert response.content_type == "text/event-stream"
            raw = await response.text()
    events = [json.loads(part.partition("data: ")[2]) for part in raw.strip().split("\n\n")]
    assert "".join(event.get("delta", {}).get("text", "") for event in events) == "1\n2\n3"
    assert events[-1] == {"type": "message_stop"}


async def test_two_answers_to_one_question_have_their_own_ids(tmp_path: Path) -> None:
    async with gateway_here(tmp_path) as caller:
        answers = [await posted(caller, "/v1/messages", asking("say hello")) for _ in range(2)]
    assert answers[0][1]["content"] == answers[1][1]["content"]
    assert answers[0][1]["id"] != answers[1][1]["id"]


async def test_tokens_are_counted(tmp_path: Path) -> None:
    async with gateway_here(tmp_path) as caller:
        _, short = await posted(caller, "/v1/messages/count_tokens", asking("x"))
        _, longer = await posted(caller, "/v1/messages/count_tokens", asking("x" * 4000))
    assert longer["input_tokens"] - short["input_tokens"] in (999, 1000)


async def test_models_are_listed(tmp_path: Path) -> None:
    async with gateway_here(tmp_path) as caller:
        async with caller.get("/v1/models") as response:
            assert [model["id"] for model in (await response.json())["data"]] == ["claude-pool-demo"]
        async with caller.get("/v1/models/claude-any") as response:
            assert (await response.json())["id"] == "claude-any"


@pytest.mark.parametrize("status", [400, 404, 429, 500, 529])
async def test_failures_are_shaped_like_the_apis(status: int, tmp_path: Path) -> None:
    async with gateway_here(tmp_path) as caller:
        got, body = await posted(caller, "/v1/messages", asking(f"fail with {status}"))
    assert got == status
    assert (body["type"], set(body["error"])) == ("error", {"type", "message"})


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"messages": 1}', b"\xff"])
async def test_a_bad_body_is_refused(body: bytes, tmp_path: Path) -> None:
    async with gateway_here(tmp_path) as caller:
        status, answer = await posted(caller, "/v1/messages", body)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")


async def test_a_large_answer_comes_whole(tmp_path: Path) -> None:
    async with gateway_here(tmp_path) as caller:
        body = asking("echo 3000000 bytes") | {"max_tokens": 1_000_000}
        _, message = await posted(caller, "/v1/messages", body)
    assert len(message["content"][0]["text"]) == 3_000_000


async def test_a_long_prompt_full_of_unclosed_tags_is_answered(tmp_path: Path) -> None:
    async with gateway_here(tmp_path) as caller:
        status, _ = await posted(caller, "/v1/messages", asking("<system-reminder><bash-stdout>" * 30_000))
    assert status == 200
