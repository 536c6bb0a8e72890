"""All instances of this host: their start, their records, their end."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pool.keeper import procfs
from pool.keeper.cgroup import Groups
from pool.keeper.entry import INSTANCE_ID, Askers, Call, Entry, HostError, Started, exit_frame, intent
from pool.keeper.gateway import Gateway
from pool.keeper.handover import Packer, State, Unpacker
from pool.keeper.instance import Instance
from pool.keeper.journal import Identity, Journal, Record
from pool.keeper.ladder import Graces
from pool.keeper.log import Log
from pool.keeper.loop import Loop
from pool.keeper.reaper import Reaper
from pool.keeper.rights import Rights
from pool.keeper.spawn import Spawned, SpawnError, has_files_left, spawn, spawned_of
from pool.keeper.spool import Spool

_JOURNAL_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes: how much output may be uncommitted, and the size of a spool segment."""

    spool_max_bytes: int
    segment_bytes: int


class Host:
    """Implements ``InstanceListener``. ``on_event`` tells the attached server what nobody asked for."""

    def __init__(
        self,
        data_dir: Path,
        limits: Limits,
        *,
        loop: Loop,
        reaper: Reaper,
        log: Log,
        journal: Journal,
        gateway: Gateway,
        groups: Groups,
        on_event: Callable[[dict[str, Any]], None],
    ) -> None:
        self.entries: dict[str, Entry] = {}
        self.gateway = gateway
        self._groups = groups
        self._site = procfs.site_of(data_dir)
        self._spool_dir = data_dir / "spool"
        self._limits = limits
        self._loop = loop
        self._reaper = reaper
        self._log = log
        self._records = Records(journal, loop, log)
        self._on_event = on_event
        self._on_empty: Callable[[], None] | None = None

    def remember(self, record: Record) -> None:
        """Take over the record of an instance that ended under a former keeper."""
        spool = Spool(self._spool_dir / record.instance, self._limits.segment_bytes)
        self.entries[record.instance] = Entry(record, spool)

    def to_state(self, packer: Packer) -> State:
        """All instances, living or not."""
        return {
            "entries": [entry.to_state(packer) for entry in self.entries.values()],
            "unwritten": sorted(self._records.unwritten),
        }

    def restore(self, state: State, unpacker: Unpacker, askers: Askers) -> None:
        """The way back but for the streams."""
        for one in state["entries"]:
            record = Record.from_dict(one["record"])
            entry = Entry(record, Spool(self._spool_dir / record.instance, self._limits.segment_bytes))
            self.entries[record.instance] = entry
            entry.is_abandoned = one["abandoned"]
            entry.started = None if one["started"] is None else askers.started(one["started"])
            entry.stopped = [askers.call(call) for call in one["stopped"]]
            if one["live"] is not None:
                entry.live = self._instance(entry, spawned_of(one["live"], unpacker), one["live"])
                entry.live.restore(one["live"], unpacker, askers.done)
        for instance_id in state["unwritten"]:
            if instance_id in self.entries:
                self._records.write_later(self.entries[instance_id].record)

    def entry(self, instance_id: object) -> Entry:
        """The instance. Raises ``HostError`` when it is not known."""
        found = self.entries.get(instance_id) if isinstance(instance_id, str) else None
        if found is None:
            raise HostError("not_found", f"no instance {instance_id!r}")
        return found

    def start(self, request: dict[str, Any], started: Started) -> None:
        """Start an instance. ``started(entry, has_run)`` is called when it is known whether the CLI runs.

        It may have ended by then; ``has_run`` is False when it never ran, and
        nothing is left of it after that call. Raises ``HostError``; nothing is left then.
        """
        instance_id = request.get("instance")
        if not isinstance(instance_id, str) or not INSTANCE_ID.fullmatch(instance_id):
            raise HostError("bad_request", "not an instance id")
        if self._on_empty is not None:
            raise HostError("shutting_down", "the keeper is shutting down")
        if instance_id in self.entries:
            raise HostError("exists", f"instance {instance_id} was started before")
        record = intent(instance_id, request)
        spool = Spool(self._spool_dir / instance_id, self._limits.segment_bytes)
        entry = self.entries[instance_id] = Entry(record, spool, started=started)
        try:
            entry.live = self._spawn(entry, request)
        except (SpawnError, OSError, TypeError, ValueError, KeyError) as error:
            step = error.step if isinstance(error, SpawnError) else "prepare"
            self._discard(entry)
            raise HostError("spawn_failed", str(error), step=step) from error
        if record.shell is not None:
            self._records.write(record)

    def forget(self, instance_id: str) -> None:
        """Remove record and spool of an exited instance. Unknown: no effect.

        Raises ``HostError`` if it lives.
        """
        entry = self.entries.get(instance_id)
        if entry is not None:
            if entry.live is not None:
                raise HostError("alive", f"instance {instance_id} has not exited")
            self._discard(entry)

    def abandon(self, instance_id: str, call: Call) -> None:
        """End an instance at once, forget it, answer when that is done."""
        entry = self.entries.get(instance_id)
        if entry is None:
            call.answer()
        elif entry.live is None:
            self._discard(entry)
            call.answer()
        else:
            entry.is_abandoned = True
            entry.started = None
            entry.stopped.append(call)
            entry.live.stop(Graces(0, 0))

    def stop_all(self, graces: Graces, on_empty: Callable[[], None]) -> None:
        """End every instance and then call ``on_empty``; nothing can be started from now on."""
        self._on_empty = on_empty
        for entry in list(self.entries.values()):
            if entry.live is not None:
                entry.live.stop(graces)
        self._check_empty()

    def give_up(self) -> list[str]:
        """Stop waiting for disks and stuck processes; the ids of the instances that are left."""
        for entry in list(self.entries.values()):
            if entry.live is not None:
                entry.live.abandon_output()
        return [entry.record.instance for entry in self.entries.values() if entry.live is not None]

    def detach_streams(self) -> None:
        """The server has gone: instances go on, their output waits in the spool."""
        for entry in self.entries.values():
            entry.stream = None

    def drop_waiting_input(self) -> None:
        """Another server took over: what its predecessor sent and no CLI saw a byte of is not written."""
        for entry in self.entries.values():
            if entry.live is not None:
                entry.live.intake.drop_waiting()

    # what instances tell

    def instance_live(self, instance: Instance) -> None:
        """Its process exists."""
        entry = self.entries[instance.id]
        if instance.cli is not None:
            entry.record.cli = Identity(instance.cli.pid, instance.cli.start_ticks)
        self._records.write(entry.record)
        self._log.write("instance_live", instance=instance.id, cli_pid=instance.cli and instance.cli.pid)
        started, entry.started = entry.started, None
        if started is not None:
            started(entry, True)

    def instance_data(self, instance: Instance, offset: int, data: bytes) -> None:
        """New output."""
        stream = self.entries[instance.id].stream
        if stream is not None:
            stream.live(offset, data)

    def instance_stuck(self, instance: Instance) -> None:
        """It outlived KILL."""
        entry = self.entries[instance.id]
        self._on_event({"event": "stuck", "instance": instance.id})
        stopped, entry.stopped = entry.stopped, []
        for call in stopped:
            call.answer(gone=False)

    def instance_exited(self, instance: Instance) -> None:
        """All of it is gone."""
        entry = self.entries[instance.id]
        record = entry.record
        record.exited_at = time.time()
        record.code, record.signal = instance.status.code, instance.status.signal
        record.stderr_tail = instance.stderr_tail()
        cause = self._groups.end(instance.id)
        record.cause = cause if record.signal == "SIGKILL" else None
        self._log.write("instance_exited", instance=instance.id, code=record.code, signal=record.signal)
        entry.live = None
        self.gateway.end(instance.id)
        remove_tree(record.tmp_dir, self._reaper, self._log)
        has_run = instance.has_run
        if instance.facts.failure is not None:
            record.stderr_tail = "\n".join(filter(None, [instance.facts.failure[1], record.stderr_tail]))
        started, entry.started = entry.started, None
        if started is not None:
            started(entry, has_run)
        if entry.is_abandoned or not has_run:
            self._discard(entry)
        else:
            self._records.write(record)
            if entry.stream is not None:
                entry.stream.exited(lambda: exit_frame(entry))
        stopped, entry.stopped = entry.stopped, []
        for call in stopped:
            call.answer(gone=True)
        self._check_empty()

    def _check_empty(self) -> None:
        if self._on_empty is not None and all(entry.live is None for entry in self.entries.values()):
            on_empty, self._on_empty = self._on_empty, _nothing
            on_empty()

    def _spawn(self, entry: Entry, request: dict[str, Any]) -> Instance:
        record = entry.record
        if not has_files_left():
            raise SpawnError("descriptors", "the keeper has no file descriptors left")
        self._records.write_intent(record)
        directory = self._spool_dir / record.instance
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700)
        rights = Rights.of(request)
        self.gateway.open(record.instance, record.labels, rights)
        if record.tmp_dir is not None:
            os.makedirs(record.tmp_dir, mode=0o700)
            rights.give(record.tmp_dir)
        env = {**request["env"], **procfs.Mark(record.instance, self._site).environment()}
        with self._groups.born_in(record.instance, request.get("limits") or {}):
            spawned = _spawn_wrapped(record.wrapper, request, env, rights)
        shell = procfs.read_stat(spawned.pid)
        if shell is not None:
            record.shell = Identity(shell.pid, shell.start_ticks)
        return self._instance(entry, spawned, None)

    def _instance(self, entry: Entry, spawned: Spawned, state: State | None) -> Instance:
        return Instance(
            procfs.Mark(entry.record.instance, self._site),
            spawned,
            entry.spool,
            spool_max_bytes=self._limits.spool_max_bytes,
            loop=self._loop,
            reaper=self._reaper,
            log=self._log,
            listener=self,
            group=self._groups.of(entry.record.instance),
            state=state,
        )

    def _discard(self, entry: Entry) -> None:
        instance_id = entry.record.instance
        self.gateway.end(instance_id)
        self._groups.end(instance_id)
        remove_tree(entry.record.tmp_dir, self._reaper, self._log)
        if entry.stream is not None:
            entry.stream.drop()
        entry.spool.remove()
        self._records.remove(instance_id)
        self.entries.pop(instance_id, None)


class Records:
    """The journal, and what a full disk has not taken of it yet."""

    def __init__(self, journal: Journal, loop: Loop, log: Log) -> None:
        self.unwritten: set[str] = set()
        self._journal = journal
        self._loop = loop
        self._log = log
        self._removed: set[str] = set()

    def write_intent(self, record: Record) -> None:
        """Write the record of an instance about to be started. Raises ``OSError``."""
        self._removed.discard(record.instance)
        self._journal.write(record)

    def write(self, record: Record) -> None:
        """Write the record; on a full disk again later, since the intent is there already."""
        self.unwritten.discard(record.instance)
        if record.instance in self._removed:
            return
        try:
            self._journal.write(record)
        except OSError as error:
            self._log.write("journal_not_written", instance=record.instance, error=str(error))
            self.write_later(record)

    def write_later(self, record: Record) -> None:
        """Write it in a second."""
        self.unwritten.add(record.instance)
        self._loop.call_later(_JOURNAL_RETRY_SECONDS, lambda: self.write(record))

    def remove(self, instance_id: str) -> None:
        """Forget the instance."""
        if instance_id in self.unwritten:
            self._removed.add(instance_id)
        with suppress(OSError):
            self._journal.remove(instance_id)


def _spawn_wrapped(wrapper: str, request: dict[str, Any], env: dict[str, str], rights: Rights) -> Spawned:
    return spawn(
        wrapper,
        request["argv"],
        env,
        request.get("cwd") or "/",
        {str(item["placeholder"]): item["path"] for item in request.get("open") or ()},
        str(request.get("prelude", "")),
        request.get("network"),
        rights,
    )


def remove_tree(directory: str | None, reaper: Reaper, log: Log) -> None:
    """Remove a private temporary directory; as a child, since it may hold very many files."""
    if directory is None or not os.path.isdir(directory):
        return
    try:
        child = subprocess.Popen(
            ["rm", "-rf", "--one-file-system", "--", directory],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
        )
    except OSError as error:
        log.write("temporary_directory_stays", directory=directory, error=str(error))
        return
    child.returncode = 0  # the reaper collects it, Popen must not try
    reaper.adopt_unheeded(child.pid)


def _nothing() -> None:
    pass
