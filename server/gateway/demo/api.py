"""The demo model over HTTP: the part of the Messages API that the CLI uses."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from aiohttp import web

from server.gateway.body import RequestBody
from server.gateway.demo.answer import Failure
from server.gateway.demo.conversation import read_conversation
from server.gateway.demo.planner import plan
from server.gateway.demo.speech import MODEL_ID
from server.gateway.demo.stream import events, message_body, tokens_in
from server.gateway.errors import error_body
from server.gateway.metering import Call

MAX_BODY_BYTES = 128 * 1024 * 1024
_PARSE_IN_THREAD_BYTES = 1024 * 1024
_SSE = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
_MODEL = {
    "type": "model",
    "id": MODEL_ID,
    "display_name": "Claude Pool demo model",
    "created_at": "2026-01-01T00:00:00Z",
}


class _BadBody(Exception):
    """The request's body is no Messages API request; the text says why."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.answer = Failure(status, kind, message)


async def answer_as_demo(
    request: web.BaseRequest, content: RequestBody, call: Call | None
) -> web.StreamResponse:
    """Answer any call of the Messages API; errors are answers, never raised. ``call`` meters it."""
    request_id = f"req_demo_{uuid.uuid4().hex}"
    if request.path == "/v1/models" and request.method == "GET":
        listing = {"data": [_MODEL], "has_more": False, "first_id": MODEL_ID, "last_id": MODEL_ID}
        return _json(200, listing, request_id)
    if request.path.startswith("/v1/models/") and request.method == "GET":
        return _json(200, {**_MODEL, "id": request.path.rpartition("/")[2]}, request_id)
    if request.method != "POST" or request.path not in ("/v1/messages", "/v1/messages/count_tokens"):
        return _json(404, error_body("not_found_error", "The demo model has no such call."), request_id)
    try:
        body, size = await _read(content)
    except _BadBody as bad:
        return _json(bad.answer.status, error_body(bad.answer.kind, bad.answer.message), request_id)
    if request.path.endswith("/count_tokens"):
        return _json(200, {"input_tokens": tokens_in(size)}, request_id)
    answer = plan(read_conversation(body))
    if isinstance(answer, Failure):
        return _json(answer.status, error_body(answer.kind, answer.message), request_id, answer.retry_after)
    message_id = f"msg_demo_{uuid.uuid4().hex[:20]}"
    if body.get("stream") is not True:
        response = _json(200, message_body(answer, message_id, tokens_in(size)), request_id)
        if call is not None and isinstance(response.body, bytes):
            call.begin(200, response.headers)
            call.feed(response.body)
        return response
    return await _stream(request, events(answer, message_id, tokens_in(size)), request_id, call)


async def _read(content: RequestBody) -> tuple[Mapping[str, Any], int]:
    """The request's JSON object and its size in bytes. Raises ``_BadBody``."""
    raw = bytearray()
    async for chunk in content:
        raw += chunk
        if len(raw) > MAX_BODY_BYTES:
            raise _BadBody(413, "request_too_large", f"More than {MAX_BODY_BYTES} bytes.")
    try:
        if len(raw) > _PARSE_IN_THREAD_BYTES:
            body = await asyncio.to_thread(json.loads, raw)
        else:
            body = json.loads(raw)
    except ValueError as error:
        raise _BadBody(400, "invalid_request_error", "The body is not JSON.") from error
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
        raise _BadBody(400, "invalid_request_error", "messages: Field required")
    return body, len(raw)


async def _stream(
    request: web.BaseRequest, timed: Iterator[tuple[float, bytes]], request_id: str, call: Call | None
) -> web.StreamResponse:
    response = web.StreamResponse(headers={**_SSE, "request-id": request_id})
    if call is not None:
        call.begin(200, response.headers)
    await response.prepare(request)
    for pause, event in timed:
        if pause:
            await asyncio.sleep(pause)
        if call is not None:
            call.feed(event)
        await response.write(event)
    if call is not None:
        call.close()
    await response.write_eof()
    return response


def _json(
    status: int, body: Mapping[str, Any], request_id: str, retry_after: int | None = None
) -> web.Response:
    headers = {"request-id": request_id}
    if retry_after is not None:
        headers["retry-after"] = str(retry_after)
    return web.json_response(body, status=status, headers=headers)
