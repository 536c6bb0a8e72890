"""The connection to one host: SSH, with a known host key always, and one channel for each program run there.

Nothing is forwarded and no signal is sent over it: two programs are started,
and their input is closed. So it works with a key that may run one command
only, and with every sshd.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket

import asyncssh

from pool.config import SshHost
from pool.errors import KeeperUnavailable
from pool.hosts.trust import LinkTimes, known_hosts_of, options_for, refusal_of

# it tells each connection's steps at the level at which we tell of what matters
logging.getLogger("asyncssh").setLevel(logging.WARNING)

_STDERR_BYTES = 4096
_CLOSE_SECONDS = 2.0
_END_SECONDS = 5.0


class Channel:
    """One program that runs on the host: what ``socket`` gets is its input, what comes from it its output.

    ``socket`` is the caller's, to be closed by the caller, which ends the program's input.
    """

    def __init__(self) -> None:
        self.socket, near = socket.socketpair()
        self.socket.setblocking(False)
        self.near_socket = near
        self.near = _Near()
        self.far = _Far(self.near)
        self.near.far = self.far

    async def why_ended(self) -> str:
        """What the program said last and how it ended, once it has; waits for a few seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                await self.far.is_over.wait()
        text = bytes(self.far.stderr).decode(errors="replace").strip()
        ended = "" if self.far.status is None else f"it ended with {self.far.status}"
        return ": ".join(part for part in (ended, text) if part) or str(self.far.error or "it did not answer")


class Link:
    """An open connection. That it is lost is told by the ends of its channels."""

    def __init__(self, settings: SshHost) -> None:
        self._settings = settings
        self._connection: asyncssh.SSHClientConnection | None = None

    @classmethod
    async def connect(cls, settings: SshHost, times: LinkTimes) -> Link:
        """Connect and sign in.

        Raises ``HostRefused`` where somebody has to mend something first (the host's key, our key, a
        file), ``KeeperUnavailable`` where trying again may help.
        """
        link = cls(settings)
        known = known_hosts_of(settings)
        try:
            async with asyncio.timeout(times.connect_seconds):
                link._connection = await asyncssh.connect(
                    settings.address,
                    settings.port,
                    options=options_for(settings, times, known),
                    client_factory=lambda: _Client(link),
                )
        except TimeoutError:
            text = f"host {settings.name}: no SSH connection within {times.connect_seconds:g} s"
            raise KeeperUnavailable(text) from None
        except (OSError, asyncssh.Error) as error:
            raise refusal_of(settings, known, error) from error
        return link

    @property
    def is_open(self) -> bool:
        """Does it stand, as far as is known?"""
        return self._connection is not None

    async def run(self, word: str) -> Channel:
        """Run the host program's part ``word``. Raises ``KeeperUnavailable``."""
        channel = Channel()
        try:
            if self._connection is None:
                raise ConnectionResetError("the connection is closed")
            loop = asyncio.get_running_loop()
            await loop.create_unix_connection(lambda: channel.near, sock=channel.near_socket)
            command = f"{self._settings.command} {word}"
            await self._connection.create_session(lambda: channel.far, command, encoding=None)
        except (OSError, asyncssh.Error) as error:
            channel.near.close()
            channel.near_socket.close()
            channel.socket.close()
            text = f"host {self._settings.name}: no SSH channel for {word}: {error}"
            raise KeeperUnavailable(text) from error
        except BaseException:
            channel.near.close()
            channel.socket.close()
            raise
        return channel

    def abort(self) -> None:
        """Let go of it at once."""
        if self._connection is not None:
            self._connection.abort()

    async def close(self) -> None:
        """End it: the programs on the host get end of input."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        connection.close()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await connection.wait_closed()
        except TimeoutError:
            connection.abort()
            await connection.wait_closed()

    def lost(self) -> None:
        """The connection has ended."""
        self._connection = None


class _Client(asyncssh.SSHClient):
    """Tells the link of its end."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.lost()


class _Near(asyncio.Protocol):
    """Our end of a channel's pair of sockets: what comes goes to the host."""

    far: _Far

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        # until there is a channel to carry it
        transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        self.far.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.far.close()

    def pause_writing(self) -> None:
        self.far.pause_reading(True)

    def resume_writing(self) -> None:
        self.far.pause_reading(False)

    def write(self, data: bytes) -> None:
        """To whoever has the other end."""
        if self.transport is not None:
            self.transport.write(data)

    def pause(self, is_paused: bool) -> None:
        """Take nothing from the other end, or take it again."""
        if self.transport is not None and not self.transport.is_closing():
            if is_paused:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def close(self) -> None:
        """No more comes; what was written is read first."""
        if self.transport is not None:
            self.transport.close()


class _Far(asyncssh.SSHClientSession[bytes]):
    """The channel itself: what comes from the host goes to our end."""

    def __init__(self, near: _Near) -> None:
        self.stderr = bytearray()
        self.status: int | str | None = None
        self.error: Exception | None = None
        self.is_over = asyncio.Event()
        self._near = near
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan

    def session_started(self) -> None:
        self._near.pause(False)

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        if datatype is None:
            self._near.write(data)
        else:
            self.stderr += data
            del self.stderr[:-_STDERR_BYTES]

    def eof_received(self) -> bool:
        self._near.close()
        return False

    def exit_status_received(self, status: int) -> None:
        self.status = status

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        self.status = f"SIG{signal}"

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self._channel = None
        self.is_over.set()
        self._near.close()

    def pause_writing(self) -> None:
        self._near.pause(True)

    def resume_writing(self) -> None:
        self._near.pause(False)

    def pause_reading(self, is_paused: bool) -> None:
        """Let the host wait, or go on."""
        if self._channel is not None:
            if is_paused:
                self._channel.pause_reading()
            else:
                self._channel.resume_reading()

    def write(self, data: bytes) -> None:
        """To the program's input."""
        if self._channel is not None:
            # the channel may be on its way to its end, of which our end is told
            with contextlib.suppress(BrokenPipeError):
                self._channel.write(data)

    def close(self) -> None:
        """End the program's input."""
        if self._channel is not None:
            self._channel.close()
