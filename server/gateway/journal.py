"""The gateway's log: JSON lines in a file of bounded size, which never disturbs a call.

Only named fields are written; no header, no body and no configuration value
is ever given to it.
"""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from traceback import extract_tb

_MAX_BYTES = 16 * 1024 * 1024
# What the libraries complain about belongs here too.
_LOGGERS = ("server.gateway", "aiohttp", "asyncio")


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            # One line: what asyncio adds below may show an exception with its headers.
            "event": record.getMessage().partition("\n")[0],
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            # Type and place only: an exception's text may quote what was sent.
            line["error"] = record.exc_info[0].__name__
            line["at"] = [f"{Path(f.filename).name}:{f.lineno}" for f in extract_tb(record.exc_info[2])]
        return json.dumps(line, ensure_ascii=False, default=str)


class _PrivateFile(RotatingFileHandler):
    """A rotating file of mode 0600; a full disk loses lines, not calls."""

    def _open(self):  # type: ignore[no-untyped-def]
        return open(
            self.baseFilename,
            self.mode,
            encoding="utf-8",
            opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW, 0o600),
        )

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Lose the line."""


def open_journal(data_dir: Path) -> logging.Handler:
    """Send the log of the gateway's modules to ``<data>/gateway/gateway.log``; the caller closes it."""
    directory = data_dir / "gateway"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = _PrivateFile(directory / "gateway.log", maxBytes=_MAX_BYTES, backupCount=1)
    file.setFormatter(_JsonLines())
    for name in _LOGGERS:
        logging.getLogger(name).addHandler(file)
    logging.getLogger("server.gateway").setLevel(logging.INFO)
    return file


def close_journal(file: logging.Handler) -> None:
    """Stop writing to it and close the file."""
    for name in _LOGGERS:
        logging.getLogger(name).removeHandler(file)
    file.close()
