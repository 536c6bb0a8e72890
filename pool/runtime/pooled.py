"""The Python view of a live instance: what ``get_or_create_instance`` gives."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pool.errors import InstanceGone, PoolError
from pool.model import InstanceState, TurnId
from pool.runtime.instance import Instance
from pool.runtime.session import Session

if TYPE_CHECKING:
    from pool.runtime.dialogue import Dialogue

_OUTCOMES = frozenset({"succeeded", "failed", "interrupted", "lost", "withdrawn"})


class _Inbox:
    """A viewer in memory that one coroutine reads."""

    def __init__(self) -> None:
        self.frames: asyncio.Queue[bytes] = asyncio.Queue()
        self.backlog_bytes = 0

    def deliver(self, frames: Sequence[bytes]) -> None:
        for frame in frames:
            self.backlog_bytes += len(frame)
            self.frames.put_nowait(frame)

    async def take(self) -> dict[str, Any]:
        frame = await self.frames.get()
        self.backlog_bytes -= len(frame)
        body: dict[str, Any] = msgspec.json.decode(frame)
        return body


def _is_outcome(frame: dict[str, Any]) -> bool:
    if frame["state"] == "lost":
        raise InstanceGone(frame.get("reason", {}).get("message", "the turn was lost"))
    return frame["state"] in _OUTCOMES


def _shown(frame: dict[str, Any]) -> dict[str, Any] | None:
    if frame["type"] == "event":
        event: dict[str, Any] = frame["event"]
        return event
    return frame if frame["type"].startswith("permission_") else None


class PooledInstance:
    """A handle on one incarnation. It stays what it is when the process ends: gone and unhealthy."""

    def __init__(self, pool: Dialogue, session: Session, instance: Instance) -> None:
        self._pool = pool
        self._session = session
        self._instance = instance

    @property
    def id(self) -> str:
        """The instance's id; never used again."""
        return self._instance.id

    @property
    def user_id(self) -> str:
        """Whose it is."""
        return self._instance.key.user_id

    @property
    def session_id(self) -> str:
        """Which of the user's sessions it serves."""
        return self._instance.key.session_id

    @property
    def state(self) -> InstanceState:
        """Where it stands."""
        return self._instance.state

    @property
    def pid(self) -> int | None:
        """The host's pid of the ``claude`` process itself."""
        return self._instance.pid

    @property
    def turns(self) -> int:
        """How many turns it was given."""
        return self._instance.turns

    @property
    def workspace(self) -> Path:
        """The user's workspace on this host."""
        return self._session.around.workspaces.paths(self._instance.key.user_id).workspace

    @property
    def failures(self) -> int:
        """Health checks that failed in a row."""
        return self._instance.failures

    @property
    def is_healthy(self) -> bool:
        """Does it live, and did it answer when it was last asked?"""
        gone = self._instance.state in (InstanceState.EXITED, InstanceState.STUCK)
        return not gone and self._instance.failures == 0

    async def health_check(self, timeout_seconds: float = 10.0) -> bool:
        """Ask the CLI the cheapest question; an answer resets ``failures``."""
        try:
            await self._instance.ask("get_binary_version", timeout_seconds=timeout_seconds)
        except (PoolError, TimeoutError):
            self._instance.failures += 1
        else:
            self._instance.failures = 0
        return self.is_healthy

    async def ask(self, content: object, *, message_id: str | None = None) -> AsyncIterator[dict[str, Any]]:
        """One turn: the CLI's frames as they come, from its begin to its end, and of no other turn.

        Raises ``InstanceGone`` when the process ended under the turn. Frames
        of approvals (``permission_request``) are given too: somebody must
        answer them. A ``message_id`` whose turn has ended gives nothing.
        """
        inbox = _Inbox()
        key = self._instance.key
        subscription = await self._pool.subscribe(key.user_id, key.session_id, None, inbox)
        try:
            accepted = await self._pool.submit(
                key.user_id, key.session_id, content, message_id=message_id or uuid.uuid4().hex
            )
            if accepted.repeated and await self._has_ended(accepted.turn_id):
                return
            is_running = accepted.repeated
            while True:
                frame = await inbox.take()
                if not inbox.backlog_bytes:
                    subscription.drained()
                if frame["type"] == "turn" and frame["turn_id"] == accepted.turn_id:
                    is_running = frame["state"] == "running"
                    if _is_outcome(frame):
                        return
                elif is_running and (shown := _shown(frame)) is not None:
                    yield shown
        finally:
            subscription.close()

    async def _has_ended(self, turn_id: TurnId) -> bool:
        record = await self._session.around.store.get_turn(self._instance.key, turn_id)
        return record is not None and record.state.is_terminal

    async def interrupt(self) -> None:
        """End the running turn; the instance lives on."""
        await self._pool.interrupt(self._instance.key.user_id, self._instance.key.session_id)
