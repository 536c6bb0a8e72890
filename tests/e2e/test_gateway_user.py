"""The model gateway of a service of root: a user of its own without rights, who alone can read the keys.

The same without a server and its CLI: ``tests/pool/launch/test_gateway_user.py``.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.e2e.site import Site, client, get
from tests.e2e.test_key_nowhere import KEY, upstream
from tests.interpreters import ROOT, python_for_all
from tests.pool.launch.test_gateway_user import can_read, gateways, is_without_rights
from tests.waiting import eventually

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.real_cli,
    pytest.mark.timeout(150),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start something as somebody else"),
]

FIRST, LAST = 200000, 265535


async def test_it_has_its_own_user_through_turns_upgrades_and_kills(short_dir: Path, real_cli: Path) -> None:
    short_dir.chmod(0o711)
    async with upstream() as (url, given):
        house = {"kind": "gateway", "base_url": url, "api_key": KEY, "default": True}
        site = Site(short_dir, real_cli, providers=json.dumps({"house": house}))
        site.python = python_for_all(short_dir / "python")
        await site.start()
        try:
            await story(site, given)
        finally:
            await site.stop()
        assert not gateways(site.data)


async def story(site: Site, given: list[str]) -> None:
    token = await site.add_user("alice")
    checks = (await get(site, token, "/health"))["checks"]
    assert checks["gateway"] == {
        "ok": True,
        "detail": f"the model gateway runs as uid {LAST}, without any rights",
        "uid": LAST,
    }
    async with client(site, token) as viewer:
        await viewer.subscribe()

        async def ask(text: str) -> None:
            ending = await viewer.ended(await viewer.send(text))
            assert ending["state"] == "succeeded", site.log()[-3000:]

        await ask("say one")
        (first,) = gateways(site.data)
        assert is_without_rights(first, LAST)
        alices = (site.data / "workspaces/alice").stat().st_uid
        assert FIRST < alices < LAST
        files = [site.data / "gateway" / name for name in ("config.json", "gateway.log")]
        files += (site.data / "gateway").glob("usage-*.jsonl")
        assert len(files) == 3
        for path in files:
            assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (LAST, 0o600)
            assert not can_read(path, alices)
        assert can_read(files[0], LAST)
        os.kill(first, signal.SIGKILL)
        await ask("say two")
        (second,) = gateways(site.data)
        assert second != first
        assert is_without_rights(second, LAST)
        await asyncio.to_thread(site.command, "reload", "--force")
        await viewer.resume()
        await ask("say three")
        await eventually(lambda: len(gateways(site.data)) == 1)
        (third,) = gateways(site.data)
        assert third != second
        assert is_without_rights(third, LAST)
        assert set(given) == {KEY}
    used = await get(site, token, "/api/v1/me/usage?group=provider")
    assert used, used


async def test_a_python_in_somebodys_home_is_shown_to_it(short_dir: Path, real_cli: Path) -> None:
    """A Python below somebody's home, as a tool for versions of Python puts it there."""
    short_dir.chmod(0o711)
    site = Site(short_dir, real_cli)
    site.python = at_home(short_dir / "home", python_for_all(short_dir / "python"))
    await site.start()
    try:
        token = await site.add_user("alice")
        check = (await get(site, token, "/health"))["checks"]["gateway"]
        assert (check["ok"], check["uid"]) == (True, LAST)
        async with client(site, token) as viewer:
            await viewer.subscribe()
            assert (await viewer.ended(await viewer.send("say one")))["state"] == "succeeded"
        (pid,) = gateways(site.data)
        assert is_without_rights(pid, LAST)
    finally:
        await site.stop()


async def test_where_it_cannot_have_one_everything_says_so_and_works(short_dir: Path, real_cli: Path) -> None:
    """What only root can read it can read nowhere."""
    short_dir.chmod(0o711)
    site = Site(short_dir, real_cli)
    site.python = at_home(short_dir / "home", python_for_all(short_dir / "python"))
    next((short_dir / "home" / "venv" / "lib").iterdir()).chmod(0o700)
    await site.start()
    try:
        token = await site.add_user("alice")
        way_out = f"chmod o+x {short_dir}/home"
        check = (await get(site, token, "/health"))["checks"]["gateway"]
        assert (check["ok"], check["uid"]) == (True, None)
        assert way_out in check["detail"]
        assert way_out in site.log()
        (line,) = [one for one in site.command("doctor").splitlines() if " gateway: " in one]
        assert line.startswith("warn gateway: the model gateway runs as root -> ")
        assert way_out in line
        async with client(site, token) as viewer:
            await viewer.subscribe()
            assert (await viewer.ended(await viewer.send("say one")))["state"] == "succeeded"
        (pid,) = gateways(site.data)
        assert os.stat(f"/proc/{pid}").st_uid == 0
        assert (site.data / "workspaces/alice").stat().st_uid > FIRST
    finally:
        await site.stop()


def at_home(home: Path, python: str) -> str:
    """The same interpreter and packages, by a way that only root can go."""
    home.mkdir(mode=0o700)
    venv = home / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(python)
    (venv / "pyvenv.cfg").write_text(f"home = {Path(python).resolve().parent}\n")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = venv / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    ours = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "ours.pth").write_text("\n".join([*ours, str(ROOT)]))
    return str(venv / "bin" / "python")
