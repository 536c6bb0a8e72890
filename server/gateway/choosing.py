"""Which provider answers a call, under which model's name, and whether it may be asked at all."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from server.gateway.body import MAX_CHECKED_BYTES, BodyTooLarge, RequestBody
from server.gateway.budgets import Limits, is_allowed
from server.gateway.errors import error_answer, model_answer
from server.gateway.settings import GatewaySettings, Provider


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a call goes; ``model`` is the name that is sent, None where it is not known.

    ``is_own``: with the user's own credential, so it costs the operator nothing.
    """

    name: str
    provider: Provider
    model: str | None
    is_own: bool = False


async def choose(
    settings: GatewaySettings, limits: Limits, body: RequestBody, *, checks_model: bool
) -> Choice | web.Response:
    """The provider for a request, or the answer that refuses its model.

    Where a list of models applies the body is read whole, for whoever makes
    the request may have an interest in being misread.
    """
    if not checks_model:
        return Choice(*settings.default(), None)
    has_lists = bool(limits.models) or any(one.allowed_models for one in settings.providers.values())
    if not has_lists:
        return _named(settings, body, await body.model())
    try:
        model = await body.checked_model()
    except BodyTooLarge:
        return error_answer(413, "request_too_large", f"More than {MAX_CHECKED_BYTES} bytes.", retry=False)
    if model is None:
        message = 'The model gateway cannot tell the model: "model" must be the first key, and there once.'
        return error_answer(400, "invalid_request_error", message, retry=False)
    name, provider = settings.choose(model)
    if not is_allowed(model, limits.models):
        return model_answer(f"The model {model} is not allowed here; allowed: {_listed(limits.models)}.")
    if model not in provider.aliases and not is_allowed(model, provider.allowed_models):
        listed = _listed((*provider.aliases, *provider.allowed_models))
        return model_answer(f"The model {model} is not allowed at the provider {name}; allowed: {listed}.")
    return _named(settings, body, model)


def _named(settings: GatewaySettings, body: RequestBody, model: str | None) -> Choice:
    name, provider = settings.choose(model)
    meant = provider.aliases.get(model) if model is not None else None
    if meant is None:
        return Choice(name, provider, model)
    body.rename(meant)
    return Choice(name, provider, meant)


def _listed(models: tuple[str, ...] | None) -> str:
    return ", ".join(models or ())
