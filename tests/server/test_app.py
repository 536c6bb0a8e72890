"""The application as a whole: every error in one shape, headers, health, the OpenAPI document, the web UI."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from pool.errors import PoolError
from server.app import API_ROUTES
from server.errors import STATUSES
from server.health import LAG
from tests.server.site import Site, error_of, running
from tests.waiting import eventually


def kinds(kind: type[PoolError]) -> set[type[PoolError]]:
    return {kind}.union(*(kinds(below) for below in kind.__subclasses__()))


def test_every_error_has_a_row_in_the_table() -> None:
    assert {kind.code for kind in kinds(PoolError)} <= set(STATUSES)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "api/v1/nothing", 404, "not_found"),
        ("POST", "api/v1/nothing", 404, "not_found"),
        ("GET", "nothing", 404, "not_found"),
        ("GET", "../pyproject.toml", 404, "not_found"),
        ("GET", "..%2f..%2fpyproject.toml", 404, "not_found"),
        ("GET", "%00", 404, "not_found"),
        ("DELETE", "api/v1/me", 405, "method_not_allowed"),
        ("POST", "health", 405, "method_not_allowed"),
        ("GET", "metrics", 403, "forbidden"),
        ("GET", "api/v1/tasks", 404, "not_found"),
    ],
)
async def test_every_error_has_the_shape(site: Site, method: str, path: str, status: int, code: str) -> None:
    alice = await site.client("alice")
    async with alice.request(method, path) as response:
        assert await error_of(response) == (status, code)
        if status == 405:
            assert response.headers["Allow"]


async def test_a_body_above_the_bound_is_413_on_every_route(short_dir: Path) -> None:
    async with running(short_dir, {"server": {"max_message_bytes": 1024}}) as site:
        alice = await site.client("alice")
        for path in ("api/v1/sessions", "api/v1/auth/login"):
            async with alice.post(path, json={"title": "x" * 2000}) as response:
                assert await error_of(response) == (413, "too_large")


async def test_every_answer_has_the_security_headers(site: Site) -> None:
    for path in ("", "livez", "api/v1/nothing", "api/v1/docs", "api/v1/me"):
        async with site.http.get(path) as response:
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            policy = response.headers["Content-Security-Policy"]
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert response.headers["Server"] == "claude-pool"


async def test_health_needs_no_sign_in_and_tells_no_secret(site: Site) -> None:
    site.pool.add_instance("alice", "s")
    async with site.http.get("livez") as response:
        assert response.status == 200
    async with site.http.get("readyz") as response:
        assert (response.status, await response.json()) == (200, {"ready": True, "reasons": []})
    async with site.http.get("health") as response:
        assert response.status == 200
        health = await response.json()
    assert health["status"] == "ok"
    assert health["instances"] == {
        "total": 1,
        "starting": 0,
        "ready": 1,
        "busy": 0,
        "stopping": 0,
        "stuck": 0,
    }
    assert {"version", "uptime_seconds", "users", "queue"} <= set(health)
    assert health["model"]["demo"] is True
    assert "demo model" in health["checks"]["model"]["detail"]
    assert all(set(check) == {"ok", "detail"} for check in health["checks"].values())
    assert "alice" not in json.dumps(health)


async def test_a_blocked_event_loop_is_degraded(site: Site) -> None:
    lag = site.app[LAG]
    await eventually(lambda: len(lag._samples) > 0)
    lag._samples.append(3.0)
    async with site.http.get("health") as response:
        health = await response.json()
    assert health["status"] == "degraded"
    assert health["checks"]["event_loop"]["ok"] is False


async def test_the_document_matches_the_served_routes_exactly(site: Site) -> None:
    async with site.http.get("api/v1/openapi.json") as response:
        document = await response.json()
    assert document["openapi"].startswith("3.1")
    documented = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    served = {
        (route.method, route.resource.canonical)
        for route in site.app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    assert served - documented == {("GET", "/"), ("GET", "/{path}")}
    assert documented <= served


async def test_the_document_can_be_read_by_a_machine(site: Site) -> None:
    async with site.http.get("api/v1/openapi.json") as response:
        document = await response.json()
    names = set(document["components"]["schemas"])
    references = {
        text.removeprefix("#/components/schemas/")
        for text in _texts(document)
        if text.startswith("#/components/schemas/")
    }
    assert references <= names
    operations = [one for methods in document["paths"].values() for one in methods.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for operation in operations:
        assert operation["summary"]
        assert operation["responses"]


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []


async def test_every_route_that_is_not_open_asks_for_a_sign_in(site: Site) -> None:
    opened = set()
    for route in API_ROUTES:
        path = re.sub(r"\{\w+\}", "x", route.path).lstrip("/")
        async with site.http.request(route.method, path) as response:
            if response.status != 401:
                opened.add(route.path)
    assert opened == {
        "/livez",
        "/readyz",
        "/health",
        "/api/v1/auth/login",
        "/api/v1/auth/links/redeem",
    }


async def test_the_page_shows_every_route_without_a_script(site: Site) -> None:
    async with site.http.get("api/v1/docs") as response:
        assert response.content_type == "text/html"
        text = await response.text()
    assert all(route.path in text for route in API_ROUTES)
    assert "<script" not in text


async def test_the_web_ui_is_served_as_files(short_dir: Path) -> None:
    web = short_dir / "web"
    (web / "app").mkdir(parents=True)
    (web / "index.html").write_text("<!doctype html>hi")
    (web / "app" / "main.js").write_text("1")
    (web / "secret.py").write_text("no")
    (web / ".hidden.js").write_text("no")
    (web / "out.js").symlink_to("/etc/hostname")
    async with running(short_dir / "data", web_dir=web) as site:
        async with site.http.get("") as response:
            assert response.content_type == "text/html"
            assert response.headers["Cache-Control"] == "no-cache"
            tag = response.headers["ETag"]
        async with site.http.get("", headers={"If-None-Match": tag}) as response:
            assert response.status == 304
        async with site.http.get("app/main.js") as response:
            assert response.content_type == "text/javascript"
        for path in ("secret.py", ".hidden.js", "out.js", "app", "app/", "app/none.js", "app//main.js"):
            async with site.http.get(path) as response:
                assert await error_of(response) == (404, "not_found"), path


async def test_without_the_web_ui_a_sentence_says_so(short_dir: Path) -> None:
    async with running(short_dir, web_dir=short_dir / "none") as site, site.http.get("") as response:
        assert response.status == 404
        assert "web UI is not in this installation" in await response.text()


async def test_a_base_path_is_before_everything(short_dir: Path) -> None:
    async with running(short_dir, {"server": {"base_path": "/pool/"}}) as site:
        assert site.base.endswith("/pool")
        async with site.http.get("livez") as response:
            assert response.status == 200
        async with site.http.get(f"{site.origin}/livez") as response:
            assert await error_of(response) == (404, "not_found")
        async with site.http.get(site.base, allow_redirects=False) as response:
            assert (response.status, response.headers["Location"]) == (308, "/pool/")
        async with site.http.get("api/v1/openapi.json") as response:
            assert (await response.json())["servers"] == [{"url": "/pool"}]
        alice = await site.client("alice")
        async with alice.get("api/v1/me") as response:
            assert response.status == 200


async def test_a_hundred_requests_at_once_are_all_answered(site: Site) -> None:
    alice = await site.client("alice")

    async def ask(number: int) -> int:
        async with alice.post("api/v1/sessions", json={"session_id": f"s{number % 7}"}) as response:
            return response.status

    statuses = await asyncio.gather(*(ask(number) for number in range(100)))
    assert sorted(set(statuses)) == [200, 201]
    assert statuses.count(201) == 7
