"""The keeper's side of the model gateway: listeners that outlive it, and its restarts."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from functools import partial
from pathlib import Path

import pytest

from pool.keeper.client import KeeperClient, KeeperError
from pool.keeper.gateway import socket_directory
from tests.pool.keeper.rig import ECHO, SLEEPER, Rig, gone, python, start
from tests.waiting import eventually

# answers every connect with the instance it is for and its own pid; leaves at the end of the channel
GATEWAY = """
import json, os, select, socket, sys
control = socket.socket(fileno=int(sys.argv[sys.argv.index('--control-fd') + 1]))
data = sys.argv[sys.argv.index('--data') + 1]
print('a word on stderr', file=sys.stderr, flush=True)
with open(data + '/environment', 'w') as file:
    json.dump(dict(os.environ), file)
listeners = {}
while True:
    ready, _, _ = select.select([control, *listeners], [], [])
    for one in ready:
        if one is control:
            message, fds, _flags, _address = socket.recv_fds(control, 65536, 4)
            if not message:
                sys.exit(0)
            order = json.loads(message)
            with open(data + '/orders', 'a') as file:
                file.write(json.dumps(order) + chr(10))
            if order['op'] == 'report':
                if os.path.exists(data + '/refuse'):
                    sys.exit('this one does not serve')
                control.send(json.dumps({'event': 'ready'}).encode())
            elif order['op'] == 'listen':
                listeners[socket.socket(fileno=fds[0])] = order
            else:
                for listener in [l for l, o in listeners.items() if o['instance'] == order['instance']]:
                    listeners.pop(listener).clear()
                    listener.close()
        elif one in listeners:
            connection, _ = one.accept()
            answer = {**listeners[one], 'pid': os.getpid()}
            connection.sendall(json.dumps(answer).encode())
            connection.close()
"""


def command() -> list[str]:
    return python(GATEWAY)


async def ask(rig: Rig, instance: str) -> str:
    reader, writer = await asyncio.open_unix_connection(socket_directory(rig.runtime, instance) / "api.sock")
    try:
        return (await reader.read()).decode()
    finally:
        writer.close()
        await writer.wait_closed()


def gateway_pid(client: KeeperClient) -> int:
    assert client.hello is not None
    assert client.hello.gateway_pid is not None
    return client.hello.gateway_pid


def has_successor(rig: Rig, pid: int) -> bool:
    return any(event.get("state") == "up" and event["pid"] != pid for event in rig.events)


async def test_each_instance_has_a_socket_of_its_own_until_it_ends(rig: Rig) -> None:
    await rig.keeper(gateway=command())
    client = await rig.client()
    _, one = await start(client, "shim", "one", python(SLEEPER), labels={"user": "alice"})
    await start(client, "shim", "two", python(SLEEPER))
    assert '"user": "alice"' in await ask(rig, "one")
    assert '"instance": "two"' in await ask(rig, "two")
    directory = socket_directory(rig.runtime, "one")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    await client.request("stop", instance="one", graces=[0, 0, 5])
    await one.exit()
    assert not directory.exists()
    await eventually(lambda: '"op": "end", "instance": "one"' in (rig.data / "orders").read_text())
    assert '"instance": "two"' in await ask(rig, "two")


async def test_connects_wait_while_the_gateway_is_away(rig: Rig) -> None:
    await rig.keeper(gateway=command())
    client = await rig.client()
    await start(client, "shim", "one", python(SLEEPER))
    before = gateway_pid(client)
    for _ in range(3):
        victim = [event["pid"] for event in rig.events if event.get("state") == "up"][-1:] or [before]
        os.kill(victim[0], signal.SIGKILL)
        answer = await asyncio.wait_for(ask(rig, "one"), 20)
        assert '"instance": "one"' in answer
        assert f'"pid": {victim[0]}' not in answer
        await eventually(partial(has_successor, rig, victim[0]))
    states = [event["state"] for event in rig.events if event.get("event") == "gateway"]
    assert states[:4] == ["down", "up", "down", "up"]
    assert "a word on stderr" in rig.log()


async def test_a_gateway_that_never_starts_is_tried_again_ever_more_slowly(rig: Rig) -> None:
    await rig.keeper(gateway=["/nonexistent/gateway"])
    client = await rig.client()
    _, collector = await start(client, "shim", "one", python(ECHO))
    await eventually(lambda: rig.log().count("gateway_not_started") >= 3)
    # instances live all the same
    await client.request("stop", instance="one", graces=[5, 5, 5])
    assert (await collector.exit())[0] == 0
    assert rig.log().count("gateway_not_started") < 12


async def test_the_gateway_leaves_with_the_keeper(rig: Rig) -> None:
    process = await rig.keeper(gateway=command())
    client = await rig.client()
    pid = gateway_pid(client)
    process.send_signal(signal.SIGTERM)
    assert await rig.wait() == 0
    await gone(pid)
    assert not rig.runtime.exists()


async def test_the_gateway_leaves_when_its_keeper_is_killed(rig: Rig) -> None:
    await rig.keeper(gateway=command())
    client = await rig.client()
    pid = gateway_pid(client)
    await rig.kill()
    await gone(pid)


async def test_a_gateway_that_does_not_leave_is_killed(rig: Rig) -> None:
    process = await rig.keeper(gateway=python("import time\ntime.sleep(600)"))
    client = await rig.client()
    pid = gateway_pid(client)
    process.send_signal(signal.SIGTERM)
    assert await rig.wait() == 0
    await gone(pid)


async def test_the_gateway_is_told_no_more_of_the_environment_than_it_needs(rig: Rig) -> None:
    secrets = {"ANTHROPIC_API_KEY": "sk-1", "DATABASE_PASSWORD": "x", "HTTPS_PROXY": "http://proxy:1"}
    await rig.keeper(gateway=command(), env=secrets)
    await rig.client()
    await eventually((rig.data / "environment").exists)
    text = (rig.data / "environment").read_text()
    assert "http://proxy:1" in text
    assert "ANTHROPIC" not in text
    assert "PASSWORD" not in text


async def test_without_a_gateway_there_are_directories_but_no_sockets(rig: Rig, wrapper: str) -> None:
    await rig.keeper()
    client = await rig.client()
    await start(client, wrapper, "one", python(SLEEPER))
    assert list(socket_directory(rig.runtime, "one").iterdir()) == []
    assert sys.executable


@pytest.mark.parametrize("instance", ["a", "x" * 128])
def test_socket_paths_are_short(instance: str) -> None:
    path = socket_directory(Path("/run/claude-pool/123456789abc"), instance) / "api.sock"
    assert len(os.fsencode(path)) < 60


async def test_a_gateway_is_replaced_by_one_that_serves_already(rig: Rig) -> None:
    await rig.keeper(gateway=command())
    client = await rig.client()
    for name in ("one", "two"):
        await start(client, "shim", name, python(SLEEPER))
    former = gateway_pid(client)
    assert f'"pid": {former}' in await ask(rig, "one")
    for _ in range(3):
        answer = await client.request("replace_gateway")
        assert answer["gateway_pid"] != former
        for name in ("one", "two"):
            told = await ask(rig, name)
            assert f'"instance": "{name}"' in told
            assert f'"pid": {answer["gateway_pid"]}' in told
        await gone(former)
        former = answer["gateway_pid"]
    # what comes later is the new one's too
    await start(client, "shim", "three", python(SLEEPER))
    assert f'"pid": {former}' in await ask(rig, "three")
    assert "down" not in [event["state"] for event in rig.events if event.get("event") == "gateway"]
    assert rig.process is not None
    rig.process.send_signal(signal.SIGTERM)
    assert await rig.wait() == 0
    await gone(former)


async def test_a_gateway_that_does_not_come_to_serve_replaces_nothing(rig: Rig) -> None:
    await rig.keeper(gateway=command())
    client = await rig.client()
    await start(client, "shim", "one", python(SLEEPER))
    former = gateway_pid(client)
    await eventually((rig.data / "orders").exists)
    (rig.data / "refuse").touch()
    with pytest.raises(KeeperError, match="this one does not serve") as refusal:
        await client.request("replace_gateway")
    assert refusal.value.code == "gateway_refused"
    assert f'"pid": {former}' in await ask(rig, "one")
    (rig.data / "refuse").unlink()
    first, second = await asyncio.gather(
        *(client.request("replace_gateway") for _ in range(2)), return_exceptions=True
    )
    assert isinstance(first, dict)
    assert first["gateway_pid"] != former
    assert isinstance(second, KeeperError)
    assert second.code == "busy"


async def test_a_gateway_that_dies_while_it_is_replaced_is_followed_by_the_new_one(rig: Rig) -> None:
    await rig.keeper(gateway=command())
    client = await rig.client()
    await start(client, "shim", "one", python(SLEEPER))
    former = gateway_pid(client)
    replacing = asyncio.create_task(client.request("replace_gateway"))
    await eventually(lambda: rig.log().count('"gateway_started"') == 2, what="the next one is under way")
    os.kill(former, signal.SIGKILL)
    answer = await asyncio.wait_for(replacing, 20)
    assert f'"pid": {answer["gateway_pid"]}' in await ask(rig, "one")
    assert rig.log().count('"gateway_started"') == 2
