"""What one viewer of a session was sent, over all its connections."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

Cursor = tuple[int, ...]
Frame = dict[str, Any]
_SHOWN_BYTES = 400


class Entry(NamedTuple):
    """One numbered frame: its place, a digest of all it says, and whether it is a token delta.

    ``text`` is its beginning, for who must find out what it was; empty for a delta.
    """

    cursor: Cursor
    digest: bytes
    is_delta: bool
    text: str = ""


def place(cursor: str) -> Cursor:
    """A cursor as something that can be compared."""
    return tuple(map(int, cursor.split(".")))


def entry_of(frame: Frame) -> Entry:
    """A frame of the log, from a socket or from the history, as something to compare."""
    event = frame.get("event")
    is_delta = isinstance(event, dict) and event.get("type") == "stream_event"
    text = msgspec.json.encode(frame, order="sorted")
    shown = "" if is_delta else text[:_SHOWN_BYTES].decode(errors="replace")
    return Entry(place(frame["cursor"]), hashlib.blake2b(text, digest_size=12).digest(), is_delta, shown)


@dataclass
class Record:
    """``entries`` in the order of arrival; ``gaps`` are ranges that the server said were left out."""

    entries: list[Entry] = field(default_factory=list)
    gaps: list[tuple[Cursor, Cursor]] = field(default_factory=list)
    repeats: int = 0
    cursor: str = "0"

    def take(self, frame: Frame) -> None:
        """Note a frame of the session's log, or a gap in it."""
        if frame["type"] == "gap":
            self.gaps.append((place(frame["from"]), place(frame["to"])))
        elif "cursor" in frame and frame["type"] != "subscribed":
            entry = entry_of(frame)
            if self.entries and entry.cursor <= self.entries[-1].cursor:
                self.repeats += 1
            self.entries.append(entry)
            self.cursor = frame["cursor"]

    def has_reached(self, cursor: str) -> bool:
        """Did everything up to ``cursor`` come?"""
        return place(self.cursor) >= place(cursor)

    @property
    def durable(self) -> dict[Cursor, Entry]:
        """What must be in the history, word for word."""
        return {entry.cursor: entry for entry in self.entries if not entry.is_delta}

    @property
    def deltas(self) -> dict[Cursor, bytes]:
        """What is kept for a while only."""
        return {entry.cursor: entry.digest for entry in self.entries if entry.is_delta}

    def is_excused(self, cursor: Cursor) -> bool:
        """Was this viewer told that something of this place was left out?"""
        return any(start < cursor <= end for start, end in self.gaps)
