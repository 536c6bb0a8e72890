"""One of the crowd: comes, says some things, reads for a while, leaves, and comes again on another day."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from random import Random
from typing import Any

import aiohttp

from tests.chaos.person import OUTCOMES, Message
from tests.chaos.record import Frame
from tests.chaos.story import Story
from tests.chaos.viewer import Viewer
from tests.crowd.figures import FanOut

_FOLLOW_SECONDS = 60.0
_ANSWER_SECONDS = 20.0
_TURN_SECONDS = 300.0
_LOOK_SECONDS = 0.05


class Guest:
    """A user with one viewer, or two; a word of the CLI's tells when it was written."""

    def __init__(
        self, name: str, url: str, token: str, story: Story, fan_out: FanOut, *, viewers: int
    ) -> None:
        self.name = name
        self.messages: dict[str, Message] = {}
        self.endings: tuple[Counter[str], ...] = tuple(Counter() for _ in range(viewers))
        self.outcomes: dict[str, set[str]] = defaultdict(set)
        self.viewers = [Viewer(url, token, self._hearing(index)) for index in range(viewers)]
        self._since = [float("inf")] * viewers
        self._story, self._fan_out = story, fan_out
        self._url, self._headers = url, {"Authorization": f"Bearer {token}"}
        self._rng = Random(f"{story.seed}:{name}")

    async def arrive(self) -> None:
        """Connect, and follow the session from where the last visit ended."""
        for viewer in self.viewers:
            viewer.start()
        if not await _until(lambda: all(v.is_following.is_set() for v in self.viewers), _FOLLOW_SECONDS):
            self._story.fail(self.name, f"cannot follow within {_FOLLOW_SECONDS} s")
        self._story.tell(self.name, "arrives")

    async def leave(self) -> None:
        """End all connections, as a browser does that is closed."""
        for index, viewer in enumerate(self.viewers):
            self._since[index] = float("inf")
            await viewer.close()
            await viewer.leave()
        self._story.tell(self.name, "leaves")

    async def visit(self, seconds: float, words: int, pause_ms: int, is_over: asyncio.Event) -> None:
        """Be there for so long, and say a few things in a row at some time of it, unless it is over."""
        rng, leaves_at = self._rng, time.monotonic() + seconds
        await self.arrive()
        await _rest(is_over, rng.uniform(0, seconds / 2))
        for number in range(turns := rng.randint(2, 5)):
            if is_over.is_set():
                break
            message = await self.say(f"clock {words} {pause_ms}")
            if number == turns - 1 and rng.random() < 0.3:
                # Who leaves in the middle of a turn finds its end when they come again.
                leaves_at = 0.0
                break
            await self.hears_the_end_of(message)
            await _rest(is_over, rng.uniform(0.2, 0.8) * seconds / turns / 2)
        await _rest(is_over, leaves_at - time.monotonic())
        await self.leave()

    async def say(self, text: str) -> Message:
        """Send a message until it is answered; under one id it is run once."""
        message = Message(f"{self.name}-{len(self.messages)}", text)
        self.messages[message.message_id] = message
        deadline = time.monotonic() + _TURN_SECONDS
        while not message.answers and time.monotonic() < deadline:
            if not await self.viewers[0].put(
                type="send", session_id="default", content=text, message_id=message.message_id
            ):
                await asyncio.sleep(0.5)
                continue
            await _until(lambda: message.answers > 0, _ANSWER_SECONDS)
        return message

    async def hears_the_end_of(self, message: Message) -> bool:
        """Wait for the end of the message's turn; it has to succeed."""
        ended = await _until(lambda: any(self.outcomes.get(t) for t in message.turn_ids), _TURN_SECONDS)
        outcome = {state for turn in message.turn_ids for state in self.outcomes[turn]}
        if not ended or outcome != {"succeeded"}:
            told = f"{outcome or 'no end'}, refused {message.refusals}"
            self._story.fail(self.name, f"message {message.message_id}: {told}")
        return ended

    async def history(self) -> list[Frame]:
        """The whole log, page by page."""
        frames: list[Frame] = []
        after = "0"
        async with aiohttp.ClientSession(headers=self._headers) as http:
            while True:
                path = f"/api/v1/sessions/default/history?after={after}&limit=500"
                async with http.get(f"{self._url}{path}") as response:
                    assert response.status == 200, await response.text()
                    page = await response.json()
                frames += page["frames"]
                if not page["frames"] or page["next"] in (None, after):
                    return frames
                after = page["next"]

    def _hearing(self, index: int) -> Callable[[Frame], None]:
        return lambda frame: self._hear(index, frame)

    def _hear(self, index: int, frame: Frame) -> None:
        kind = frame["type"]
        if kind == "event":
            self._hear_a_word(index, frame["event"])
        elif kind == "subscribed":
            self._since[index] = time.monotonic_ns()
        elif kind == "turn" and frame["state"] in OUTCOMES:
            self.endings[index][frame["turn_id"]] += 1
            self.outcomes[frame["turn_id"]].add(frame["state"])
            self._story.tell(self.name, f"turn-{frame['state']} at viewer {index}: {frame.get('reason')}")
        elif (message := self.messages.get(str(frame.get("message_id")))) is not None:
            if kind == "accepted":
                message.turn_ids.add(frame["turn_id"])
            elif kind == "error":
                message.refusals.append(frame["code"])
                self._story.tell(self.name, f"error-{frame['code']}")

    def _hear_a_word(self, index: int, event: dict[str, Any]) -> None:
        inner = event.get("event", {}) if event.get("type") == "stream_event" else {}
        word = inner.get("delta", {}).get("text", "").strip()
        # What was written before this viewer came is read from the log, and has waited there.
        if word.isdigit() and int(word) > self._since[index]:
            self._fan_out.note(int(word))


async def _until(is_so: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_LOOK_SECONDS)
    return True


async def _rest(is_over: asyncio.Event, seconds: float) -> None:
    """Wait, but no longer than until it is over."""
    if seconds > 0:
        waiting = asyncio.create_task(is_over.wait(), name="crowd-rest")
        try:
            await asyncio.wait({waiting}, timeout=seconds)
        finally:
            waiting.cancel()
