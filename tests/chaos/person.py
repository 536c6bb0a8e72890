"""One user: says things, answers, interrupts, loses connections; and keeps what it was told."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from random import Random
from typing import Any

import aiohttp

from tests.chaos import menu
from tests.chaos.record import Frame
from tests.chaos.story import Story
from tests.chaos.viewer import Viewer

OUTCOMES = ("succeeded", "failed", "interrupted", "lost", "withdrawn")
_ANSWER_SECONDS = 4.0
_ACCEPT_SECONDS = 90.0
_PATIENCE_SECONDS = 15.0
# what a client may try again, and what it may take for an answer
_TRY_AGAIN = {"draining", "internal", "store_unavailable", "queue_full", "pool_full"}


@dataclass
class Message:
    """One message, sent as often as need be under one id."""

    message_id: str
    text: str
    turn_ids: set[str] = field(default_factory=set)
    refusals: list[str] = field(default_factory=list)

    @property
    def answers(self) -> int:
        """How often the server said something to it."""
        return len(self.turn_ids) + len(self.refusals)


class Person:
    """A user with two viewers of one session; everything that it does comes from its seed."""

    def __init__(self, name: str, url: str, token: str, story: Story, *, is_real: bool) -> None:
        self.name, self.is_real, self.story = name, is_real, story
        self.messages: dict[str, Message] = {}
        self.endings: tuple[Counter[str], ...] = (Counter(), Counter())
        self.outcomes: dict[str, set[str]] = defaultdict(set)
        self.asks: set[str] = set()
        self.answers_at_once = False
        self.leaves_half_open = True
        self._url, self._token = url, token
        self._rng = Random(f"{story.seed}:{name}")
        self._answered: set[str] = set()
        self._errands: set[asyncio.Task[None]] = set()
        self._own_turns: set[str] = set()
        self.viewers = [Viewer(url, token, self._hearing(index)) for index in range(2)]

    # --- life ----------------------------------------------------------------------------

    async def live(self) -> None:
        """Act at random until cancelled."""
        for viewer in self.viewers:
            viewer.start()
        acts = (self._talk, self._misbehave, self._ask, self._flood, self._interrupt, self._repeat, self._cut)
        weights = (6, 0 if self.is_real else 4, 2, 0.6, 1, 1, 3)
        while True:
            await self._rng.choices(acts, weights)[0]()
            await asyncio.sleep(self._rng.uniform(0.2, 2.5))

    def answer_everything(self) -> None:
        """From now on every approval is answered at once, those that are open too."""
        self.answers_at_once = True
        for request_id in tuple(self.asks):
            self._is_asked(request_id)

    async def leave(self) -> None:
        """End all connections."""
        for errand in self._errands:
            errand.cancel()
        for viewer in self.viewers:
            await viewer.leave()

    # --- acts ----------------------------------------------------------------------------

    async def _talk(self) -> None:
        text = menu.plain(self._rng, self.name, len(self.messages), is_real=self.is_real)
        await self._say_and_wait(text)

    async def _misbehave(self) -> None:
        await self._say_and_wait(menu.misbehaving(self._rng, len(self.messages)))

    async def _ask(self) -> None:
        await self._say_and_wait(menu.asking(self._rng, len(self.messages), is_real=self.is_real))

    async def _say_and_wait(self, text: str) -> None:
        message = await self.say(text)
        if self._rng.random() < 0.6:
            await self.ended(message, _PATIENCE_SECONDS)

    async def _flood(self) -> None:
        count = self._rng.randint(5, 25)
        self.story.tell(self.name, f"floods with {count} messages")
        texts = [menu.plain(self._rng, self.name, n, is_real=self.is_real) for n in range(count)]
        await asyncio.gather(*(self.say(text) for text in texts))

    async def _interrupt(self) -> None:
        self.story.tell(self.name, "interrupts")
        await self._rng.choice(self.viewers).put(type="interrupt", session_id="default")

    async def _repeat(self) -> None:
        if self.messages:
            message = self._rng.choice(list(self.messages.values()))
            self.story.tell(self.name, f"repeats {message.message_id}")
            await self._send(message)

    async def _cut(self) -> None:
        viewer = self._rng.choice(self.viewers)
        way = self._rng.choice(("reset", "reset", "close", "halt" if self.leaves_half_open else "close"))
        self.story.tell(self.name, f"{way} a connection")
        if way == "reset":
            viewer.reset()
        elif way == "close":
            await viewer.close()
        else:
            viewer.halt()

    # --- messages -------------------------------------------------------------------------

    async def say(self, text: str) -> Message:
        """Send a message until it is accepted or refused for good."""
        message = self.expect(text)
        self.story.tell(self.name, f"says {message.message_id}: {text}")
        await self._get_answer(message)
        return message

    async def finish(self) -> None:
        """Get an answer to every message that was being sent when the trouble ended."""
        for message in list(self.messages.values()):
            if not message.answers:
                await self._get_answer(message)

    async def _get_answer(self, message: Message) -> None:
        deadline = asyncio.get_running_loop().time() + _ACCEPT_SECONDS
        while not message.turn_ids and asyncio.get_running_loop().time() < deadline:
            known = len(message.refusals)
            if await self._send(message):
                await self._until(lambda: message.answers > known, 5.0)  # noqa: B023
            if len(message.refusals) > known and message.refusals[-1] not in _TRY_AGAIN:
                break
            if not message.turn_ids:
                await asyncio.sleep(0.5)

    def expect(self, text: str) -> Message:
        """A message that is about to be sent."""
        message = Message(f"{self.name}-{len(self.messages)}", text)
        self.messages[message.message_id] = message
        return message

    async def _send(self, message: Message) -> bool:
        viewer = self.viewers[0] if self.viewers[0].is_following.is_set() else self.viewers[1]
        return await viewer.put(
            type="send", session_id="default", content=message.text, message_id=message.message_id
        )

    async def ended(self, message: Message, seconds: float) -> bool:
        """Wait for the end of the message's turn."""
        return await self._until(lambda: any(self.outcomes.get(turn) for turn in message.turn_ids), seconds)

    @property
    def open_turns(self) -> list[str]:
        """Accepted turns whose end nobody has told yet."""
        accepted = {turn for message in self.messages.values() for turn in message.turn_ids}
        return sorted(turn for turn in accepted | self._own_turns if turn not in self.outcomes)

    async def _until(self, is_so: Any, seconds: float) -> bool:
        deadline = asyncio.get_running_loop().time() + seconds
        while not is_so():
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(0.03)
        return True

    # --- what is heard -----------------------------------------------------------------------

    def _hearing(self, index: int) -> Any:
        return lambda frame: self._hear(index, frame)

    def _hear(self, index: int, frame: Frame) -> None:
        kind = frame["type"]
        message = self.messages.get(str(frame.get("message_id")))
        if kind == "accepted" and message is not None:
            message.turn_ids.add(frame["turn_id"])
        elif kind == "error":
            self.story.tell(self.name, f"error-{frame['code']} {frame['message'][:90]}")
            if message is not None:
                message.refusals.append(frame["code"])
        elif kind == "turn":
            self._hear_of_turn(index, frame)
        elif kind == "permission_request":
            self._is_asked(frame["request_id"])
        elif kind == "permission_resolved":
            self.asks.discard(frame["request_id"])
        elif kind == "subscribed":
            for ask in frame["pending_permissions"]:
                self._is_asked(ask["request_id"])

    def _hear_of_turn(self, index: int, frame: Frame) -> None:
        if frame["origin"] == "cli":
            self._own_turns.add(frame["turn_id"])
        if frame["state"] in OUTCOMES:
            self.endings[index][frame["turn_id"]] += 1
            if not self.outcomes[frame["turn_id"]]:
                told = f"turn-{frame['state']} {frame['turn_id'][:8]}: {frame.get('reason')}"
                self.story.tell(self.name, told)
            self.outcomes[frame["turn_id"]].add(frame["state"])

    def _is_asked(self, request_id: str) -> None:
        self.asks.add(request_id)
        if request_id in self._answered and not self.answers_at_once:
            return
        self._answered.add(request_id)
        way = "twice" if self.answers_at_once else self._rng.choice(("twice", "late", "never", "once"))
        if way != "never":
            seconds = self._rng.uniform(0.5, _ANSWER_SECONDS) if way == "late" else 0.0
            errand = asyncio.create_task(self._answer(request_id, seconds, way), name="chaos-answer")
            self._errands.add(errand)
            errand.add_done_callback(self._errands.discard)

    async def _answer(self, request_id: str, seconds: float, way: str) -> None:
        await asyncio.sleep(seconds)
        self.story.tell(self.name, f"answers {request_id[:8]} {way}")
        decision = self._rng.choice(("allow", "allow", "deny"))
        for viewer in self.viewers if way == "twice" else self.viewers[:1]:
            await viewer.put(
                type="permission", session_id="default", request_id=request_id, decision=decision
            )

    # --- over REST ----------------------------------------------------------------------------

    async def request(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of an answer; raises ``AssertionError`` for an error."""
        headers = {"Authorization": f"Bearer {self._token}"}
        async with (
            aiohttp.ClientSession(headers=headers) as http,
            http.request(method, f"{self._url}{path}", json=body) as response,
        ):
            assert response.status < 300, await response.text()
            return await response.json() if response.content_type == "application/json" else None

    async def history(self) -> list[Frame]:
        """The whole log, page by page."""
        frames: list[Frame] = []
        after = "0"
        while True:
            page = await self.request("GET", f"/api/v1/sessions/default/history?after={after}&limit=500")
            frames += page["frames"]
            if not page["frames"] or page["next"] in (None, after):
                return frames
            after = page["next"]
