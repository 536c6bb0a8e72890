"""What holds after every step of any order of events (DESIGN section 4)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis.stateful import RuleBasedStateMachine, invariant

from pool import ClaudeInstancePool
from pool.model import Cursor
from tests.pool.conftest import OUTCOMES, Screen
from tests.pool.runtime.conftest import World

T = TypeVar("T")


class Invariants(RuleBasedStateMachine):
    """A world with two sessions and those who look on."""

    world: World
    pool: ClaudeInstancePool

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.screens: dict[str, Screen] = {}
        self.seen: dict[str, list[dict[str, Any]]] = {"a": [], "b": []}

    def run(self, work: Coroutine[Any, Any, T], pause: int = 0) -> T:
        async def both() -> T:
            result = await asyncio.wait_for(work, 10)
            for _ in range(pause):
                await asyncio.sleep(0)
            return result

        return self.loop.run_until_complete(both())

    def collect(self) -> None:
        """Put what the viewers saw since to what they saw before."""
        for name, screen in self.screens.items():
            told = ("subscribed", "gap") if self.world.is_far else ("subscribed",)
            self.seen[name] += [f for f in screen.frames if f["type"] not in told]
            screen.frames.clear()

    @invariant()
    def a_session_has_one_process_and_it_has_a_slot(self) -> None:
        living = Counter(cli.spec.key for cli in self.world.host.living)
        assert not living or max(living.values()) == 1
        holders = self.pool._around.hosts.first.slots.holders
        assert set(living) <= holders
        for session in self.pool._supervisor.sessions.values():
            if session.key in holders:
                assert session.instance is not None or session.waking.is_under_way

    @invariant()
    def the_live_instances_are_those_of_all_sessions(self) -> None:
        supervisor = self.pool._supervisor
        owned = {session.instance for session in supervisor.sessions.values()} - {None}
        assert set(supervisor.live_instances()) == owned

    @invariant()
    def everybody_in_line_has_a_place_of_their_own(self) -> None:
        async def places() -> list[int]:
            slots = self.pool._around.hosts.first.slots
            standing = [slots.place(waiter.key) for waiter in slots._line]
            return [place.position for place in standing if place is not None and place.limit == "pool"]

        found = self.run(places())
        assert sorted(found) == list(range(1, len(found) + 1))

    @invariant()
    def nothing_is_held_while_the_database_works(self) -> None:
        backlog = self.pool._around.backlog
        accounts = [session.log._account for session in self.pool._supervisor.sessions.values()]
        assert backlog.total == sum(account.bytes for account in accounts)
        assert backlog.held == 0

    @invariant()
    def a_turn_is_given_to_one_process_and_in_order(self) -> None:
        runs = Counter(run for cli in self.world.host.clis.values() for run in cli.runs)
        assert not runs or max(runs.values()) == 1
        for session in self.pool._supervisor.sessions.values():
            numbers = [turn.record.number for turn in session.turns.queued]
            assert numbers == sorted(numbers)
            current = session.turns.current
            assert current is None or not numbers or current.record.number < numbers[0]

    @invariant()
    def viewers_see_growing_cursors_and_each_turn_ends_once(self) -> None:
        self.collect()
        for frames in self.seen.values():
            cursors = [Cursor.parse(frame["cursor"]) for frame in frames]
            assert cursors == sorted(set(cursors))
            ends = Counter(f["turn_id"] for f in frames if f["type"] == "turn" and f["state"] in OUTCOMES)
            assert not ends or max(ends.values()) == 1
