"""Logging: one line an event, JSON or for a console, written by a thread of its own.

Nothing secret is logged on purpose; a last filter masks values by the name of
their key and texts that look like a token or a key, should one slip in.
"""

from __future__ import annotations

import logging
import logging.handlers
import queue
import re
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, TextIO

import structlog

from server.config import Logging

_SECRET_KEYS = re.compile(r"(?i)(password|passwd|secret|token|authorization|cookie|api_?key|prompt)$")
_SECRET_TEXTS = re.compile(
    r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+"
    r"|sk-[A-Za-z0-9_-]{8,}"
    r"|(?<=signin=)[A-Za-z0-9_-]+"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
_MASK = "***"
_QUEUE_LENGTH = 10_000

Event = MutableMapping[str, Any]


def mask(_logger: Any, _method: str, event: Event) -> Event:
    """A structlog processor: masks what looks secret."""
    for key, value in event.items():
        if _SECRET_KEYS.search(key) and value is not None:
            event[key] = _MASK
        elif isinstance(value, str):
            event[key] = _SECRET_TEXTS.sub(_MASK, value)
    return event


class _Queue(logging.handlers.QueueHandler):
    """Hands records over as they are; a full queue loses the newest rather than holding up the server."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            return


@contextmanager
def logging_to(stream: TextIO, config: Logging) -> Iterator[None]:
    """All loggers write to ``stream`` until the end of the block, which writes what is left."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(stream, config))
    records: queue.Queue[logging.LogRecord] = queue.Queue(_QUEUE_LENGTH)
    listener = logging.handlers.QueueListener(records, handler)
    root = logging.getLogger()
    entry = _Queue(records)
    before = root.level
    root.addHandler(entry)
    root.setLevel(config.level.upper())
    # One line for each statement would say the contents of rows.
    for name in ("sqlalchemy", "asyncio", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    listener.start()
    try:
        yield
    finally:
        root.removeHandler(entry)
        root.setLevel(before)
        listener.stop()


def _formatter(stream: TextIO, config: Logging) -> logging.Formatter:
    console = config.format == "console" or (config.format == "auto" and stream.isatty())
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        mask,
    ]
    last: Any = (
        structlog.dev.ConsoleRenderer(colors=stream.isatty())
        if console
        else structlog.processors.JSONRenderer(default=str)
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
    )


def standard_error() -> TextIO:
    """Where the log goes: standard output is for what people and scripts read."""
    return sys.stderr
