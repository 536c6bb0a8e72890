"""Sessions over REST."""

from __future__ import annotations

import pytest

from tests.server.site import Site, error_of


async def test_a_session_is_made_once_and_then_found(site: Site) -> None:
    alice = await site.client("alice")
    async with alice.post("api/v1/sessions", json={"session_id": "work", "title": "Work"}) as response:
        assert response.status == 201
        made = await response.json()
    assert made["session_id"] == "work"
    assert made["title"] == "Work"
    assert made["state"] == "parked"
    assert set(made) == {
        "session_id",
        "title",
        "state",
        "template",
        "model",
        "permission_mode",
        "created_at",
        "last_active_at",
        "cursor",
        "remembered",
    }
    async with alice.post("api/v1/sessions", json={"session_id": "work"}) as response:
        assert response.status == 200
    async with alice.get("api/v1/sessions/work") as response:
        assert await response.json() == made
    async with alice.post("api/v1/sessions") as response:
        assert response.status == 201


async def test_sessions_are_listed_by_page_and_search(site: Site) -> None:
    alice = await site.client("alice")
    for name in ("a1", "a2", "b1"):
        await site.pool.create_session("alice", name)
    await site.pool.create_session("bob", "c1")
    async with alice.get("api/v1/sessions", params={"limit": "2"}) as response:
        first = await response.json()
    assert [one["session_id"] for one in first["sessions"]] == ["a1", "a2"]
    assert first["next"] == "a2"
    async with alice.get("api/v1/sessions", params={"after": "a2"}) as response:
        second = await response.json()
    assert [one["session_id"] for one in second["sessions"]] == ["b1"]
    assert second["next"] is None
    async with alice.get("api/v1/sessions", params={"search": "b"}) as response:
        assert len((await response.json())["sessions"]) == 1


async def test_a_session_is_changed_forked_and_put_away(site: Site) -> None:
    alice = await site.client("alice")
    await site.pool.create_session("alice", "s")
    async with alice.patch("api/v1/sessions/s", json={"title": "T", "permission_mode": "plan"}) as response:
        changed = await response.json()
    assert (changed["title"], changed["permission_mode"]) == ("T", "plan")
    async with alice.patch("api/v1/sessions/s", json={"permission_mode": "bypassPermissions"}) as response:
        assert await error_of(response) == (403, "forbidden")
    async with alice.post("api/v1/sessions/s/fork", json={"session_id": "f"}) as response:
        assert response.status == 201
        assert (await response.json())["session_id"] == "f"
    async with alice.delete("api/v1/sessions/s") as response:
        assert response.status == 204
    async with alice.get("api/v1/sessions", params={"include_archived": "true"}) as response:
        assert {one["session_id"] for one in (await response.json())["sessions"]} == {"s", "f"}
    async with alice.get("api/v1/sessions") as response:
        assert {one["session_id"] for one in (await response.json())["sessions"]} == {"f"}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ('{"session_id": "../x"}', "invalid_name"),
        ('{"session_id": "--dangerously-skip-permissions"}', "invalid_name"),
        ('{"session_id": "a/../b"}', "invalid_name"),
        ('{"session_id": 5}', "invalid_name"),
        ('{"session_id": ""}', "invalid_name"),
        ('{"session_id": "a\\u0000b"}', "invalid_name"),
        ('{"template": "a b"}', "invalid_name"),
        ('{"titel": "x"}', "bad_request"),
        ('{"title": 5}', "bad_request"),
        ("{", "bad_request"),
        ("[]", "bad_request"),
        ('"text"', "bad_request"),
        ('{"title": "\\ud800"}', "bad_request"),
        ('{"title": NaN}', "bad_request"),
        ("[" * 100_000, "bad_request"),
    ],
)
async def test_bad_bodies_are_refused(site: Site, body: str, code: str) -> None:
    alice = await site.client("alice")
    headers = {"Content-Type": "application/json"}
    async with alice.post("api/v1/sessions", data=body, headers=headers) as response:
        assert await error_of(response) == (400, code)
    assert site.pool.sessions == {}


async def test_bytes_that_are_no_text_are_refused(site: Site) -> None:
    alice = await site.client("alice")
    headers = {"Content-Type": "application/json"}
    async with alice.post("api/v1/sessions", data=b'{"title":"\xff"}', headers=headers) as response:
        assert await error_of(response) == (400, "bad_request")


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=501", "colour=blue", "search=a&search=b"])
async def test_bad_queries_are_refused(site: Site, query: str) -> None:
    alice = await site.client("alice")
    async with alice.get(f"api/v1/sessions?{query}") as response:
        assert await error_of(response) == (400, "bad_request")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("POST", "/fork"),
        ("GET", "/events"),
        ("GET", "/history"),
        ("GET", "/status"),
        ("POST", "/interrupt"),
        ("GET", "/permissions"),
        ("POST", "/permissions/r1"),
    ],
)
async def test_another_users_session_is_not_there(site: Site, method: str, path: str) -> None:
    await site.pool.create_session("bob", "secret")
    site.pool.ask("bob", "secret", "r1")
    alice = await site.client("alice")
    body = {"decision": "allow"} if "permissions/" in path else {}
    sent = body if method in ("POST", "PATCH") else None
    async with alice.request(method, f"api/v1/sessions/secret{path}", json=sent) as response:
        assert await error_of(response) == (404, "not_found")
    async with alice.request(method, f"api/v1/sessions/none{path}", json=sent) as response:
        assert await error_of(response) == (404, "not_found")
