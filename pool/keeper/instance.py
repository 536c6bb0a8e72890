"""One live instance: its pipes, its processes, its way to the end.

``starting`` until the CLI's process is known, ``live`` until it or its
wrapper dies, ``ending`` until its whole tree is gone and its output is in the
spool, then ``exited``. Nothing leads back.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Protocol

from pool.keeper import procfs
from pool.keeper.cgroup import Group
from pool.keeper.handover import Packer, State, Unpacker
from pool.keeper.helper_watch import HelperWatch
from pool.keeper.identifier import Identifier
from pool.keeper.intake import Done, Intake
from pool.keeper.ladder import Graces, Ladder
from pool.keeper.log import Log
from pool.keeper.loop import READ, Loop, Timer
from pool.keeper.output import OutputPipe, StderrTail
from pool.keeper.reaper import Reaper
from pool.keeper.spawn import Spawned
from pool.keeper.spool import Spool
from pool.keeper.tree import Tree

_SWEEP_SECONDS = 0.02
_SLOWEST_SWEEP_SECONDS = 1.0
# how long a tree may take to fall by itself after its CLI died
_FALL_SECONDS = 1.0
_KILL_NOW = Graces(0, 0, 5.0)


class Phase(StrEnum):
    """Where an instance stands."""

    STARTING = "starting"
    LIVE = "live"
    ENDING = "ending"
    EXITED = "exited"


@dataclass(slots=True)
class Status:
    """How the CLI ended: an exit code, or a signal's name, or neither when nobody knows."""

    code: int | None = None
    signal: str | None = None


def status_of(exit_code: int) -> Status:
    """From a code as ``os.waitstatus_to_exitcode`` gives it.

    128 + n is how a sandbox, a shell and the CLI itself tell of signal n.
    """
    number = -exit_code if exit_code < 0 else exit_code - 128
    if number > 0:
        try:
            return Status(signal=signal.Signals(number).name)
        except ValueError:
            pass
    return Status(code=exit_code) if exit_code >= 0 else Status(signal=f"SIG{-exit_code}")


@dataclass(slots=True)
class Facts:
    """What is known of an instance in plain values; all of it goes along in a hand-over."""

    phase: Phase = Phase.STARTING
    failure_step: str | None = None
    failure_text: str = ""
    is_pid_told: bool = False
    is_status_known: bool = False
    is_tree_gone: bool = False
    is_output_ended: bool = False
    killing_since: float | None = None
    falls_until: float | None = None

    @classmethod
    def from_state(cls, state: State) -> Facts:
        """What ``asdict`` gave; what a later version knows is left out."""
        known = {item.name for item in fields(cls)}
        values = {key: value for key, value in state.items() if key in known}
        return cls(**{**values, "phase": Phase(values["phase"])})

    @property
    def failure(self) -> tuple[str, str] | None:
        """(step, text) of a start that failed, where the wrapper told it."""
        return None if self.failure_step is None else (self.failure_step, self.failure_text)

    @property
    def is_ending(self) -> bool:
        """Is its tree to be looked at until it is gone?"""
        return self.phase is Phase.ENDING or self.killing_since is not None


class InstanceListener(Protocol):
    """Who is told of an instance's life."""

    def instance_live(self, instance: Instance) -> None:
        """Its CLI's process is known."""

    def instance_data(self, instance: Instance, offset: int, data: bytes) -> None:
        """New output is in the spool."""

    def instance_stuck(self, instance: Instance) -> None:
        """It outlived KILL."""

    def instance_exited(self, instance: Instance) -> None:
        """All is gone and stored. The last call."""


class Instance:
    """See the module. Made right after the spawn; all its calls come from the loop."""

    def __init__(
        self,
        mark: procfs.Mark,
        spawned: Spawned,
        spool: Spool,
        *,
        spool_max_bytes: int,
        loop: Loop,
        reaper: Reaper,
        log: Log,
        listener: InstanceListener,
        group: Group | None = None,
        state: State | None = None,
    ) -> None:
        self.id = mark.instance
        self.spool = spool
        self.status = Status()
        self.facts = Facts()
        self._loop = loop
        self._log = log
        self._listener = listener
        self._spawned = spawned
        self._lifeline = spawned.lifeline
        self._has_shim = spawned.has_shim
        self._helper_watch = HelperWatch(loop, self._network_lost)
        self._sweep_timer: Timer | None = None
        self._sweep_delay = _SWEEP_SECONDS
        self._tree = Tree(mark, reaper, None if state else procfs.ProcessRef.open(spawned.pid), group)
        self.intake = Intake(loop, spawned.stdin)
        self._stderr = StderrTail(loop, spawned.stderr)
        self._output = OutputPipe(
            loop, spawned.stdout, spool, spool_max_bytes, self._output_data, self._output_ended
        )
        self._ladder = Ladder(loop, (self.intake.end, self._term, self._kill), self._ladder_exhausted)
        if state is None or not state["tree"]["reaped"]:
            reaper.adopt(spawned.pid, self._wrapper_exited)
        self._identifier = Identifier(
            loop,
            spawned,
            on_init=self._init_found,
            on_cli=self._cli_found,
            on_error=self._start_failed,
            on_report=self._shim_reported,
        )

    def to_state(self, packer: Packer) -> State:
        """Everything that the next image of the keeper needs to go on with it."""
        return {
            "spawned": self._spawned.to_state(),
            "lifeline": packer.descriptor(self._lifeline),
            "facts": asdict(self.facts),
            "status": asdict(self.status),
            "tree": self._tree.to_state(packer),
            "intake": self.intake.to_state(packer),
            "stderr": self._stderr.to_state(packer),
            "output": self._output.to_state(packer),
            "ladder": self._ladder.to_state(),
            "report": self._identifier.to_state(packer),
        }

    def restore(self, state: State, unpacker: Unpacker, done_of: Callable[[State], Done]) -> None:
        """The way back; the constructor got ``spawned_of`` of the same state, and the state."""
        self.facts = Facts.from_state(state["facts"])
        self.status = Status(**state["status"])
        self._tree.restore(state["tree"], unpacker)
        self.intake.restore(state["intake"], unpacker, done_of)
        self._stderr.restore(state["stderr"], unpacker)
        self._output.restore(state["output"], unpacker)
        self._ladder.restore(state["ladder"])
        self._identifier.restore(state["report"], unpacker, self._tree.init)
        if self.facts.phase is Phase.LIVE and self._tree.cli is not None:
            self._loop.watch(self._tree.cli.fd, READ, self._cli_died)
        if self.facts.phase in (Phase.STARTING, Phase.LIVE):
            self._helper_watch.begin(self._tree.helper)
        if self.facts.falls_until is not None:
            self._loop.call_at(self.facts.falls_until, self._fell_not)
        if not self.facts.is_tree_gone and self.facts.is_ending:
            self._schedule_sweep()

    @property
    def cli(self) -> procfs.Stat | None:
        """The CLI's process, once known."""
        return None if self._tree.cli is None else self._tree.cli.stat

    @property
    def has_run(self) -> bool:
        """Did the CLI run, if only for so short a time that nobody saw its process?"""
        if self._tree.cli is not None or self.facts.is_pid_told:
            return True
        # bubblewrap, or what it runs first, says so itself when it did not get as far as the CLI
        told = self._stderr.text().startswith(
            ("bwrap: ", "network: ", f"{self._spawned.prelude or 'bwrap'}: ")
        )
        return not self._has_shim and (self.spool.end > 0 or not told)

    def stderr_tail(self) -> str:
        """The end of its stderr."""
        return self._stderr.text()

    def commit(self, offset: int) -> None:
        """Output before ``offset`` is stored by the server."""
        self._output.commit(offset)

    def signal_cli(self, number: int) -> bool:
        """Signal the CLI itself; False when it is gone or not known yet."""
        return self._tree.cli is not None and self._tree.cli.signal(number)

    def stop(self, graces: Graces) -> None:
        """Climb the ladder, or climb faster. An instance that only starts is at the last rung at once."""
        if self.facts.phase is Phase.STARTING:
            graces = Graces(0, 0, graces.kill)
        self._ladder.climb(graces)

    def abandon_output(self) -> None:
        """Do not wait for a full disk any longer; what it did not take is lost, and logged."""
        if not self.facts.is_output_ended:
            self._log.write("output_abandoned", instance=self.id, lost_bytes=self._output.abandon())

    # what the wrapper and the kernel tell

    def _cli_found(self, ref: procfs.ProcessRef) -> None:
        self._tree.cli = ref
        if self.facts.phase is Phase.STARTING:
            self.facts.phase = Phase.LIVE
            self._loop.watch(ref.fd, READ, self._cli_died)
            self._listener.instance_live(self)

    def _init_found(self, ref: procfs.ProcessRef) -> None:
        self._tree.init_found(ref)
        self._helper_watch.begin(self._tree.helper)

    def _network_lost(self) -> None:
        self._start_failed("network", "the process that carries the sandbox's network has ended")
        self._log.write("network_helper_died", instance=self.id)
        self._ladder.climb(_KILL_NOW)

    def _cli_died(self, _mask: int) -> None:
        self._begin_end()

    def _start_failed(self, step: str, text: str) -> None:
        self.facts.failure_step, self.facts.failure_text = step, text

    def _shim_reported(self, word: str, number: int) -> None:
        if word == "pid":
            self.facts.is_pid_told = True
        elif word in ("code", "signal"):
            self.status = status_of(number if word == "code" else -number)
            self.facts.is_status_known = True

    def _wrapper_exited(self, wait_status: int) -> None:
        # the shim's last words are in its pipe before it is gone
        self._identifier.close()
        exit_code = os.waitstatus_to_exitcode(wait_status)
        # bubblewrap passes on the CLI's exit code, which proves nothing
        self._tree.wrapper_exited(exit_code if self._has_shim else -1)
        if not self.facts.is_status_known:
            # a shim that exits well has reported; if not, nobody knows
            self.status = status_of(exit_code) if exit_code or not self._has_shim else Status()
        self._begin_end()
        # what outlives its wrapper will not end by itself; a tree that is gone needs no kill
        self._sweep()
        if not self.facts.is_tree_gone:
            self._ladder.climb(_KILL_NOW)

    # the end

    def _begin_end(self) -> None:
        if self.facts.phase not in (Phase.STARTING, Phase.LIVE):
            return
        self.facts.phase = Phase.ENDING
        self.facts.falls_until = self._loop.now() + _FALL_SECONDS
        if self._tree.cli is not None:
            self._loop.unwatch(self._tree.cli.fd)
        self._helper_watch.end()
        self.intake.close()
        self._loop.call_later(_FALL_SECONDS, self._fell_not)
        self._schedule_sweep()

    def _fell_not(self) -> None:
        if self.facts.phase is Phase.ENDING and not self.facts.is_tree_gone:
            self._ladder.climb(_KILL_NOW)

    def _term(self) -> None:
        self.signal_cli(signal.SIGTERM)

    def _kill(self) -> None:
        if self.facts.killing_since is None:
            self.facts.killing_since = self._loop.now()
        self._helper_watch.end()
        self._sweep_delay = _SWEEP_SECONDS
        self._close_lifeline()
        self._sweep()

    def _ladder_exhausted(self) -> None:
        self._log.write("stuck", instance=self.id)
        self._listener.instance_stuck(self)

    def _schedule_sweep(self) -> None:
        if self._sweep_timer is None or not self._sweep_timer.is_pending:
            self._sweep_timer = self._loop.call_later(self._sweep_delay, self._sweep)
            self._sweep_delay = min(2 * self._sweep_delay, _SLOWEST_SWEEP_SECONDS)

    def _sweep(self) -> None:
        """Is the tree gone? If not, once it is to be killed, kill what is there now."""
        if self.facts.is_tree_gone:
            return
        if self.facts.is_ending:
            # first, so that a look that fails is repeated
            self._schedule_sweep()
        if self.facts.phase is Phase.ENDING and self._tree.is_gone():
            self._tree_gone()
        elif self.facts.killing_since is not None:
            # a wrapper gets a second to tell how the CLI ended before it is killed too
            waited = self._loop.now() - self.facts.killing_since
            self._tree.kill(with_wrapper=self._tree.cli is None or waited > _FALL_SECONDS)

    def _tree_gone(self) -> None:
        self.facts.is_tree_gone = True
        self._ladder.cancel()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        self._close_lifeline()
        self._stderr.close()
        if self.facts.is_output_ended:
            self._exited()
        else:
            self._output.finish()

    def _output_data(self, offset: int, data: bytes) -> None:
        self._listener.instance_data(self, offset, data)

    def _output_ended(self) -> None:
        self.facts.is_output_ended = True
        if self.facts.is_tree_gone:
            self._exited()

    def _exited(self) -> None:
        if self.facts.phase is not Phase.EXITED:
            self.facts.phase = Phase.EXITED
            self._tree.close()
            self.spool.close()
            self._listener.instance_exited(self)

    def _close_lifeline(self) -> None:
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
