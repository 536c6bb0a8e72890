"""What an instance said and how it ended before it became ready, as an error for its owner."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from pool.errors import LaunchFailed, PoolError

if TYPE_CHECKING:
    from pool.runtime.instance import Instance

_MOST_CHARACTERS = 500


async def launch_failed(instance: Instance, message: str) -> LaunchFailed:
    """The error of a launch that got stuck at ``message``, with the failed step and the last of stderr."""
    # The exit usually follows the closed pipe by a moment; its status makes the better message.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.5 if instance.exit_status is None else 0):
            await instance.ended.wait()
    stderr = instance.stderr_tail or await _read_stderr(instance)
    status = instance.exit_status
    if status is not None:
        message = f"the process {status.describe()}"
    details: dict[str, Any] = {"step": "initialize", "stderr": stderr[-2000:]}
    if status is not None:
        details |= {"exit_code": status.code, "signal": status.signal}
    said = last_lines(stderr, 1)
    return LaunchFailed(
        f"the claude CLI did not become ready: {message}" + (f" ({said})" if said else ""),
        details=details,
    )


def last_lines(stderr: str, count: int = 3) -> str:
    """The last lines that say something, for the owner's eyes only: never in a log of the server."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return " / ".join(lines[-count:])[-_MOST_CHARACTERS:]


async def _read_stderr(instance: Instance) -> str:
    if instance.handle is None:
        return ""
    try:
        return await instance.handle.stderr_tail()
    except PoolError:
        return ""
