"""The process: what comes in on stdin, what goes out on stdout, who is asked."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from queue import SimpleQueue

from .controls import CONTROLS, Refusal
from .transcript import Transcript, leave, new_id
from .turn import Turn
from .words import FOR_EVER, PLACES, WORDS, Interrupted, words_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, NoReturn

    Frame = dict[str, Any]


class Ask:
    """A request that is open with the host."""

    def __init__(self, request: Frame) -> None:
        self.request, self.request_id = request, new_id()
        self.answers: SimpleQueue[Frame | None] = SimpleQueue()

    @property
    def frame(self) -> Frame:
        """The request as it was sent."""
        return {"type": "control_request", "request_id": self.request_id, "request": self.request}

    @property
    def of_turn(self) -> bool:
        """Does it end with the turn (all but the handshakes with servers)?"""
        message: Frame = self.request.get("message") or {}
        return bool(message.get("method", "tools/call") == "tools/call")


class Claude:
    """The process: the main thread runs turns, a second one reads stdin."""

    def __init__(self, options: dict[str, str], plan: Frame) -> None:
        self.options, self.plan, self.every = options, plan, plan.get("every", "")
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self.log = os.open(plan["log_input"], flags, 0o644) if "log_input" in plan else None
        self.lock, self.step, self.gap, self.muted = threading.Lock(), 0, 0.0, False
        self.mode = options.get("--permission-mode", "default")
        self.model = options.get("--model") or "claude-fake"
        self.hooks: Frame = {}
        self.servers: dict[str, threading.Event] = {}
        self.allowed: set[str] = {"Read"}
        self.open: dict[str, Ask] = {}
        self.queue: list[Frame] = []
        self.changed, self.cut = threading.Condition(), threading.Event()
        self.state, self.started = "idle", False
        self.results: int = 0
        self.eof = self.deaf = self.stay = self.failed = False
        self.busy, self.told = False, ""
        self.later: list[Callable[[], object]] = []
        self.kept: list[bytes] = []
        self.without: set[str] = set()

    def run(self) -> NoReturn:
        """Serve until the end of input and of all that was queued before it."""
        resume = self.options.get("--resume")
        self.transcript = Transcript(
            self.options.get("--session-id"), resume, "--fork-session" in self.options
        )
        self.seen = set(self.transcript.finished)
        if self.transcript.missing:
            text = f"No conversation found with session ID: {resume}"
            self.emit("result", "error_during_execution", is_error=True, num_turns=0, errors=[text])
            leave(1, text)
        for _, name, numbers in words_of(self.plan.get("start", "")):
            WORDS[name](self, *numbers)
        threading.Thread(target=self.listen, daemon=True).start()
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.queue or self.eof)
                batch, self.queue = self.queue, []
                self.busy = bool(batch)
                self.cut.clear()
            if not batch and not self.stay:
                leave(1 if self.failed else 0)
            if not batch:
                time.sleep(FOR_EVER)
            turn = Turn(self, batch)
            turn.run()
            with self.changed:
                self.busy = False
                if not self.queue:
                    self.tell_state("idle")
            turn.do(PLACES["idle"])

    # Output

    def raw(self, data: bytes) -> None:
        """Write bytes, in pieces when told so."""
        with self.lock:
            step = self.step or len(data) or 1
            for start in range(0, 0 if self.muted else len(data), step):
                piece = data[start : start + step]
                while piece:
                    piece = piece[os.write(1, piece) :]
                time.sleep(self.gap)

    def frame(self, frame: Frame) -> None:
        """Write one frame as a line."""
        self.raw(json.dumps(frame, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")

    def emit(self, kind: str, subtype: str | None = None, **fields: object) -> None:
        """Write a frame of the session, with its ids."""
        head = {"type": kind, "subtype": subtype} if subtype else {"type": kind}
        ids = {"uuid": new_id(), "session_id": self.transcript.session}
        self.frame({**head, **fields, **{name: ids[name] for name in ids if name not in fields}})

    def tell_state(self, state: str) -> None:
        """Publish the session's state, where the environment asks for it."""
        self.state = state
        if "state" in self.without:
            return
        if {"CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS", "CLAUDE_CODE_SDK_READS_SESSION_STATE"} & set(os.environ):
            self.emit("system", "session_state_changed", state=state)

    def lifecycle(self, messages: Iterable[Frame], state: str) -> None:
        """Tell where stamped user messages stand."""
        for message in messages:
            if message.get("uuid") and "lifecycle" not in self.without:
                self.emit("command_lifecycle", command_uuid=message["uuid"], state=state)

    # Input

    def listen(self) -> None:
        """Read stdin to its end; leave when nobody reads what is answered."""
        try:
            self.read()
        except BrokenPipeError:
            leave(0)

    def read(self) -> None:
        """Take every line of stdin, then its end."""
        for line in sys.stdin.buffer:
            while self.deaf:
                time.sleep(FOR_EVER)
            if self.log is not None:
                os.write(self.log, line)
            self.take(line.decode("utf-8", "replace").strip())
        for request_id in list(self.open):
            self.settle(request_id, {"response": {"behavior": "deny", "message": "the input has ended"}})
        with self.changed:
            self.eof = True
            self.changed.notify()

    def take(self, text: str) -> None:
        """Act on one line; a bad one ends the process, as it ends the CLI."""
        try:
            frame: Any = json.loads(text) if text else {}
        except ValueError:
            leave(1, f"Error parsing streaming input line (type=unknown, {len(text)} chars): SyntaxError")
        if frame is None:
            leave(1, f"Error parsing streaming input line (type=unknown, {len(text)} chars): TypeError")
        kind = frame.get("type") if isinstance(frame, dict) else None
        if kind == "user":
            self.user(frame)
        elif kind == "control_request":
            self.control(frame.get("request_id"), frame.get("request"))
        elif kind == "control_response" and isinstance(frame.get("response"), dict):
            self.settle(frame["response"].get("request_id"), frame["response"])

    def user(self, frame: Frame) -> None:
        """Queue a message, unless its uuid was seen before."""
        role = (frame.get("message") or {}).get("role", "undefined")
        if role != "user":
            leave(1, f"Error: Expected message role 'user', got '{role}'")
        if frame.get("uuid") in self.seen and "repeats" not in self.without:
            with self.changed:
                if frame["uuid"] in self.transcript.finished:
                    self.lifecycle([frame], "completed")
                if self.state == "idle":
                    self.tell_state("idle")
            return
        self.seen.add(frame.get("uuid") or new_id())
        self.submit(frame)

    def submit(self, frame: Frame) -> None:
        """Queue a message, a user's or the CLI's own."""
        with self.changed:
            if self.state == "idle":
                self.tell_state("running")
            self.lifecycle([frame], "queued")
            self.queue.append(frame)
            self.changed.notify()

    def control(self, request_id: str, request: Frame | None) -> None:
        """Answer a request of the host."""
        if request is None:
            leave(1, "Error: Missing request on control_request")
        if request.get("subtype") not in CONTROLS and "unknown" in self.without:
            leave(1, "Error: unknown control request")
        body: Frame = {"subtype": "success", "request_id": request_id}
        subtype = request.get("subtype")
        try:
            if subtype not in CONTROLS:
                raise Refusal(f"Unsupported control request subtype: {subtype}", "unsupported_request")
            answer = CONTROLS[subtype](self, request)
            body.update({} if answer is None else {"response": answer})
        except Refusal as refusal:
            body.update(subtype="error", error=refusal.args[0], error_code=refusal.args[1])
        if subtype == "initialize" and self.started and "pending" not in self.without:
            asks = [ask for ask in self.open.values() if ask.request["subtype"] == "can_use_tool"]
            body.update(
                pending_permission_requests=[ask.frame for ask in asks], pending_user_dialog_requests=[]
            )
        self.frame({"type": "control_response", "response": body})
        self.started = self.started or subtype == "initialize"
        later, self.later = self.later, []
        for act in later:
            act()

    # Requests to the host

    def send(self, request: Frame) -> Ask:
        """Put a request to the host."""
        ask = Ask(request)
        self.open[ask.request_id] = ask
        self.frame(ask.frame)
        return ask

    def settle(self, request_id: str, answer: Frame | None) -> None:
        """Close an open request; a late or second answer is ignored. None withdraws it."""
        ask = self.open.pop(request_id, None)
        if ask is not None:
            if answer is None:
                self.frame({"type": "control_cancel_request", "request_id": request_id})
            ask.answers.put(answer)

    def wait(self, ask: Ask, seconds: float | None = None) -> Frame:
        """The answer's body (an error has "error"). Raises ``Interrupted``, and ``Empty`` in the end."""
        answer = ask.answers.get(timeout=seconds)
        if answer is None:
            raise Interrupted
        return answer
