"""The keeper's state on its way through ``execve``: from one image of the program to the next.

Every class that holds something of an instance, a server or the gateway has
one ``to_state(packer)`` and, beside it, the way back (``from_state``, or
``restore`` where the object is made by its owner). A state is a JSON object.
Descriptors go by ``packer.descriptor``, bytes by ``packer.data``; whatever is
not packed is closed by ``execve``, because it is close-on-exec.

A new field needs three things: a line in ``to_state``; a line in the way back
that reads it with ``state.get(name, default)``, because the image before may
not know it; and, if it is a descriptor or a process, a default that means
"there is none". A field that an older image would need is a new ``VERSION``;
``READS`` says which ones this image understands, so that an image that cannot
read a state refuses it while the old one still runs (``--check``). Plain
values of an instance belong into ``instance.Facts`` and are handed over by
being there.

Times in a state are of the monotonic clock, which goes on over ``execve``.

The file: one line of JSON (the header), the state as JSON, then the bytes.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from typing import Any

VERSION = 1
READS = (1,)

State = dict[str, Any]

_KIND = "claude-pool keeper"
_HEADER_BYTES = 64 * 1024 * 1024


class HandoverError(Exception):
    """The state cannot be read; the text says why."""


class Packer:
    """Collects what a state cannot hold as JSON, and writes all of it."""

    def __init__(self) -> None:
        self.descriptors: list[int] = []
        self._pieces: list[bytes] = []
        self._size = 0

    def descriptor(self, fd: int) -> int:
        """``fd`` is to be there under the same number in the next image; -1 is no descriptor."""
        if fd >= 0:
            self.descriptors.append(fd)
        return fd

    def data(self, content: bytes | bytearray | memoryview) -> list[int]:
        """Where ``content`` will be found."""
        place = [self._size, len(content)]
        self._pieces.append(bytes(content))
        self._size += len(content)
        return place

    def write(self, state: State) -> int:
        """Write everything to a file in memory; its descriptor. Raises ``OSError``."""
        body = json.dumps(state, separators=(",", ":")).encode()
        header = {
            "kind": _KIND,
            "version": VERSION,
            "state_bytes": len(body),
            "data_bytes": self._size,
            "descriptors": self.descriptors,
        }
        fd = os.memfd_create("keeper-state")
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(json.dumps(header).encode() + b"\n")
            file.write(body)
            file.writelines(self._pieces)
        os.lseek(fd, 0, os.SEEK_SET)
        return fd


class Unpacker:
    """Reads what a ``Packer`` wrote. Raises ``HandoverError`` for anything else."""

    def __init__(self, fd: int) -> None:
        header, body, self._data = _parts(fd)
        self._unclaimed = _descriptors(header)
        for number in self._unclaimed:
            _close_on_exec(number)
        self.state = _object(body, "the state")

    def descriptor(self, number: int) -> int:
        """A descriptor of the image before; -1 stays -1."""
        if number >= 0:
            if number not in self._unclaimed:
                raise HandoverError(f"descriptor {number} was not handed over, or is claimed twice")
            self._unclaimed.discard(number)
        return number

    def data(self, place: Sequence[int]) -> bytes:
        """The bytes that ``Packer.data`` was given."""
        start, length = place
        if start < 0 or length < 0 or start + length > len(self._data):
            raise HandoverError("bytes outside the file")
        return bytes(self._data[start : start + length])

    def close_unclaimed(self) -> list[int]:
        """Close what this image has no use for; the numbers."""
        left = sorted(self._unclaimed)
        for number in left:
            os.close(number)
        self._unclaimed.clear()
        return left


def _parts(fd: int) -> tuple[State, bytes, memoryview]:
    try:
        os.lseek(fd, 0, os.SEEK_SET)
        with os.fdopen(os.dup(fd), "rb") as file:
            line = file.readline(_HEADER_BYTES)
            header = _object(line, "the header")
            if header.get("kind") != _KIND or header.get("version") not in READS:
                raise HandoverError(
                    f"a state of version {header.get('version')!r}; this program reads {list(READS)}"
                )
            content = memoryview(file.read())
    except OSError as error:
        raise HandoverError(f"the state cannot be read: {error}") from error
    size = header.get("state_bytes")
    if not isinstance(size, int) or len(content) != size + header.get("data_bytes", -1):
        raise HandoverError("the state is not complete")
    return header, bytes(content[:size]), content[size:]


def _object(text: bytes, what: str) -> State:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise HandoverError(f"{what} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise HandoverError(f"{what} is not an object")
    return value


def _descriptors(header: State) -> set[int]:
    numbers = header.get("descriptors")
    if not isinstance(numbers, list) or not all(isinstance(number, int) for number in numbers):
        raise HandoverError("no list of descriptors")
    return set(numbers)


def _close_on_exec(number: int) -> None:
    try:
        fcntl.fcntl(number, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    except (OSError, OverflowError) as error:
        raise HandoverError(f"descriptor {number} is not open") from error
