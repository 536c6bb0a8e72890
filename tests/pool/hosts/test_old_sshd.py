"""Case 44: an sshd that refuses requests for signals, as those did before there were any."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from tests.pool.hosts.forked import Programs
from tests.pool.hosts.sshd import Door
from tests.pool.hosts.stand import STOP, Stand, keeper_listens, say, some_results


class OldSshd(Door):
    """An SSH server in this process, which knows no signals."""

    async def listen(self) -> None:
        self._acceptor = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[str(self.directory / "host_key")],
            authorized_client_keys=str(self.directory / "authorized_keys"),
            process_factory=self._run,
            encoding=None,
        )
        self.port = self._acceptor.get_port()

    async def close(self) -> None:
        self._acceptor.close()
        await self._acceptor.wait_closed()

    async def _run(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_shell(process.command or "", stdin=pipe, stdout=pipe)
        assert child.stdin is not None
        assert child.stdout is not None
        there = asyncio.create_task(_carry(process.stdin, child.stdin), name="input")
        await _carry(child.stdout, process.stdout)
        await there
        process.exit(await child.wait())


async def _carry(source: Any, sink: Any) -> None:
    with contextlib.suppress(OSError, asyncssh.Error):
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
    with contextlib.suppress(OSError):
        sink.close()


@pytest.fixture
async def old_sshd(programs: Programs, short_dir: Path) -> AsyncIterator[OldSshd]:
    directory = Path(tempfile.mkdtemp(prefix="cp-sshd-"))
    server = OldSshd(directory, programs)
    server.allow("restrict")
    yield server
    await server.close()
    shutil.rmtree(directory)


async def test_a_stop_needs_no_signal_over_ssh_and_leaves_nothing(
    old_sshd: OldSshd, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def refuse(_channel: Any, _packet: Any) -> bool:
        asked.append("a signal")
        return False

    monkeypatch.setattr(asyncssh.SSHServerChannel, "_process_signal_request", refuse)
    await old_sshd.listen()
    stand = Stand.at(old_sshd.host(command=old_sshd.program(settings)), settings)
    await stand.launcher.open(1)
    handle, sink = await stand.start("one")
    await say(handle, "good morning !setsid !double-fork !ignore-eof !ignore-term")
    await some_results(sink)
    assert len(stand.processes("one")) >= 3
    await handle.stop(STOP)
    assert (await sink.exit()).signal == "SIGKILL"
    assert stand.processes("one") == []
    await stand.launcher.aclose(end_instances=True)
    assert not keeper_listens(stand.data)
    assert asked == []
