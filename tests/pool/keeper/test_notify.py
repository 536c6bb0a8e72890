"""What a service manager hears of a keeper. The test plays systemd."""

from __future__ import annotations

import os
import signal
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pool.keeper.notify import Notifier
from tests.pool.keeper.rig import Rig, python, soon, start
from tests.waiting import eventually


class Manager:
    """The socket of a service manager, and what came."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)
        self.heard: list[str] = []

    def words(self) -> list[str]:
        """The first line of everything that has come, watchdog left out."""
        while True:
            try:
                self.heard.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                break
        lines = [text.partition("\n")[0] for text in self.heard]
        return [line for line in lines if line != "WATCHDOG=1"]

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, short_dir: Path) -> Iterator[Manager]:
    is_path = request.param == "path"
    manager = Manager(str(short_dir / "n") if is_path else f"@cp-test-{uuid.uuid4().hex}")
    yield manager
    manager.close()


async def test_a_keeper_says_when_it_serves_reloads_and_stops(rig: Rig, manager: Manager) -> None:
    await rig.keeper(env={"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "4000000"})
    await eventually(lambda: manager.words() == ["READY=1"])
    assert str(rig.runtime) in manager.heard[0]
    client = await rig.client()
    _, collector = await start(client, "shim", "one", python("import os; print(sorted(os.environ))"))
    await collector.exit()
    assert b"NOTIFY_SOCKET" not in collector.data
    assert b"WATCHDOG" not in collector.data
    await client.request("upgrade")
    await eventually(lambda: manager.words() == ["READY=1", "RELOADING=1", "READY=1"])
    (reloading,) = [text for text in manager.heard if text.startswith("RELOADING")]
    assert int(reloading.partition("MONOTONIC_USEC=")[2]) > 0
    count = manager.heard.count("WATCHDOG=1")
    await eventually(lambda: manager.words() and manager.heard.count("WATCHDOG=1") >= count + 1)
    assert rig.process is not None
    rig.process.send_signal(signal.SIGTERM)
    assert await rig.wait() == 0
    assert manager.words()[3:] == ["STOPPING=1"]


async def test_a_keeper_whose_loop_stands_still_is_silent(rig: Rig, manager: Manager) -> None:
    await rig.keeper(env={"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "100000"})
    await eventually(lambda: manager.words() and "WATCHDOG=1" in manager.heard)
    keeper = rig.process
    assert keeper is not None
    keeper.send_signal(signal.SIGSTOP)
    await eventually(lambda: "\nState:\tT" in Path(f"/proc/{keeper.pid}/status").read_text())
    manager.words()
    count = len(manager.heard)
    await soon(0.5)
    manager.words()
    assert len(manager.heard) == count
    keeper.send_signal(signal.SIGCONT)
    await eventually(lambda: manager.words() and len(manager.heard) > count)


def test_without_a_manager_nothing_is_sent_and_nobody_is_waited_for(short_dir: Path) -> None:
    for environment in ({}, {"NOTIFY_SOCKET": str(short_dir / "nobody"), "WATCHDOG_USEC": "many"}):
        notifier = Notifier(environment)
        assert notifier.watchdog_seconds is None
        notifier.ready("x")
        notifier.alive()


def test_the_watchdog_of_another_process_is_not_ours(manager: Manager) -> None:
    both = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "4000000"}
    assert Notifier({**both, "WATCHDOG_PID": "1"}).watchdog_seconds is None
    assert Notifier({**both, "WATCHDOG_PID": str(os.getpid())}).watchdog_seconds == 2.0


def test_a_manager_that_reads_nothing_holds_nobody_up(manager: Manager) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.address})
    for _ in range(10_000):
        notifier.alive()
    assert manager.words() == []
    assert 0 < len(manager.heard) < 10_000
