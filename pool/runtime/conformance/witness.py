"""The owner of the instance that is tried out: keeps its frames, waits for them, plays whole turns."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from pool.errors import InstanceGone
from pool.model import ExitStatus
from pool.protocol import frames as f
from pool.protocol.connection import error_response, user_message
from pool.protocol.framing import Line
from pool.protocol.parsing import parse_line
from pool.runtime.instance import Instance

TURN_SECONDS = 30.0
SETTLE_SECONDS = 1.5
_SHORT_SECONDS = 0.3

Respond = Callable[[f.ControlRequest], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class SeenTurn:
    """All frames from writing a message to the end of what it set off."""

    uuid: str
    frames: Sequence[f.Frame]

    @property
    def result(self) -> f.Result | None:
        """The first result."""
        found = [frame for frame in self.frames if isinstance(frame, f.Result)]
        return found[0] if found else None

    def of(self, kind: type[f.Frame]) -> list[int]:
        """The places of all frames of a kind."""
        return [place for place, frame in enumerate(self.frames) if isinstance(frame, kind)]

    def lifecycle(self, *states: str) -> int | None:
        """The place where the message's lifecycle was told to be one of ``states``."""
        for place, frame in enumerate(self.frames):
            if not isinstance(frame, f.CommandLifecycle) or frame.command_uuid != self.uuid:
                continue
            if frame.state in states:
                return place
        return None

    def idle_after(self, place: int) -> bool:
        """Did the CLI say that it is idle, after ``place``?"""
        later = self.frames[place + 1 :]
        return any(isinstance(frame, f.SessionStateChanged) and frame.state == "idle" for frame in later)


async def refuse(request: f.ControlRequest) -> bytes:
    """The answer to what nobody expects."""
    return error_response(request.request_id, "not served by the conformance check")


class Witness:
    """See ``Owner`` of ``pool.runtime.instance``."""

    def __init__(self) -> None:
        self.frames: list[f.Frame] = []
        self.is_gone = False
        self.keeper_is_gone = False
        self._news = asyncio.Event()
        self._settle_seconds = SETTLE_SECONDS

    def lines_received(self, instance: Instance, lines: Sequence[Line]) -> None:
        """See ``Owner``."""
        for line in lines:
            frame = parse_line(line)
            if isinstance(frame, f.ControlResponse):
                instance.answered(frame)
            self.frames.append(frame)
        self._news.set()

    def instance_exited(self, instance: Instance, status: ExitStatus, stderr_tail: str) -> None:
        """See ``Owner``."""
        self.is_gone = True
        self._news.set()

    def keeper_lost(self, instance: Instance) -> None:
        """See ``Owner``."""
        self.is_gone = self.keeper_is_gone = True
        self._news.set()

    async def each(self, since: int, seconds: float) -> AsyncGenerator[f.Frame, None]:
        """Frames from place ``since`` on as they come, until ``seconds`` are over.

        Raises ``InstanceGone`` when there will be no more.
        """
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            while since < len(self.frames):
                yield self.frames[since]
                since += 1
            if self.is_gone:
                raise InstanceGone("the CLI ended while it was checked")
            self._news.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._news.wait()
            except TimeoutError:
                return

    async def until(self, wanted: Callable[[f.Frame], bool], since: int, seconds: float) -> f.Frame | None:
        """The first frame that is ``wanted``, None when it does not come in time."""
        async with contextlib.aclosing(self.each(since, seconds)) as frames:
            async for frame in frames:
                if wanted(frame):
                    return frame
        return None

    async def turn(
        self, instance: Instance, text: str, *, respond: Respond = refuse, literal: bool = False
    ) -> SeenTurn:
        """Write a message and follow it to its end, answering what the CLI asks by ``respond``.

        A turn that does not end in time comes back without a result.
        """
        since, message_id = len(self.frames), str(uuid.uuid4())
        await instance.write(user_message(message_id, text, literal=literal))
        await self._result(instance, since, respond)
        await self.settled(message_id, since)
        return SeenTurn(message_id, self.frames[since:])

    async def _result(self, instance: Instance, since: int, respond: Respond) -> None:
        async with contextlib.aclosing(self.each(since, TURN_SECONDS)) as frames:
            async for frame in frames:
                if isinstance(frame, f.ControlRequest):
                    await instance.write(await respond(frame))
                elif isinstance(frame, f.Result):
                    return

    async def settled(self, message_id: str, since: int) -> None:
        """Give the CLI time to tell the end of a turn that has its result."""

        def is_over(_frame: f.Frame) -> bool:
            seen = SeenTurn(message_id, self.frames[since:])
            result, end = seen.of(f.Result), seen.lifecycle("completed", "cancelled")
            return bool(result) and end is not None and seen.idle_after(max(result[0], end))

        if await self.until(is_over, since, self._settle_seconds) is None:
            # one that does not tell it once will not tell it later: enough that nothing more comes
            self._settle_seconds = _SHORT_SECONDS
