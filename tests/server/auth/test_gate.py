"""From where may a request come, with which credential: the rules of CONTRACT section 4."""

from __future__ import annotations

import time
from pathlib import Path

import aiohttp
import jwt
import pytest

from tests.server.site import Site, error_of, running

SECRET = "a secret of at least thirty-two bytes"


async def test_no_credential_is_401_with_a_challenge(site: Site) -> None:
    async with site.http.get("api/v1/me") as response:
        assert await error_of(response) == (401, "unauthorized")
        assert response.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "header", ["Bearer", "Bearer x", "Basic YTpi", "Bearer a.b.c", "bearer \u00fc", "Bearer " + "x" * 5000]
)
async def test_a_bad_credential_is_401(site: Site, header: str) -> None:
    async with site.http.get("api/v1/me", headers={"Authorization": header}) as response:
        assert await error_of(response) == (401, "unauthorized")


async def test_tokens_of_other_keys_algorithms_and_times_are_worthless(site: Site) -> None:
    await site.services.users.add("alice")
    now = int(time.time())
    claims = {"sub": "alice", "exp": now + 100, "jti": "x", "cpk": "api"}
    forged = [
        jwt.encode(claims, SECRET, algorithm="HS256"),
        jwt.encode(claims, None, algorithm="none"),  # type: ignore[arg-type]
    ]
    for token in forged:
        async with site.http.get("api/v1/me", headers={"Authorization": f"Bearer {token}"}) as response:
            assert await error_of(response) == (401, "unauthorized")


async def test_a_token_in_the_url_is_not_taken(site: Site) -> None:
    token = await site.token("alice")
    for name in ("token", "access_token", "jwt"):
        async with site.http.get(f"api/v1/me?{name}={token}") as response:
            assert await error_of(response) == (401, "unauthorized")


async def test_with_a_configured_secret_another_issuers_token_is_good(short_dir: Path) -> None:
    overrides = {
        "auth": {"jwt": {"secret": SECRET, "issuer": "us", "audience": "pool", "user_claim": "email"}}
    }
    async with running(short_dir, overrides) as site:
        now = int(time.time())

        def sign(**changes: object) -> dict[str, str]:
            claims: dict[str, object] = {
                "email": "ann@example.org",
                "iss": "us",
                "aud": "pool",
                "exp": now + 60,
            }
            claims |= {"roles": ["admin"], **changes}
            return {"Authorization": f"Bearer {jwt.encode(claims, SECRET, algorithm='HS256')}"}

        async with site.http.get("api/v1/me", headers=sign()) as response:
            me = await response.json()
        assert (me["user_id"], me["roles"]) == ("ann@example.org", ["admin"])
        for bad in (
            {"iss": "them"},
            {"aud": "other"},
            {"exp": now - 60},
            {"email": "../x"},
            {"email": None},
            {"nbf": now + 600},
            {"cpk": "api", "jti": "made up"},
        ):
            async with site.http.get("api/v1/me", headers=sign(**bad)) as response:
                assert await error_of(response) == (401, "unauthorized"), bad
        own = await site.client("alice")
        async with own.get("api/v1/me") as response:
            assert response.status == 200
        await site.services.users.add("ann@example.org")
        await site.services.users.set_disabled("ann@example.org", True)
        async with site.http.get("api/v1/me", headers=sign()) as response:
            assert await error_of(response) == (401, "unauthorized")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "a@localhost", "[", ""]
)
async def test_a_foreign_host_name_is_refused_everywhere(site: Site, host: str) -> None:
    for path in ("livez", "health", "api/v1/me", "", "nowhere"):
        async with site.http.get(path, headers={"Host": host}) as response:
            assert await error_of(response) == (403, "bad_origin")


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:9", "127.0.0.1", "[::1]:80", "a.localhost", "LOCALHOST."]
)
async def test_loopback_names_are_ours(site: Site, host: str) -> None:
    async with site.http.get("livez", headers={"Host": host}) as response:
        assert response.status == 200


async def test_configured_names_are_ours(short_dir: Path) -> None:
    async with running(short_dir, {"server": {"allowed_origins": ["https://chat.example.org"]}}) as site:
        alice = await site.client("alice")
        ours = {"Host": "chat.example.org", "Origin": "https://chat.example.org"}
        async with alice.post("api/v1/sessions", headers=ours) as response:
            assert response.status == 201


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://127.0.0.1:1",
        "https://localhost",
        "file://",
        "http://127.0.0.1.evil.test",
        "",
    ],
)
async def test_a_foreign_page_may_change_nothing(site: Site, origin: str) -> None:
    alice = await site.client("alice")
    async with alice.post("api/v1/sessions", headers={"Origin": origin}) as response:
        assert await error_of(response) == (403, "bad_origin")
    async with site.http.post("api/v1/auth/login", json={}, headers={"Origin": origin}) as response:
        assert await error_of(response) == (403, "bad_origin")
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with alice.ws_connect("ws", headers={"Origin": origin}):
            pass
    assert refused.value.status == 403
    async with alice.get("api/v1/sessions", headers={"Origin": origin}) as response:
        assert response.status == 200
        assert "Access-Control-Allow-Origin" not in response.headers
    assert site.pool.sessions == {}


async def test_the_own_page_may(site: Site) -> None:
    alice = await site.client("alice")
    async with alice.post("api/v1/sessions", headers={"Origin": site.origin}) as response:
        assert response.status == 201
    async with alice.ws_connect("ws", headers={"Origin": site.origin}) as socket:
        assert (await socket.receive_json())["type"] == "welcome"


async def test_a_request_that_says_it_crosses_sites_is_refused(site: Site) -> None:
    alice = await site.client("alice")
    async with alice.post("api/v1/sessions", headers={"Sec-Fetch-Site": "cross-site"}) as response:
        assert await error_of(response) == (403, "bad_origin")


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
async def test_a_body_must_be_json_by_name(site: Site, kind: str) -> None:
    alice = await site.client("alice")
    async with alice.post("api/v1/sessions", data=b"{}", headers={"Content-Type": kind}) as response:
        assert await error_of(response) == (403, "bad_origin")
    assert site.pool.sessions == {}


async def test_a_trusted_proxy_names_the_user_and_others_cannot(short_dir: Path) -> None:
    trusting = {"server": {"trusted_proxies": ["127.0.0.0/8"]}, "auth": {"proxy_header": "X-User"}}
    async with running(short_dir / "a", trusting) as site:
        async with site.http.get("api/v1/me", headers={"X-User": "alice"}) as response:
            assert (await response.json())["user_id"] == "alice"
        async with site.http.get("api/v1/me", headers={"X-User": "../x"}) as response:
            assert await error_of(response) == (401, "unauthorized")
    elsewhere = {"server": {"trusted_proxies": ["192.0.2.1"]}, "auth": {"proxy_header": "X-User"}}
    async with (
        running(short_dir / "b", elsewhere) as site,
        site.http.get("api/v1/me", headers={"X-User": "alice"}) as response,
    ):
        assert await error_of(response) == (401, "unauthorized")


async def test_in_single_user_mode_only_local_is_let_in(short_dir: Path) -> None:
    async with running(short_dir, {"multi_user": False}) as site:
        account = await site.services.sign_in.ensure_first_account()
        assert account is not None
        assert account.user_id == "local"
        local = await site.client("local")
        async with local.get("api/v1/me") as response:
            assert (await response.json())["roles"] == ["admin"]
        other = await site.client("alice")
        async with other.get("api/v1/me") as response:
            assert await error_of(response) == (401, "unauthorized")


async def test_the_first_account_is_an_administrator_without_a_password(site: Site) -> None:
    first = await site.services.sign_in.ensure_first_account()
    assert first is not None
    assert (first.user_id, first.roles, first.password_hash) == ("admin", ("admin",), None)
    again = await site.services.sign_in.ensure_first_account()
    assert again is not None
    assert again.user_id == "admin"
    await site.services.users.set_password("admin", "long enough")
    assert await site.services.sign_in.ensure_first_account() is None
