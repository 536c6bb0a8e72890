"""Own model keys over REST: written, never read back, gone with their user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from server.gateway import write_gateway_config
from server.gateway.own_keys import OwnKeys
from tests.server.site import Site, error_of

PATH = "api/v1/me/model-keys"
OWN = "sk-ant-own"


@pytest.fixture
def providers(site: Site, short_dir: Path) -> None:
    write_gateway_config(
        short_dir,
        {
            "open": {"kind": "anthropic", "own_keys": True},
            "house": {"kind": "gateway", "base_url": "http://127.0.0.1:1"},
        },
    )


async def listed(client: Any) -> Any:
    async with client.get(PATH) as response:
        assert response.status == 200
        return await response.json()


@pytest.mark.usefixtures("providers")
async def test_a_key_is_kept_for_its_user_and_shown_to_nobody(site: Site, short_dir: Path) -> None:
    alice, bob = await site.client("alice"), await site.client("bob")
    assert await listed(alice) == {"model_keys": [{"provider": "open", "has_key": False}]}
    async with alice.put(f"{PATH}/open", json={"api_key": OWN}) as response:
        assert response.status == 204
    assert await listed(alice) == {"model_keys": [{"provider": "open", "has_key": True}]}
    assert await listed(bob) == {"model_keys": [{"provider": "open", "has_key": False}]}
    keys = OwnKeys(short_dir)
    assert keys.opened(keys.sealed(), "alice", "open") == OWN
    async with bob.delete(f"{PATH}/open") as response:
        assert await error_of(response) == (404, "not_found")
    async with alice.delete(f"{PATH}/open") as response:
        assert response.status == 204
    assert keys.providers_of("alice") == []


@pytest.mark.usefixtures("providers")
async def test_what_is_no_key_or_for_no_open_provider_is_refused(site: Site) -> None:
    alice = await site.client("alice")
    for provider, key, expected in (
        ("house", OWN, (404, "not_found")),
        ("nowhere", OWN, (404, "not_found")),
        ("open", "with space ", (400, "bad_request")),
        ("open", "", (400, "bad_request")),
        ("open", "line\nbreak", (400, "bad_request")),
    ):
        async with alice.put(f"{PATH}/{provider}", json={"api_key": key}) as response:
            assert await error_of(response) == expected


@pytest.mark.usefixtures("providers")
async def test_a_deleted_users_keys_are_gone(site: Site, short_dir: Path) -> None:
    alice, root = await site.client("alice"), await site.client("root", admin=True)
    async with alice.put(f"{PATH}/open", json={"api_key": OWN}) as response:
        assert response.status == 204
    async with root.delete("api/v1/admin/users/alice") as response:
        assert response.status == 204
    assert OwnKeys(short_dir).providers_of("alice") == []


@pytest.mark.usefixtures("providers")
async def test_a_token_that_may_only_read_brings_no_key(site: Site) -> None:
    alice = await site.client("alice", scopes=["read"])
    async with alice.put(f"{PATH}/open", json={"api_key": OWN}) as response:
        assert await error_of(response) == (403, "forbidden")
