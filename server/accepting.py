"""What the log says when the machine gives no more connections: once in a while, not for every try."""

from __future__ import annotations

import asyncio
import errno
import logging
from typing import Any

_log = logging.getLogger(__name__)

_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_QUIET_SECONDS = 10.0


class AcceptFailures:
    """An exception handler of the event loop.

    asyncio tells of every failed ``accept``, as often as the backlog is long
    and again every second: that alone would fill a disk.
    """

    def __init__(self) -> None:
        self._quiet_until = 0.0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log a shortage of descriptors or memory seldom, everything else as ever."""
        error = context.get("exception")
        is_shortage = isinstance(error, OSError) and error.errno in _SHORTAGES
        if not is_shortage or "accept" not in str(context.get("message")):
            loop.default_exception_handler(context)
        elif loop.time() >= self._quiet_until:
            self._quiet_until = loop.time() + _QUIET_SECONDS
            _log.error("no connection can be taken: %s", error)
