"""One user with one session: writes, interrupts, answers, looks on, and keeps a record of all of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pool.errors import PoolError, StoreUnavailable
from pool.model import Cursor
from tests.pool.conftest import OUTCOMES
from tests.simulation.world import ServerDied, SimulatedWorld

Frame = dict[str, Any]
_TRY_AGAIN_SECONDS = 0.5


class Person:
    """``failures`` says what was seen that must never be. Takes frames as a ``Viewer``."""

    def __init__(self, world: SimulatedWorld, user: str, session: str) -> None:
        self.user, self.session = user, session
        self.frames: list[Frame] = []
        self.accepted: dict[str, str] = {}
        self.refused: list[str] = []
        self.failures: list[str] = []
        self.backlog_bytes = 0
        self._world = world
        self._last = Cursor(0, 0, 0)
        self._following: Any = None

    def __str__(self) -> str:
        return f"{self.user}:{self.session}"

    # --- looking on ---------------------------------------------------------------------------

    def deliver(self, frames: Sequence[bytes]) -> None:
        for raw in frames:
            frame = json.loads(raw)
            if frame["type"] == "subscribed":
                continue
            cursor = Cursor.parse(frame["cursor"])
            if cursor <= self._last:
                self.failures.append(f"{self}: {frame['cursor']} came after {self._last}")
            self._last = max(cursor, self._last)
            self.frames.append(frame)

    async def look_on(self) -> None:
        """Follow from where the last frame was, server after server."""
        while True:
            pool, died = await self._world.up()
            with contextlib.suppress(PoolError, ServerDied):
                self._following = await self._world.ask(
                    lambda pool: pool.subscribe(self.user, self.session, str(self._last), self)
                )
                await asyncio.wait({died})
            if not died.done():
                await asyncio.sleep(_TRY_AGAIN_SECONDS)
            del pool

    # --- acting -------------------------------------------------------------------------------

    async def act(self, times: int) -> None:
        """Do this and that, so many times."""
        random = self._world.loop.random
        for number in range(times):
            await asyncio.sleep(random.expovariate(2))
            deed = random.choices(
                ("send", "send_twice", "interrupt", "answer", "destroy", "archive", "change"),
                (10, 2, 2, 4, 1, 1, 1),
            )[0]
            if deed.startswith("send"):
                ids = [f"m{number}"] * (2 if deed == "send_twice" else 1)
                await asyncio.gather(*(self.send(message_id) for message_id in ids))
            else:
                with contextlib.suppress(PoolError, ServerDied):
                    await self._other(deed)

    async def _other(self, deed: str) -> None:
        ask, user, session = self._world.ask, self.user, self.session
        if deed == "interrupt":
            await ask(lambda pool: pool.interrupt(user, session))
        elif deed == "destroy":
            await ask(lambda pool: pool.destroy_instance(user, session))
        elif deed == "archive":
            await ask(lambda pool: pool.archive_session(user, session))
        elif deed == "change":
            await ask(lambda pool: pool.set_permission_mode(user, session, "plan"))
        else:
            for info in await ask(lambda pool: pool.permissions(user, session)):
                request_id, decision = info.request_id, self._world.loop.random.choice(("allow", "deny"))
                await ask(
                    lambda pool, request_id=request_id, decision=decision: pool.answer_permission(  # type: ignore[misc]
                        user, session, request_id, decision, answered_by=user
                    )
                )

    async def send(self, message_id: str, *, patient: bool = False) -> str | None:
        """Send until it is accepted, or refused for good: the turn's id, or None."""
        while True:
            try:
                accepted = await self._world.ask(
                    lambda pool: pool.submit(self.user, self.session, "words", message_id=message_id)
                )
            except (ServerDied, StoreUnavailable):
                # nobody knows whether it was taken: the same id again runs it once
                await asyncio.sleep(_TRY_AGAIN_SECONDS)
            except PoolError:
                if not patient:
                    self.refused.append(message_id)
                    return None
                await asyncio.sleep(1)
            else:
                earlier = self.accepted.setdefault(message_id, accepted.turn_id)
                if earlier != accepted.turn_id:
                    self.failures.append(f"{self}: {message_id} is turn {earlier} and {accepted.turn_id}")
                return accepted.turn_id

    # --- the record -----------------------------------------------------------------------------

    def endings(self) -> Counter[str]:
        """How often each turn was said to have ended."""
        return Counter(f["turn_id"] for f in self.frames if f["type"] == "turn" and f["state"] in OUTCOMES)

    def outcome(self, turn_id: str) -> str | None:
        """How a turn ended, if it did."""
        ends = [f for f in self.frames if f["type"] == "turn" and f["turn_id"] == turn_id]
        return next((f["state"] for f in ends if f["state"] in OUTCOMES), None)

    def durable(self) -> list[Frame]:
        """What must be in the history, in order."""
        return [frame for frame in self.frames if frame["type"] != "gap" and not is_delta(frame)]


def is_delta(frame: Frame) -> bool:
    return bool(frame["type"] == "event" and frame["event"]["type"] == "stream_event")
