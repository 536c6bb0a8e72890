"""The marker that moves over a table."""

from __future__ import annotations

from enum import Enum

import pytest

from pool.errors import InvalidTransition
from pool.lifecycle.table import STORY_LENGTH, Machine, Table, to
from tests.pool.lifecycle.standing import stands_at


class Lamp(Enum):
    OFF = "off"
    ON = "on"
    BROKEN = "broken"


class Press(Enum):
    SWITCH = "switch"
    HAMMER = "hammer"


class Do(Enum):
    BUZZ = "buzz"
    SPARK = "spark"


LAMP: Table[Lamp, Press, Do] = Table(
    name="lamp",
    initial=Lamp.OFF,
    events=Press,
    commands=Do,
    rows={
        Lamp.OFF: {Press.SWITCH: to(Lamp.ON, Do.SPARK, Do.BUZZ)},
        Lamp.ON: {Press.SWITCH: to(Lamp.OFF), Press.HAMMER: to(Lamp.BROKEN, Do.SPARK)},
        Lamp.BROKEN: {},
    },
)


def test_a_machine_moves_along_its_rows_and_says_what_to_do_in_order() -> None:
    lamp = Machine(LAMP, "desk")
    assert stands_at(lamp, Lamp.OFF)
    assert lamp.feed(Press.SWITCH) == (Do.SPARK, Do.BUZZ)
    assert lamp.feed(Press.SWITCH) == ()
    assert stands_at(lamp, Lamp.OFF)


def test_an_event_without_a_row_raises_with_the_story_and_changes_nothing() -> None:
    lamp = Machine(LAMP, "desk")
    lamp.feed(Press.SWITCH)
    lamp.feed(Press.SWITCH)
    with pytest.raises(InvalidTransition) as caught:
        lamp.feed(Press.HAMMER)
    assert caught.value.story == ("began as off", "switch -> on", "switch -> off")
    assert "lamp desk is off" in caught.value.message
    assert "hammer" in caught.value.message
    assert stands_at(lamp, Lamp.OFF)
    assert lamp.story == caught.value.story


def test_asking_first_is_how_a_door_refuses() -> None:
    lamp = Machine(LAMP, "desk")
    assert not lamp.has_ended
    assert lamp.can(Press.SWITCH)
    assert not lamp.can(Press.HAMMER)


def test_a_machine_can_begin_anywhere_as_after_a_restart() -> None:
    lamp = Machine(LAMP, "desk", Lamp.ON)
    lamp.feed(Press.HAMMER)
    assert lamp.has_ended
    assert lamp.story == ("began as on", "hammer -> broken")
    assert repr(lamp) == "<lamp desk broken>"


def test_a_long_life_does_not_fill_the_memory() -> None:
    lamp = Machine(LAMP, "desk")
    for _ in range(3 * STORY_LENGTH):
        lamp.feed(Press.SWITCH)
    assert len(lamp.story) == STORY_LENGTH
