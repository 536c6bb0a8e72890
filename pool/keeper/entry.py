"""What the keeper knows of one instance, living or not, and how it tells a server of it."""

from __future__ import annotations

import re
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from pool.keeper import procfs, wire
from pool.keeper.handover import Packer, State
from pool.keeper.instance import Instance
from pool.keeper.intake import Done
from pool.keeper.journal import Record
from pool.keeper.spawn import BWRAP, SHIM
from pool.keeper.spool import Spool
from pool.keeper.stream import Stream

INSTANCE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", re.ASCII)
"""What instances may be called: a name of a file."""

# a list may be of thousands of instances
_LISTED_STDERR_CHARACTERS = 2048


class Call(Protocol):
    """A request that is answered later, or never if its server has gone."""

    def answer(self, **result: Any) -> None:
        """It was done."""

    def error(self, code: str, message: str, **details: Any) -> None:
        """It was not."""

    def to_state(self) -> State:
        """For a hand-over."""


class Started(Protocol):
    """Who asked for a start; called when it is known whether the CLI runs."""

    def __call__(self, entry: Entry, has_run: bool) -> None:
        """See ``Host.start``."""

    def to_state(self) -> State:
        """For a hand-over."""


class Askers(Protocol):
    """Finds again, after a hand-over, who waits for an answer."""

    def call(self, state: State) -> Call:
        """Of ``Call.to_state``."""

    def started(self, state: State) -> Started:
        """Of ``Started.to_state``."""

    def done(self, state: State) -> Done:
        """Of ``Done.to_state``."""


class HostError(Exception):
    """A request that cannot be done; ``code`` is for the client."""

    def __init__(self, code: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.details = details


@dataclass(slots=True)
class Entry:
    """An instance that is known: ``live`` until it has exited, remembered until it is forgotten."""

    record: Record
    spool: Spool
    live: Instance | None = None
    stream: Stream | None = None
    started: Started | None = None
    stopped: list[Call] = field(default_factory=list)
    is_abandoned: bool = False

    def to_state(self, packer: Packer) -> State:
        """All but the stream, which is its connection's."""
        return {
            "record": asdict(self.record),
            "live": None if self.live is None else self.live.to_state(packer),
            "started": None if self.started is None else self.started.to_state(),
            "stopped": [call.to_state() for call in self.stopped],
            "abandoned": self.is_abandoned,
        }


def stderr_tail(entry: Entry) -> str:
    """The end of the instance's stderr, at most 64 KiB."""
    return entry.live.stderr_tail() if entry.live is not None else entry.record.stderr_tail


def describe(entry: Entry) -> dict[str, Any]:
    """The instance as ``list`` and ``attach`` answer it; of stderr only the very end."""
    record = entry.record
    return {
        "instance": record.instance,
        "identity": _identity(record),
        "isolation": record.isolation,
        "labels": record.labels,
        "start_offset": entry.spool.start,
        "end_offset": entry.spool.end,
        "exited_at": None if entry.live is not None else record.exited_at,
        "exit": None if entry.live is not None else _exit_of(record),
        "stderr_tail": stderr_tail(entry)[-_LISTED_STDERR_CHARACTERS:],
    }


def _exit_of(record: Record) -> dict[str, Any]:
    cause = {} if record.cause is None else {"cause": record.cause}
    return {"code": record.code, "signal": record.signal, **cause}


def _identity(record: Record) -> dict[str, Any] | None:
    if record.cli is None:
        return None
    return {
        "pid": record.cli.pid,
        "start_ticks": record.cli.start_ticks,
        "boot_id": record.boot_id,
        "marker": record.instance,
    }


def intent(instance_id: str, request: dict[str, Any]) -> Record:
    """The record of an instance about to be started. Raises ``HostError``."""
    argv, env, wrapper = request.get("argv"), request.get("env"), request.get("wrapper")
    if not isinstance(argv, list) or not argv or not isinstance(env, dict) or wrapper not in (BWRAP, SHIM):
        raise HostError("bad_request", "start needs argv, env and a wrapper")
    return Record(
        instance=instance_id,
        boot_id=procfs.boot_id(),
        created_at=time.time(),
        wrapper=wrapper,
        isolation=str(request.get("isolation", "")),
        labels=dict(request.get("labels") or {}),
        tmp_dir=request.get("tmp_dir"),
    )


def exit_frame(entry: Entry) -> bytes:
    """The event that tells the attached server of the exit."""
    stream = entry.stream
    record = entry.record
    return wire.encode_json(
        {
            "event": "exit",
            "handle": None if stream is None else stream.handle,
            "instance": record.instance,
            **_exit_of(record),
            "stderr_tail": record.stderr_tail,
        }
    )
