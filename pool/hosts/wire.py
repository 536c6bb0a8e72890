"""What a server and the host program on another machine say to each other, over one channel.

The frames and the requests are those of the steward (``pool.steward.wire``).
Replies are plain MessagePack of ``(id, kind, value)``, and what a verb gives
is built from it by the type that it is known to have: a host that somebody
has taken over makes nothing else of it here.

The first request is ``hello``; its result is ``HostFacts``.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from pool import errors
from pool.errors import InvalidTransition, PoolError
from pool.hosts.facts import HostFacts
from pool.launch.process_table import ProcessReport
from pool.steward.wire import BadFrame, Reply
from pool.workspace.trees import Usage
from pool.workspace.workspaces import WorkspacePaths

PROTOCOL = 1
"""Grows with what the two cannot say to each other otherwise."""

MAX_REPLY_BYTES = 64 * 1024 * 1024
HEAD = struct.Struct(">I")

RESULTS: Mapping[str, Any] = {
    "hello": HostFacts,
    "alive": None,
    "ensure": WorkspacePaths,
    "check_user": None,
    "has_transcript": bool,
    "is_spoilt": bool,
    "highest_uid": int,
    "measure": Usage,
    "data_sizes": dict[str, int],
    "homes": list[str],
    "prune_home": int,
    "keep_aside": str | None,
    "remove": None,
    "archive": bytes,
    "make_scratch": str,
    "scratch_has": bool,
    "remove_scratch": None,
    "sweep_scratch": None,
    "prepare": str,
    "request": dict[str, Any],
    "start_keeper": None,
    "kill_keeper": None,
    "keeper_has_ended": bool,
    "remove_leftovers": int,
    "process_report": ProcessReport,
}
"""What verbs give, those that give pieces: each piece. Of others it stays plain data."""


def reply(number: int, kind: str, value: Any) -> bytes:
    """A reply as it is sent. Raises ``TypeError`` for what is no data."""
    body = msgspec.msgpack.encode((number, kind, value), enc_hook=_plain)
    return HEAD.pack(len(body)) + body


def parse_reply(body: bytes) -> Reply:
    """The way back, with a value that is still plain. Raises ``BadFrame``."""
    try:
        number, kind, value = msgspec.msgpack.decode(body, type=tuple[int, str, Any])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadFrame(f"not a reply: {error}") from error
    return number, kind, value


def typed(verb: str, value: Any) -> Any:
    """``value`` as what ``verb`` gives. Raises ``BadFrame`` for anything else."""
    if verb not in RESULTS:
        return value
    try:
        return msgspec.convert(value, RESULTS[verb], builtin_types=(bytes,), dec_hook=_built)
    except (msgspec.ValidationError, RecursionError) as error:
        raise BadFrame(f"{verb}: {error}") from error


def raised(value: Any) -> Exception:
    """The error that a failure tells of. Raises ``BadFrame`` for what is none."""
    try:
        found = msgspec.convert(value, _Failure)
    except (msgspec.ValidationError, RecursionError) as error:
        raise BadFrame(f"not a failure: {error}") from error
    if found.errno is not None:
        return OSError(found.errno, found.message)
    kind = getattr(errors, found.type, None)
    if not isinstance(kind, type) or not issubclass(kind, PoolError) or kind is InvalidTransition:
        kind = PoolError
    return kind(found.message, retry_after_seconds=found.retry_after_seconds, details=found.details)


class _Failure(msgspec.Struct):
    """What ``pool.steward.wire.failure`` makes."""

    message: str
    type: str = "PoolError"
    errno: int | None = None
    retry_after_seconds: float | None = None
    details: dict[str, Any] | None = None


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no data")


def _built(kind: type, value: Any) -> Any:
    # what else there is msgspec builds by itself
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"no {kind.__name__}")
