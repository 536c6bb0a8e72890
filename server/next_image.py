"""Before a reload: what is installed and configured now is proven, and its configuration settled."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Sequence

from pool.errors import Conflict
from server.model_keys import SETTLE, new_memory

_CHECK_SECONDS = 120.0


class NextImage:
    """``command`` proves the next image; ``descriptor`` has its configuration once it was proven."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self.descriptor: int | None = None
        self._checking = threading.Lock()

    def check(self) -> None:
        """Blocking. Raises ``Conflict`` when what is installed and configured now could not serve, and while
        another check is under way: a server could ask for any number of them."""
        if not self._checking.acquire(blocking=False):
            raise Conflict("a check for a reload is under way")
        try:
            self._check()
        finally:
            self._checking.release()

    def _check(self) -> None:
        descriptor = new_memory()
        try:
            result = subprocess.run(
                list(self._command),
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=_CHECK_SECONDS,
                pass_fds=[descriptor],
                env={**os.environ, SETTLE: str(descriptor)},
                check=False,
            )
            if result.returncode != 0:
                output = (result.stderr or result.stdout).strip()
                raise Conflict(f"not reloaded, the check failed:\n{output}")
        except BaseException:
            os.close(descriptor)
            raise
        before, self.descriptor = self.descriptor, descriptor
        if before is not None:
            os.close(before)
