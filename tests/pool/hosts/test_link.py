"""A host is let in by its key and lets us in by ours, and whoever has to mend something is told what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pool.config import PoolConfig, SshHost
from pool.errors import HostRefused, KeeperUnavailable
from pool.hosts.link import Link
from pool.hosts.ssh import open_ssh_host
from pool.hosts.trust import LinkTimes
from tests.pool.hosts.sshd import Sshd, free_port

TIMES = LinkTimes(connect_seconds=10, hello_seconds=10)


@asynccontextmanager
async def linked(host: SshHost) -> AsyncIterator[Link]:
    link = await Link.connect(host, TIMES)
    try:
        yield link
    finally:
        await link.close()


async def refused(host: SshHost) -> HostRefused:
    with pytest.raises(HostRefused) as refusal:
        async with linked(host):
            pass
    assert refusal.value.details["host"] == "h1"
    return refusal.value


async def test_a_host_with_another_key_than_the_known_one_is_not_spoken_with(
    sshd: Sshd, settings: dict[str, Any]
) -> None:
    sshd.let_in(settings)
    host = sshd.host()
    sshd.known_hosts(key="other_key")
    error = await refused(host)
    assert error.details["reason"] == "host_key_changed"
    assert f"ssh-keygen -f {host.known_hosts_file} -R '[127.0.0.1]:{sshd.port}'" in error.message


async def test_a_host_whose_key_nobody_knows_is_not_spoken_with(
    sshd: Sshd, settings: dict[str, Any], short_dir: Path
) -> None:
    sshd.let_in(settings)
    empty = short_dir / "known"
    empty.write_text("")
    for file in (empty, short_dir / "missing"):
        error = await refused(sshd.host(known_hosts_file=file))
        assert error.details["reason"] == "host_key_unknown"
        assert f"ssh-keyscan -p {sshd.port} 127.0.0.1" in error.message
        assert str(file) in error.message


async def test_a_host_that_does_not_know_our_key_says_so(
    sshd: Sshd, settings: dict[str, Any], short_dir: Path
) -> None:
    sshd.let_in(settings)
    error = await refused(sshd.host(key_file=sshd.directory / "stranger"))
    assert error.details["reason"] == "key_refused"
    assert "authorized_keys" in error.message
    with pytest.raises(HostRefused, match=r"key_file .* No such file"):
        await Link.connect(sshd.host(key_file=short_dir / "missing"), TIMES)
    shared = short_dir / "shared"
    shared.write_bytes((sshd.directory / "key").read_bytes())
    shared.chmod(0o640)
    with pytest.raises(HostRefused, match=f"chmod 600 {shared}"):
        await Link.connect(sshd.host(key_file=shared), TIMES)
    shared.chmod(0o600)
    async with linked(sshd.host(key_file=shared)):
        pass
    shared.write_text("no key")
    with pytest.raises(HostRefused, match=f"{shared}: Invalid private key"):
        await Link.connect(sshd.host(key_file=shared), TIMES)


async def test_nobody_listens(sshd: Sshd) -> None:
    with pytest.raises(KeeperUnavailable, match="no SSH connection to") as error:
        await Link.connect(replace(sshd.host(), port=free_port()), TIMES)
    # trying again may help
    assert not isinstance(error.value, HostRefused)


async def test_a_host_without_the_program_says_what_it_said(
    sshd: Sshd, settings: dict[str, Any], short_dir: Path
) -> None:
    sshd.allow("restrict")
    host = open_ssh_host(sshd.host(command="no-such-program host"), PoolConfig(data_dir=short_dir), TIMES)
    with pytest.raises(HostRefused, match=r"ended with 127.*no-such-program.*not found") as refusal:
        await host.launcher.open(1)
    assert refusal.value.details["reason"] == "program"
    # and one that says anything but what is to be said
    host = open_ssh_host(sshd.host(command="echo welcome;"), PoolConfig(data_dir=short_dir), TIMES)
    with pytest.raises(HostRefused):
        await host.launcher.open(1)


async def test_bytes_come_as_they_are_and_no_faster_than_they_are_taken(sshd: Sshd, short_dir: Path) -> None:
    sshd.allow("restrict")
    async with linked(sshd.host(command="cat;:")) as link:
        channel = await link.run("files")
        reader, writer = await asyncio.open_connection(sock=channel.socket)
        sent = bytes(range(256)) * (4 << 14)
        writing = asyncio.create_task(_write(writer, sent), name="writing")
        # nothing is taken: what is under way is bounded by windows, pipes and sockets
        done, _ = await asyncio.wait({writing}, timeout=0.5)
        assert not done
        received = await reader.readexactly(len(sent))
        await writing
        assert received == sent
        writer.close()
        await writer.wait_closed()


async def _write(writer: Any, data: bytes) -> None:
    writer.write(data)
    await writer.drain()
