"""The model's key: in the gateway's memory and in its 0600 file, and in no other place of the machine."""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

import pytest
from aiohttp import web

from server.gateway.body import RequestBody
from server.gateway.demo.api import answer_as_demo
from tests.e2e.site import Site, client, get
from tests.forking import Forker
from tests.procfs import Process, processes

# Put together at run time, so that no process has it in its code; the test's own memory is not looked at.
KEY = "".join(("sk-ant-", "canary-", "8c1f52a7", "e90b"))
_PIECE = 4 * 1024 * 1024
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PAGEMAP_ENTRY = 8
# the uppermost bits of an entry: present, swapped
_EXISTS = re.compile(b"[\x40-\xff]+")


@asynccontextmanager
async def upstream() -> AsyncIterator[tuple[str, list[str]]]:
    """A provider that takes nothing but the key; its address, and the credentials that it was given."""
    given: list[str] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        given.append(request.headers.get("x-api-key", ""))
        if given[-1] != KEY:
            return web.Response(status=401)
        return await answer_as_demo(request, RequestBody(request), None)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}", given
    finally:
        await runner.cleanup()


def ours(site: Site) -> list[Process]:
    """Every process of this installation: those that name its data directory, and all below them."""
    known = {process.pid: process for process in processes()}
    found = {pid for pid, process in known.items() if any(str(site.data) in word for word in process.argv)}
    while True:
        more = {pid for pid, process in known.items() if process.ppid in found} - found
        if not more:
            return [known[pid] for pid in sorted(found - {os.getpid()})]
        found |= more


def memory(pid: int) -> Iterator[bytes]:
    """What a process has in its memory, mapped files too, in pieces that overlap by the key's length."""
    proc = Path(f"/proc/{pid}")
    with (
        (proc / "maps").open() as maps,
        (proc / "mem").open("rb", buffering=0) as mem,
        (proc / "pagemap").open("rb") as pagemap,
    ):
        for line in maps:
            words = line.split()
            start, end = (int(text, 16) for text in words[0].split("-"))
            if "r" not in words[1] or words[-1] in ("[vvar]", "[vsyscall]", "[vvar_vclock]"):
                continue
            # a CLI reserves gigabytes of which it has never written a page
            is_file = len(words) > 5 and words[5].startswith("/")
            for first, last in [(start, end)] if is_file else _existing(pagemap, start, end):
                yield from _pieces(mem, first, last)


def _existing(pagemap: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The stretches of a mapping that are in memory or in swap."""
    pagemap.seek(start // _PAGE * _PAGEMAP_ENTRY)
    entries = pagemap.read((end - start) // _PAGE * _PAGEMAP_ENTRY)
    for run in _EXISTS.finditer(entries[_PAGEMAP_ENTRY - 1 :: _PAGEMAP_ENTRY]):
        yield start + run.start() * _PAGE, start + run.end() * _PAGE


def _pieces(mem: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    for at in range(start, end, _PIECE):
        try:
            mem.seek(at)
            piece = mem.read(min(_PIECE + len(KEY), end - at))
        except (OSError, ValueError, OverflowError):
            return
        if not piece:
            return
        yield piece


def holds_key(process: Process) -> list[str]:
    """Where in a process the key is."""
    found = []
    try:
        found += [
            name
            for name in ("cmdline", "environ")
            if KEY.encode() in Path(f"/proc/{process.pid}/{name}").read_bytes()
        ]
        if any(KEY.encode() in piece for piece in memory(process.pid)):
            found.append("memory")
    except (FileNotFoundError, ProcessLookupError):
        pass  # it has ended meanwhile
    return found


def files_with_key(directory: Path) -> list[Path]:
    """The files below ``directory`` that hold the key."""
    return [
        path
        for path in directory.rglob("*")
        if path.is_file() and not path.is_symlink() and KEY.encode() in path.read_bytes()
    ]


def check(site: Site, short_dir: Path, config: Path | None) -> None:
    """The key is where it may be, and nowhere else."""
    seen = ours(site)
    places = {str(process): holds_key(process) for process in seen}
    gateways = [text for text in places if "server.gateway" in text]
    assert len(gateways) == 1, places
    assert {text: where for text, where in places.items() if where} == {gateways[0]: ["memory"]}
    file = site.data / "gateway/config.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert set(files_with_key(short_dir)) == {file} | ({config} if config else set())


PATHS = ("/health", "/api/v1/me", "/api/v1/openapi.json", "/api/v1/sessions/default/history")
# One way with every run, the others with `make acceptance`.
GIVEN = [
    "configuration",
    *(pytest.param(way, marks=pytest.mark.acceptance) for way in ("environment", "variable", "file")),
]


def settings_for(way: str, short_dir: Path, url: str) -> tuple[dict[str, str], Path | None]:
    """(environment, the file that the operator has the key in) for one way to give it."""
    provider = f"kind: gateway, base_url: '{url}', default: true"
    config, secret = short_dir / "data/config.yaml", None
    config.parent.mkdir(mode=0o711)
    if way == "environment":
        house = {"kind": "gateway", "base_url": url, "api_key": KEY}
        return {"CLAUDE_POOL__PROVIDERS": json.dumps({"house": house})}, None
    if way == "variable":
        config.write_text(f"providers: {{house: {{{provider}, api_key: '${{HOUSE_KEY}}'}}}}\n")
        return {"HOUSE_KEY": KEY}, None
    if way == "configuration":
        config.write_text(f"providers: {{house: {{{provider}, api_key: {KEY}}}}}\n")
        secret = config
    else:
        secret = short_dir / "house.key"
        secret.write_text(f"{KEY}\n")
        config.write_text(f"providers: {{house: {{{provider}, api_key_file: {secret}}}}}\n")
    secret.chmod(0o600)
    return {}, secret


@pytest.mark.real_cli
@pytest.mark.timeout(240)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may read the memory of other processes")
@pytest.mark.parametrize("way", GIVEN)
async def test_the_key_is_nowhere_else(
    short_dir: Path, real_cli: Path, way: str, monkeypatch: pytest.MonkeyPatch, forker: Forker
) -> None:
    async with upstream() as (url, given):
        environment, secret = settings_for(way, short_dir, url)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        site = Site(short_dir, real_cli, logging__level="debug")
        await site.start(**environment)
        try:
            token = await site.add_user("alice")
            async with client(site, token) as viewer:
                await viewer.subscribe()
                ending = await viewer.ended(await viewer.send("say hello"))
                assert ending["state"] == "succeeded", site.log()[-5000:]
                assert KEY in given
                answers = [str(await get(site, token, path)) for path in PATHS]
                check(site, short_dir, secret)
                # And after the server was replaced, which reads its configuration again.
                with forker.in_use():
                    await asyncio.to_thread(site.command, "reload")
                await viewer.resume()
                assert (await viewer.ended(await viewer.send("say again")))["state"] == "succeeded"
                check(site, short_dir, secret)
                answers.append(str(viewer.frames))
            assert not [text for text in answers if KEY in text]
        finally:
            await site.stop()
        assert set(given) == {KEY}


def test_the_search_finds_what_is_there() -> None:
    """This very process has the key."""
    (me,) = processes({os.getpid()})
    assert "memory" in holds_key(me)
