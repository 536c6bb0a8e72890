"""Who did what: written down at every way in, read by administrators only, never with a secret."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from click.testing import CliRunner, Result

from pool import AuditLog
from server.audit import fingerprints, note_start
from server.cli import main
from server.settings import load_config
from tests.server.site import Site, error_of, running

PASSWORD = "a good password"


async def lines(site: Site, **wanted: Any) -> list[dict[str, Any]]:
    """The records so far."""
    return [record.as_line() for record in await site.pool.audit.page(limit=500, **wanted)]


async def actions(site: Site, **wanted: Any) -> list[str]:
    return [line["action"] for line in await lines(site, **wanted)]


async def log_in(site: Site, name: str, password: str, http: ClientSession | None = None) -> int:
    body = {"username": name, "password": password}
    async with (http or site.http).post(
        "api/v1/auth/login", json=body, headers={"User-Agent": "Bröwser/1 " + "x" * 500}
    ) as response:
        return response.status


async def test_a_sign_in_is_told_with_its_way_and_address_and_so_is_its_end(site: Site) -> None:
    await site.services.users.add("alice", password=PASSWORD)
    browser = await site.client_with({})
    assert await log_in(site, "alice", PASSWORD, browser) == 200
    async with browser.post("api/v1/auth/logout", json={}) as response:
        assert response.status == 204
    added, sign_in, sign_out = await lines(site)
    assert added["action"] == "user.added"
    assert (sign_in["action"], sign_in["actor"], sign_in["user_id"]) == ("sign_in", "alice", "alice")
    facts = sign_in["facts"]
    assert (facts["way"], facts["address"], facts["channel"]) == ("password", "127.0.0.1", "rest")
    assert facts["agent"].startswith("Br?wser/1 xxx")
    assert len(facts["agent"]) == 120
    assert (sign_out["action"], sign_out["actor"]) == ("sign_out", "alice")
    assert sign_out["facts"]["token"] == facts["token"]


async def test_failures_are_told_but_never_what_was_typed(site: Site) -> None:
    await site.services.users.add("alice", password=PASSWORD)
    assert await log_in(site, "alice", "wrong password") == 401
    assert await log_in(site, "my secret typed into the wrong field", PASSWORD) == 401
    async with site.http.post("api/v1/auth/links/redeem", json={"code": "guessed-code"}) as response:
        assert response.status == 401
    told = await lines(site)
    assert [(line["action"], line["actor"], line["user_id"]) for line in told[1:]] == [
        ("sign_in.failed", "@nobody", "alice"),
        ("sign_in.failed", "@nobody", None),
        ("sign_in.failed", "@nobody", None),
    ]
    assert [line["facts"]["way"] for line in told[1:]] == ["password", "password", "link"]
    text = json.dumps(told)
    assert not any(word in text for word in ("secret", "wrong password", "guessed", PASSWORD))


async def test_whoever_hammers_cannot_fill_the_log(site: Site) -> None:
    await site.services.users.add("alice", password=PASSWORD)
    answers = [await log_in(site, "alice", "wrong password") for _ in range(20)]
    assert answers.count(429) == 10
    told = await actions(site)
    assert told.count("sign_in.failed") == 10
    assert told.count("sign_in.throttled") == 1


async def test_who_is_signed_in_by_a_proxy_is_told_once_a_day(tmp_path: Path) -> None:
    auth = {"auth": {"proxy_header": "X-User"}, "server": {"trusted_proxies": ["127.0.0.1"]}}
    async with running(tmp_path, auth) as site:
        for _ in range(3):
            headers = {"X-User": "alice", "X-Forwarded-For": "203.0.113.9"}
            async with site.http.get("api/v1/me", headers=headers) as response:
                assert response.status == 200
        [line] = await lines(site)
        assert (line["action"], line["user_id"], line["facts"]["way"]) == ("sign_in", "alice", "proxy")
        assert line["facts"]["address"] == "203.0.113.9"


async def test_tokens_and_links_are_told_by_their_ids(site: Site) -> None:
    alice = await site.client("alice")
    async with alice.post("api/v1/auth/tokens", json={"scopes": ["read"]}) as response:
        made = await response.json()
    async with alice.delete(f"api/v1/auth/tokens/{made['id']}") as response:
        assert response.status == 204
    code = await site.services.sign_in.make_link("alice")
    told = (await lines(site))[2:]
    assert [line["action"] for line in told] == ["token.made", "token.revoked", "link.made"]
    assert told[0]["facts"]["scopes"] == ["read"]
    assert told[0]["facts"]["token"] == told[1]["facts"]["token"] == made["id"]
    text = json.dumps(told)
    assert made["access_token"] not in text
    assert code not in text


async def test_what_administrators_do_is_told_before_or_with_the_deed(site: Site) -> None:
    mine = site.pool.add_instance("bob", "b")
    root = await site.client("root", admin=True)
    start = len(await lines(site))
    deeds: list[tuple[str, str, Mapping[str, Any] | None]] = [
        ("POST", "users", {"user_id": "bob", "password": PASSWORD}),
        ("POST", f"instances/{mine.id}/stop", {}),
        ("PATCH", "users/bob", {"admin": True}),
        ("PATCH", "users/bob", {"password": "another password"}),
        ("PATCH", "users/bob", {"disabled": True}),
        ("POST", "drain", {}),
        ("DELETE", "drain", None),
        ("DELETE", "users/bob", None),
    ]
    for method, path, body in deeds:
        async with root.request(method, f"api/v1/admin/{path}", json=body) as response:
            assert response.status < 300, path
    told = (await lines(site))[start:]
    names = [line["action"] for line in told]
    for name in (
        "user.added",
        "user.roles",
        "user.password",
        "user.disabled",
        "admin.instance_stopped",
        "server.drain",
        "server.resume",
        "user.deleted",
    ):
        assert name in names
    assert {line["actor"] for line in told} == {"root"}
    assert {line["facts"]["address"] for line in told} == {"127.0.0.1"}
    assert PASSWORD not in json.dumps(told)


async def test_an_own_key_is_told_by_its_provider_only(site: Site) -> None:
    alice = await site.client("alice")
    body = {"api_key": "sk-very-private"}
    async with alice.put("api/v1/me/model-keys/main", json=body) as response:
        assert response.status in (204, 404, 409)
    [line] = await lines(site, action="model_key.put")
    assert line["facts"]["provider"] == "main"
    assert "sk-very" not in json.dumps(line)


async def test_administrators_read_the_log_in_pages_and_are_seen_reading(site: Site) -> None:
    root = await site.client("root", admin=True)
    for number in range(5):
        await site.pool.audit.tell("prompt", user_id="alice", number=number)

    async def page(**query: Any) -> dict[str, Any]:
        async with root.get("api/v1/admin/audit", params=query) as response:
            assert response.status == 200
            return dict(await response.json())

    first = await page(user="alice", limit=2)
    assert [line["facts"]["number"] for line in first["records"]] == [0, 1]
    second = await page(user="alice", limit=4, after=first["next"])
    assert [line["facts"]["number"] for line in second["records"]] == [2, 3, 4]
    assert second["next"] is None
    assert len((await page(user="alice", action="prompt"))["records"]) == 5
    newest = await page(newest_first="true", limit=1)
    assert newest["records"][0]["action"] == "audit.read"
    assert newest["records"][0]["actor"] == "root"
    assert len(await lines(site, action="audit.read")) == 4
    for query in ({"limit": "0"}, {"after": "x"}, {"nonsense": "1"}):
        async with root.get("api/v1/admin/audit", params=query) as response:
            assert await error_of(response) == (400, "bad_request")


async def test_nobody_else_reads_it(site: Site) -> None:
    alice = await site.client("alice")
    async with alice.get("api/v1/admin/audit") as response:
        assert await error_of(response) == (403, "forbidden")
    assert "audit.read" not in await actions(site)


async def test_without_its_record_nobody_signs_in(site: Site) -> None:
    await site.services.users.add("alice", password=PASSWORD)
    await site.pool.database.submit(lambda connection: connection.exec_driver_sql("DROP TABLE audit"))
    assert await log_in(site, "alice", PASSWORD) == 503
    assert await log_in(site, "alice", "wrong password") == 503


async def test_a_start_tells_which_settings_changed_and_no_secret(site: Site) -> None:
    log = site.pool.audit
    assert isinstance(log, AuditLog)
    secret = {"auth": {"jwt": {"secret": "s" * 40}}}
    before = load_config(None, {}, secret)
    after = load_config(
        None, {}, {**secret, "security": {"denied_commands": ["rm *"]}, "pool": {"queue_length": 7}}
    )
    other = load_config(None, {}, {"auth": {"jwt": {"secret": "t" * 40}}})
    await note_start(log, before, "1", "key")
    await note_start(log, before, "1", "key")
    assert await actions(site) == ["server.started", "server.started"]
    await note_start(log, after, "1", "key")
    await note_start(log, other, "1", "key")
    changes = await lines(site, action="config.changed")
    assert changes[0]["facts"]["keys"] == ["pool.queue_length", "security.denied_commands"]
    assert changes[0]["facts"]["values"] == {"security.denied_commands": ["rm *"]}
    assert "auth.jwt.secret" in changes[1]["facts"]["keys"]
    assert {line["actor"] for line in await lines(site)} == {"@server"}
    text = json.dumps(await lines(site))
    assert "ssss" not in text
    assert "tttt" not in text


def test_a_fingerprint_cannot_be_tried_without_the_key() -> None:
    config = load_config(None, {}, {"auth": {"jwt": {"secret": "s" * 40}}})
    ours, theirs = fingerprints(config, "key"), fingerprints(config, "other key")
    assert not set(ours.values()) & set(theirs.values())


# --- the commands, with no server running ------------------------------------------------


@pytest.fixture
def claude_pool(tmp_path: Path) -> Any:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, [*arguments, "--data", str(tmp_path / "data")])

    return run


def test_commands_beside_no_server_are_told_and_the_log_is_verified_and_exported(
    claude_pool: Any, tmp_path: Path
) -> None:
    assert claude_pool("user", "add", "alice").exit_code == 0
    assert claude_pool("user", "disable", "alice").exit_code == 0
    whole = claude_pool("audit", "verify")
    assert whole.exit_code == 0, whole.output
    place = whole.output.split("end ")[1].strip()
    exported = claude_pool("audit", "export", "--user", "alice")
    told = [json.loads(line) for line in exported.output.splitlines()]
    assert [line["action"] for line in told][:2] == ["user.added", "user.disabled"]
    assert {line["actor"] for line in told} == {"@command"}
    assert told[0]["facts"]["agent"].startswith("uid ")
    after = claude_pool("audit", "export", "--after", str(told[-1]["seq"]))
    assert [json.loads(line)["action"] for line in after.output.splitlines()] == [
        "audit.verified",
        "audit.exported",
        "audit.exported",
    ]
    assert claude_pool("audit", "verify", "--expect", place).exit_code == 0
    assert claude_pool("audit", "verify", "--expect", "nonsense").exit_code == 2
    forged = f"1:{'0' * 64}"
    assert claude_pool("audit", "verify", "--expect", forged).exit_code == 1


def test_a_changed_log_is_found_by_the_command(claude_pool: Any, tmp_path: Path) -> None:
    claude_pool("user", "add", "alice")
    with closing(sqlite3.connect(tmp_path / "data" / "claude-pool.db")) as connection, connection:
        connection.execute("UPDATE audit SET actor = 'mallory'")
    found = claude_pool("audit", "verify")
    assert found.exit_code == 1
    assert "record 1 was changed" in found.output
