"""The journal of model calls: what each one used, one JSON line a call, in files that are only appended to.

``<data>/gateway/usage-<time>-<pid>-<random>.jsonl``, mode 0600. A process
writes files of its own only, so that two gateways at once, or one after a
kill, never share a line; a line without its end was never written. The
server reads the files into its database and removes old ones.
"""

from __future__ import annotations

import logging
import os
import secrets
import stat
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

PREFIX = "usage-"
SUFFIX = ".jsonl"
_MAX_FILE_BYTES = 16 * 1024 * 1024
_MAX_WAITING = 10_000
_READ_BYTES = 1024 * 1024

_log = logging.getLogger(__name__)


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One call that a model answered. ``at`` is its end in seconds since 1970.

    ``priced`` False: the provider has no price for the model, ``usd`` is 0.
    ``complete`` False: the answer was cut, the figures are those told until then.
    """

    at: float
    seconds: float
    instance: str
    user: str
    session: str
    provider: str
    model: str
    input_tokens: int = 0
    output_tokens: int = 0
    cache_write_tokens: int = 0
    cache_read_tokens: int = 0
    usd: float = 0.0
    priced: bool = True
    complete: bool = True

    @property
    def tokens(self) -> int:
        """All sorts together."""
        return self.input_tokens + self.output_tokens + self.cache_write_tokens + self.cache_read_tokens


_ENCODE = msgspec.json.Encoder().encode
_DECODE = msgspec.json.Decoder(Entry).decode


def journal_files(data_dir: Path) -> list[Path]:
    """All files of the journal, oldest first.

    Only files: the directory may be another user's than the reader's, who shall not be led astray.
    """
    found = (data_dir / "gateway").glob(f"{PREFIX}*{SUFFIX}")
    return sorted(path for path in found if _is_file(path))


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def read_entries(path: Path, offset: int) -> tuple[list[Entry], int]:
    """The next whole entries after byte ``offset`` and the offset behind them.

    At most about a MiB at once; the same offset means that there is nothing
    more yet. A line that is no entry is passed over and logged. Raises
    ``FileNotFoundError`` for a file that was removed.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags), "rb") as file:
        file.seek(offset)
        raw = file.read(_READ_BYTES)
    end = raw.rfind(b"\n") + 1
    entries = []
    for line in raw[:end].splitlines():
        try:
            entries.append(_DECODE(line))
        except (msgspec.DecodeError, UnicodeDecodeError):
            _log.error("a line of the journal is no entry", extra={"fields": {"file": path.name}})
    return entries, offset + end


class UsageJournal:
    """Appends entries; one object a process. ``close`` it at the end.

    An entry is with the kernel when ``append`` returns: a kill loses nothing
    of it, a power cut may lose the last seconds. When the disk is full the
    entries wait in memory (10,000 of them) for the next ``append``.
    """

    def __init__(
        self, data_dir: Path, wall: Callable[[], float] = time.time, *, max_bytes: int = _MAX_FILE_BYTES
    ) -> None:
        self._directory = data_dir / "gateway"
        self._wall = wall
        self._max_bytes = max_bytes
        self._descriptor: int | None = None
        self._month = ""
        self._written = 0
        self._waiting: deque[bytes] = deque(maxlen=_MAX_WAITING)
        self.own_files: set[str] = set()

    def append(self, entry: Entry) -> None:
        """Write one entry; never raises, what cannot be written is logged."""
        self._waiting.append(_ENCODE(entry) + b"\n")
        while self._waiting:
            try:
                self._write(self._waiting[0])
            except OSError as error:
                # What was written of the line stays a line without an end, in a file that gets no more.
                self.close()
                fields = {"reason": error.strerror, "waiting": len(self._waiting)}
                _log.error("usage not written", extra={"fields": fields})
                return
            self._waiting.popleft()

    def close(self) -> None:
        """Sync and close the file; the next entry begins another one."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            os.fsync(descriptor)
        except OSError as error:
            _log.error("usage not synced", extra={"fields": {"reason": error.strerror}})
        finally:
            os.close(descriptor)

    def _write(self, line: bytes) -> None:
        descriptor = self._open_file()
        if os.write(descriptor, line) != len(line):
            raise OSError(0, "the disk is full")
        self._written += len(line)

    def _open_file(self) -> int:
        """The file to append to: another one after ``max_bytes``, in a new month, or when it was removed."""
        month = datetime.fromtimestamp(self._wall(), UTC).strftime("%Y%m")
        if self._descriptor is not None:
            is_gone = os.fstat(self._descriptor).st_nlink == 0
            if self._written < self._max_bytes and month == self._month and not is_gone:
                return self._descriptor
            self.close()
        stamp = datetime.fromtimestamp(self._wall(), UTC).strftime("%Y%m%dT%H%M%S%f")
        name = f"{PREFIX}{stamp}-{os.getpid()}-{secrets.token_hex(3)}{SUFFIX}"
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self._directory / name, flags, 0o600)
        self.own_files.add(name)
        self._month, self._written = month, 0
        return self._descriptor
