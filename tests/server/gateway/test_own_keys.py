"""Users' own keys: encrypted at rest, bound to their names, used instead of ours, free of money limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from server.gateway import write_gateway_config
from server.gateway.budgets import write_budgets
from server.gateway.own_keys import OwnKeys, own_keys_path
from server.gateway.settings import GatewayConfigError
from tests.server.gateway.harness import KEY, Upstream, asking, gateway_for, scripted_upstream
from tests.server.gateway.test_metering import PRICES, ask, whole
from tests.server.gateway.test_usage_journal import all_entries

OWN = "sk-ant-alices-own-key-987"


def point_to(data_dir: Path, upstream: Upstream, **more: Any) -> None:
    provider = {"kind": "anthropic", "base_url": upstream.url, "prices": PRICES, "own_keys": True, **more}
    write_gateway_config(data_dir, {"up": provider})


def test_a_key_is_kept_and_forgotten(tmp_path: Path) -> None:
    keys = OwnKeys(tmp_path)
    keys.put("alice", "up", "old")
    keys.put("alice", "up", OWN)
    keys.put("alice", "other", "x")
    keys.put("bob", "up", "bobs")
    again = OwnKeys(tmp_path)
    assert again.opened(again.sealed(), "alice", "up") == OWN
    assert again.opened(again.sealed(), "carol", "up") is None
    assert again.providers_of("alice") == ["other", "up"]
    assert again.remove("alice", "up")
    assert not again.remove("alice", "up")
    assert again.remove("alice")
    assert not again.remove("alice")
    assert again.opened(again.sealed(), "bob", "up") == "bobs"


def test_nothing_on_disk_shows_a_key_and_only_its_owner_reads_the_files(tmp_path: Path) -> None:
    OwnKeys(tmp_path).put("alice", "up", OWN)
    for path in (own_keys_path(tmp_path), tmp_path / "own-keys" / "own-keys.key"):
        assert OWN.encode() not in path.read_bytes()
        assert path.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "own-keys").iterdir()] == ["own-keys.key"]


def test_an_entry_is_worth_nothing_in_anothers_place(tmp_path: Path) -> None:
    keys = OwnKeys(tmp_path)
    keys.put("alice", "up", OWN)
    sealed = keys.sealed()["alice"]["up"]
    for user, provider in (("mallory", "up"), ("alice", "elsewhere")):
        with pytest.raises(GatewayConfigError, match="entered again"):
            keys.opened({user: {provider: sealed}}, user, provider)


def test_files_that_cannot_be_used_say_so(tmp_path: Path) -> None:
    keys = OwnKeys(tmp_path)
    keys.put("alice", "up", OWN)
    (tmp_path / "own-keys" / "own-keys.key").unlink()
    with pytest.raises(GatewayConfigError, match="missing"):
        keys.opened(keys.sealed(), "alice", "up")
    own_keys_path(tmp_path).write_text("[]")
    with pytest.raises(GatewayConfigError, match="another shape"):
        keys.sealed()


async def test_a_users_own_key_is_sent_for_that_user_only(tmp_path: Path) -> None:
    async with (
        scripted_upstream(whole()) as upstream,
        gateway_for(tmp_path, "alice", "bob") as (alice, bob),
    ):
        point_to(tmp_path, upstream, api_key=KEY)
        OwnKeys(tmp_path).put("alice", "up", OWN)
        assert (await ask(alice))[0] == (await ask(bob))[0] == 200
        OwnKeys(tmp_path).remove("alice", "up")
        assert (await ask(alice))[0] == 200
    assert [headers["x-api-key"] for headers in upstream.headers] == [OWN, KEY, KEY]
    assert [(entry.provider, entry.usd > 0) for entry in all_entries(tmp_path)] == [
        ("up:own", False),
        ("up", True),
        ("up", True),
    ]
    log = (tmp_path / "gateway" / "gateway.log").read_text()
    assert not any(word in log for word in (OWN, KEY))


async def test_an_own_key_is_not_held_to_our_money_but_to_tokens(tmp_path: Path) -> None:
    async with scripted_upstream(whole()) as upstream, gateway_for(tmp_path, "alice") as (alice,):
        point_to(tmp_path, upstream, api_key=KEY)
        write_budgets(tmp_path, {"usd_per_day": 0}, {})
        assert (await ask(alice))[0] == 429
        OwnKeys(tmp_path).put("alice", "up", OWN)
        assert (await ask(alice))[0] == 200
        write_budgets(tmp_path, {"tokens_per_day": 1}, {})
        assert (await ask(alice))[0] == 429


async def test_without_any_key_the_user_is_told_to_enter_one(tmp_path: Path) -> None:
    async with scripted_upstream(whole()) as upstream, gateway_for(tmp_path, "alice") as (alice,):
        point_to(tmp_path, upstream)
        status, body = await ask(alice)
    assert (status, upstream.targets) == (400, [])
    assert "needs a key of your own" in body["error"]["message"]


async def test_a_provider_that_takes_no_own_keys_gets_none(tmp_path: Path) -> None:
    async def script(_request: web.Request) -> web.StreamResponse:
        return web.json_response({})

    async with scripted_upstream(script) as upstream, gateway_for(tmp_path, "alice") as (alice,):
        point_to(tmp_path, upstream, api_key=KEY, own_keys=False)
        OwnKeys(tmp_path).put("alice", "up", OWN)
        async with alice.post("/v1/messages", data=json.dumps(asking("x"))) as response:
            assert response.status == 200
    assert upstream.headers[0]["x-api-key"] == KEY
