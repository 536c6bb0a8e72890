"""Who waits for an answer of the keeper, and what they are told; kept over a hand-over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pool.keeper.connection import Connection
from pool.keeper.entry import Entry, describe, exit_frame
from pool.keeper.handover import State
from pool.keeper.spawn import SHIM
from pool.keeper.stream import Stream


class Call:
    """One request; its answer goes nowhere when the server has gone meanwhile."""

    def __init__(self, connection: Connection | None, request: Any) -> None:
        self._connection = connection
        self._request = request

    def answer(self, **result: Any) -> None:
        """It was done."""
        if self._request is not None and self._connection is not None:
            self._connection.send_json({"re": self._request, **result})

    def error(self, code: str, message: str, **details: Any) -> None:
        """It was not."""
        self.answer(error=code, message=message, **details)

    def to_state(self) -> State:
        """Whom to answer."""
        return {"connection": _key(self._connection), "request": self._request}


class Receipt:
    """What is answered to one line of input."""

    def __init__(self, connection: Connection | None, handle: int, sequence: int) -> None:
        self._connection = connection
        self._handle = handle
        self._sequence = sequence

    def __call__(self, problem: str | None, **details: Any) -> None:
        """It is in the pipe, or ``problem`` says why it is not."""
        if self._connection is None:
            return
        answer: dict[str, Any] = {"event": "written", "handle": self._handle, "seq": self._sequence}
        self._connection.send_json(answer if problem is None else {**answer, "error": problem, **details})

    def to_state(self) -> State:
        """Which line of whom."""
        return {"connection": _key(self._connection), "handle": self._handle, "sequence": self._sequence}


class Starting:
    """What is answered to a start, once it is known whether the CLI runs."""

    def __init__(self, connection: Connection | None, call: Call, window: int) -> None:
        self._connection = connection
        self._call = call
        self._window = window

    def __call__(self, entry: Entry, has_run: bool) -> None:
        """It runs, or ran, and is streamed; or it never did."""
        if not has_run:
            record = entry.record
            self._call.error(
                "spawn_failed",
                "the CLI could not be started",
                step="exec" if record.wrapper == SHIM else "sandbox",
                exit_code=record.code,
                signal=record.signal,
                stderr_tail=record.stderr_tail,
            )
        elif self._connection is not None and self._connection.is_open and self._connection.epoch is not None:
            stream_to(self._connection, self._call, entry, 0, self._window)

    def to_state(self) -> State:
        """Whom to answer, and the credit that was given."""
        return {**self._call.to_state(), "window": self._window}


class RestoredAskers:
    """Implements ``Askers``: those whose connection is gone are answered nowhere."""

    def __init__(self, connections: Mapping[int, Connection]) -> None:
        self._connections = connections

    def call(self, state: State) -> Call:
        """See ``Askers``."""
        return Call(self._connection(state), state["request"])

    def started(self, state: State) -> Starting:
        """See ``Askers``."""
        return Starting(self._connection(state), self.call(state), state["window"])

    def done(self, state: State) -> Receipt:
        """See ``Askers``."""
        return Receipt(self._connection(state), state["handle"], state["sequence"])

    def _connection(self, state: State) -> Connection | None:
        return self._connections.get(state["connection"])


def _key(connection: Connection | None) -> int:
    return -1 if connection is None else connection.key


def stream_to(connection: Connection, call: Call, entry: Entry, offset: int, window: int) -> None:
    """Attach the instance to the connection from ``offset`` on, answer, send."""
    if entry.stream is not None:
        connection.streams.pop(entry.stream.handle, None)
    handle = connection.next_handle()
    stream = Stream(handle, entry.record.instance, entry.spool, connection, offset, window)
    entry.stream = connection.streams[handle] = stream
    call.answer(handle=handle, **describe(entry))
    if entry.live is None:
        stream.exited(lambda: exit_frame(entry))
    else:
        stream.pump()
