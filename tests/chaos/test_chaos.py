"""A short sample of ``make chaos``; and what the accounts are worth: they find what does not come out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.accounts import account_for
from tests.chaos.person import Person
from tests.chaos.record import Frame, Record
from tests.chaos.run import Plan, chaos
from tests.chaos.story import Story

SAMPLE = Plan(seed=76, seconds=8, fakes=3, reals=0, with_disk=False, half_open=False)


@pytest.mark.timeout(180)
@pytest.mark.acceptance
async def test_all_accounts_come_out_after_some_seconds_of_trouble(short_dir: Path) -> None:
    short_dir.chmod(0o711)
    run = await chaos(SAMPLE, short_dir, None)
    assert not run.story.failures, "\n".join(run.story.failures)
    assert run.story.counts["kill-server"] >= 1
    assert run.counted["turns"] >= 2 * SAMPLE.fakes
    assert run.counted["sent"] > run.counted["durable"]


def delta(offset: int) -> Frame:
    return event(offset, {"type": "stream_event", "event": {"n": offset}})


def event(offset: int, body: Frame) -> Frame:
    return {"type": "event", "session_id": "default", "cursor": f"1.{offset}.0", "event": body}


def turn(k: int, state: str, message_id: str = "alice-0") -> Frame:
    cursor = f"1.30.{k}"
    more = {"turn_id": "t", "state": state, "origin": "user", "message_id": message_id}
    return {"type": "turn", "session_id": "default", "cursor": cursor, **more}


STARTED = event(20, {"type": "command_lifecycle", "command_uuid": "t", "state": "started"})
LOG = [event(10, {"type": "system"}), STARTED, turn(1, "queued"), turn(2, "succeeded")]
SHOWN = [LOG[0], delta(15), *LOG[1:]]


async def accounts(shown: tuple[list[Frame], list[Frame]], log: list[Frame]) -> str:
    """What the accounts say when two viewers were shown this and the history is that."""
    story = Story(1)
    person = Person("alice", "http://nowhere", "token", story, is_real=False)
    message = person.expect("hello")
    for viewer, frames in zip(person.viewers, shown, strict=True):
        for frame in frames:
            viewer.take(frame)
    message.turn_ids.add("t")
    account_for(person, log, story)
    return "\n".join(story.failures)


async def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert await accounts((SHOWN, SHOWN), LOG) == ""


@pytest.mark.parametrize(
    ("first", "log", "told"),
    [
        (SHOWN[1:], LOG, "1 durable frames lost"),
        (SHOWN, LOG[1:], "1 durable frames not in the history"),
        ([*SHOWN, SHOWN[-1]], LOG, "frames came twice or late"),
        ([SHOWN[1], SHOWN[0], *SHOWN[2:]], LOG, "frames came twice or late"),
        ([event(10, {"type": "other"}), *SHOWN[1:]], LOG, "1 durable frames different"),
        ([SHOWN[0], *SHOWN[2:]], LOG, "lost 1 token deltas"),
        (SHOWN[:-1], LOG, "turn t has 0 endings in the viewer 0"),
        (SHOWN, LOG[:-1], "turn t has 0 endings in the history"),
        (SHOWN, [*LOG, turn(3, "lost")], "turn t has 2 endings in the history"),
        (SHOWN, [*LOG[:2], {**STARTED, "cursor": "1.25.0"}, *LOG[2:]], "turn t was run 2 times"),
        (SHOWN, [*LOG, {**turn(3, "queued"), "turn_id": "u"}], "message alice-0 became 2 turns"),
        (SHOWN, [*LOG[:2], turn(1, "queued", "bob-0"), LOG[3]], "different"),
    ],
)
async def test_what_is_wrong_is_found(first: list[Frame], log: list[Frame], told: str) -> None:
    found = await accounts((first, SHOWN), log)
    assert told in found
    assert "seed 1, alice" in found


def test_a_gap_excuses_deltas_only() -> None:
    record = Record()
    record.take({"type": "gap", "session_id": "default", "from": "1.10.0", "to": "1.20.0"})
    assert record.is_excused((1, 15, 0))
    assert not record.is_excused((1, 25, 0))
