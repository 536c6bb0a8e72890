"""Two servers on one PostgreSQL: one owns the pool, the other serves by its hands and takes its place."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from server.doctor import _database
from server.settings import load_config
from tests.e2e.replicas import two_replicas
from tests.e2e.site import client, get
from tests.postgresql import Cluster, running_cluster
from tests.procfs import is_alive
from tests.waiting import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.usefixtures("forked_servers")]


@pytest.fixture
async def cluster(short_dir: Path) -> AsyncIterator[Cluster]:
    async with running_cluster(short_dir) as it:
        yield it


async def test_what_comes_to_the_stand_by_is_done_by_the_owner(
    cluster: Cluster, short_dir: Path, fake_claude: Path
) -> None:
    async with two_replicas(short_dir, cluster, fake_claude) as (one, two):
        token = await one.add_user("alice")
        assert (await get(two, token, "/api/v1/me"))["user_id"] == "alice"
        # its machine for instances is none that can be reached: no replica is ready, and each says why
        assert (await get(two, token, "/readyz"))["reasons"] == (await get(one, token, "/readyz"))["reasons"]
        config = load_config(None, {}, {"replica": {"url": two.url}, "storage": {"url": cluster.url}})
        finding = await asyncio.to_thread(_database, config, short_dir)
        assert (finding.ok, finding.detail) == (True, f"the configured one answers; {one.url} owns the pool")
        page = await two.health()
        assert page["replica"] == {"role": "stand-by", "url": two.url, "owner": one.url, "epoch": 1}


async def test_a_killed_owner_is_followed_by_the_stand_by_and_nobody_is_refused_a_connection(
    cluster: Cluster, short_dir: Path, fake_claude: Path
) -> None:
    async with two_replicas(short_dir, cluster, fake_claude) as (one, two):
        token = await one.add_user("alice")
        refused = 0
        statuses: set[int] = set()

        async def ask_again_and_again() -> None:
            nonlocal refused
            async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as http:
                while True:
                    try:
                        async with http.get(f"{two.url}/api/v1/me") as answer:
                            statuses.add(answer.status)
                    except aiohttp.ClientConnectorError:
                        refused += 1
                    except aiohttp.ClientError:
                        pass  # a connection that is cut when the owner is
                    await asyncio.sleep(0.02)

        asking = asyncio.create_task(ask_again_and_again())
        await eventually(lambda: 200 in statuses)
        await one.kill()
        await two.becomes("owner")
        assert await two.epoch() == 2
        assert (await get(two, token, "/api/v1/me"))["user_id"] == "alice"
        asking.cancel()
        await asyncio.wait({asking})
        assert refused == 0
        assert statuses <= {200, 503}


@pytest.mark.parametrize("server_user", ["root", "auto"])
async def test_an_owner_that_wakes_after_its_lease_is_a_stand_by_and_has_written_nothing(
    cluster: Cluster, short_dir: Path, fake_claude: Path, server_user: str
) -> None:
    """Alone, and as the child of a steward: that one starts the next."""
    short_dir.chmod(0o711)
    async with two_replicas(short_dir, cluster, fake_claude, isolation__server_user=server_user) as (
        one,
        two,
    ):
        token = await one.add_user("alice")
        outer, pid = one.pid, one.server_pid
        if server_user == "auto" and outer == pid:
            pytest.skip("a server that is not root needs uids: root, and isolation by uid")
        os.kill(pid, signal.SIGSTOP)
        await two.becomes("owner")
        # It still takes connections, in the kernel: this message waits for it.
        _reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
        body = b'{"user_id": "mallory"}'
        writer.write(
            b"POST /api/v1/admin/users HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            + f"Authorization: Bearer {await one.admin()}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await writer.drain()
        os.kill(pid, signal.SIGCONT)
        await one.becomes("stand-by")
        writer.close()
        assert outer == one.pid, "it is the same process, with another image"
        assert is_alive(outer)
        assert (one.server_pid == pid) is (server_user == "root")
        assert "its lease was not renewed in time" in one.log()
        assert "this replica owned the pool and does no more" in one.log()
        users = await get(two, await one.admin(), "/api/v1/admin/users")
        names = {user["user_id"] for user in users["users"]}
        assert "alice" in names
        assert "mallory" not in names
        assert (await get(one, token, "/api/v1/me"))["user_id"] == "alice"


async def test_an_owner_that_is_told_to_stop_hands_over_at_once(
    cluster: Cluster, short_dir: Path, fake_claude: Path
) -> None:
    async with two_replicas(short_dir, cluster, fake_claude, replica__lease_seconds=60) as (one, two):
        with pytest.raises(AssertionError, match="this replica stands by"):
            two.command("user", "add", "bob")
        assert await one.stop() == 0
        await two.becomes("owner", 30)
        with pytest.raises(AssertionError, match=f"{two.url} owns the pool"):
            one.command("user", "add", "bob")
        two.command("user", "add", "bob")
        await one.start()
        await one.becomes("stand-by")


async def test_a_database_that_is_away_for_longer_than_the_lease_ends_the_owner_and_it_comes_back(
    cluster: Cluster, short_dir: Path, fake_claude: Path
) -> None:
    async with two_replicas(short_dir, cluster, fake_claude) as (one, two):
        await cluster.end()
        await one.becomes("stand-by")
        assert (await one.health())["status"] == "degraded"
        await cluster.start()

        async def one_owns() -> bool:
            return sorted([await one.role(), await two.role()]) == ["owner", "stand-by"]

        await eventually(one_owns, 40, what="one of both owns, and one only")


async def test_the_close_of_a_socket_tells_why(cluster: Cluster, short_dir: Path, fake_claude: Path) -> None:
    async with two_replicas(short_dir, cluster, fake_claude) as (one, two):
        token = await one.add_user("alice")
        async with client(two, token) as viewer:
            await one.kill()
            await eventually(lambda: viewer.close_code is not None)
            assert viewer.close_code == 1012


async def test_a_reload_of_the_owner_hands_over_and_one_of_a_stand_by_goes_unnoticed(
    cluster: Cluster, short_dir: Path, fake_claude: Path
) -> None:
    async with two_replicas(short_dir, cluster, fake_claude, replica__lease_seconds=60) as (one, two):
        token = await one.add_user("alice")
        assert "reloaded" in await asyncio.to_thread(two.command, "reload")
        await two.becomes("stand-by")
        assert await one.epoch() == 1
        assert "reloaded" in await asyncio.to_thread(one.command, "reload")
        await two.becomes("owner")
        await one.becomes("stand-by")
        assert await one.epoch() == 2
        assert (await get(one, token, "/api/v1/me"))["user_id"] == "alice"
        assert await one.stop() == 0
        assert await two.role() == "owner"
