"""What is written down of a deed, and how each record is bound to the one before it.

A record's hash is SHA-256 over a canonical JSON array of its number, time,
action, actor, user, facts (as the text that is stored) and the hash before
it. Whoever has a record and the one before can work it out again with nothing
but a JSON encoder: keys sorted, no white space, everything but ASCII escaped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pool.caller import Caller, current_caller

ORIGIN = bytes(32)
"""The hash before the first record."""

MAX_FACTS_BYTES = 1 << 20
"""Facts above this are stored as their length and hash only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """A deed, before it has its place in the log. ``at`` is in seconds since 1970.

    ``user_id`` is whom it is about (None: nobody in particular), ``actor``
    who did it. ``facts`` are JSON values; never a secret.
    """

    action: str
    at: float
    actor: str
    user_id: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """A row of the log. ``at`` is in milliseconds since 1970, ``facts`` the canonical JSON text."""

    seq: int
    at: int
    action: str
    actor: str
    user_id: str | None
    facts: str
    previous: bytes
    hash: bytes

    def is_sealed(self) -> bool:
        """Is its hash the hash of what it says?"""
        try:
            return self.hash == _digest(self)
        except (TypeError, ValueError):
            return False

    def as_line(self) -> dict[str, Any]:
        """The record as it is exported: one JSON object."""
        return {
            "seq": self.seq,
            "at": self.at,
            "action": self.action,
            "actor": self.actor,
            "user_id": self.user_id,
            "facts": self._read_facts(),
            "previous": self.previous.hex(),
            "hash": self.hash.hex(),
        }

    def _read_facts(self) -> Any:
        try:
            return json.loads(self.facts)
        except (ValueError, TypeError):
            return {"unreadable": repr(self.facts)}


@dataclass(frozen=True, slots=True)
class Place:
    """The end of a chain, or a place in it: a number and the hash of its record."""

    seq: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash.hex()}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read ``SEQ:HASH``. Raises ``ValueError``."""
        number, _, digest = text.partition(":")
        place = cls(int(number), bytes.fromhex(digest))
        if place.seq < 0 or len(place.hash) != len(ORIGIN):
            raise ValueError("not a place of an audit log")
        return place


BEGINNING = Place(0, ORIGIN)


def told(
    action: str, at: float, *, user_id: str | None = None, by: Caller | None = None, **facts: Any
) -> AuditEntry:
    """A deed of ``by``, else of whoever asks now; facts that are None are left out."""
    caller = by or current_caller()
    origin = {"channel": caller.channel, "address": caller.address, "agent": caller.agent}
    kept = {name: value for name, value in {**origin, **facts}.items() if value is not None}
    return AuditEntry(action=action, at=at, actor=caller.actor, user_id=user_id, facts=kept)


def sealed(entries: Iterable[AuditEntry], after: Place) -> list[AuditRecord]:
    """The entries as the records that follow ``after``, in order."""
    records = []
    seq, previous = after.seq, after.hash
    for entry in entries:
        seq += 1
        open_record = AuditRecord(
            seq=seq,
            at=round(entry.at * 1000),
            action=entry.action,
            actor=entry.actor,
            user_id=entry.user_id,
            facts=_facts(entry.facts),
            previous=previous,
            hash=b"",
        )
        previous = _digest(open_record)
        records.append(replace(open_record, hash=previous))
    return records


def canonical(value: Any) -> str:
    """JSON with sorted keys, without white space, in ASCII: one text for one value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def hash_of(value: Any) -> str:
    """The SHA-256 of a text in UTF-8, or of the canonical JSON of anything else, in hex."""
    text = value if isinstance(value, str) else canonical(value)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _facts(facts: Mapping[str, Any]) -> str:
    text = canonical(facts)
    if len(text) <= MAX_FACTS_BYTES:
        return text
    return canonical({"too_long": len(text), "sha256": hash_of(text)})


def _digest(record: AuditRecord) -> bytes:
    fields = [
        record.seq,
        record.at,
        record.action,
        record.actor,
        record.user_id,
        record.facts,
        record.previous.hex(),
    ]
    return hashlib.sha256(canonical(fields).encode("ascii")).digest()
