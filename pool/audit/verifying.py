"""Is a chain whole? Reads the records once, oldest first, and says what is wrong with them.

Found are a changed, missing, inserted or moved record, and a cut tail when an
anchor outside of the log is given. A log may begin in the middle when older
records are no longer kept: then a later record, a checkpoint, says up to
where they were removed, and vouches for what follows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pool.audit.records import BEGINNING, AuditRecord, Place

PRUNED = "audit.pruned"
"""The action of a checkpoint: facts ``through`` (a number) and ``hash``."""

_MAX_PROBLEMS = 100


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found: no problem means a whole chain from ``first`` to ``end``."""

    problems: tuple[str, ...]
    records: int
    first: int
    end: Place

    @property
    def is_whole(self) -> bool:
        """Is nothing wrong?"""
        return not self.problems


class Verifier:
    """Takes records one after the other, then gives the verdict.

    ``anchors`` are places that are known from elsewhere (a name and a place):
    the log must contain each of them, or have removed it by a checkpoint.
    ``latest`` is the last number that was ever given, where that is known.
    """

    def __init__(self, anchors: Sequence[tuple[str, Place]] = (), latest: int | None = None) -> None:
        self._latest = latest
        self._problems: list[str] = []
        self._count = 0
        self._first: AuditRecord | None = None
        self._last: AuditRecord | None = None
        self._checkpoint: Place | None = None
        self._anchors = list(anchors)
        self._wanted = {place.seq for _name, place in anchors}
        self._met: dict[int, bytes] = {}

    def take(self, records: Iterable[AuditRecord]) -> None:
        """The next records, by their numbers."""
        for record in records:
            if not record.is_sealed():
                self._wrong(f"record {record.seq} was changed: its hash is not that of what it says")
            if self._last is None:
                self._first = record
            else:
                self._join(self._last, record)
            if record.seq in self._wanted:
                self._met[record.seq] = record.hash
            if record.action == PRUNED:
                self._note_checkpoint(record)
            self._last = record
            self._count += 1

    def verdict(self) -> Verdict:
        """To be asked once, after the last record."""
        self._judge_beginning()
        for name, place in self._anchors:
            self._judge_anchor(name, place)
        last = self._last
        if last is not None and self._latest is not None and last.seq > self._latest:
            self._wrong(f"{_span(self._latest + 1, last.seq)} not the server's: they lie behind its head")
        end = Place(last.seq, last.hash) if last is not None else BEGINNING
        return Verdict(tuple(self._problems), self._count, self._first.seq if self._first else 0, end)

    def _join(self, before: AuditRecord, record: AuditRecord) -> None:
        if record.seq != before.seq + 1:
            self._wrong(f"{_span(before.seq + 1, record.seq - 1)} missing")
        elif record.previous != before.hash:
            self._wrong(f"record {record.seq} does not follow on record {before.seq}")

    def _note_checkpoint(self, record: AuditRecord) -> None:
        try:
            facts = json.loads(record.facts)
            self._checkpoint = Place(int(facts["through"]), bytes.fromhex(facts["hash"]))
        except (ValueError, KeyError, TypeError):
            self._wrong(f"record {record.seq} is a checkpoint that says nothing")

    def _judge_beginning(self) -> None:
        first, removed = self._first, self._checkpoint or BEGINNING
        if first is None:
            return
        if first.seq > removed.seq + 1:
            self._wrong(f"{_span(removed.seq + 1, first.seq - 1)} missing")
        elif first.seq == removed.seq + 1 and first.previous != removed.hash:
            self._wrong(f"record {first.seq} does not follow on what was before it")
        elif first.seq < 1:
            self._wrong(f"record {first.seq} comes before the first one")

    def _judge_anchor(self, name: str, place: Place) -> None:
        first, last = self._first, self._last
        if place == BEGINNING or place == self._checkpoint or self._met.get(place.seq) == place.hash:
            return
        if first is not None and place == Place(first.seq - 1, first.previous):
            return
        if place.seq in self._met:
            self._wrong(f"record {place.seq} is not the one of {name}")
        elif last is None or place.seq > last.seq:
            after = last.seq if last is not None else 0
            self._wrong(f"{_span(after + 1, place.seq)} missing at the end: {name} is {place}")
        else:
            self._wrong(f"record {place.seq} of {name} is not there to be compared")

    def _wrong(self, text: str) -> None:
        if len(self._problems) < _MAX_PROBLEMS:
            self._problems.append(text)


def _span(first: int, last: int) -> str:
    return f"record {first} is" if first == last else f"records {first} to {last} are"
