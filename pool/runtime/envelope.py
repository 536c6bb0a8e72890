"""Wire frames of CONTRACT section 6, made by joining bytes: the CLI's own line is never parsed again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pool.model import Cursor, SessionId
from pool.protocol.encoding import encode
from pool.store.base import LogEntry


class Envelope:
    """Makes the frames of one session."""

    def __init__(self, session_id: SessionId) -> None:
        session = encode(session_id)
        self._event_head = b'{"type":"event","session_id":' + session + b',"cursor":"'
        self._own_head = b'{"session_id":' + session + b',"cursor":"'
        self._bare_head = b'{"session_id":' + session + b","

    def event(self, cursor: Cursor, line: bytes) -> bytes:
        """An ``event`` frame around one line of the CLI, unchanged but for bytes that are not UTF-8."""
        if not line.isascii():
            line = line.decode("utf-8", "replace").encode()
        return b'%b%d.%d.%d","event":%b}' % (
            self._event_head,
            cursor.ordinal,
            cursor.offset,
            cursor.k,
            line,
        )

    def own(self, cursor: Cursor, body: bytes) -> bytes:
        """A numbered frame of the server; ``body`` is a JSON object that is not empty."""
        return self._own_head + str(cursor).encode() + b'",' + body[1:]

    def entry(self, entry: LogEntry) -> bytes:
        """The wire frame of a stored event."""
        if entry.cursor.k == 0:
            return self.event(entry.cursor, entry.body)
        return self.own(entry.cursor, entry.body)

    def bare(self, body: Mapping[str, Any]) -> bytes:
        """A frame that has no place in the log: ``subscribed``, ``gap``."""
        return self._bare_head + encode(body)[1:]
