"""One run of the model gateway: its process, its control channel, what it says on stderr.

Control protocol, over a SOCK_SEQPACKET pair whose other end the gateway
inherits as ``--control-fd N``: one JSON object a message.
``{"op": "listen", "instance": id, "labels": {…}, "uid": uid}`` with the listening
descriptor attached; ``{"op": "end", "instance": id}``; ``{"op": "report"}``,
which the gateway answers with ``{"event": "ready"}`` when it has done all that
came before. At the end of file it accepts nothing more, lets open calls
finish and leaves.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pool.keeper import procfs
from pool.keeper.handover import Packer, State, Unpacker
from pool.keeper.loop import READ, WRITE, Loop
from pool.keeper.output import StderrTail
from pool.keeper.reaper import Reaper
from pool.keeper.service_user import as_service_user, give_directories

_ANSWER_BYTES = 4096
_STDERR_BYTES = 4096


@dataclass(slots=True)
class Listener:
    """One instance's socket; ``socket`` is None where there is no gateway to serve it.

    ``uid`` is whose processes may call it, None when an earlier keeper did not say.
    """

    directory: Path
    labels: dict[str, str]
    socket: socket.socket | None
    uid: int | None = None

    def to_state(self, packer: Packer) -> State:
        """The listening descriptor and whom it is for."""
        return {
            "directory": str(self.directory),
            "labels": self.labels,
            "fd": -1 if self.socket is None else packer.descriptor(self.socket.fileno()),
            "uid": self.uid,
        }

    @classmethod
    def from_state(cls, state: State, unpacker: Unpacker) -> Listener:
        """The way back."""
        fd = unpacker.descriptor(state["fd"])
        listening = None if fd < 0 else socket.socket(fileno=fd)
        return cls(Path(state["directory"]), state["labels"], listening, state.get("uid"))


@dataclass(frozen=True, slots=True)
class ServiceUser:
    """As whom a gateway runs: ``uid`` None as we do; else without any rights, and shown these paths.

    See ``service_user``.
    """

    uid: int | None = None
    shown: Sequence[str] = ()

    @property
    def number(self) -> int:
        """The uid that its processes have."""
        return os.geteuid() if self.uid is None else self.uid

    def changed_by(self, request: Mapping[str, Any]) -> ServiceUser:
        """With what ``replace_gateway`` says. Raises ``ValueError``."""
        return ServiceUser(
            service_uid(request.get("gateway_uid", self.uid)),
            shown_paths(request.get("gateway_shown", self.shown)),
        )


def service_uid(told: object) -> int | None:
    """A uid that somebody asked for, None: ours. Raises ``ValueError``."""
    if told is None:
        return None
    if not isinstance(told, int) or isinstance(told, bool) or not 0 < told < 2**32 - 1:
        raise ValueError("not the uid of a service user")
    return told


def shown_paths(told: object) -> list[str]:
    """Paths that somebody asked to have shown. Raises ``ValueError``."""
    if not isinstance(told, list | tuple):
        raise ValueError("not a list of paths")
    paths = [path for path in told if isinstance(path, str) and path.startswith("/") and "\0" not in path]
    if len(paths) != len(told):
        raise ValueError("not absolute paths")
    return paths


@dataclass(frozen=True, slots=True)
class GatewayChild:
    """The keeper's ends of a gateway just started. ``control`` is None once it was told to leave."""

    pid: int
    process: procfs.ProcessRef | None
    control: socket.socket | None
    stderr: int

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        data_dir: Path,
        env: Mapping[str, str],
        user: ServiceUser,
    ) -> GatewayChild:
        """Start one as ``user``, who gets its files.

        Raises ``OSError``; nothing is left open then.
        """
        if user.uid is not None:
            give_directories(data_dir, user.uid)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        stderr_read, stderr_write = os.pipe()
        os.set_blocking(stderr_read, False)
        try:
            child = subprocess.Popen(
                as_service_user(
                    user.uid,
                    [*command, "--control-fd", str(theirs.fileno()), "--data", str(data_dir)],
                    shown=user.shown,
                ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr_write,
                pass_fds=(theirs.fileno(),),
                env=dict(env),
                cwd="/",
                start_new_session=True,
            )
        except OSError:
            ours.close()
            os.close(stderr_read)
            raise
        finally:
            theirs.close()
            os.close(stderr_write)
        child.returncode = 0  # the reaper collects it, Popen must not try
        return cls(child.pid, procfs.ProcessRef.open(child.pid), ours, stderr_read)

    @classmethod
    def from_state(cls, state: State, unpacker: Unpacker) -> GatewayChild:
        """The way back from ``GatewayProcess.to_state``."""
        process, control = state["process"], unpacker.descriptor(state["control"])
        return cls(
            state["pid"],
            None if process is None else procfs.ProcessRef.from_state(process, unpacker),
            None if control < 0 else socket.socket(fileno=control),
            unpacker.descriptor(state["stderr"]["fd"]),
        )


class GatewayProcess:
    """See the module. ``on_ready()`` for each report, ``on_exit(process, wait_status)`` once."""

    def __init__(
        self,
        child: GatewayChild,
        listeners: Mapping[str, Listener],
        *,
        loop: Loop,
        reaper: Reaper,
        on_ready: Callable[[GatewayProcess], None],
        on_exit: Callable[[GatewayProcess, int], None],
    ) -> None:
        self.pid = child.pid
        self._listeners = listeners
        self._loop = loop
        self._on_ready = on_ready
        self._on_exit = on_exit
        self._process = child.process
        self._control = child.control
        self._outgoing: deque[tuple[bytes, str | None]] = deque()
        self._stderr = StderrTail(loop, child.stderr)
        reaper.adopt(child.pid, self._exited)
        self._watch()

    def to_state(self, packer: Packer) -> State:
        """Process, channel and the orders that have not gone yet."""
        return {
            "pid": self.pid,
            "process": None if self._process is None else self._process.to_state(packer),
            "control": -1 if self._control is None else packer.descriptor(self._control.fileno()),
            "stderr": self._stderr.to_state(packer),
            "outgoing": [[message.decode(), instance_id] for message, instance_id in self._outgoing],
        }

    def restore(self, state: State, unpacker: Unpacker) -> None:
        """The way back; the constructor got the ``GatewayChild`` of the same state."""
        self._stderr.restore(state["stderr"], unpacker)
        self._outgoing.extend((message.encode(), instance_id) for message, instance_id in state["outgoing"])
        self._watch()

    def tell_all(self) -> None:
        """Give it every listener there is."""
        for instance_id in self._listeners:
            self.tell_listen(instance_id)

    def tell_listen(self, instance_id: str) -> None:
        """Give it the listener of an instance."""
        listener = self._listeners[instance_id]
        if listener.socket is not None:
            about = {"labels": listener.labels, "uid": listener.uid}
            self._tell({"op": "listen", "instance": instance_id, **about}, instance_id)

    def tell_end(self, instance_id: str) -> None:
        """The instance has ended."""
        self._tell({"op": "end", "instance": instance_id}, None)

    def ask_report(self) -> None:
        """Have ``on_ready`` called when it has done all that it was told until now."""
        self._tell({"op": "report"}, None)

    def leave(self) -> None:
        """Tell it to accept nothing more, finish what runs and leave."""
        self._outgoing.clear()
        if self._control is not None:
            self._loop.unwatch(self._control.fileno())
            self._control.close()
            self._control = None

    def kill(self) -> None:
        """Send KILL."""
        if self._process is not None:
            self._process.signal(signal.SIGKILL)

    def stderr_tail(self) -> str:
        """The end of what it said."""
        return self._stderr.text()[-_STDERR_BYTES:]

    def _exited(self, wait_status: int) -> None:
        self._stderr.close()
        self.leave()
        if self._process is not None:
            self._process.close()
            self._process = None
        self._on_exit(self, wait_status)

    def _tell(self, message: dict[str, object], instance_id: str | None) -> None:
        """Send a message, with the descriptor of ``instance_id`` if one is given."""
        if self._control is not None:
            self._outgoing.append((json.dumps(message).encode(), instance_id))
            self._send()

    def _watch(self) -> None:
        if self._control is not None:
            events = READ | WRITE if self._outgoing else READ
            self._loop.watch(self._control.fileno(), events, self._ready)

    def _ready(self, mask: int) -> None:
        if mask & WRITE:
            self._send()
        if mask & READ and self._control is not None:
            self._receive(self._control)

    def _receive(self, control: socket.socket) -> None:
        try:
            message = control.recv(_ANSWER_BYTES)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            # it is dying; its successor is told everything anew
            self.leave()
            return
        try:
            event = json.loads(message).get("event")
        except (ValueError, AttributeError):
            return
        if event == "ready":
            self._on_ready(self)

    def _send(self) -> None:
        control = self._control
        while self._outgoing and control is not None:
            message, instance_id = self._outgoing[0]
            try:
                self._send_one(control, message, instance_id)
            except BlockingIOError:
                break
            except OSError:
                self.leave()
                return
            self._outgoing.popleft()
        self._watch()

    def _send_one(self, control: socket.socket, message: bytes, instance_id: str | None) -> None:
        if instance_id is None:
            control.send(message)
            return
        listener = self._listeners.get(instance_id)
        # ended before its turn came: there is nothing to listen on any more
        if listener is not None and listener.socket is not None:
            socket.send_fds(control, [message], [listener.socket.fileno()])
