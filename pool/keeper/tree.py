"""All processes of one instance: ending them and knowing that none is left."""

from __future__ import annotations

import signal

from pool.keeper import procfs
from pool.keeper.cgroup import Group
from pool.keeper.handover import Packer, State, Unpacker
from pool.keeper.reaper import Reaper
from pool.keeper.shim import CLEAN_EXITS as CLEAN_SHIM_EXITS


class Tree:
    """The wrapper, the namespace's init where there is one, the CLI, and all below them.

    ``helper`` carries the traffic of a network of its own (``network.py``); it
    is the wrapper's child, outside of the pid namespace.

    A pid namespace dies as one, and its init's death is the proof: the kernel
    lets it go only after everything in it. Without one, the tree is what
    descends from the shim or carries the instance's mark.
    """

    def __init__(
        self,
        mark: procfs.Mark,
        reaper: Reaper,
        wrapper: procfs.ProcessRef | None,
        group: Group | None = None,
    ) -> None:
        self._mark = mark
        self._reaper = reaper
        self._wrapper = wrapper
        self._group = group
        self.init: procfs.ProcessRef | None = None
        self.cli: procfs.ProcessRef | None = None
        self.helper: procfs.ProcessRef | None = None
        self.is_reaped = False
        self._is_clean = False

    def to_state(self, packer: Packer) -> State:
        """The processes, by their pidfds."""
        refs = {"wrapper": self._wrapper, "init": self.init, "cli": self.cli, "helper": self.helper}
        return {
            "refs": {name: ref.to_state(packer) for name, ref in refs.items() if ref is not None},
            "reaped": self.is_reaped,
            "clean": self._is_clean,
        }

    def restore(self, state: State, unpacker: Unpacker) -> None:
        """The way back."""
        refs = {name: procfs.ProcessRef.from_state(ref, unpacker) for name, ref in state["refs"].items()}
        self._wrapper, self.init, self.cli = (refs.get(name) for name in ("wrapper", "init", "cli"))
        self.helper = refs.get("helper")
        self.is_reaped = state["reaped"]
        self._is_clean = state["clean"]

    def init_found(self, init: procfs.ProcessRef) -> None:
        """The namespace's init is known, and with it what else the wrapper has below it."""
        self.init = init
        if self._wrapper is not None:
            others = [pid for pid in procfs.children(self._wrapper.pid) if pid != init.pid]
            self.helper = procfs.ProcessRef.open(others[0]) if others else None

    def kill(self, *, with_wrapper: bool) -> None:
        """Send KILL to everything that is left, to the wrapper only if told to.

        The shim goes last in any case: while it lives, orphans stay below it.
        """
        if self._group is not None and with_wrapper:
            # at once, whatever it forks meanwhile; the wrapper had its time to tell how the CLI ended
            self._group.kill()
        survivors: list[procfs.Stat] = []
        if self.init is not None:
            self.init.signal(signal.SIGKILL)
            if self.helper is not None:
                self.helper.signal(signal.SIGKILL)
        else:
            survivors = self._survivors()
            for stat in survivors:
                procfs.signal_exactly(stat, signal.SIGKILL)
        if with_wrapper and not survivors and self._wrapper is not None:
            self._wrapper.signal(signal.SIGKILL)

    def wrapper_exited(self, exit_code: int) -> None:
        """The wrapper was reaped."""
        self.is_reaped = True
        self._is_clean = exit_code in CLEAN_SHIM_EXITS

    def is_gone(self) -> bool:
        """Is nothing left?"""
        if not self.is_reaped or (self._group is not None and not self._group.is_empty):
            return False
        if self.init is not None:
            return self.init.is_dead and (self.helper is None or self.helper.is_dead)
        return self._is_clean or not self._survivors()

    def close(self) -> None:
        """Let go of the pidfds."""
        for ref in (self._wrapper, self.init, self.cli, self.helper):
            if ref is not None:
                ref.close()

    def _survivors(self) -> list[procfs.Stat]:
        """Everything but the wrapper itself."""
        if self._wrapper is not None and not self.is_reaped:
            # all of it is below the wrapper, whatever it does
            return procfs.descendants([self._wrapper.pid])
        # the wrapper was killed: look at every process of the machine
        found = {stat.pid: stat for stat in procfs.marked([self._mark]).get(self._mark, [])}
        found.update((stat.pid, stat) for stat in procfs.descendants(found))
        found.update((stat.pid, stat) for stat in self._reaper.strangers())
        return list(found.values())
