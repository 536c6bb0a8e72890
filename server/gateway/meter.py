"""What an answer of the Messages API says of its own usage, read as its bytes pass by. Pure.

A meter is fed the very chunks that go to the caller and changes none. Of a
stream only the lines that hold usage figures are parsed; all others cost a
search. A cut answer counts as far as the wire told.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

MAX_LINE_BYTES = 1024 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024

# Inside a JSON string a quotation mark is escaped, so these bytes are a key or a whole value.
_MARK = b'"usage"'
_LINE_END = re.compile(rb"[\r\n]")
# gzip and zlib, whichever the header says.
_ANY_DEFLATE = 47


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of one or more calls, by sort; ``input`` are those that no cache had to do with."""

    input: int = 0
    output: int = 0
    cache_write: int = 0
    cache_read: int = 0

    @property
    def total(self) -> int:
        """All sorts together: what token budgets count."""
        return self.input + self.output + self.cache_write + self.cache_read


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class _Message(msgspec.Struct):
    model: str | None = None
    usage: _Usage | None = None


class _Event(msgspec.Struct):
    type: str = ""
    message: _Message | None = None
    usage: _Usage | None = None


_EVENT = msgspec.json.Decoder(_Event)
_BODY = msgspec.json.Decoder(_Message)


class Reading:
    """What has been told so far. ``model`` is the one that answered; ``is_final``: nothing is missing."""

    def __init__(self) -> None:
        self.model: str | None = None
        self.tokens = Tokens()
        self.is_told = False
        self.is_final = False
        self.is_unreadable = False

    def take(self, usage: _Usage) -> None:
        """Figures of a stream are cumulative: a later one replaces an earlier one of its sort."""
        old = self.tokens
        self.tokens = Tokens(
            _newer(usage.input_tokens, old.input),
            _newer(usage.output_tokens, old.output),
            _newer(usage.cache_creation_input_tokens, old.cache_write),
            _newer(usage.cache_read_input_tokens, old.cache_read),
        )
        self.is_told = True


def _newer(told: int | None, known: int) -> int:
    return known if told is None else max(0, told)


class Meter(Protocol):
    """Is fed an answer's body in pieces of any size."""

    def feed(self, chunk: bytes) -> None:
        """The next bytes."""

    def close(self) -> None:
        """No more bytes come."""


class StreamMeter:
    """Server-sent events: ``message_start`` begins the figures, each ``message_delta`` brings newer ones."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._rest = bytearray()
        self._is_skipping = False

    def feed(self, chunk: bytes) -> None:
        """See ``Meter``."""
        if self._is_skipping:
            end_of_line = _LINE_END.search(chunk)
            if end_of_line is None:
                return
            chunk, self._is_skipping = chunk[end_of_line.end() :], False
        end = max(chunk.rfind(b"\n"), chunk.rfind(b"\r")) + 1
        if end:
            lines = bytes(self._rest) + chunk[:end] if self._rest else chunk[:end]
            self._rest.clear()
            if _MARK in lines:
                self._read(lines)
        self._keep(chunk[end:])

    def close(self) -> None:
        """See ``Meter``; a line without its end was cut and tells nothing."""

    def _keep(self, piece: bytes) -> None:
        """No line with usage figures is that long; what is longer is not held in memory."""
        if len(self._rest) + len(piece) > MAX_LINE_BYTES:
            self._rest.clear()
            self._is_skipping = True
        else:
            self._rest += piece

    def _read(self, lines: bytes) -> None:
        for line in lines.splitlines():
            if line.startswith(b"data:") and _MARK in line:
                self._take(line[5:])

    def _take(self, data: bytes) -> None:
        try:
            event = _EVENT.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._reading.is_unreadable = True
            return
        if event.type == "message_start" and event.message is not None:
            self._reading.model = event.message.model
            if event.message.usage is not None:
                self._reading.take(event.message.usage)
        elif event.type == "message_delta" and event.usage is not None:
            self._reading.take(event.usage)
            self._reading.is_final = True


class BodyMeter:
    """One JSON message; read when it is whole."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._body = bytearray()

    def feed(self, chunk: bytes) -> None:
        """See ``Meter``."""
        if len(self._body) + len(chunk) > MAX_BODY_BYTES:
            self._reading.is_unreadable = True
            self._body.clear()
        elif not self._reading.is_unreadable:
            self._body += chunk

    def close(self) -> None:
        """See ``Meter``; a body that was cut is no JSON and tells nothing."""
        if _MARK not in self._body:
            return
        try:
            message = _BODY.decode(self._body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._reading.is_unreadable = True
            return
        self._body.clear()
        self._reading.model = message.model
        if message.usage is not None:
            self._reading.take(message.usage)
            self._reading.is_final = True


class _Inflating:
    """Reads a compressed body through another meter; we ask for none, but some servers do not listen."""

    def __init__(self, meter: Meter, reading: Reading) -> None:
        self._meter = meter
        self._reading = reading
        self._inflate = zlib.decompressobj(_ANY_DEFLATE)

    def feed(self, chunk: bytes) -> None:
        """See ``Meter``."""
        if self._reading.is_unreadable:
            return
        try:
            # Bounded: a small body may inflate to any size.
            plain = self._inflate.decompress(chunk, MAX_BODY_BYTES)
        except zlib.error:
            plain = b""
            self._reading.is_unreadable = True
        if self._inflate.unconsumed_tail:
            self._reading.is_unreadable = True
        self._meter.feed(plain)

    def close(self) -> None:
        """See ``Meter``."""
        self._meter.close()


def meter_for(content_type: str, content_encoding: str, reading: Reading) -> Meter | None:
    """The meter of an answer with these headers; None for one that cannot be read."""
    kinds: dict[str, Callable[[Reading], Meter]] = {
        "text/event-stream": StreamMeter,
        "application/json": BodyMeter,
    }
    kind = kinds.get(content_type.partition(";")[0].strip().lower())
    if kind is None:
        return None
    encoding = content_encoding.strip().lower()
    if encoding in ("", "identity"):
        return kind(reading)
    return _Inflating(kind(reading), reading) if encoding in ("gzip", "deflate") else None
