"""Finds out which process a CLI just started is, from what its wrapper reports."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from pool.keeper import procfs
from pool.keeper.handover import Packer, State, Unpacker
from pool.keeper.loop import READ, Loop, Timer
from pool.keeper.spawn import Spawned

_POLL_SECONDS = 0.001
_SLOWEST_POLL_SECONDS = 0.05
# bubblewrap's report has a few hundred; who is called instead of it may write for ever
_MOST_REPORT_BYTES = 65536


class Identifier:
    """Reads the wrapper's report until the CLI's process is known.

    Calls ``on_init`` with the namespace's init (bubblewrap only) and then
    ``on_cli`` with the CLI; a failed start is told by ``on_error(step, text)``
    where the wrapper knows it. The shim's lines go to ``on_report`` too.
    """

    def __init__(
        self,
        loop: Loop,
        spawned: Spawned,
        *,
        on_init: Callable[[procfs.ProcessRef], None],
        on_cli: Callable[[procfs.ProcessRef], None],
        on_error: Callable[[str, str], None],
        on_report: Callable[[str, int], None],
    ) -> None:
        self._loop = loop
        self._fd = spawned.report
        self._wrapper_pid = spawned.pid
        self._is_bwrap = not spawned.has_shim
        self._prelude = spawned.prelude
        self._on_init = on_init
        self._on_cli = on_cli
        self._on_error = on_error
        self._on_report = on_report
        self._text = b""
        self._init: procfs.ProcessRef | None = None
        self._timer: Timer | None = None
        self._pause = _POLL_SECONDS
        if self._fd >= 0:
            loop.watch(self._fd, READ, self._readable)

    def to_state(self, packer: Packer) -> State:
        """The report as far as it was read, and whether the CLI is still looked for."""
        return {
            "fd": packer.descriptor(self._fd),
            "text": packer.data(self._text),
            "searching": self._timer is not None and self._timer.is_pending,
        }

    def restore(self, state: State, unpacker: Unpacker, init: procfs.ProcessRef | None) -> None:
        """The way back; ``fd`` was given to the constructor."""
        self._text = unpacker.data(state["text"])
        self._init = init
        if state["searching"]:
            self._timer = self._loop.call_later(self._pause, self._find_cli)

    def close(self) -> None:
        """Read what is left and let go of the report descriptor."""
        if self._timer is not None:
            self._timer.cancel()
        if self._fd >= 0:
            self._readable(READ)
        if self._fd >= 0:
            self._shut()

    def _shut(self) -> None:
        self._loop.unwatch(self._fd)
        os.close(self._fd)
        self._fd = -1

    def _readable(self, _mask: int) -> None:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        self._text += data
        if self._is_bwrap:
            self._parse_info()
        else:
            self._parse_lines()
        if not data or len(self._text) > _MOST_REPORT_BYTES:
            self._shut()

    def _parse_info(self) -> None:
        try:
            pid = int(json.loads(self._text)["child-pid"])
        except (ValueError, KeyError, TypeError):
            return
        self._text = b""
        init = procfs.ProcessRef.open(pid)
        if init is None or init.stat.ppid != self._wrapper_pid:
            return
        self._init = init
        self._on_init(init)
        self._find_cli()

    def _find_cli(self) -> None:
        """The child of the namespace's init, once it has become the CLI."""
        init = self._init
        if init is None or init.is_dead:
            return
        for pid in procfs.children(init.pid):
            ref = procfs.ProcessRef.open(pid)
            if ref is None:
                continue
            # until its exec the child still bears bubblewrap's name
            if ref.stat.ppid == init.pid and ref.stat.comm not in (init.stat.comm, self._prelude):
                self._on_cli(ref)
                return
            ref.close()
        self._timer = self._loop.call_later(self._pause, self._find_cli)
        self._pause = min(2 * self._pause, _SLOWEST_POLL_SECONDS)

    def _parse_lines(self) -> None:
        *lines, self._text = self._text.split(b"\n")
        for line in lines:
            word, _, rest = line.decode(errors="replace").partition(" ")
            if word == "pid":
                self._on_report(word, int(rest))
                ref = procfs.ProcessRef.open(int(rest))
                # already dead: its status follows
                if ref is not None and ref.stat.ppid == self._wrapper_pid:
                    self._on_cli(ref)
            elif word == "error":
                self._on_error("exec", rest.partition(" ")[2])
            else:
                self._on_report(word, int(rest))
