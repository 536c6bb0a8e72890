"""The OpenAPI 3.1 document and the page that shows it, made from the routes that are served."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Sequence
from typing import Any

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from server.errors import STATUSES
from server.routes import Access, Answer, Route, json_response

_REF = "#/components/schemas/{model}"
_PARAMETER = re.compile(r"\{(\w+)\}")
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color-scheme:light dark}table{border-collapse:collapse;width:100%}"
    "td,th{text-align:left;vertical-align:top;padding:.4rem;border-bottom:1px solid #8884}"
    "code{font:14px ui-monospace,monospace}"
)
_COMMON_ERRORS = ("bad_request", "bad_origin", "internal")


class ErrorBody(BaseModel):
    """What went wrong: branch on ``code``."""

    code: str
    message: str
    retry_after: int | None = None
    details: dict[str, Any] | None = None


class Error(BaseModel):
    """Every answer of status 400 and above."""

    error: ErrorBody


def document(routes: Sequence[Route], *, version: str, base_path: str) -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Claude Pool",
            "version": version,
            "description": "One live Claude Code CLI per session. The frames of the WebSocket and of "
            "server-sent events are described in docs/api.md.",
        },
        "servers": [{"url": base_path or "/"}],
        "paths": paths,
        "components": {
            "schemas": _schemas(routes),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": "claude_pool_session"},
            },
        },
    }


def _schemas(routes: Sequence[Route]) -> dict[str, Any]:
    inputs = {route.body for route in routes if route.body}
    outputs = {answer.schema for route in routes for answer in route.answers.values() if answer.schema}
    models = [(model, "validation") for model in sorted(inputs, key=lambda model: model.__name__)]
    models += [
        (model, "serialization")
        for model in sorted((outputs | {Error}) - inputs, key=lambda model: model.__name__)
    ]
    _, definitions = models_json_schema(models, ref_template=_REF)  # type: ignore[arg-type]
    return dict(definitions["$defs"])


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "parameters": _parameters(route),
        "responses": _responses(route),
    }
    if route.body is not None:
        required = any(field.is_required() for field in route.body.model_fields.values())
        schema = {"$ref": _REF.format(model=route.body.__name__)}
        operation["requestBody"] = {"required": required, "content": {"application/json": {"schema": schema}}}
    if route.access is not Access.OPEN:
        operation["security"] = [{"bearer": []}, {"cookie": []}]
    if route.access is Access.ADMIN:
        operation["description"] = "Administrators only."
    elif route.access is Access.SCRAPER:
        operation["description"] = "Administrators, and without a sign-in `server.metrics_addresses`."
    return operation


def _parameters(route: Route) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(route.path)
    ]
    if route.query is not None:
        properties = route.query.model_json_schema()["properties"]
        parameters += [
            {"name": name, "in": "query", "required": False, "schema": schema}
            for name, schema in properties.items()
        ]
    parameters += [
        {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in route.headers.items()
    ]
    return parameters


def _responses(route: Route) -> dict[str, Any]:
    responses = {str(status): _answer(answer) for status, answer in route.answers.items()}
    by_status: dict[int, list[str]] = {}
    for code in _error_codes(route):
        by_status.setdefault(STATUSES[code], []).append(code)
    for status, codes in sorted(by_status.items()):
        if str(status) in responses:
            continue
        responses[str(status)] = {
            "description": "`" + "`, `".join(sorted(codes)) + "`",
            "content": {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}},
        }
    return responses


def _error_codes(route: Route) -> set[str]:
    codes = {*_COMMON_ERRORS, *route.errors}
    if route.access is not Access.OPEN:
        codes |= {"unauthorized", "store_unavailable"}
    if route.access in (Access.ADMIN, Access.SCRAPER) or route.method != "GET":
        codes.add("forbidden")
    if "{" in route.path:
        codes |= {"not_found", "invalid_name"}
    if route.body is not None:
        codes.add("too_large")
    return codes


def _answer(answer: Answer) -> dict[str, Any]:
    body: dict[str, Any] = {"description": answer.description}
    if answer.schema is not None:
        schema: dict[str, Any] = {"$ref": _REF.format(model=answer.schema.__name__)}
        body["content"] = {answer.media_type: {"schema": schema}}
    elif answer.media_type != "application/json":
        body["content"] = {answer.media_type: {"schema": {"type": "string"}}}
    return body


def style_hash() -> str:
    """The source expression that lets the page's own style through the content security policy."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode() + "'"


def page(routes: Sequence[Route], *, version: str, base_path: str) -> str:
    """A page for people, without any script."""
    rows = "".join(
        f"<tr><td><code>{route.method}</code></td><td><code>{html.escape(route.path)}</code></td>"
        f"<td>{html.escape(route.summary)}</td><td>{route.access.value}</td></tr>"
        for route in routes
    )
    link = html.escape(f"{base_path}/api/v1/openapi.json")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Claude Pool API</title>'
        f"<style>{_STYLE}</style></head><body><h1>Claude Pool API</h1>"
        f'<p>Version {html.escape(version)}. For programs: <a href="{link}">openapi.json</a>.</p>'
        f"<table><thead><tr><th>Method<th>Path<th>Does<th>For</tr></thead><tbody>{rows}</tbody></table>"
        f"</body></html>"
    )


class OpenApi(BaseModel):
    """An OpenAPI 3.1 document."""

    openapi: str
    paths: dict[str, Any]


def with_document(routes: Sequence[Route], *, version: str, base_path: str) -> list[Route]:
    """``routes`` and the two that show them."""

    async def openapi_document(_request: web.Request) -> web.Response:
        return json_response(document(every, version=version, base_path=base_path))

    async def openapi_page(_request: web.Request) -> web.Response:
        policy = f"default-src 'none'; style-src {style_hash()}; frame-ancestors 'none'; base-uri 'none'"
        return web.Response(
            text=page(every, version=version, base_path=base_path),
            content_type="text/html",
            headers={"Content-Security-Policy": policy},
        )

    every = [
        *routes,
        Route(
            method="GET",
            path="/api/v1/openapi.json",
            handler=openapi_document,
            summary="This interface as an OpenAPI 3.1 document.",
            answers={200: Answer(description="The document.", schema=OpenApi)},
            access=Access.OPEN,
        ),
        Route(
            method="GET",
            path="/api/v1/docs",
            handler=openapi_page,
            summary="This interface as a page for people.",
            answers={200: Answer(description="The page.", media_type="text/html")},
            access=Access.OPEN,
        ),
    ]
    return every
