"""One live instance: its handle, its state machine and the questions that we ask it.

An ``Instance`` is one incarnation of the CLI. It never restarts; when its
process is gone it is ``exited`` and its session makes another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from pool.errors import InstanceGone, KeeperUnavailable, PoolError
from pool.launch.base import InstanceHandle, StopGraces
from pool.lifecycle.instance import InstanceEvent, InstanceMachine
from pool.model import ExitStatus, InstanceId, InstanceState, SessionKey
from pool.protocol.connection import CliConnection
from pool.protocol.frames import ControlResponse
from pool.protocol.framing import Line, LineFramer
from pool.runtime.last_words import launch_failed
from pool.runtime.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

# What a keeper may take longer than the graces that it was given.
_KEEPER_SECONDS = 5.0
# One that cannot be reached is not waited for: whoever finds it again ends it.
_LOST_SECONDS = 2.0
# While output is held the end waits behind it, however long the process has been gone.
_HELD_SECONDS = 20.0


class Owner(Protocol):
    """Who is told what the instance says and that it has ended: its session."""

    def lines_received(self, instance: Instance, lines: Sequence[Line]) -> None:
        """Whole lines, in order; called on the event loop."""

    def instance_exited(self, instance: Instance, status: ExitStatus, stderr_tail: str) -> None:
        """The process and its tree are gone, every line was received. Once."""

    def keeper_lost(self, instance: Instance) -> None:
        """The way to the keeper is lost; whether the instance lives is asked when it is found again."""


class Instance:
    """The runtime's side of one CLI process. It is the ``InstanceSink`` of its launcher."""

    def __init__(
        self,
        instance_id: InstanceId,
        key: SessionKey,
        ordinal: int,
        owner: Owner,
        *,
        epoch: int,
        max_line_bytes: int,
        started_at: float,
        offset: int = 0,
        state: InstanceState = InstanceState.STARTING,
        turns: int = 0,
        started_clock: float | None = None,
    ) -> None:
        self.id = instance_id
        self.key = key
        self.ordinal = ordinal
        self.started_at = started_at
        self.started_clock = started_clock
        self.first_offset = offset
        self.turns = turns
        self.machine = InstanceMachine(instance_id, state)
        self.connection = CliConnection(epoch)
        self.handle: InstanceHandle | None = None
        self.exit_status: ExitStatus | None = None
        self.stderr_tail = ""
        self.cli_state = "unknown"
        self.capabilities: Mapping[str, Any] = {}
        self.background: set[str] = set()
        self.progress = Progress()
        self.stop_reason: str | None = None
        self.stop_asked_at: float | None = None
        self.graces: StopGraces | None = None
        self.failures = 0
        self.is_answering = False
        self.is_held = False
        self.is_lost = False  # unknown, until its host is reached again
        self.losses = 0
        self.heard_at = asyncio.get_running_loop().time()
        self.on_stuck: Callable[[Instance], None] = lambda _instance: None
        self.ended = asyncio.Event()
        self.resolved = asyncio.Event()
        """Set when the process is gone, or nothing more is tried to end it."""
        self._owner = owner
        self._framer = LineFramer(max_line_bytes, offset)
        self._answers: dict[str, asyncio.Future[ControlResponse]] = {}
        self._progress = asyncio.Event()

    # --- facts -------------------------------------------------------------------------

    @property
    def state(self) -> InstanceState:
        """Where the instance stands."""
        return self.machine.state

    @property
    def has_exited(self) -> bool:
        """Is the process gone, with everything that it held?"""
        return self.state is InstanceState.EXITED

    @property
    def may_get_turn(self) -> bool:
        """Is it up, is nobody ending it, and has it nothing to do?"""
        return self.is_answering and self.state is InstanceState.READY and self.cli_state == "idle"

    @property
    def pid(self) -> int | None:
        """The host's pid of the ``claude`` process itself, while it is known."""
        identity = self.handle.identity if self.handle is not None else None
        return identity.pid if identity is not None else None

    @property
    def received_offset(self) -> int:
        """The offset just after the last byte of output that came here."""
        return self._framer.fed_offset

    # --- InstanceSink ------------------------------------------------------------------

    def data_received(self, offset: int, data: bytes) -> None:
        """Output from the launcher; a part that came before (a second attach) is dropped."""
        known = self._framer.fed_offset - offset
        if known > 0:
            data = data[known:]
        if data:
            self.heard_at = asyncio.get_running_loop().time()
            lines = self._framer.feed(data)
            if lines:
                self._owner.lines_received(self, lines)
        if self.is_held and self.handle is not None:
            self.handle.hold(True)  # it may not have been there when this was decided
        self._progress.set()

    def exited(self, status: ExitStatus, stderr_tail: str) -> None:
        """The end, told by the launcher."""
        if self.has_exited:
            return
        rest = self._framer.feed_eof()
        if rest:
            self._owner.lines_received(self, rest)
        self.exit_status = status
        self.stderr_tail = stderr_tail
        self.machine.feed(InstanceEvent.PROCESS_EXITED)
        self._fail_questions()
        self._owner.instance_exited(self, status, stderr_tail)
        self.ended.set()
        self.resolved.set()
        self._progress.set()

    def launcher_lost(self) -> None:
        """The way to its host is lost."""
        self.is_answering = False
        self.is_lost = True
        self.losses += 1
        self._progress.set()
        self._fail_questions()
        if not self.has_exited:
            self._owner.keeper_lost(self)

    def found(self, handle: InstanceHandle) -> None:
        """Its host is reached, and this is what it is known by now."""
        self.handle = handle
        self.is_lost = False

    def _fail_questions(self) -> None:
        for future in self._answers.values():
            if not future.done():
                future.set_exception(InstanceGone(f"instance {self.id} ended before it answered"))
                future.exception()
        self._answers.clear()

    def committed(self, offset: int, kept_bytes: int) -> None:
        """Its output before ``offset`` is stored; what is older than ``kept_bytes`` may go."""
        if self.handle is not None:
            self.handle.committed(offset)
            if offset > kept_bytes:
                self.handle.trim(offset - kept_bytes)

    def hold(self, is_held: bool) -> None:
        """Take no more of its output; or take it again."""
        self.is_held = is_held
        if self.handle is not None:
            self.handle.hold(is_held)

    # --- questions ---------------------------------------------------------------------

    def answered(self, frame: ControlResponse) -> None:
        """The CLI answered one of our control requests; late and foreign answers are dropped."""
        if not self.connection.resolve(frame):
            return
        future = self._answers.pop(frame.request_id, None)
        if future is not None and not future.done():
            future.set_result(frame)

    async def ask(self, subtype: str, *, timeout_seconds: float = 10.0, **fields: Any) -> ControlResponse:
        """Send a control request and wait for the answer.

        Raises ``InstanceGone`` when the process ends first and
        ``TimeoutError`` when it does not answer in time.
        """
        request_id, line = self.connection.request(subtype, **fields)
        future: asyncio.Future[ControlResponse] = asyncio.get_running_loop().create_future()
        self._answers[request_id] = future
        try:
            async with asyncio.timeout(timeout_seconds):
                await self.write(line)
                return await future
        finally:
            self._answers.pop(request_id, None)
            self.connection.forget(request_id)

    async def write(self, line: bytes) -> None:
        """Write one line to the CLI. Raises ``InstanceGone``, ``InputBlocked``, ``KeeperUnavailable``."""
        if self.is_lost and not self.has_exited:
            raise KeeperUnavailable(f"the host of instance {self.id} cannot be reached")
        if self.handle is None or self.has_exited:
            raise InstanceGone(f"instance {self.id} has no process")
        await self.handle.write(line)

    async def handshake(
        self, timeout_seconds: float, hooks: Mapping[str, Any] | None = None
    ) -> ControlResponse:
        """Ask for the ready signal; also the way to take over a running CLI with its open asks.

        ``hooks`` replace those of whoever was attached before; None: there are none.

        Raises ``LaunchFailed`` with the failed step and the last of stderr.
        """
        try:
            frame = await self.ask("initialize", hooks=dict(hooks or {}), timeout_seconds=timeout_seconds)
        except TimeoutError:
            raise await launch_failed(self, f"it did not answer within {timeout_seconds:g} s") from None
        except PoolError as error:
            raise await launch_failed(self, error.message) from error
        if not frame.ok:
            raise await launch_failed(self, f"it refused: {frame.error}")
        self.capabilities = {
            name: frame.response.get(name) for name in ("models", "commands", "claude_code_version")
        }
        state = frame.response.get("session_state")
        self.cli_state = state if isinstance(state, str) else "idle"
        if self.has_exited:
            raise await launch_failed(self, "it ended right after its answer")
        self.is_answering = True
        return frame

    # --- waiting and ending ------------------------------------------------------------

    async def received(self, offset: int, timeout_seconds: float) -> None:
        """Wait until all output before ``offset`` has come here.

        Raises ``TimeoutError``, and ``KeeperUnavailable`` when its host is lost.
        """
        async with asyncio.timeout(timeout_seconds):
            while self.received_offset < offset and not self.has_exited:
                if self.is_lost:
                    raise KeeperUnavailable(f"the host of instance {self.id} cannot be reached")
                self._progress.clear()
                await self._progress.wait()

    def told_to_stop(self, reason: str) -> None:
        """Somebody wants its end; from here on it gets no turn."""
        self.stop_reason = self.stop_reason or reason
        self.stop_asked_at = self.stop_asked_at or time.perf_counter()
        if self.machine.can(InstanceEvent.STOP_REQUESTED):
            self.machine.feed(InstanceEvent.STOP_REQUESTED)
            self.resolved.clear()

    async def end(self, graces: StopGraces, reason: str) -> None:
        """Climb the ladder until the process is gone or the ladder is exhausted."""
        self.told_to_stop(reason)
        if self.handle is None or self.has_exited:
            return
        self.graces = graces
        climbing = graces.end_of_input + graces.term + graces.kill
        try:
            async with asyncio.timeout(climbing + _KEEPER_SECONDS):
                with contextlib.suppress(PoolError):
                    await self.handle.stop(graces)
            async with asyncio.timeout(_telling_seconds(self, graces)):
                await self.ended.wait()
        except TimeoutError:
            if self.is_lost:
                return  # unknown is not stuck: it is ended when its host is reached again
            if self.machine.can(InstanceEvent.LADDER_EXHAUSTED):
                self.machine.feed(InstanceEvent.LADDER_EXHAUSTED)
                self.on_stuck(self)
            self.resolved.set()


def _telling_seconds(instance: Instance, graces: StopGraces) -> float:
    if instance.is_lost:
        return _LOST_SECONDS
    return graces.kill + (_HELD_SECONDS if instance.is_held else 2)
