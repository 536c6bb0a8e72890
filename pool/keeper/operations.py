"""What an attached server may ask of the keeper, by name."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from pool.keeper import wire
from pool.keeper.answers import Call, Receipt, Starting, stream_to
from pool.keeper.bounds import Bounds
from pool.keeper.connection import Connection
from pool.keeper.entry import HostError, describe, stderr_tail
from pool.keeper.gate import BadLine, check_line
from pool.keeper.host import Host
from pool.keeper.ladder import Graces

_READ_LIMIT_BYTES = 4 * 1024 * 1024
# the version of the protocol that brought a request
_SINCE = {"upgrade": 2, "replace_gateway": 2}


class Operations:
    """What the attached server may ask, by name; within ``bounds`` where that is not root."""

    def __init__(
        self,
        host: Host,
        on_shutdown: Callable[[Graces], None],
        on_upgrade: Callable[[Call, dict[str, Any]], None],
        bounds: Bounds | None = None,
    ) -> None:
        self._bounds = bounds
        self._host = host
        self._on_shutdown = on_shutdown
        self._on_upgrade = on_upgrade
        self._operations: dict[str, Callable[[Connection, Call, dict[str, Any]], None]] = {
            "alive": self._alive,
            "start": self._start,
            "attach": self._attach,
            "credit": self._credit,
            "commit": self._commit,
            "trim": self._trim,
            "read": self._read,
            "signal": self._signal,
            "stop": self._stop,
            "abandon": self._abandon,
            "stderr": self._stderr,
            "list": self._list,
            "forget": self._forget,
            "shutdown": self._shutdown,
            "upgrade": self._upgrade,
            "replace_gateway": self._replace_gateway,
        }

    def run(self, connection: Connection, call: Call, request: dict[str, Any]) -> None:
        """Do one request. Raises ``HostError``."""
        name = str(request.get("op"))
        operation = self._operations.get(name)
        if operation is None or connection.version < _SINCE.get(name, wire.VERSION_MIN):
            raise HostError("bad_request", f"no operation {request.get('op')!r}")
        operation(connection, call, request if self._bounds is None else self._bounds.bounded(name, request))

    def input(self, connection: Connection, handle: int, sequence: int, line: bytes) -> None:
        """One line for an instance's stdin; answered when it is in the pipe, or not at all written."""
        done = Receipt(connection, handle, sequence)
        stream = connection.streams.get(handle)
        entry = None if stream is None else self._host.entries.get(stream.instance_id)
        if entry is None or entry.live is None:
            done("gone")
            return
        try:
            checked = check_line(line)
        except BadLine as error:
            done("bad_line", message=str(error))
            return
        if entry.live.intake.has_room(checked):
            entry.live.intake.put(checked, done)
        else:
            done("full")

    def _alive(self, _connection: Connection, call: Call, _request: dict[str, Any]) -> None:
        call.answer()

    def _start(self, connection: Connection, call: Call, request: dict[str, Any]) -> None:
        self._host.start(request, Starting(connection, call, _window_of(request)))

    def _attach(self, connection: Connection, call: Call, request: dict[str, Any]) -> None:
        entry = self._host.entry(request["instance"])
        stream_to(connection, call, entry, int(request["offset"]), _window_of(request))

    def _credit(self, connection: Connection, _call: Call, request: dict[str, Any]) -> None:
        stream = connection.streams.get(request["handle"])
        if stream is not None:
            stream.grant(int(request["bytes"]))

    def _commit(self, _connection: Connection, call: Call, request: dict[str, Any]) -> None:
        entry = self._host.entry(request["instance"])
        if entry.live is not None:
            entry.live.commit(int(request["offset"]))
        call.answer()

    def _trim(self, _connection: Connection, call: Call, request: dict[str, Any]) -> None:
        self._host.entry(request["instance"]).spool.trim(int(request["offset"]))
        call.answer()

    def _read(self, connection: Connection, _call: Call, request: dict[str, Any]) -> None:
        entry = self._host.entry(request["instance"])
        limit = max(0, min(int(request["limit"]), _READ_LIMIT_BYTES))
        offset, data = entry.spool.read(int(request["offset"]), limit)
        connection.send(wire.encode_read(int(request["id"]), offset, data))

    def _signal(self, _connection: Connection, call: Call, request: dict[str, Any]) -> None:
        entry = self._host.entry(request["instance"])
        number = signal.Signals[str(request["signal"])]
        if entry.live is None or not entry.live.signal_cli(number):
            raise HostError("gone", "the CLI has ended")
        call.answer()

    def _stop(self, _connection: Connection, call: Call, request: dict[str, Any]) -> None:
        entry = self._host.entry(request["instance"])
        if entry.live is None:
            call.answer(gone=True)
        else:
            entry.stopped.append(call)
            entry.live.stop(graces_of(request))

    def _abandon(self, _connection: Connection, call: Call, request: dict[str, Any]) -> None:
        self._host.abandon(str(request["instance"]), call)

    def _stderr(self, _connection: Connection, call: Call, request: dict[str, Any]) -> None:
        call.answer(stderr_tail=stderr_tail(self._host.entry(request["instance"])))

    def _list(self, _connection: Connection, call: Call, _request: dict[str, Any]) -> None:
        call.answer(instances=[describe(entry) for entry in self._host.entries.values()])

    def _forget(self, _connection: Connection, call: Call, request: dict[str, Any]) -> None:
        self._host.forget(str(request["instance"]))
        call.answer()

    def _shutdown(self, _connection: Connection, call: Call, request: dict[str, Any]) -> None:
        call.answer()
        self._on_shutdown(graces_of(request))

    def _upgrade(self, _connection: Connection, call: Call, request: dict[str, Any]) -> None:
        self._on_upgrade(call, request)

    def _replace_gateway(self, _connection: Connection, call: Call, request: dict[str, Any]) -> None:
        self._host.gateway.replace(call, request)


def _window_of(request: dict[str, Any]) -> int:
    return int(request.get("window", wire.DEFAULT_WINDOW_BYTES))


def graces_of(request: dict[str, Any]) -> Graces:
    """The graces of a stop or shutdown request; three seconds values, or the usual ones."""
    given = request.get("graces")
    if given is None:
        return Graces()
    end_of_input, term, kill = (float(value) for value in given)
    return Graces(end_of_input, term, kill)
