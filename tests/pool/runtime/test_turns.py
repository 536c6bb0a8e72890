"""Turns on their own: every command of the table is carried out, and each turn ends once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from pool.lifecycle.turn import TurnEvent
from pool.model import InstanceId, Reason, TurnId, TurnState
from pool.policy.outcome import Outcome
from pool.runtime.turns import Turn, Turns
from pool.store.base import PatchTurn, PutTurn, TurnRecord
from tests.fakes.fake_clock import FakeClock
from tests.pool.runtime.conftest import ALICE
from tests.pool.runtime.tape import Tape


class Notes:
    """The effects, noted."""

    def __init__(self) -> None:
        self.done: list[tuple[str, str]] = []

    def write_message(self, turn: Turn) -> None:
        self.done.append(("write", turn.record.turn_id))

    def send_interrupt(self, turn: Turn) -> None:
        self.done.append(("interrupt", turn.record.turn_id))

    def close_permissions(self, turn: Turn) -> None:
        self.done.append(("close", turn.record.turn_id))

    def stop_instance(self, reason: str) -> None:
        self.done.append(("stop", reason))

    def knows_instance(self) -> bool:
        return True

    def turn_ended(self, turn: Turn) -> None:
        self.done.append(("ended", turn.record.turn_id))


class Bench:
    """Turns over a real log and a store in memory."""

    def __init__(self, *, grace: float = 60, timeout: float = 60) -> None:
        self.tape = Tape()
        self.notes = Notes()
        self.turns = self.make(grace, timeout)

    def make(self, grace: float = 60, timeout: float = 60) -> Turns:
        return Turns(
            self.tape.log, FakeClock(), self.notes, grace_seconds=grace, turn_timeout_seconds=timeout
        )

    def record(self, number: int, state: TurnState = TurnState.QUEUED, origin: str = "user") -> TurnRecord:
        return TurnRecord(
            turn_id=TurnId(f"t{number}"),
            key=ALICE,
            number=number,
            state=state,
            origin=origin,
            created_at=0,
            message_id=f"m{number}",
            line=b"{}",
        )

    def stored(self, turn_id: str) -> list[object]:
        """The states that were stored of a turn, in order of commits."""
        found: list[object] = []
        for commit in self.tape.store.commits:
            for operation in commit:
                if isinstance(operation, PutTurn) and operation.record.turn_id == turn_id:
                    found.append(operation.record.state)
                if isinstance(operation, PatchTurn) and operation.turn_id == turn_id:
                    found.append(operation.changes.get("state"))
        return found

    def told(self, turn_id: str) -> list[str]:
        return [frame["state"] for frame in self.tape.live.frames if frame.get("turn_id") == turn_id]


async def test_a_turn_is_stored_before_it_is_written_and_before_it_is_told() -> None:
    bench = Bench()
    bench.turns.enqueue(bench.record(1))
    turn = bench.turns.dispatch_first(InstanceId("i"))
    assert bench.notes.done == [("write", "t1")]
    assert bench.told("t1") == []
    await bench.tape.log.settled()
    assert bench.stored("t1") == [TurnState.DISPATCHING]
    bench.turns.started(turn)
    bench.turns.end(turn, Outcome(TurnState.FAILED, Reason("x", "because")))
    bench.turns.end(turn, Outcome(TurnState.SUCCEEDED))
    await bench.tape.log.settled()
    assert bench.told("t1") == ["queued", "running", "failed"]
    assert bench.tape.live.frames[-1]["reason"] == {"code": "x", "message": "because"}
    assert bench.notes.done[-1] == ("ended", "t1")
    assert bench.turns.current is None
    bench.turns.cancel_timers()


async def test_a_turn_that_runs_too_long_is_interrupted_and_then_given_up() -> None:
    bench = Bench(grace=0.02, timeout=0.02)
    bench.turns.enqueue(bench.record(1))
    turn = bench.turns.dispatch_first(InstanceId("i"))
    bench.turns.started(turn)
    async with asyncio.timeout(30):
        while not turn.state.is_terminal:
            await asyncio.sleep(0.01)
    assert turn.state is TurnState.INTERRUPTED
    assert [kind for kind, _ in bench.notes.done] == ["write", "interrupt", "stop", "ended"]
    assert turn.reason is not None
    assert turn.reason.code == "turn_timeout"
    await bench.tape.log.settled()


async def test_turns_are_found_again_in_order_with_what_was_noted() -> None:
    bench = Bench()
    bench.turns.enqueue(bench.record(1))
    await bench.tape.log.settled()
    turn = bench.turns.dispatch_first(InstanceId("i"))
    bench.turns.started(turn)
    bench.turns.note_outcome(turn, Outcome(TurnState.FAILED, Reason("x", "because", 3, None)))
    await bench.tape.log.settled()
    patches = [
        operation.changes["reason"]
        for commit in bench.tape.store.commits
        for operation in commit
        if isinstance(operation, PatchTurn) and "reason" in operation.changes
    ]
    record = bench.record(1, TurnState.RUNNING)
    later = bench.make()
    later.restore([bench.record(9), replace(record, reason=patches[-1]), bench.record(4)])
    assert [item.record.number for item in later.queued] == [4, 9]
    assert later.current is not None
    assert later.current.outcome == Outcome(TurnState.FAILED, Reason("x", "because", 3, None))
    bench.turns.cancel_timers()


async def test_an_interrupt_withdraws_the_queue_and_asks_both_open_turns_once() -> None:
    bench = Bench()
    for number in (1, 2, 3):
        bench.turns.enqueue(bench.record(number))
    bench.turns.dispatch_first(InstanceId("i"))
    bench.turns.begin_by_cli(bench.record(4, TurnState.RUNNING, "cli"))
    for _ in range(3):
        bench.turns.interrupt_all()
    await bench.tape.log.settled()
    asked = [name for kind, name in bench.notes.done if kind == "interrupt"]
    assert sorted(asked) == ["t1", "t4"]
    assert bench.told("t2")[-1] == bench.told("t3")[-1] == "withdrawn"
    bench.turns.cancel_timers()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(list(TurnEvent)), max_size=12))
def test_whatever_happens_a_turn_ends_once_and_the_last_stored_state_is_the_true_one(
    events: list[TurnEvent],
) -> None:
    asyncio.run(_feed(events))


async def _feed(events: list[TurnEvent]) -> None:
    bench = Bench()
    turn = bench.turns.enqueue(bench.record(1))
    for event in events:
        if event is TurnEvent.DISPATCHED and bench.turns.queued:
            bench.turns.dispatch_first(InstanceId("i"))
        elif event is not TurnEvent.DISPATCHED and turn.machine.can(event):
            bench.turns.feed(turn, event, Reason("why", "because"))
    await bench.tape.log.settled()
    ends = [kind for kind, _ in bench.notes.done if kind == "ended"]
    assert len(ends) == turn.state.is_terminal
    assert bench.stored("t1")[-1] in (turn.state, None)
    told = bench.told("t1")
    assert [TurnState(state).is_terminal for state in told].count(True) == turn.state.is_terminal
    assert not turn.state.is_terminal or not turn.timers
    bench.turns.cancel_timers()
    await bench.tape.log.aclose()


async def test_the_turn_that_the_cli_is_at_is_its_own_until_it_takes_up_the_message() -> None:
    bench = Bench()
    bench.turns.enqueue(bench.record(1))
    turn = bench.turns.dispatch_first(InstanceId("i"))
    assert bench.turns.open_turn is turn
    own = bench.turns.begin_by_cli(bench.record(2, TurnState.RUNNING, "cli"))
    assert bench.turns.open_turn is own
    bench.turns.started(turn)
    assert bench.turns.open_turn is turn
    bench.turns.end(turn, Outcome(TurnState.SUCCEEDED))
    assert bench.turns.open_turn is own
    await bench.tape.log.settled()
    bench.turns.cancel_timers()
