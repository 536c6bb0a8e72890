"""What the commands on a stand-by's machine can have of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from pool.errors import Conflict

_AFTER_THE_ANSWER_SECONDS = 0.1


class StandByCommands:
    """``stop`` and ``reload`` bring about what their names say; ``check`` is made before a reload.

    ``hello`` says who this is.
    """

    def __init__(
        self,
        hello: Mapping[str, Any],
        stop: Callable[[], None],
        reload: Callable[[], None],
        check: Callable[[], None],
    ) -> None:
        self._hello = dict(hello)
        self._stop = stop
        self._reload = reload
        self._check = check

    async def run(self, name: str, _arguments: Mapping[str, Any]) -> Any:
        """The result. Raises ``Conflict`` for what only the owner can do, and for a check that failed."""
        if name == "hello":
            return self._hello
        if name == "stop":
            self._stop()
            return {}
        if name == "reload":
            await asyncio.to_thread(self._check)
            asyncio.get_running_loop().call_later(_AFTER_THE_ANSWER_SECONDS, self._reload)
            return {**self._hello, "keeper": "none", "gateway": "none"}
        raise Conflict("this replica stands by: give the command where the owner of the pool runs")
