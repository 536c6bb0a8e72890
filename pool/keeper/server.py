"""The keeper's socket: who may speak to it, and what they may ask.

One server is attached at a time, the one with the highest epoch. A server
that says hello with the same or a higher epoch takes over and the one before
is cut; a lower epoch is refused, so that a server that was believed dead can
do no harm when it wakes.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pool.keeper import procfs, wire
from pool.keeper.answers import Call, RestoredAskers
from pool.keeper.bounds import Bounds
from pool.keeper.code_version import code_version
from pool.keeper.connection import Connection
from pool.keeper.entry import HostError, describe, exit_frame
from pool.keeper.handover import Packer, State, Unpacker
from pool.keeper.host import Host
from pool.keeper.ladder import Graces
from pool.keeper.lease import Lease
from pool.keeper.log import Log
from pool.keeper.loop import READ, Loop
from pool.keeper.operations import Operations
from pool.keeper.spawn import has_files_left
from pool.keeper.stream import Stream

SOCKET_NAME = "keeper.sock"

_BACKLOG = 16
# what the highest one is would be no number for a database
_EPOCHS = 2**63
# a server that speaks more rarely could as well promise nothing
_MOST_SECONDS = 3600
_UCRED = struct.Struct("3i")


class Epochs:
    """The highest epoch that ever attached, on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self.highest = int(json.loads(path.read_bytes())["epoch"])
        except (OSError, ValueError, KeyError, TypeError):
            self.highest = 0

    def admit(self, epoch: int) -> bool:
        """Is ``epoch`` the highest yet (or the same)? Then it is stored. Raises ``OSError``."""
        if epoch < self.highest:
            return False
        if epoch > self.highest:
            temporary = self._path.with_suffix(".new")
            temporary.write_bytes(json.dumps({"epoch": epoch}).encode())
            os.replace(temporary, self._path)
            self.highest = epoch
        return True


class KeeperServer:
    """Listens on ``keeper.sock`` and serves the attached server: root or we, and who ``bounds`` is about."""

    def __init__(
        self,
        runtime_dir: Path,
        epochs: Epochs,
        *,
        loop: Loop,
        log: Log,
        host: Host,
        lease: Lease,
        on_shutdown: Callable[[Graces], None],
        on_upgrade: Callable[[Call, dict[str, Any]], None],
        version_max: int = wire.VERSION_MAX,
        bounds: Bounds | None = None,
    ) -> None:
        self._path = runtime_dir / SOCKET_NAME
        self._epochs = epochs
        self._loop = loop
        self._log = log
        self._host = host
        self._lease = lease
        self._version_max = version_max
        self._code = code_version()
        self._connections: set[Connection] = set()
        self._attached: Connection | None = None
        self._listener: socket.socket | None = None
        self._service_uid = None if bounds is None else bounds.service_uid
        self._operations = Operations(host, on_shutdown, on_upgrade, bounds)

    def open(self) -> None:
        """Begin to listen; a stale socket of a dead keeper is replaced. Raises ``OSError``."""
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self._path))
        if self._service_uid is not None:
            os.chown(self._path, -1, self._service_uid)
        self._path.chmod(0o600 if self._service_uid is None else 0o660)
        self._listener.listen(_BACKLOG)
        self._listener.setblocking(False)
        self._loop.watch(self._listener.fileno(), READ, self._accept)

    def to_state(self, packer: Packer) -> State:
        """The listener and every connection."""
        return {
            "listener": -1 if self._listener is None else packer.descriptor(self._listener.fileno()),
            "connections": [connection.to_state(packer) for connection in self._connections],
            "attached": None if self._attached is None else self._attached.key,
        }

    def restore(self, state: State, unpacker: Unpacker) -> RestoredAskers:
        """The way back but for the streams, which need the instances; who waits for an answer."""
        self._listener = socket.socket(fileno=unpacker.descriptor(state["listener"]))
        self._accept_again()
        restored: dict[int, Connection] = {}
        for one in state["connections"]:
            connection = self._connection(socket.socket(fileno=unpacker.descriptor(one["fd"])))
            connection.restore(one, unpacker)
            restored[one["fd"]] = connection
        if state["attached"] is not None:
            self._attached = restored[state["attached"]]
            self._renew_lease(self._attached)
        return RestoredAskers(restored)

    def restore_streams(self, state: State) -> None:
        """The rest of the way back: what is due is sent once the loop runs."""
        attached = self._attached
        for one in state["connections"]:
            if attached is not None and one["fd"] == attached.key:
                for stream in one["streams"]:
                    self._restore_stream(attached, stream)
                self._loop.call_soon(attached.pump_streams)

    def _restore_stream(self, connection: Connection, state: State) -> None:
        entry = self._host.entries.get(state["instance"])
        if entry is not None:
            stream = Stream.from_state(state, entry.spool, connection, lambda: exit_frame(entry))
            entry.stream = connection.streams[stream.handle] = stream

    def close_listener(self) -> None:
        """Take nobody in any more; the attached server stays."""
        if self._listener is not None:
            self._loop.unwatch(self._listener.fileno())
            self._listener.close()
            self._listener = None
            self._path.unlink(missing_ok=True)

    def event(self, message: dict[str, Any]) -> None:
        """Tell the attached server, if there is one."""
        if self._attached is not None:
            self._attached.send_json(message)

    def _accept(self, _mask: int) -> None:
        if self._listener is None:
            return
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            # out of descriptors: the loop would spin on the waiting connect
            self._log.write("accept_failed", error=str(error))
            self._loop.unwatch(self._listener.fileno())
            self._loop.call_later(0.5, self._accept_again)
            return
        if not has_files_left():
            self._log.write("no_descriptors_left")
            sock.close()
            return
        _pid, uid, _gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        if uid not in (0, os.geteuid(), self._service_uid):
            self._log.write("stranger_refused", uid=uid)
            sock.close()
            return
        self._connection(sock)

    def _connection(self, sock: socket.socket) -> Connection:
        connection = Connection(self._loop, sock, self._log, self._frame, self._closed)
        self._connections.add(connection)
        return connection

    def _accept_again(self) -> None:
        if self._listener is not None:
            self._loop.watch(self._listener.fileno(), READ, self._accept)

    def _closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if connection is self._attached:
            self._attached = None
            self._host.detach_streams()
            self._lease.detached()
            self._log.write("server_detached", epoch=connection.epoch)

    def _frame(self, connection: Connection, kind: int, payload: bytes) -> None:
        if kind == wire.KIND_INPUT and connection is self._attached:
            self._operations.input(connection, *wire.decode_stream(payload))
            return
        if kind != wire.KIND_JSON:
            raise wire.WireError(f"kind {kind} is not for a keeper now")
        request = wire.decode_json(payload)
        call = Call(connection, request.get("id"))
        try:
            if request.get("op") == "hello":
                self._hello(connection, call, request)
            elif connection is self._attached:
                self._operations.run(connection, call, request)
            else:
                raise HostError("not_attached", "say hello first")
        except HostError as error:
            call.error(error.code, str(error), **error.details)
        except OSError as error:
            call.error("os_error", str(error))
        except (TypeError, ValueError, KeyError) as error:
            self._log.exception("bad_request", op=request.get("op"))
            call.error("bad_request", f"{type(error).__name__}: {error}")

    def _hello(self, connection: Connection, call: Call, request: dict[str, Any]) -> None:
        low, high, epoch = int(request["min"]), int(request["max"]), int(request["epoch"])
        if not 0 <= epoch < _EPOCHS:
            raise HostError("bad_request", "not an epoch")
        version = min(high, self._version_max)
        if version < max(low, wire.VERSION_MIN):
            raise HostError(
                "version_mismatch",
                f"the keeper speaks versions {wire.VERSION_MIN} to {self._version_max}",
                min=wire.VERSION_MIN,
                max=self._version_max,
            )
        if not self._epochs.admit(epoch):
            raise HostError(
                "stale_epoch", f"epoch {self._epochs.highest} has attached", epoch=self._epochs.highest
            )
        connection.promise_seconds = _promise(request)
        connection.version = version
        self._take_over(connection, epoch)
        since_2 = {"code": self._code} if version > 1 else {}
        call.answer(
            version=version,
            epoch=epoch,
            pid=os.getpid(),
            boot_id=procfs.boot_id(),
            gateway_pid=self._host.gateway.pid,
            gateway_uid=self._host.gateway.uid,
            service_uid=self._service_uid,
            speaks_every=connection.promise_seconds,
            instances=[describe(entry) for entry in self._host.entries.values()],
            **since_2,
        )

    def _take_over(self, connection: Connection, epoch: int) -> None:
        former, self._attached = self._attached, connection
        if former is not None and former is not connection:
            former.send_json({"event": "fenced", "epoch": epoch})
            former.finish()
        if former is not connection:
            self._host.detach_streams()
            self._host.drop_waiting_input()
        connection.epoch = epoch
        self._renew_lease(connection)
        self._log.write("server_attached", epoch=epoch)

    def _renew_lease(self, connection: Connection) -> None:
        self._lease.attached(connection.promise_seconds, lambda: connection.heard_at)


def _promise(request: dict[str, Any]) -> float | None:
    """How often the server says something, in seconds; None where it promises nothing."""
    promise = request.get("speaks_every")
    if promise is None:
        return None
    if isinstance(promise, bool) or not isinstance(promise, int | float) or not 0 < promise <= _MOST_SECONDS:
        raise HostError("bad_request", f"speaks_every is above 0 and at most {_MOST_SECONDS}")
    return float(promise)
