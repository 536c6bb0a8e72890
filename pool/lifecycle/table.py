"""What a state machine is here: a table, and a marker that moves over it.

A table maps (state, event) to (next state, commands) and is plain data. The
machine decides and never does: it returns the commands of the row, and
whoever feeds it carries them out in order and feeds the results back as
events. There is no clock, no I/O and no await, so that nothing can happen
between reading a state and changing it.

An event without a row is a defect of ours, never of the user's: whoever takes
requests from outside asks ``can`` first and refuses at the door.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from pool.errors import InvalidTransition

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)
C = TypeVar("C", bound=Enum)

Row = tuple[S, tuple[C, ...]]

STORY_LENGTH = 100
"""How many of the latest steps a machine remembers."""


def to(state: S, *commands: C) -> Row[S, C]:
    """One cell of a table: the next state and what is to be done, in order."""
    return state, commands


@dataclass(frozen=True)
class Table(Generic[S, E, C]):
    """The whole truth about one kind of machine.

    ``rows[state][event]`` is the next state with its commands. A state whose
    rows are empty is an end.
    """

    name: str
    initial: S
    events: type[E]
    commands: type[C]
    rows: Mapping[S, Mapping[E, Row[S, C]]]


class Machine(Generic[S, E, C]):
    """One thing's place in its table. Begins in any state: a restart resumes from the store."""

    def __init__(self, table: Table[S, E, C], name: str, state: S | None = None) -> None:
        self._table = table
        self._name = name
        self._state = table.initial if state is None else state
        self._story: deque[str] = deque([f"began as {self._state.value}"], maxlen=STORY_LENGTH)

    @property
    def name(self) -> str:
        """Whose machine this is: an id for the log."""
        return self._name

    @property
    def state(self) -> S:
        """Where it stands."""
        return self._state

    @property
    def has_ended(self) -> bool:
        """No event can change it any more."""
        return not self._table.rows[self._state]

    @property
    def story(self) -> tuple[str, ...]:
        """The latest steps, oldest first."""
        return tuple(self._story)

    def can(self, event: E) -> bool:
        """Is there a row for ``event`` here?"""
        return event in self._table.rows[self._state]

    def feed(self, event: E) -> tuple[C, ...]:
        """Move along the row of ``event``; return what is to be done now, in order.

        Raises ``InvalidTransition`` with the story, and changes nothing, when
        there is no row.
        """
        row = self._table.rows[self._state].get(event)
        if row is None:
            raise InvalidTransition(
                f"{self._table.name} {self._name} is {self._state.value}: {event.value} has no row here",
                story=self.story,
            )
        self._state, commands = row
        self._story.append(f"{event.value} -> {self._state.value}")
        return commands

    def __repr__(self) -> str:
        return f"<{self._table.name} {self._name} {self._state.value}>"
