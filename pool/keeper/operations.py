"""What an attached server may ask of the keeper, by name."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from pool.keeper import wire
from pool.keeper.connection import Connection
from pool.keeper.entry import Entry, HostError, describe, exit_frame, stderr_tail
from pool.keeper.gate import BadLine, check_line
from pool.keeper.host import Host
from pool.keeper.ladder import Graces
from pool.keeper.stream import Stream

_READ_LIMIT_BYTES = 4 * 1024 * 1024


class Call:
    """One request; its answer goes nowhere when the server has gone meanwhile."""

    def __init__(self, connection: Connection, request: Any) -> None:
        self._connection = connection
        self._request = request

    def answer(self, **result: Any) -> None:
        """It was done."""
        if self._request is not None:
            self._connection.send_json({"re": self._request, **result})

    def error(self, code: str, message: str, **details: Any) -> None:
        """It was not."""
        self.answer(error=code, message=message, **details)


class Operations:
    """What the attached server may ask, by name."""

    def __init__(self, host: Host, on_shutdown: Callable[[Graces], None]) -> None:
        self._host = host
        self._on_shutdown = on_shutdown
        self._operations: dict[str, Callable[[Connection, Call, dict[str, Any]], None]] = {
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
        }

    def run(self, connection: Connection, call: Call, request: dict[str, Any]) -> None:
        """Do one request. Raises ``HostError``."""
        operation = self._operations.get(str(request.get("op")))
        if operation is None:
            raise HostError("bad_request", f"no operation {request.get('op')!r}")
        operation(connection, call, request)

    def input(self, connection: Connection, handle: int, sequence: int, line: bytes) -> None:
        """One line for an instance's stdin; answered when it is in the pipe, or not at all written."""

        def done(problem: str | None) -> None:
            answer: dict[str, Any] = {"event": "written", "handle": handle, "seq": sequence}
            connection.send_json(answer if problem is None else {**answer, "error": problem})

        stream = connection.streams.get(handle)
        entry = None if stream is None else self._host.entries.get(stream.instance_id)
        if entry is None or entry.live is None:
            done("gone")
            return
        try:
            checked = check_line(line)
        except BadLine as error:
            answer = {"event": "written", "handle": handle, "seq": sequence}
            connection.send_json({**answer, "error": "bad_line", "message": str(error)})
            return
        if entry.live.intake.has_room(checked):
            entry.live.intake.put(checked, done)
        else:
            done("full")

    def _start(self, connection: Connection, call: Call, request: dict[str, Any]) -> None:
        def started(entry: Entry, has_run: bool) -> None:
            if not has_run:
                record = entry.record
                call.error(
                    "spawn_failed",
                    "the CLI could not be started",
                    step="exec" if record.wrapper == "shim" else "sandbox",
                    exit_code=record.code,
                    signal=record.signal,
                    stderr_tail=record.stderr_tail,
                )
            elif connection.is_open and connection.epoch is not None:
                self._stream(connection, call, entry, 0, request)

        self._host.start(request, started)

    def _attach(self, connection: Connection, call: Call, request: dict[str, Any]) -> None:
        entry = self._host.entry(request["instance"])
        self._stream(connection, call, entry, int(request["offset"]), request)

    def _stream(
        self, connection: Connection, call: Call, entry: Entry, offset: int, request: dict[str, Any]
    ) -> None:
        if entry.stream is not None:
            connection.streams.pop(entry.stream.handle, None)
        window = int(request.get("window", wire.DEFAULT_WINDOW_BYTES))
        handle = connection.next_handle()
        stream = Stream(handle, entry.record.instance, entry.spool, connection, offset, window)
        entry.stream = connection.streams[handle] = stream
        call.answer(handle=handle, **describe(entry))
        if entry.live is None:
            stream.exited(lambda: exit_frame(entry))
        else:
            stream.pump()

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


def graces_of(request: dict[str, Any]) -> Graces:
    """The graces of a stop or shutdown request; three seconds values, or the usual ones."""
    given = request.get("graces")
    if given is None:
        return Graces()
    end_of_input, term, kill = (float(value) for value in given)
    return Graces(end_of_input, term, kill)
