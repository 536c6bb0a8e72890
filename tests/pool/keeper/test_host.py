"""What the keeper forgets with an instance."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pool.keeper import wire
from pool.keeper.answers import Call, stream_to
from pool.keeper.cgroup import Groups
from pool.keeper.connection import Connection
from pool.keeper.gateway import Gateway
from pool.keeper.gateway_process import ServiceUser
from pool.keeper.host import Host, Limits
from pool.keeper.journal import Journal, Record
from pool.keeper.log import Log
from pool.keeper.loop import Loop
from pool.keeper.reaper import Reaper


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    log = Log(tmp_path / "log")
    loop = Loop(log)
    yield loop
    loop.close()
    log.close()


@pytest.fixture
def host(tmp_path: Path, loop: Loop) -> Iterator[Host]:
    for name in ("spool", "instances"):
        (tmp_path / name).mkdir()
    before = signal.getsignal(signal.SIGCHLD)
    log, reaper = Log(tmp_path / "log"), Reaper(loop)
    gateway = Gateway(
        None,
        user=ServiceUser(None, ()),
        data_dir=tmp_path,
        runtime_dir=tmp_path,
        environment={},
        loop=loop,
        reaper=reaper,
        log=log,
        on_state=lambda _state, _pid: None,
    )
    yield Host(
        tmp_path,
        Limits(1 << 20, 1 << 20),
        loop=loop,
        reaper=reaper,
        log=log,
        journal=Journal(tmp_path / "instances"),
        gateway=gateway,
        groups=Groups(None, "site"),
        on_event=lambda _event: None,
    )
    signal.signal(signal.SIGCHLD, before)


@pytest.fixture
def connection(tmp_path: Path, loop: Loop) -> Iterator[Connection]:
    ours, theirs = socket.socketpair()
    log = Log(tmp_path / "log")
    connection = Connection(loop, ours, log, lambda _connection, _kind, _payload: None, lambda _: None)
    connection.version = wire.VERSION_MAX
    yield connection
    connection.close()
    theirs.close()


def ended(host: Host, name: str) -> Record:
    """An instance that has exited."""
    record = Record(name, "boot", 1.0, "shim", exited_at=2.0, code=0)
    host.remember(record)
    return record


def test_with_an_instance_its_stream_is_forgotten_and_no_other(host: Host, connection: Connection) -> None:
    for number in range(3):
        record = ended(host, f"{number:032x}")
        stream_to(connection, Call(connection, number), host.entry(record.instance), 0, 1000)
    kept = f"{1:032x}"
    # a connection lives as long as its server: what it keeps of each instance it would keep for ever
    host.forget(f"{0:032x}")
    host.abandon(f"{2:032x}", Call(connection, 7))
    assert [stream.instance_id for stream in connection.streams.values()] == [kept]
    assert list(host.entries) == [kept]
