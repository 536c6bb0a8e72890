"""What administrators may ask, and nobody else."""

from __future__ import annotations

import pytest

from tests.server.site import Site, error_of


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "instances"),
        ("POST", "instances/i0/stop"),
        ("GET", "users"),
        ("POST", "users"),
        ("PATCH", "users/bob"),
        ("DELETE", "users/bob"),
        ("POST", "users/bob/link"),
        ("POST", "drain"),
        ("DELETE", "drain"),
    ],
)
async def test_only_administrators_are_let_in(site: Site, method: str, path: str) -> None:
    alice = await site.client("alice")
    async with alice.request(method, f"api/v1/admin/{path}") as response:
        assert await error_of(response) == (403, "forbidden")
    async with site.http.request(method, f"api/v1/admin/{path}") as response:
        assert await error_of(response) == (401, "unauthorized")
    limited = await site.client("root", admin=True, scopes=["write"])
    async with limited.request(method, f"api/v1/admin/{path}") as response:
        assert await error_of(response) == (403, "forbidden")


async def test_instances_are_listed_and_stopped(site: Site) -> None:
    mine = site.pool.add_instance("alice", "a")
    site.pool.add_instance("bob", "b")
    root = await site.client("root", admin=True)
    alice = await site.client("alice")
    async with alice.get("api/v1/instances") as response:
        assert [one["id"] for one in (await response.json())["instances"]] == [mine.id]
    async with root.get("api/v1/admin/instances") as response:
        listed = (await response.json())["instances"]
    assert [one["user_id"] for one in listed] == ["alice", "bob"]
    assert set(listed[0]) == {
        "id",
        "user_id",
        "session_id",
        "state",
        "pid",
        "started_at",
        "turns",
        "rss_bytes",
        "cpu_seconds",
        "isolation",
        "host",
    }
    async with root.post(f"api/v1/admin/instances/{mine.id}/stop") as response:
        assert await response.json() == {"stopped": True}
    async with root.post(f"api/v1/admin/instances/{mine.id}/stop") as response:
        assert await error_of(response) == (404, "not_found")


async def test_accounts_are_made_changed_and_deleted(site: Site) -> None:
    root = await site.client("root", admin=True)
    async with root.post(
        "api/v1/admin/users", json={"user_id": "bob", "password": "long enough"}
    ) as response:
        assert response.status == 201
        made = await response.json()
    assert (made["user_id"], made["roles"], made["has_password"]) == ("bob", [], True)
    async with root.post("api/v1/admin/users", json={"user_id": "BOB"}) as response:
        assert await error_of(response) == (409, "conflict")
    async with root.post("api/v1/admin/users", json={"user_id": "../x"}) as response:
        assert await error_of(response) == (400, "invalid_name")
    async with root.post("api/v1/admin/users", json={"user_id": "x", "password": "short"}) as response:
        assert await error_of(response) == (400, "bad_request")
    bob = await site.client("bob")
    async with root.patch("api/v1/admin/users/bob", json={"disabled": True}) as response:
        assert (await response.json())["disabled"] is True
    assert site.pool.stopped_users == ["bob"]
    async with bob.get("api/v1/me") as response:
        assert await error_of(response) == (401, "unauthorized")
    async with root.patch("api/v1/admin/users/bob", json={"disabled": False, "admin": True}) as response:
        assert (await response.json())["roles"] == ["admin"]
    async with root.delete("api/v1/admin/users/bob") as response:
        assert response.status == 204
    async with root.get("api/v1/admin/users") as response:
        assert [one["user_id"] for one in (await response.json())["users"]] == ["root"]
    async with root.patch("api/v1/admin/users/bob", json={}) as response:
        assert await error_of(response) == (404, "not_found")


async def test_a_deleted_users_files_go_unless_kept(site: Site, short_dir: object) -> None:
    root = await site.client("root", admin=True)
    workspaces = site.pool.data_dir / "workspaces"
    outside = workspaces.parent / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    for name in ("gone", "kept"):
        await site.services.users.add(name)
        (workspaces / name).mkdir(parents=True)
        (workspaces / name / "link").symlink_to(outside)
    async with root.delete("api/v1/admin/users/gone") as response:
        assert response.status == 204
    async with root.delete("api/v1/admin/users/kept?keep_workspace=true") as response:
        assert response.status == 204
    assert list(workspaces.iterdir()) == []
    assert [path.name.startswith("kept-") for path in (workspaces.parent / "kept").iterdir()] == [True]
    assert (outside / "file").read_text() == "mine"


async def test_an_administrator_cannot_lock_themselves_out(site: Site) -> None:
    root = await site.client("root", admin=True)
    for body in ({"disabled": True}, {"admin": False}):
        async with root.patch("api/v1/admin/users/root", json=body) as response:
            assert await error_of(response) == (400, "bad_request")
    async with root.delete("api/v1/admin/users/root") as response:
        assert await error_of(response) == (400, "bad_request")


async def test_a_link_made_for_a_user_lets_them_in(site: Site) -> None:
    root = await site.client("root", admin=True)
    await site.services.users.add("bob")
    async with root.post("api/v1/admin/users/bob/link") as response:
        assert response.status == 201
        url = (await response.json())["url"]
    address, _, code = url.partition("#signin=")
    assert address == f"{site.base}/"
    async with site.http.post("api/v1/auth/links/redeem", json={"code": code}) as response:
        assert response.status == 200


async def test_draining_can_be_begun_and_ended(site: Site) -> None:
    root = await site.client("root", admin=True)
    async with root.post("api/v1/admin/drain") as response:
        assert await response.json() == {"draining": True}
    async with site.http.get("readyz") as response:
        assert response.status == 503
        assert (await response.json())["reasons"] == ["draining"]
    async with site.http.get("health") as response:
        assert (await response.json())["status"] == "draining"
    async with root.delete("api/v1/admin/drain") as response:
        assert await response.json() == {"draining": False}
    async with site.http.get("readyz") as response:
        assert response.status == 200


async def test_me_tells_quotas_and_what_is_used(site: Site) -> None:
    site.pool.add_instance("alice", "a")
    alice = await site.client("alice")
    async with alice.get("api/v1/me") as response:
        me = await response.json()
    assert (me["user_id"], me["roles"], me["multi_user"]) == ("alice", [], True)
    assert me["quotas"]["max_instances"] == {"limit": 3, "used": 1}
    assert me["quotas"]["usd_per_day"] == {"limit": None, "used": 0.0}
