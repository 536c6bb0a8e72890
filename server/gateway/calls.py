"""One model call of an instance, from its request line to its log line."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from server.gateway.body import RequestBody
from server.gateway.configuration import LiveConfiguration
from server.gateway.demo.api import answer_as_demo
from server.gateway.errors import error_answer
from server.gateway.settings import DEMO_PROVIDER, GatewayConfigError, GatewaySettings, Provider
from server.gateway.upstream import UpstreamUnreachable, pass_through

_log = logging.getLogger(__name__)

# The purpose of the instance with which the pool tries out a CLI, among its labels.
_OF_THE_CHECK = "conformance"

# What an instance may do with our credential: these calls and no others.
_ALLOWED = re.compile(r"POST /v1/messages(/count_tokens)?|GET /v1/models(/[\w.:@-]+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: known by the socket that was called, so there is no token to steal."""

    instance: str
    labels: Mapping[str, str] = field(default_factory=dict)


class Calls:
    """Answers the calls of all instances from the provider in force."""

    def __init__(self, configuration: LiveConfiguration, client: aiohttp.ClientSession) -> None:
        self._configuration = configuration
        self._client = client

    async def answer(self, caller: Caller, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request and log one line about it."""
        if request.path == "/" and request.method in ("HEAD", "GET"):
            return web.Response()
        started = time.monotonic()
        outcome: dict[str, object] = {"status": None, "provider": None}
        try:
            response = await self._dispatch(caller, request, outcome)
            outcome["status"] = response.status
            return response
        finally:
            # No status: the caller was gone or its instance ended before the answer did.
            fields = {
                "instance": caller.instance,
                **caller.labels,
                "call": f"{request.method} {request.path}",
                **outcome,
                "seconds": round(time.monotonic() - started, 3),
            }
            _log.info("call", extra={"fields": fields})

    async def _dispatch(
        self, caller: Caller, request: web.BaseRequest, outcome: dict[str, object]
    ) -> web.StreamResponse:
        if not _ALLOWED.fullmatch(f"{request.method} {request.path}"):
            return error_answer(404, "not_found_error", "The model gateway passes no such call.")
        if caller.labels.get("purpose") == _OF_THE_CHECK:
            # it asks what the CLI does, not what a model says: no key, no cost, whatever is configured
            outcome["provider"] = DEMO_PROVIDER
            return await answer_as_demo(request, RequestBody(request))
        try:
            settings = self._configuration.current()
        except GatewayConfigError as error:
            message = f"The model gateway cannot use its configuration: {error}"
            return error_answer(500, "api_error", message, retry=False)
        body = RequestBody(request)
        outcome["provider"], provider = await _chosen(settings, body)
        if provider.kind == "demo":
            return await answer_as_demo(request, body)
        try:
            return await pass_through(request, body, provider, self._client)
        except UpstreamUnreachable as error:
            message = f"The model gateway cannot reach the provider {outcome['provider']} ({error})."
            return error_answer(502, "api_error", message)


async def _chosen(settings: GatewaySettings, body: RequestBody) -> tuple[str, Provider]:
    """With one provider there is no choice, and the body is not looked into."""
    return settings.choose(await body.model() if len(settings.providers) > 1 else None)
