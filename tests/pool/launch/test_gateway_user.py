"""As whom the model gateway runs when the service is root: its own user, or root and why."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from pool.config import PoolConfig
from pool.keeper.client import KeeperClient, KeeperError
from pool.keeper.server import SOCKET_NAME
from pool.launch.base import LaunchSpec
from pool.launch.gateway_user import GatewayUser
from pool.launch.local import LocalLauncher
from pool.model import InstanceId, SessionId, SessionKey, UserId
from pool.workspace.workspaces import Workspaces
from server.gateway import write_gateway_config
from server.gateway.own_keys import OwnKeys
from tests.interpreters import ROOT, python_for_all
from tests.pool.launch.rig import SCRIPT, Sink
from tests.pool.launch.test_uids import ALICE, PYTHON
from tests.procfs import is_alive, processes
from tests.server.gateway.harness import KEY, scripted_upstream
from tests.server.gateway.test_metering import whole
from tests.waiting import eventually

GATEWAY = 200199
OWN = "sk-ant-alices-own-key-987"

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start something as somebody else"),
    pytest.mark.skipif(not Path(PYTHON).exists(), reason="no Python that every user can run"),
]

# a call of the model, as the CLI makes it, and who makes it
CALL = """
import http.client, os, socket
connection = http.client.HTTPConnection('model')
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect(os.environ['ANTHROPIC_UNIX_SOCKET'])
body = {'model': 'claude-x', 'max_tokens': 9, 'messages': [{'role': 'user', 'content': 'say hello'}]}
connection.request('POST', '/v1/messages', json.dumps(body), {'content-type': 'application/json'})
answer = connection.getresponse()
print(json.dumps([answer.status, json.loads(answer.read()), os.getuid()]))
"""


def gateways(data_dir: Path) -> list[int]:
    """The pids of the gateways of a data directory, those that still become one left out."""
    return [
        process.pid
        for process in processes()
        if str(data_dir) in process.argv and "server.gateway" in process.argv[:4]
    ]


def is_without_rights(pid: int, uid: int) -> bool:
    """Is it this user for all that the kernel asks, with nothing to gain?"""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    assert status["Uid"].split() == status["Gid"].split() == [str(uid)] * 4
    assert status["Groups"] == ""
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Umask"]) == ("1", "0077")
    return True


def own_python(directory: Path) -> str:
    """The system's Python with our packages, in a virtual environment; skips where there is none."""
    packages = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if Path(PYTHON).resolve().name != version:
        pytest.skip(f"no {version} of the system's")
    (directory / "lib" / version / "site-packages").mkdir(parents=True)
    (directory / "lib" / version / "site-packages" / "ours.pth").write_text(f"{packages}\n{ROOT}\n")
    (directory / "bin").mkdir()
    (directory / "bin" / "python").symlink_to(PYTHON)
    (directory / "pyvenv.cfg").write_text(f"home = {Path(PYTHON).parent}\n")
    return str(directory / "bin" / "python")


def can_read(path: Path, uid: int) -> bool:
    words = ["/usr/bin/head", "-c1", str(path)]
    done = subprocess.run(words, user=uid, group=uid, extra_groups=[], capture_output=True, check=False)
    return done.returncode == 0


class Site:
    """A data directory that users can pass through, and its launcher."""

    def __init__(self, launcher: LocalLauncher, config: PoolConfig) -> None:
        self.launcher = launcher
        self.data = config.data_dir
        self._calls = 0

    async def call(self, user: str = "alice", uid: int = ALICE) -> tuple[int, Any]:
        """A call of the model by a program of a user's session; (status, body)."""
        self._calls += 1
        instance = InstanceId(f"call-{self._calls}")
        paths = Workspaces(self.data).ensure(user, uid=uid)
        spec = LaunchSpec(
            instance_id=instance,
            key=SessionKey(UserId(user), SessionId("default")),
            cli_args=("--do", CALL),
            workspace=paths.workspace,
            home=paths.home,
            labels={"user": user, "session": "default"},
            uid=paths.uid,
        )
        sink = Sink()
        await self.launcher.start(spec, sink)
        assert (await sink.exit()).code == 0, sink.exits
        status, body, who = json.loads(sink.data)
        assert who == uid
        return status, body

    async def gateway(self) -> int:
        """The one that runs, once nobody but it does."""
        await eventually(lambda: len(gateways(self.data)) == 1)
        return gateways(self.data)[0]

    def log(self) -> str:
        return (self.data / "keeper" / "keeper.log").read_text()


@pytest.fixture
async def site_of(short_dir: Path) -> AsyncIterator[Callable[..., Site]]:
    """Makes launchers of one data directory, with the gateway that the product has."""
    short_dir.chmod(0o711)
    cli = short_dir / "claude-script"
    cli.write_text("\n".join([f"#!{PYTHON}", *SCRIPT.splitlines()[1:]]) + "\n")
    cli.chmod(0o755)
    async with AsyncExitStack() as stack:

        def make(python: str, *, last: int = GATEWAY) -> Site:
            config = PoolConfig(
                data_dir=short_dir / "data",
                runtime_dir=short_dir / "run",
                cli_path=cli,
                gateway_command=(python, "-I", "-m", "server.gateway"),
                stop_grace_seconds=1.0,
                isolation_mode="uid",
                uid_range=(200150, last),
            )
            config.data_dir.mkdir(mode=0o711, exist_ok=True)
            launcher = LocalLauncher(config)
            stack.push_async_callback(launcher.aclose, end_instances=True)
            return Site(launcher, config)

        yield make


async def test_a_user_of_its_own_serves_the_users_and_alone_reads_the_keys(
    site_of: Callable[..., Site], short_dir: Path
) -> None:
    site = site_of(python_for_all(short_dir / "python"))
    async with scripted_upstream(whole()) as upstream:
        provider = {"kind": "anthropic", "base_url": upstream.url, "own_keys": True}
        # written by root, before there is a gateway and while it runs
        write_gateway_config(site.data, {"up": {**provider, "api_key": "another"}})
        await site.launcher.open(1)
        assert site.launcher.gateway_user() == (GATEWAY, None)
        write_gateway_config(site.data, {"up": {**provider, "api_key": KEY}})
        assert (await site.call())[0] == 200
        first = await site.gateway()
        assert is_without_rights(first, GATEWAY)
        await asyncio.to_thread(OwnKeys(site.data).put, "alice", "up", OWN)
        os.kill(first, signal.SIGKILL)
        assert (await site.call())[0] == 200
        second = await site.gateway()
        assert second != first
        assert is_without_rights(second, GATEWAY)
        assert await site.launcher.upgrade(force=True) == {"keeper": "upgraded", "gateway": "replaced"}
        assert (await site.call())[0] == 200
        third = await site.gateway()
        assert third != second
        assert is_without_rights(third, GATEWAY)
    assert [headers["x-api-key"] for headers in upstream.headers] == [KEY, OWN, OWN]
    files = [path for name in ("gateway", "own-keys") for path in (site.data / name).iterdir()]
    assert {path.name.partition("-2")[0] for path in files} == {
        *("config.json", "providers.json", "gateway.log", "own-keys.json", "own-keys.key", "usage")
    }
    for path in files:
        assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (GATEWAY, 0o600), path
        assert (path.parent.stat().st_uid, path.parent.stat().st_mode & 0o777) == (GATEWAY, 0o700)
        assert (can_read(path, GATEWAY), can_read(path, ALICE)) == (True, False)


async def test_a_gateway_of_root_is_replaced_when_it_can_have_its_user(
    site_of: Callable[..., Site], short_dir: Path
) -> None:
    """As after an upgrade of Claude Pool, or once its interpreter can be reached."""
    before = site_of(python_for_all(short_dir / "python"))
    before.launcher._gateway_user.uid = None
    await before.launcher.open(1)
    former = await before.gateway()
    assert os.stat(f"/proc/{former}").st_uid == 0
    await before.launcher.aclose(end_instances=False)
    after = site_of(str(short_dir / "python/bin/python") if (short_dir / "python").exists() else PYTHON)
    await after.launcher.open(2)
    assert after.launcher.gateway_user() == (GATEWAY, None)
    await eventually(lambda: not is_alive(former))
    successor = await after.gateway()
    assert is_without_rights(successor, GATEWAY)
    # the keeper, which was started without being told of a user, hands it on to its next image
    client = after.launcher._client
    assert isinstance(client, KeeperClient)
    await client.upgrade()
    os.kill(successor, signal.SIGKILL)
    assert (await after.call())[0] == 200
    assert is_without_rights(await after.gateway(), GATEWAY)


async def test_a_python_in_a_closed_directory_is_shown_to_it_by_every_image_of_the_keeper(
    site_of: Callable[..., Site], short_dir: Path
) -> None:
    """As where Claude Pool is installed with a Python of somebody's home."""
    closed = short_dir / "closed"
    closed.mkdir(mode=0o700)
    (closed / "secret").write_text("")
    python = own_python(closed / "python")
    site = site_of(python)
    assert site.launcher.gateway_user() == (GATEWAY, None)
    await site.launcher.open(1)
    first = await site.gateway()
    assert is_without_rights(first, GATEWAY)
    assert os.listdir(f"/proc/{first}/root{closed}") == ["python"]
    assert (await site.call())[0] == 200
    assert await site.launcher.upgrade(force=True) == {"keeper": "upgraded", "gateway": "replaced"}
    await eventually(lambda: not is_alive(first))
    assert is_without_rights(await site.gateway(), GATEWAY)


async def test_a_keeper_that_is_told_by_the_server_what_to_show_hands_it_on(
    site_of: Callable[..., Site], short_dir: Path
) -> None:
    """As one of earlier code, which was started without being told."""
    closed = short_dir / "closed"
    closed.mkdir(mode=0o700)
    python = own_python(closed / "python")
    before = site_of(python)
    before.launcher._gateway_user.uid, before.launcher._gateway_user.shown = None, ()
    await before.launcher.open(1)
    former = await before.gateway()
    assert os.stat(f"/proc/{former}").st_uid == 0
    client = before.launcher._client
    assert isinstance(client, KeeperClient)
    # what a server before this one would ask
    with pytest.raises(KeeperError, match="cannot run") as refusal:
        await client.request("replace_gateway", gateway_uid=GATEWAY)
    assert refusal.value.code == "gateway_refused"
    with pytest.raises(KeeperError, match="not absolute paths"):
        await client.request("replace_gateway", gateway_uid=GATEWAY, gateway_shown=["here"])
    await before.launcher.aclose(end_instances=False)
    after = site_of(python)
    await after.launcher.open(2)
    assert after.launcher.gateway_user() == (GATEWAY, None)
    await eventually(lambda: not is_alive(former))
    client = after.launcher._client
    assert isinstance(client, KeeperClient)
    await client.upgrade()
    os.kill(await after.gateway(), signal.SIGKILL)
    assert (await after.call())[0] == 200
    assert is_without_rights(await after.gateway(), GATEWAY)


async def test_what_it_cannot_reach_is_told_and_it_runs_as_root(
    site_of: Callable[..., Site], short_dir: Path
) -> None:
    (short_dir / "closed").mkdir(mode=0o700)
    shutil.copy(PYTHON, short_dir / "closed" / "python")
    (short_dir / "closed" / "python").chmod(0o700)
    site = site_of(str(short_dir / "closed" / "python"))
    uid, obstacle = site.launcher.gateway_user()
    assert uid is None
    assert obstacle is not None
    assert f"chmod o+x {short_dir}/closed" in obstacle
    assert "runs as root" in obstacle
    # a program that can be reached, but lacks what it needs
    _uid, obstacle = site_of("/bin/false").launcher.gateway_user()
    assert obstacle is not None
    assert f"does not start as uid {GATEWAY} (it exited with 1)" in obstacle
    # somebody who got the last uid when the range was another one
    Workspaces(site.data).ensure("carol", uid=GATEWAY)
    _uid, obstacle = site_of(PYTHON).launcher.gateway_user()
    assert obstacle is not None
    assert f"uid {GATEWAY} is that of carol" in obstacle


def test_certificates_that_it_cannot_read_are_in_the_way(short_dir: Path) -> None:
    short_dir.chmod(0o711)
    bundle = short_dir / "ca.pem"
    bundle.write_text("")
    bundle.chmod(0o600)
    config = PoolConfig(data_dir=short_dir, gateway_command=("/bin/true",), uid_range=(200150, GATEWAY))
    environment = {"SSL_CERT_FILE": str(bundle)}
    user = GatewayUser(config, environment, has_uids=True)
    assert user.describe()[0] is None
    assert "cannot read SSL_CERT_FILE" in str(user.describe()[1])
    bundle.chmod(0o644)
    assert GatewayUser(config, environment, has_uids=True).describe() == (GATEWAY, None)
    (short_dir / "closed").mkdir(mode=0o700)
    bundle = bundle.rename(short_dir / "closed" / "ca.pem")
    user = GatewayUser(config, {"SSL_CERT_FILE": str(bundle)}, has_uids=True)
    assert user.describe() == (GATEWAY, None)
    assert bundle in user.shown
    assert GatewayUser(config, environment, has_uids=False).describe() == (None, None)


def test_a_keeper_that_runs_can_be_believed_that_it_starts(short_dir: Path) -> None:
    short_dir.chmod(0o711)
    config = PoolConfig(data_dir=short_dir, gateway_command=("/bin/false",), uid_range=(200150, GATEWAY))

    def found(**how: bool) -> int | None:
        return GatewayUser(config, {}, has_uids=True, **how).describe()[0]

    for name in ("gateway", "keeper"):
        (short_dir / name).mkdir(mode=0o700)
    (short_dir / "keeper" / "runtime").write_text(str(short_dir))
    with socket.socket(socket.AF_UNIX) as keeper:
        keeper.bind(str(short_dir / SOCKET_NAME))
        keeper.listen()
        assert found(believes_keeper=True) is None, "its gateway is another user's"
        os.chown(short_dir / "gateway", GATEWAY, GATEWAY)
        assert found(believes_keeper=True) == GATEWAY
        assert found() is None
    assert found(believes_keeper=True) is None, "it runs no more"


async def test_one_that_does_not_come_to_serve_leaves_the_other_as_it_was(
    site_of: Callable[..., Site], short_dir: Path
) -> None:
    site = site_of(python_for_all(short_dir / "python"))
    await site.launcher.open(1)
    former = await site.gateway()
    client = site.launcher._client
    assert isinstance(client, KeeperClient)
    # the keeper is asked for a user whose files it cannot have
    (site.data / "own-keys").rename(site.data / "aside")
    (site.data / "own-keys").symlink_to(site.data / "aside")
    with pytest.raises(KeeperError, match="own-keys"):
        await client.request("replace_gateway", gateway_uid=GATEWAY - 1)
    (site.data / "own-keys").unlink()
    (site.data / "aside").rename(site.data / "own-keys")
    with pytest.raises(KeeperError, match="not the uid of a service user"):
        await client.request("replace_gateway", gateway_uid=0)
    assert await site.gateway() == former
    assert (site.data / "gateway").stat().st_uid == GATEWAY
    os.kill(former, signal.SIGKILL)
    assert (await site.call())[0] == 200
    assert is_without_rights(await site.gateway(), GATEWAY)
