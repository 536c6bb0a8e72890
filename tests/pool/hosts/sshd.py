"""A real sshd of our own on 127.0.0.1, and a proxy before it that cuts or swallows what goes over it."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

from pool.config import SshHost
from tests.leaks import TEST_MARKER
from tests.pool.hosts.forked import Programs

PROGRAM = shutil.which("sshd", path="/usr/sbin:/usr/bin:/usr/local/sbin")

_CONFIG = """
ListenAddress 127.0.0.1
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
LogLevel QUIET
MaxStartups 100
"""


class Door:
    """Who is let in where, with the keys of both sides in ``directory``."""

    port: int

    def __init__(self, directory: Path, programs: Programs) -> None:
        self.directory = directory
        self._programs = programs
        for name in ("host_key", "other_key", "key", "stranger"):
            make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)]
            subprocess.run(make, check=True)
        (directory / "authorized_keys").write_text("")

    def let_in(self, settings: dict[str, Any]) -> None:
        """Who has the key may run the host program with ``settings``, whatever they ask for."""
        self.allow(f'restrict,command="{self.program(settings)}"')

    def program(self, settings: dict[str, Any]) -> str:
        """The host program with ``settings``, for a shell."""
        file = Path(settings["data_dir"]).parent / "settings.json"
        file.write_text(json.dumps(settings))
        return f"env {TEST_MARKER}={os.environ[TEST_MARKER]} {self._programs.command(str(file))}"

    def allow(self, options: str) -> None:
        """Let the key in with these options."""
        public = (self.directory / "key.pub").read_text()
        (self.directory / "authorized_keys").write_text(f"{options} {public}")

    def known_hosts(self, *ports: int, key: str = "host_key") -> Path:
        """A file that says that ``key`` is the host's, on its own port or on others."""
        file = self.directory / "known_hosts"
        public = (self.directory / f"{key}.pub").read_text()
        file.write_text("".join(f"[127.0.0.1]:{port} {public}" for port in ports or (self.port,)))
        return file

    def host(self, port: int | None = None, **changes: Any) -> SshHost:
        """How a server comes in."""
        usual: dict[str, Any] = {
            "name": "h1",
            "address": "127.0.0.1",
            "port": port or self.port,
            "user": getpass.getuser(),
            "key_file": self.directory / "key",
            "known_hosts_file": self.known_hosts(port or self.port),
            "command": "whatever",
        }
        return SshHost(**(usual | changes))


class Sshd(Door):
    """Runs from construction to ``close``; ``restart`` ends all connections with it."""

    def __init__(self, directory: Path, programs: Programs) -> None:
        super().__init__(directory, programs)
        self.port = free_port()
        (directory / "config").write_text(_CONFIG.format(directory=directory))
        if os.geteuid() == 0:
            # where its parts without rights are locked up
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self._process = self._start()

    def restart(self) -> None:
        """As a package's upgrade may do it: the listener and every connection end."""
        self._end()
        self._process = self._start()

    def close(self) -> None:
        """End it and its connections."""
        self._end()

    def connections(self) -> int:
        """How many are served."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        return len(children.split())

    def _start(self) -> subprocess.Popen[bytes]:
        assert PROGRAM is not None
        command = [PROGRAM, "-D", "-e", "-f", str(self.directory / "config"), "-p", str(self.port)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        for _ in range(500):
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return process
            assert process.poll() is None, "sshd did not start"
            os.sched_yield()
        raise AssertionError("sshd does not listen")

    def _end(self) -> None:
        # in its own session: with it the processes of all connections
        for child in Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGTERM)
        self._process.terminate()
        self._process.wait(10)


class Proxy:
    """Carries TCP to ``target``; ``cut`` ends all connections, ``swallow`` lets nothing through any more."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self.is_swallowing = False
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._swallowing: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Reset every connection."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def swallow(self) -> None:
        """Take from the connections that there are, both ways, and pass nothing on; both stay open."""
        self._swallowing |= set(self._writers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_there = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers += [writer, to_there]
        for source, sink in ((reader, to_there), (there, writer)):
            task = asyncio.create_task(self._carry(source, sink), name="proxy")
            self._tasks.add(task)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(1 << 16):
                if sink not in self._swallowing:
                    sink.write(data)
                    await sink.drain()
        except OSError:
            pass
        finally:
            if sink not in self._swallowing:
                sink.transport.abort()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
