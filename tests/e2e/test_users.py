"""Many users at once: one process each, nobody's frames in another's window."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.e2e.site import Client, Site, client, live_pid, serving
from tests.procfs import is_alive

pytestmark = pytest.mark.usefixtures("forked_servers")


TURNS = 5


async def converse(site: Site, name: str, token: str, words: str) -> tuple[str, set[int], Client]:
    """Five turns of one user: (name, pids that served them, the viewer)."""
    viewer = Client(site, token)
    await viewer.connect()
    await viewer.subscribe()
    pids = set()
    for number in range(TURNS):
        start = len(viewer.frames)
        turn = await viewer.send(f"{words} {name} turn {number}")
        assert (await viewer.ended(turn, 60))["state"] == "succeeded"
        assert f"{name} turn {number}" in viewer.answer(start)
        pids.add(await live_pid(site, token))
    return name, pids, viewer


async def users_apart(site: Site, count: int, words: str) -> None:
    tokens = {f"user{n}": await site.add_user(f"user{n}") for n in range(count)}
    results = await asyncio.gather(*(converse(site, name, token, words) for name, token in tokens.items()))
    all_pids: set[int] = set()
    for name, pids, viewer in results:
        assert len(pids) == 1
        all_pids |= pids
        text = str(viewer.frames)
        assert not [other for other in tokens if other != name and f"{other} turn" in text]
        viewer.check_order()
        await viewer.close()
    assert len(all_pids) == count
    assert all(is_alive(pid) for pid in all_pids)


@pytest.mark.real_cli
@pytest.mark.timeout(180)
@pytest.mark.parametrize("count", [2, pytest.param(10, marks=pytest.mark.acceptance)])
async def test_users_with_the_real_cli(short_dir: Path, real_cli: Path, count: int) -> None:
    async with serving(short_dir, real_cli) as site:
        await users_apart(site, count, "say")


@pytest.mark.real_cli
@pytest.mark.acceptance
async def test_bash_of_one_user_does_not_reach_the_other(short_dir: Path, real_cli: Path) -> None:
    async with serving(short_dir, real_cli) as site:
        alice, bob = await site.add_user("alice"), await site.add_user("bob")
        async with client(site, alice) as owner, client(site, bob) as other:
            await owner.subscribe()
            await owner.ended(await owner.send("hello"))
            secret = site.data / "workspaces/alice/secret.txt"
            secret.write_text("the secret of alice")
            await other.subscribe()
            for path in (secret, Path("../alice/secret.txt"), Path(f"/proc/{site.pid}/root{secret}")):
                start = len(other.frames)
                turn = await other.send(f"run `cat {path}`")
                while other.states(turn)[-1:] != ["succeeded"]:
                    for ask in other.of_type("permission_request"):
                        await other.put(type="permission", request_id=ask["request_id"], decision="allow")
                    await asyncio.sleep(0.05)
                assert "the secret of alice" not in str(other.frames[start:])
                assert "No such file" in str(other.frames[start:])
