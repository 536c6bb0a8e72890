"""The model gateway's directories of another machine, as its host program lets the server have them.

What comes from there is not believed: a host that somebody has taken over can
tell of its own users' model calls what it likes, and nothing else.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from pool.errors import PoolError
from server.gateway.usage_journal import Entry
from server.gateway_files import GatewayFiles, Stretch
from server.stewarded import RemoteGatewayFiles

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

# as the gateway writes them
_NAME = re.compile(r"[\w.:@/\[\]?-]{1,200}", re.ASCII)
_FILE = re.compile(r"usage-[\w-]{1,100}\.jsonl", re.ASCII)
_LONGEST = 200
_SECONDS = 10.0
# what a slow link carries in that time
_AT_ONCE = 512 * 1024
_MOST_BYTES = 2 * 1024 * 1024
_LAST_MOMENT = 10**11
_MOST_TOKENS = 10**12
_MOST_USD = 10**6

NOT_REACHED: Mapping[str, Any] = {"provider": None, "kind": None, "demo": False}


class HostTalk(Protocol):
    """How the program on a host is spoken with: ``pool``'s."""

    def call_within(self, seconds: float, verb: str, **arguments: Any) -> Any:
        """The verb's result; blocking. Raises what it raised, and ``KeeperUnavailable`` while the host
        cannot be reached and when there is no answer by then."""


class _Promptly:
    """Of a host that hangs nobody waits long, whose turn it is to speak with another one."""

    def __init__(self, talk: HostTalk) -> None:
        self._talk = talk

    def call(self, verb: str, **arguments: Any) -> Any:
        """See ``HostTalk.call_within``."""
        return self._talk.call_within(_SECONDS, verb, **arguments)


class HostGatewayFiles(RemoteGatewayFiles):
    """See ``GatewayFiles``. While the host cannot be reached only ``describe`` does not raise
    ``KeeperUnavailable``."""

    def __init__(self, name: str, talk: HostTalk) -> None:
        GatewayFiles.__init__(self, Path("/nonexistent"))
        self.name = name
        self._steward = _Promptly(talk)
        self._described = dict(NOT_REACHED)

    def put_description(self, plain: Any) -> None:
        """What the host's ``describe`` gave. Raises ``PoolError`` for what is none."""
        self._described = self._as(dict[str, str | bool | None], plain)

    def own_keys_of(self, user_id: str) -> dict[str, bool]:
        """See ``GatewayFiles``."""
        return self._as(dict[str, bool], self._steward.call("own_keys_of", user_id=user_id))

    def grown(self, offsets: Mapping[str, int], about_bytes: int = _AT_ONCE) -> list[Stretch]:
        """See ``GatewayFiles``; entries that cannot be true are left out."""
        plain = self._steward.call("grown", offsets=dict(offsets), about_bytes=about_bytes)
        found = self._as(list[Stretch], plain)
        return [self._checked(one, offsets.get(one.file, 0)) for one in found]

    def finished(self, offsets: Mapping[str, int], before: float) -> list[str]:
        """See ``GatewayFiles``."""
        told = self._as(list[str], self._steward.call("finished", offsets=dict(offsets), before=before))
        return [file for file in told if file in offsets]

    def _checked(self, stretch: Stretch, start: int) -> Stretch:
        is_next = stretch.start == start and start < stretch.end <= start + _MOST_BYTES
        if not _FILE.fullmatch(stretch.file) or not is_next:
            raise PoolError(f"host {self.name} tells of a journal what is none")
        good = list(_believable(stretch.entries))
        if len(good) < len(stretch.entries):
            left_out = len(stretch.entries) - len(good)
            _log.error("host %s: %s entries of its journal are none and left out", self.name, left_out)
        return Stretch(stretch.file, stretch.start, stretch.end, good)

    def _as(self, kind: type[_T], plain: Any) -> _T:
        try:
            return msgspec.convert(plain, kind)
        except msgspec.ValidationError as error:
            raise PoolError(f"host {self.name} answers what is none: {error}") from error


def _believable(entries: Any) -> Iterator[Entry]:
    for entry in entries:
        tokens = (entry.input_tokens, entry.output_tokens, entry.cache_write_tokens, entry.cache_read_tokens)
        is_good = (
            all(0 <= count <= _MOST_TOKENS for count in tokens)
            and all(math.isfinite(number) and number >= 0 for number in (entry.at, entry.seconds, entry.usd))
            and entry.usd <= _MOST_USD
            and max(entry.at, entry.seconds) <= _LAST_MOMENT
            and all(len(text) <= _LONGEST for text in (entry.user, entry.session, entry.instance))
            and _NAME.fullmatch(entry.model)
            and _NAME.fullmatch(entry.provider)
        )
        if is_good:
            yield entry
