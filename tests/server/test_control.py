"""The control socket and the operations behind the commands."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pool.errors import NotFound
from server.control import ControlSocket
from server.control_client import ControlError, NoServer, call
from server.operations import Operations
from tests.server.site import Site


@asynccontextmanager
async def listening(data_dir: Path, site: Site | None = None) -> AsyncIterator[None]:
    async def run(name: str, arguments: Mapping[str, Any]) -> Any:
        if site is not None:
            services = site.services
            operations = Operations(
                services.users, services.sign_in, services.pool, site.base, services.pool.audit
            )
            return await operations.run(name, arguments)
        if name == "missing":
            raise NotFound("there is no such thing")
        if name == "broken":
            raise RuntimeError("private")
        return {"name": name, **arguments}

    control = ControlSocket(data_dir, run)
    await control.start()
    try:
        yield
    finally:
        await control.aclose()


async def ask(data_dir: Path, op: str, **arguments: Any) -> Any:
    return await asyncio.to_thread(call, data_dir, op, arguments, timeout_seconds=10)


async def test_one_line_asks_and_one_answers(short_dir: Path) -> None:
    async with listening(short_dir):
        assert (short_dir / "control.sock").stat().st_mode & 0o777 == 0o600
        assert await ask(short_dir, "hello", a=1) == {"name": "hello", "a": 1}
        with pytest.raises(ControlError, match="no such thing") as missing:
            await ask(short_dir, "missing")
        assert missing.value.code == "not_found"
        with pytest.raises(ControlError) as broken:
            await ask(short_dir, "broken")
        assert (broken.value.code, "private" in str(broken.value)) == ("internal", False)
    with pytest.raises(NoServer):
        await ask(short_dir, "hello")


async def test_a_dead_servers_socket_is_no_server_and_is_replaced(short_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(short_dir / "control.sock"))
    with pytest.raises(NoServer):
        await ask(short_dir, "hello")
    async with listening(short_dir):
        await ask(short_dir, "hello")


async def test_a_long_path_is_reached(short_dir: Path) -> None:
    deep = short_dir / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    async with listening(deep):
        assert (await ask(deep, "hello"))["name"] == "hello"


@pytest.mark.parametrize(
    "line", [b"nonsense\n", b"[]\n", b'{"ob":"x"}\n', b"\n", b'{"op":"x","arguments":5}\n']
)
async def test_what_is_no_request_is_refused(short_dir: Path, line: bytes) -> None:
    async with listening(short_dir):
        reader, writer = await asyncio.open_unix_connection(short_dir / "control.sock")
        writer.write(line)
        assert b'"error"' in await reader.read()
        writer.close()
        await writer.wait_closed()


async def test_users_tokens_and_instances_by_command(site: Site, short_dir: Path) -> None:
    site.pool.add_instance("alice", "s")
    async with listening(short_dir, site):
        await ask(short_dir, "user_add", name="alice", password="long enough")
        assert [user["user_id"] for user in await ask(short_dir, "user_list")] == ["alice"]
        token = (await ask(short_dir, "token_create", user="alice", ttl=60, scopes=["read"]))["token"]
        client = await site.client_with({"Authorization": f"Bearer {token}"})
        async with client.get("api/v1/me") as response:
            assert (await response.json())["scopes"] == ["read"]
        link = (await ask(short_dir, "user_link", name="alice"))["url"]
        assert link.startswith(f"{site.base}/#signin=")
        assert [one["user_id"] for one in (await ask(short_dir, "ps"))["instances"]] == ["alice"]
        await ask(short_dir, "user_disable", name="alice")
        assert site.pool.stopped_users == ["alice"]
        async with client.get("api/v1/me") as response:
            assert response.status == 401
        await ask(short_dir, "drain")
        assert site.pool.unready_reasons() == ["draining"]
        await ask(short_dir, "resume")
        assert site.pool.unready_reasons() == []
        await ask(short_dir, "user_delete", name="alice", keep_workspace=True)
        for op, arguments, code in (
            ("user_delete", {"name": "alice"}, "not_found"),
            ("user_add", {"name": "../x"}, "invalid_name"),
            ("user_add", {}, "bad_request"),
            ("token_create", {"user": "nobody"}, "not_found"),
            ("dance", {}, "bad_request"),
        ):
            with pytest.raises(ControlError) as refused:
                await ask(short_dir, op, **arguments)
            assert refused.value.code == code
