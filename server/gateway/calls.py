"""One model call of an instance, from its request line to its log line."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import aiohttp
from aiohttp import web
from pydantic import SecretStr

from server.gateway.body import RequestBody
from server.gateway.choosing import Choice, choose
from server.gateway.configuration import LiveConfiguration, LiveOwnKeys
from server.gateway.demo.api import answer_as_demo
from server.gateway.errors import budget_answer, error_answer, key_answer, rate_answer, trouble_answer
from server.gateway.metering import Call, Metering
from server.gateway.rates import TooFast
from server.gateway.settings import DEMO_PROVIDER, GatewayConfigError
from server.gateway.upstream import Upstreams, UpstreamTrouble

_log = logging.getLogger(__name__)

# The purpose of the instance with which the pool tries out a CLI, among its labels.
_OF_THE_CHECK = "conformance"

# What an instance may do with our credential: these calls and no others.
_ALLOWED = re.compile(r"POST /v1/messages(/count_tokens)?|GET /v1/models(/[\w.:@-]+)?", re.ASCII)

# Only these cost anything.
_METERED = "/v1/messages"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: known by the socket that was called, so there is no token to steal."""

    instance: str
    labels: Mapping[str, str] = field(default_factory=dict)


class Calls:
    """Answers the calls of all instances from the provider in force, within the users' limits."""

    def __init__(
        self,
        configuration: LiveConfiguration,
        own_keys: LiveOwnKeys,
        client: aiohttp.ClientSession,
        metering: Metering,
    ) -> None:
        self._configuration = configuration
        self._own_keys = own_keys
        self._upstreams = Upstreams(client, metering.monotonic)
        self._metering = metering

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
            return await answer_as_demo(request, RequestBody(request), None)
        user = caller.labels.get("user", "")
        body = RequestBody(request)
        try:
            settings, limits = self._configuration.current(), self._metering.limits_of(user)
            choice = await choose(settings, limits, body, checks_model=request.method == "POST")
            if isinstance(choice, web.Response):
                outcome["refused"] = "model"
                return choice
            choice = self._with_own_key(choice, user)
            is_metered = request.path == _METERED
            reached = self._metering.reached(user, limits, is_own=choice.is_own) if is_metered else None
        except GatewayConfigError as error:
            message = f"The model gateway cannot use its configuration: {error}"
            return error_answer(500, "api_error", message, retry=False)
        outcome["provider"] = choice.name
        if reached is not None:
            outcome["refused"] = reached.name
            return rate_answer(reached) if isinstance(reached, TooFast) else budget_answer(user, reached)
        if not choice.provider.has_credential:
            outcome["refused"] = "no key"
            return key_answer(choice.name)
        return await self._pass_on(caller, request, body, choice)

    def _with_own_key(self, choice: Choice, user: str) -> Choice:
        """The same with the user's own credential, where the provider lets users bring one."""
        own = self._own_keys.of(user, choice.name) if choice.provider.own_keys else None
        if own is None:
            return choice
        credential = {"api_key": SecretStr(own), "auth_token": None}
        return replace(choice, provider=choice.provider.model_copy(update=credential), is_own=True)

    async def _pass_on(
        self, caller: Caller, request: web.BaseRequest, body: RequestBody, choice: Choice
    ) -> web.StreamResponse:
        call = None
        if request.path == _METERED:
            call = Call(self._metering, caller, choice)
        try:
            if choice.provider.kind == "demo":
                return await answer_as_demo(request, body, call)
            return await self._upstreams.pass_through(request, body, choice.name, choice.provider, call)
        except UpstreamTrouble as trouble:
            return trouble_answer(trouble)
        finally:
            if call is not None:
                call.close()
