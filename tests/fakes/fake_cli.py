"""A CLI in memory: an object that speaks the protocol, one step of a turn at a time.

It lives in a ``FakeHost`` (``tests/fakes/fake_launcher.py``). Left alone it
answers every message with a whole turn; with ``is_manual`` it begins the turn
and the test goes on with it: ``delta``, ``ask``, ``finish``.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from typing import Any

from pool.launch.base import InstanceSink, LaunchSpec
from pool.model import ExitStatus

Frame = dict[str, Any]


def line(frame: Frame) -> bytes:
    """A frame as the CLI prints it."""
    return json.dumps(frame, separators=(",", ":")).encode() + b"\n"


class FakeCli:
    """One process that is none. Its output is a growing ``spool``; a sink follows it by offset."""

    def __init__(self, spec: LaunchSpec) -> None:
        self.spec = spec
        self.id = spec.instance_id
        self.spool = bytearray()
        self.trimmed_to = 0
        self.exit_status: ExitStatus | None = None
        self.has_ended = asyncio.Event()
        self.input: list[Frame] = []
        self.seen: set[str] = set()
        self.runs: list[str] = []
        self.queue: deque[str] = deque()
        self.current: str | None = None
        self.own_turn = False
        self.asks: dict[str, Frame] = {}
        self.answers: dict[str, Frame] = {}
        self.state = "idle"
        self.is_manual = False
        self.is_mute = False
        self.is_deaf = False
        self.ignores_interrupts = False
        self.outlives_kill = False
        self.is_held = False
        self.exits_when_ready = False
        self.session_id = next(
            (arg.split("=", 1)[1] for arg in spec.cli_args if arg.startswith(("--session-id=", "--resume="))),
            "00000000-0000-4000-8000-000000000000",
        )
        self._sink: InstanceSink | None = None
        self._sent = 0
        self._told_end = False
        self._is_scheduled = False

    # --- output ----------------------------------------------------------------------------

    @property
    def is_alive(self) -> bool:
        return self.exit_status is None

    def follow(self, sink: InstanceSink | None, offset: int = 0) -> None:
        """Send everything from ``offset`` on to ``sink``, then the end. None: to nobody."""
        self._sink = sink
        self._sent = offset
        self._told_end = False
        self.is_held = False
        self._schedule()

    def hold(self, is_held: bool) -> None:
        """The keeper gets no credit, or gets it again."""
        self.is_held = is_held
        self._schedule()

    def emit(self, *frames: Frame) -> None:
        """Print frames."""
        self.emit_raw(b"".join(line(frame) for frame in frames))

    def emit_raw(self, data: bytes) -> None:
        """Print bytes as they are."""
        if self.is_alive:
            self.spool += data
            self._schedule()

    def read(self, offset: int, limit: int) -> tuple[int, bytes]:
        """Spooled output; from the first byte that is kept."""
        start = max(offset, self.trimmed_to)
        return start, bytes(self.spool[start : start + limit])

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._deliver)

    def _deliver(self) -> None:
        self._is_scheduled = False
        sink = self._sink
        if sink is None or self.is_held:
            return
        if self._sent < len(self.spool):
            offset, self._sent = self._sent, len(self.spool)
            sink.data_received(offset, bytes(self.spool[offset : self._sent]))
        if self.exit_status is not None and not self._told_end and sink is self._sink:
            self._told_end = True
            sink.exited(self.exit_status, "")

    # --- the process -------------------------------------------------------------------------

    def die(self, code: int | None = None, signal: str | None = None, cause: str | None = None) -> None:
        """The process is gone; output that was printed is still delivered before the end is told."""
        if self.is_alive:
            self.exit_status = ExitStatus(code, signal, cause)
            self.has_ended.set()
            self._schedule()

    # --- input -------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """A line of stdin."""
        if self.is_deaf:
            return
        frame = json.loads(data)
        self.input.append(frame)
        if frame["type"] == "user":
            self._message(frame["uuid"])
        elif frame["type"] == "control_request":
            self._controls(frame["request_id"], frame["request"])
        elif frame["type"] == "control_response":
            response = frame["response"]
            self.asks.pop(response["request_id"], None)
            self.answers[response["request_id"]] = response

    def _message(self, uuid: str) -> None:
        if uuid in self.seen:
            return
        self.seen.add(uuid)
        self.queue.append(uuid)
        if self.current is None and not self.own_turn:
            self.begin()

    def _controls(self, request_id: str, request: Frame) -> None:
        if self.is_mute:
            return
        known: dict[str, Callable[[], Frame]] = {"initialize": self._initialize, "interrupt": self._interrupt}
        extra: Frame = {}
        if request["subtype"] == "initialize":
            extra = {"pending_permission_requests": list(self.asks.values())}
        response = known.get(request["subtype"], dict)()
        body = {"subtype": "success", "request_id": request_id, "response": response, **extra}
        self.emit({"type": "control_response", "response": body})
        if request["subtype"] == "initialize" and self.exits_when_ready:
            self.die(7)

    def _initialize(self) -> Frame:
        return {"models": [], "commands": [], "session_state": self.state}

    def _interrupt(self) -> Frame:
        if self.ignores_interrupts:
            return {}
        for uuid in self.queue:
            self._lifecycle(uuid, "cancelled")
        self.queue.clear()
        for request_id in list(self.asks):
            self.asks.pop(request_id)
            self.emit({"type": "control_cancel_request", "request_id": request_id})
        if self.current is not None or self.own_turn:
            self.finish(is_error=True, terminal_reason="aborted_streaming", lifecycle="cancelled")
        return {}

    # --- turns ---------------------------------------------------------------------------------

    def begin(self) -> None:
        """Take up the next message."""
        self.current = self.queue.popleft()
        self.runs.append(self.current)
        self._lifecycle(self.current, "started")
        self._tell("running")
        self._init()
        if not self.is_manual:
            self.delta("hello")
            self.finish()

    def begin_own(self) -> None:
        """A turn that nobody asked for."""
        self.own_turn = True
        self._tell("running")
        self._init()

    def delta(self, text: str) -> None:
        """A token delta."""
        event = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
        self.emit({"type": "stream_event", "event": event})

    def ask(self, request_id: str, tool_use_id: str = "t", tool: str = "Write", **more: Any) -> None:
        """Ask for an approval."""
        request = {"subtype": "can_use_tool", "tool_name": tool, "tool_use_id": tool_use_id, "input": {}}
        frame = {"type": "control_request", "request_id": request_id, "request": {**request, **more}}
        self.asks[request_id] = frame
        self.emit(frame)

    def result(self, **fields: Any) -> None:
        """A result, and nothing after it."""
        fixed = {"type": "result", "subtype": "success", "is_error": False, "session_id": self.session_id}
        self.emit({**fixed, **fields})

    def finish(self, *, lifecycle: str = "completed", **fields: Any) -> None:
        """End the turn; the next message begins, or the CLI is idle."""
        if self.current is not None or self.own_turn:
            self.emit({"type": "assistant", "message": {"content": [{"type": "text", "text": "hello"}]}})
            self.result(**fields)
        if self.current is not None:
            self._lifecycle(self.current, lifecycle)
        self.current, self.own_turn = None, False
        if self.queue:
            self.begin()
        else:
            self._tell("idle")

    def _lifecycle(self, uuid: str, state: str) -> None:
        self.emit({"type": "command_lifecycle", "command_uuid": uuid, "state": state})

    def _init(self) -> None:
        self.emit({"type": "system", "subtype": "init", "session_id": self.session_id})

    def _tell(self, state: str) -> None:
        self.state = state
        self.emit({"type": "system", "subtype": "session_state_changed", "state": state})
