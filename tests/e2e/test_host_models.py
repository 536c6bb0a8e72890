"""Model calls of users on another machine: that one's key, their own keys, the limits, one set of books."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web

from pool.store.database import Database
from pool.store.usage import Usage
from server.gateway.body import RequestBody
from server.gateway.demo.api import answer_as_demo
from server.gateway.usage_journal import journal_files
from tests.e2e.site import Site, client, get
from tests.e2e.test_key_nowhere import KEY, files_with_key, holds_key
from tests.leaks import TEST_MARKER
from tests.pool.hosts.forked import Programs
from tests.pool.hosts.sshd import PROGRAM, Proxy, Sshd
from tests.procfs import Process, processes
from tests.waiting import eventually

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.real_cli,
    pytest.mark.timeout(400),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may read the memory of other processes"),
]

OWN_KEY = "".join(("sk-ant-", "alices-own-", "77aa41"))


@asynccontextmanager
async def upstream() -> AsyncIterator[tuple[str, list[str]]]:
    """A provider that takes the two keys; its address, and the credentials that it was given."""
    given: list[str] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        given.append(request.headers.get("x-api-key", ""))
        if given[-1] not in (KEY, OWN_KEY):
            return web.Response(status=401)
        return await answer_as_demo(request, RequestBody(request), None)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}", given
    finally:
        await runner.cleanup()


@pytest.fixture
def sshd(short_dir: Path) -> Iterator[Sshd]:
    if PROGRAM is None:
        message = "sshd is not installed: apt-get install openssh-server"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    directory = Path(tempfile.mkdtemp(prefix="cp-sshd-"))
    # the command itself is run, forked off nothing
    server = Sshd(directory, cast(Programs, None))
    yield server
    server.close()
    shutil.rmtree(directory)


def set_up(host: Path, sshd: Sshd, cli: Path, url: str) -> None:
    """The machine that is the host, by its own configuration; and the one command that is let in."""
    host.mkdir(mode=0o711)
    house = {"kind": "anthropic", "base_url": url, "api_key": KEY, "default": True, "own_keys": True}
    config = host / "config.yaml"
    config.write_text(f"providers: {{house: {json.dumps(house)}}}\ncli: {{path: {cli}}}\n")
    config.chmod(0o600)
    marker = f"env {TEST_MARKER}={os.environ[TEST_MARKER]}"
    sshd.allow(f'restrict,command="{marker} {sys.executable} -m server host --data {host}"')


def below(*places: Path) -> list[Process]:
    """Every process that names one of the places in its words, and all below them."""
    known = {process.pid: process for process in processes()}
    found = {
        pid
        for pid, process in known.items()
        if any(str(place) in word for word in process.argv for place in places)
    }
    while more := {pid for pid, process in known.items() if process.ppid in found} - found:
        found |= more
    return [known[pid] for pid in sorted(found - {os.getpid()})]


async def put_own_key(site: Site, token: str) -> None:
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as http,
        http.put(f"{site.url}/api/v1/me/model-keys/house", json={"api_key": OWN_KEY}) as response,
    ):
        assert response.status == 204, await response.text()


@pytest.mark.parametrize("server_user", ["root", "auto"])
async def test_models_of_users_on_a_host(
    short_dir: Path, real_cli: Path, sshd: Sshd, server_user: str
) -> None:
    short_dir.chmod(0o711)
    host = short_dir / "host"
    async with upstream() as (url, given), Proxy(sshd.port) as proxy:
        set_up(host, sshd, real_cli, url)
        there = sshd.host(proxy.port)
        hosts = [
            {
                "name": "h1",
                "address": there.address,
                "port": there.port,
                "user": there.user,
                "key_file": str(there.key_file),
                "known_hosts_file": str(there.known_hosts_file),
            }
        ]
        quotas = {"bob": {"tokens_per_day": 1}}
        site = Site(
            short_dir,
            hosts=hosts,
            pool__max_instances=0,
            quotas__users=quotas,
            isolation__server_user=server_user,
            logging__level="debug",
        )
        await site.start()
        try:
            await story(site, host, proxy, given, short_dir)
        finally:
            await site.stop()
        assert below(host) == []


async def story(site: Site, host: Path, proxy: Proxy, given: list[str], top: Path) -> None:
    alice, bob = await site.add_user("alice"), await site.add_user("bob")
    await come_back(site, 1)
    model = (await get(site, alice, "/health"))["model"]
    assert model == {
        "provider": "house",
        "kind": "anthropic",
        "demo": False,
        "hosts": {"h1": {"provider": "house", "kind": "anthropic", "demo": False}},
    }
    async with client(site, alice) as viewer:
        await viewer.subscribe()
        assert (await viewer.ended(await viewer.send("say hello")))["state"] == "succeeded", site.log()[
            -5000:
        ]
        assert set(given) == {KEY}
        check_the_key(host, top)

        # of her own: used from the next call on, and sealed where she lives
        await put_own_key(site, alice)
        given.clear()
        assert (await viewer.ended(await viewer.send("say again")))["state"] == "succeeded"
        assert set(given) == {OWN_KEY}
        assert "alice" in json.loads((host / "gateway/own-keys.json").read_text())["keys"]
        assert not (site.data / "gateway/own-keys.json").exists()
        plain = [path for path in top.rglob("*") if path.is_file() and OWN_KEY.encode() in path.read_bytes()]
        assert plain == []

        # every call comes into the books once, over cuts and a server that was killed
        for times in (2, 3):
            proxy.cut()
            await come_back(site, times)
        await viewer.resume()
        assert (await viewer.ended(await viewer.send("say thrice")))["state"] == "succeeded"
        await site.kill()
        await site.start()
        await come_back(site, 4)
    await the_books_are_whole(site, host)

    async with client(site, bob) as viewer:
        await viewer.subscribe()
        assert (await viewer.ended(await viewer.send("say first")))["state"] == "succeeded"
        ending = await viewer.ended(await viewer.send("say second"))
        assert ending["state"] == "failed"
        assert "tokens_per_day" in viewer.answer()
    await the_books_are_whole(site, host)

    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {await site.admin()}"}) as http,
        http.delete(f"{site.url}/api/v1/admin/users/alice") as response,
    ):
        assert response.status < 300, await response.text()
    assert sorted(os.listdir(host / "workspaces")) == sorted(os.listdir(host / "homes")) == ["bob"]
    assert "alice" not in json.loads((host / "gateway/own-keys.json").read_text())["keys"]
    assert "alice" in json.loads((host / "gateway/forgotten.json").read_text())


def check_the_key(host: Path, top: Path) -> None:
    """In the gateway's memory and its file on the host, and where the operator wrote it there."""
    places = {str(process): holds_key(process) for process in below(top)}
    assert sum("host" in text for text in places) >= 2, places
    (gateway,) = (text for text in places if "server.gateway" in text)
    assert {text: where for text, where in places.items() if where} == {gateway: ["memory"]}
    assert set(files_with_key(top)) == {host / "config.yaml", host / "gateway/config.json"}


async def come_back(site: Site, times: int) -> None:
    """The host is reached for so many times by now."""
    await eventually(lambda: site.log().count("the host h1 is reached") == times, 90, what="it is reached")


async def the_books_are_whole(site: Site, host: Path) -> None:
    """As many calls in the database as lines in the journal, and never one more."""
    database = Database(None, site.data)
    await database.open()

    async def calls() -> tuple[int, int]:
        written = sum(path.read_bytes().count(b"\n") for path in journal_files(host))
        rows: list[Any] = await Usage(database).grouped("provider", 0, 10**6)
        taken = sum(figures.calls for _name, figures in rows)
        assert taken <= written
        return written, taken

    async def is_all() -> bool:
        written, taken = await calls()
        return written == taken > 0

    try:
        await eventually(is_all, 30, what="every call is in the database")
    finally:
        await database.aclose()
    assert journal_files(site.data) == []
