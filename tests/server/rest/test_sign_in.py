"""Signing in by password and by link, signing out, tokens."""

from __future__ import annotations

from http.cookies import SimpleCookie
from pathlib import Path

import pytest

from tests.server.site import Site, error_of, running

PASSWORD = "correct horse battery"


async def test_a_password_gives_a_token_and_a_cookie(site: Site) -> None:
    await site.services.users.add("alice", password=PASSWORD)
    browser = await site.client_with({})
    async with browser.post(
        "api/v1/auth/login", json={"username": "alice", "password": PASSWORD}
    ) as response:
        assert response.status == 200
        body = await response.json()
        cookie: SimpleCookie = SimpleCookie(response.headers["Set-Cookie"])
    assert (body["token_type"], body["expires_in"]) == ("bearer", 86400)
    morsel = cookie["claude_pool_session"]
    assert morsel["httponly"] is True
    assert morsel["samesite"] == "Strict"
    assert morsel["path"] == "/"
    assert not morsel["secure"]
    async with browser.get("api/v1/me") as response:
        assert (await response.json())["user_id"] == "alice"
    async with site.http.get(
        "api/v1/me", headers={"Authorization": f"Bearer {body['access_token']}"}
    ) as response:
        assert response.status == 200


async def test_behind_a_trusted_proxy_with_tls_the_cookie_is_secure(short_dir: Path) -> None:
    overrides = {"server": {"trusted_proxies": ["127.0.0.1/32"], "base_path": "/pool"}}
    async with running(short_dir, overrides) as site:
        await site.services.users.add("alice", password=PASSWORD)
        async with site.http.post(
            f"{site.base}/api/v1/auth/login",
            json={"username": "alice", "password": PASSWORD},
            headers={"X-Forwarded-Proto": "https"},
        ) as response:
            cookie: SimpleCookie = SimpleCookie(response.headers["Set-Cookie"])
            assert cookie["claude_pool_session"]["secure"] is True
            assert cookie["claude_pool_session"]["path"] == "/pool"
            assert "Strict-Transport-Security" in response.headers


@pytest.mark.parametrize(
    ("username", "password"),
    [
        ("alice", "wrong password"),
        ("nobody", PASSWORD),
        ("linked", PASSWORD),
        ("a\0b", PASSWORD),
        ("\ud800", "x"),
    ],
)
async def test_a_wrong_name_or_password_is_one_answer(site: Site, username: str, password: str) -> None:
    await site.services.users.add("alice", password=PASSWORD)
    await site.services.users.add("linked")
    body = {"username": username, "password": password}
    async with site.http.post("api/v1/auth/login", json=body) as response:
        status, code = await error_of(response)
    assert (status, code) in {(401, "unauthorized"), (400, "bad_request")}
    assert (status == 400) == (username == "\ud800")


async def test_sign_ins_are_throttled_per_account(site: Site) -> None:
    await site.services.users.add("alice", password=PASSWORD)
    for _ in range(10):
        async with site.http.post(
            "api/v1/auth/login", json={"username": "alice", "password": "wrong one"}
        ) as response:
            assert response.status == 401
    async with site.http.post(
        "api/v1/auth/login", json={"username": "alice", "password": PASSWORD}
    ) as response:
        assert await error_of(response) == (429, "rate_limited")
        assert 1 <= int(response.headers["Retry-After"]) <= 60


async def test_without_local_accounts_no_password_is_good(short_dir: Path) -> None:
    async with running(short_dir, {"auth": {"local": False}}) as site:
        await site.services.users.add("alice", password=PASSWORD)
        body = {"username": "alice", "password": PASSWORD}
        async with site.http.post("api/v1/auth/login", json=body) as response:
            assert await error_of(response) == (401, "unauthorized")


async def test_a_link_signs_in_once(site: Site) -> None:
    await site.services.users.add("alice")
    code = await site.services.sign_in.make_link("alice")
    async with site.http.get("api/v1/me", headers={"Authorization": f"Bearer {code}"}) as response:
        assert await error_of(response) == (401, "unauthorized")
    browser = await site.client_with({})
    async with browser.post("api/v1/auth/links/redeem", json={"code": code}) as response:
        assert response.status == 200
    async with browser.get("api/v1/me") as response:
        assert (await response.json())["user_id"] == "alice"
    async with site.http.post("api/v1/auth/links/redeem", json={"code": code}) as response:
        assert await error_of(response) == (401, "unauthorized")


async def test_an_expired_link_or_one_of_a_disabled_user_is_worthless(site: Site) -> None:
    await site.services.users.add("alice")
    expired = await site.services.sign_in.make_link("alice", ttl_seconds=-1)
    good = await site.services.sign_in.make_link("alice")
    await site.pool.accounts.set_disabled("alice", True)
    for code in (expired, good, "made up", "\0"):
        async with site.http.post("api/v1/auth/links/redeem", json={"code": code}) as response:
            assert await error_of(response) == (401, "unauthorized")


async def test_signing_out_ends_the_credential(site: Site) -> None:
    token = await site.token("alice")
    client = await site.client_with({"Authorization": f"Bearer {token}"})
    async with client.post("api/v1/auth/logout") as response:
        assert response.status == 204
        assert 'claude_pool_session=""' in response.headers["Set-Cookie"]
    async with client.get("api/v1/me") as response:
        assert await error_of(response) == (401, "unauthorized")


async def test_tokens_are_made_listed_and_revoked(site: Site) -> None:
    alice = await site.client("alice")
    async with alice.post("api/v1/auth/tokens", json={"ttl_seconds": 60, "scopes": ["read"]}) as response:
        assert response.status == 201
        made = await response.json()
    assert (made["expires_in"], made["scopes"]) == (60, ["read"])
    reader = await site.client_with({"Authorization": f"Bearer {made['access_token']}"})
    async with reader.get("api/v1/sessions") as response:
        assert response.status == 200
    async with reader.post("api/v1/sessions") as response:
        assert await error_of(response) == (403, "forbidden")
    async with alice.get("api/v1/auth/tokens") as response:
        tokens = (await response.json())["tokens"]
    assert {token["id"] for token in tokens} >= {made["id"]}
    assert [token["current"] for token in tokens].count(True) == 1
    assert made["access_token"] not in str(tokens)
    bob = await site.client("bob")
    async with bob.delete(f"api/v1/auth/tokens/{made['id']}") as response:
        assert await error_of(response) == (404, "not_found")
    async with alice.delete(f"api/v1/auth/tokens/{made['id']}") as response:
        assert response.status == 204
    async with reader.get("api/v1/sessions") as response:
        assert await error_of(response) == (401, "unauthorized")


@pytest.mark.parametrize(
    "body", [{"ttl_seconds": 0}, {"scopes": ["root"]}, {"ttl_seconds": "1"}, {"user": "bob"}]
)
async def test_bad_token_requests_are_refused(site: Site, body: dict[str, object]) -> None:
    alice = await site.client("alice")
    async with alice.post("api/v1/auth/tokens", json=body) as response:
        assert await error_of(response) == (400, "bad_request")


async def test_a_narrow_token_cannot_make_a_wider_or_longer_one(site: Site) -> None:
    narrow = await site.client("alice", scopes=["write"], ttl_seconds=100)
    async with narrow.post("api/v1/auth/tokens", json={"scopes": ["admin"]}) as response:
        assert await error_of(response) == (403, "forbidden")
    async with narrow.post("api/v1/auth/tokens", json={"ttl_seconds": 5000}) as response:
        made = await response.json()
    assert made["scopes"] == ["write"]
    assert made["expires_in"] <= 100
