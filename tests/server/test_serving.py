"""``serve`` as a process: start, take-over, reload, ends, refusals. The CLI is the fake one."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.forking import Forker
from tests.pool.keeper.test_notify import Manager
from tests.server.server_process import ServerProcess, run, serving
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(180)
forked = pytest.mark.usefixtures("forked_servers")


@asynccontextmanager
async def signed_in(server: ServerProcess) -> AsyncIterator[aiohttp.ClientSession]:
    """A browser that redeemed the printed link."""
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(server.url, cookie_jar=jar) as browser:
        async with browser.post("/api/v1/auth/links/redeem", json={"code": server.code}) as response:
            assert response.status == 200
        yield browser


async def say(browser: aiohttp.ClientSession, text: str, message_id: str) -> list[dict[str, Any]]:
    """The frames of one turn, to its end."""
    frames = []
    async with browser.ws_connect("/ws", max_msg_size=0) as socket:
        await socket.send_json({"type": "subscribe"})
        await socket.send_json({"type": "send", "content": text, "message_id": message_id})
        async with asyncio.timeout(120):
            while True:
                frame = await socket.receive_json()
                frames.append(frame)
                if frame["type"] == "turn" and frame["state"] not in ("queued", "running"):
                    return frames


async def instances(browser: aiohttp.ClientSession) -> list[dict[str, Any]]:
    async with browser.get("/api/v1/instances") as response:
        listed: list[dict[str, Any]] = (await response.json())["instances"]
        return listed


def fake(cli: Path) -> dict[str, str]:
    return {
        "CLAUDE_POOL__CLI__PATH": str(cli),
        "CLAUDE_POOL__ISOLATION__MODE": "none",
        "CLAUDE_POOL__ISOLATION__NETWORK": "open",
    }


async def test_from_the_first_start_to_the_end(short_dir: Path, fake_claude: Path, forker: Forker) -> None:
    data = short_dir / "data"
    async with serving(data, **fake(fake_claude)) as server:
        with forker.in_use():
            await use(server)
    with forker.in_use():
        assert "bob" in (await run(data, "user", "list")).stdout
        assert (await run(data, "ps")).returncode == 1
    log = (short_dir / "data.log").read_text()
    assert server.code not in log
    assert "Warning" not in log


async def use(server: ServerProcess) -> None:
    """What the commands and a browser do with a server, to its end."""
    data = server.data
    second = await run(data, "serve", "--port", "0")
    assert second.returncode == 1
    assert f"process {server.pid}" in second.stderr
    async with signed_in(server) as browser:
        async with browser.get("/health") as response:
            health = await response.json()
        assert health["model"]["demo"] is True
        assert health["checks"]["isolation"]["ok"] is False
        frames = await say(browser, "hello", "m1")
        assert frames[-1]["state"] == "succeeded", frames[-1]
        ((listed),) = await instances(browser)
    shown = await run(data, "ps")
    assert str(listed["pid"]) in shown.stdout
    added = await run(data, "user", "add", "bob", "--password-stdin", stdin="long enough\n")
    assert (added.returncode, added.stderr) == (0, "")
    token = await run(data, "token", "create", "--user", "bob")
    assert token.stdout.count("\n") == 1
    headers = {"Authorization": f"Bearer {token.stdout.strip()}"}
    async with aiohttp.ClientSession(server.url, headers=headers) as bob, bob.get("/api/v1/me") as me:
        assert (await me.json())["user_id"] == "bob"
    assert await server.end() == 0
    await eventually(lambda: not Path(f"/proc/{listed['pid']}").exists())


@pytest.fixture
def manager(short_dir: Path) -> Iterator[Manager]:
    """The service manager, as far as it listens."""
    made = Manager(str(short_dir / "notify"))
    yield made
    made.close()


@forked
async def test_after_kill_9_and_after_a_reload_the_instance_goes_on(
    short_dir: Path, fake_claude: Path, manager: Manager
) -> None:
    data = short_dir / "data"
    notify = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "4000000"}
    async with serving(data, **fake(fake_claude)) as server, signed_in(server) as browser:
        await say(browser, "hello", "m1")
        ((before),) = await instances(browser)
        assert await server.end(signal.SIGKILL) == -signal.SIGKILL
    async with serving(data, **fake(fake_claude), **notify) as server, signed_in(server) as browser:
        await eventually(lambda: manager.words() == ["READY=1"])
        assert server.url.rpartition(":")[2] in manager.heard[0]
        ((adopted),) = await instances(browser)
        assert (adopted["id"], adopted["pid"]) == (before["id"], before["pid"])
        async with browser.ws_connect("/ws") as socket:
            assert (await socket.receive_json())["type"] == "welcome"
            reloading = asyncio.create_task(run(data, "reload", **fake(fake_claude)))
            message = await asyncio.wait_for(socket.receive(), 60)
            assert message.type is aiohttp.WSMsgType.CLOSE
            assert message.data == 1012
            result = await reloading
        assert (result.returncode, result.stderr) == (0, "")
        await eventually(lambda: manager.words() == ["READY=1", "RELOADING=1", "READY=1"])
        ((kept),) = await instances(browser)
        assert (kept["id"], kept["pid"]) == (before["id"], before["pid"])
        frames = await say(browser, "still there?", "m2")
        assert frames[-1]["state"] == "succeeded"
        await eventually(lambda: manager.words() and manager.heard.count("WATCHDOG=1") >= 2)
        assert (await run(data, "stop")).returncode == 0
        assert await asyncio.wait_for(server.process.wait(), 40) == 0
    assert manager.words()[3:] == ["STOPPING=1"]


@pytest.mark.acceptance
@forked
async def test_a_reload_with_a_bad_configuration_is_refused_and_the_server_goes_on(
    short_dir: Path, fake_claude: Path
) -> None:
    data = short_dir / "data"
    async with serving(data, **fake(fake_claude)) as server:
        (data / "config.yaml").write_text("server: {prot: 1}\n")
        # The command reads the configuration too; the server's own check must not depend on that.
        empty = short_dir / "empty.yaml"
        empty.write_text("")
        result = await run(data, "reload", "--config", str(empty))
        assert result.returncode == 1
        assert "server.prot: unknown key" in result.stderr
        async with aiohttp.ClientSession(server.url) as http, http.get("/livez") as response:
            assert response.status == 200


@pytest.mark.acceptance
@forked
async def test_a_model_key_in_the_environment_is_gone_from_it(short_dir: Path, fake_claude: Path) -> None:
    data = short_dir / "data"
    key = "sk-ant-not-a-real-key"
    async with serving(data, **fake(fake_claude), ANTHROPIC_API_KEY=key) as server:
        assert key.encode() not in Path(f"/proc/{server.pid}/environ").read_bytes()
        stored = data / "gateway" / "config.json"
        assert key in stored.read_text()
        assert stored.stat().st_mode & 0o777 == 0o600
        async with aiohttp.ClientSession(server.url) as http, http.get("/health") as response:
            text = await response.text()
        assert key not in text
        assert '"kind":"anthropic"' in text
    assert key not in (short_dir / "data.log").read_text()


@pytest.mark.acceptance
@forked
async def test_a_second_signal_ends_at_once(short_dir: Path, fake_claude: Path) -> None:
    data = short_dir / "data"
    more = fake(fake_claude) | {"CLAUDE_POOL__POOL__DRAIN_TIMEOUT_SECONDS": "120"}
    async with serving(data, **more) as server, signed_in(server) as browser:
        async with browser.post(
            "/api/v1/sessions/default/messages", json={"content": "wait !hang"}
        ) as response:
            assert response.status == 202

        async def is_busy() -> bool:
            return any(one["state"] == "busy" for one in await instances(browser))

        await eventually(is_busy, 30)
        server.process.send_signal(signal.SIGTERM)

        async def is_draining() -> bool:
            async with browser.get("/readyz") as answer:
                return answer.status == 503

        await eventually(is_draining)
        assert await server.end() == 0


@pytest.mark.parametrize(
    ("config", "options", "messages"),
    [
        ("server: {prot: 1}\ncolour: blue\n", (), ("server.prot: unknown key", "colour: unknown key")),
        ("multi_user: false\n", ("--host", "0.0.0.0"), ("single-user mode",)),
        ("isolation: {mode: jail}\n", (), ("isolation.mode",)),
        ("providers: {x: {kind: gateway}}\n", (), ("base_url",)),
    ],
)
@forked
async def test_what_cannot_be_served_exits_2_and_says_why(
    short_dir: Path, config: str, options: tuple[str, ...], messages: tuple[str, ...]
) -> None:
    (short_dir / "config.yaml").write_text(config)
    result = await run(short_dir, "serve", "--port", "0", *options)
    assert result.returncode == 2
    assert result.stdout == ""
    for message in messages:
        assert message in result.stderr
    assert "Traceback" not in result.stderr


@forked
async def test_several_users_are_not_served_to_others_without_walls(
    short_dir: Path, fake_claude: Path
) -> None:
    data = short_dir / "data"
    nowhere = {"PATH": str(short_dir), "CLAUDE_POOL__CLI__PATH": str(fake_claude)}
    result = await run(data, "serve", "--port", "0", "--host", "0.0.0.0", **nowhere)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "refusing to serve several users on 0.0.0.0" in result.stderr
    assert "bubblewrap" in result.stderr
    async with serving(data, **nowhere) as server, aiohttp.ClientSession(server.url) as http:
        async with http.get("/health") as response:
            health = await response.json()
        assert (health["status"], health["checks"]["isolation"]["ok"]) == ("degraded", False)


@forked
async def test_a_taken_port_exits_1(short_dir: Path) -> None:
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    result = await run(short_dir, "serve", "--port", str(port))
    server.close()
    await server.wait_closed()
    assert result.returncode == 1
    assert "in use" in result.stderr
    assert "Traceback" not in result.stderr


@forked
async def test_check_says_good_and_leaves_nothing(short_dir: Path) -> None:
    result = await run(short_dir / "data", "serve", "--check")
    assert (result.returncode, result.stderr) == (0, "")
    assert not (short_dir / "data").exists()


@forked
async def test_doctor_prints_one_line_a_check(short_dir: Path, fake_claude: Path) -> None:
    result = await run(short_dir / "data", "doctor", **fake(fake_claude))
    assert result.returncode == 0, result.stdout
    names = [line[5:].partition(":")[0] for line in result.stdout.splitlines()]
    assert names == [
        "platform",
        "cli",
        "sandbox",
        "uid mapping",
        "gateway",
        "server",
        "user namespaces",
        "cgroup",
        "open files",
        "processes",
        "inotify",
        "orphans",
        "disk",
        "database",
        "rows",
        "data",
    ]
    broken = await run(short_dir / "data", "doctor", **fake(short_dir / "none"))
    assert broken.returncode == 1
    assert "FAIL cli" in broken.stdout
