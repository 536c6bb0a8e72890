"""The fake site's sessions: an event log with cursors, its viewers, and approvals that wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Frame = dict[str, Any]
Deliver = Callable[[Frame], None]


@dataclass(slots=True)
class Entry:
    """A numbered frame; token deltas are not durable."""

    number: int
    frame: Frame
    durable: bool


@dataclass(eq=False)
class FakeSession:
    """One session: what was published in it, who follows it, and what it waits for."""

    session_id: str
    title: str = ""
    state: str = "live"
    model: str | None = None
    permission_mode: str = "default"
    last_active_at: float = field(default_factory=time.time)
    log: list[Entry] = field(default_factory=list)
    viewers: list[Deliver] = field(default_factory=list)
    asks: dict[str, asyncio.Future[Frame]] = field(default_factory=dict)
    ask_frames: dict[str, Frame] = field(default_factory=dict)
    accepted: dict[str, Frame] = field(default_factory=dict)
    queue: asyncio.Queue[Frame] = field(default_factory=asyncio.Queue)
    interrupt: asyncio.Event = field(default_factory=asyncio.Event)
    running: str | None = None
    worker: asyncio.Task[None] | None = None

    @property
    def cursor(self) -> str:
        """The newest cursor."""
        return f"1.{len(self.log)}.0"

    def describe(self) -> Frame:
        """The session object."""
        return {
            "session_id": self.session_id,
            "title": self.title,
            "state": self.state,
            "template": "default",
            "model": self.model,
            "permission_mode": self.permission_mode,
            "created_at": self.last_active_at,
            "last_active_at": self.last_active_at,
            "cursor": self.cursor,
        }

    def publish(self, frame: Frame, *, durable: bool = True) -> None:
        """Number a frame, keep it, and give it to all who follow."""
        self.keep(frame, durable=durable)
        for deliver in list(self.viewers):
            deliver(self.log[-1].frame)

    def keep(self, frame: Frame, *, durable: bool = True) -> None:
        """Number a frame and keep it, without telling anybody: what a slow viewer misses."""
        number = len(self.log) + 1
        frame = {"session_id": self.session_id, "cursor": f"1.{number}.0", **frame}
        self.log.append(Entry(number, frame, durable))

    def event(self, event: Frame, *, durable: bool = True) -> None:
        """Publish one line of the CLI."""
        self.publish({"type": "event", "event": event}, durable=durable)

    def after(self, cursor: str) -> list[Frame]:
        """All frames after a cursor."""
        number = 0 if cursor == "0" else int(cursor.split(".")[1])
        return [entry.frame for entry in self.log if entry.number > number]

    def page(self, before: str | None, limit: int) -> tuple[list[Frame], str | None]:
        """The newest durable frames before a cursor, and the cursor before which older ones lie."""
        end = int(before.split(".")[1]) if before else len(self.log) + 1
        durable = [entry for entry in self.log if entry.durable and entry.number < end]
        page = durable[-limit:]
        older = len(durable) > limit
        return [entry.frame for entry in page], page[0].frame["cursor"] if older else None

    async def ask(self, request_id: str, tool: str, tool_input: Frame, **details: Any) -> Frame:
        """Ask for an approval and wait for its answer."""
        frame = {"type": "permission_request", "request_id": request_id, "tool": tool, "input": tool_input}
        self.ask_frames[request_id] = {**frame, **details}
        self.asks[request_id] = asyncio.get_running_loop().create_future()
        self.publish({**frame, **details})
        return await self.asks[request_id]

    def answer(self, request_id: str, answer: Frame) -> bool:
        """Decide an approval, once. False when it is not open."""
        future = self.asks.pop(request_id, None)
        if future is None:
            return False
        del self.ask_frames[request_id]
        self.publish(
            {"type": "permission_resolved", "request_id": request_id, "decision": answer["decision"]}
        )
        future.set_result(answer)
        return True
