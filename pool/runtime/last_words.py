"""What an instance said and how it ended before it became ready, as an error for its owner."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from pool.errors import LaunchFailed, PoolError

if TYPE_CHECKING:
    from pool.runtime.instance import Instance


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
    tail = stderr.strip().splitlines()[-1:] or [""]
    return LaunchFailed(
        f"the claude CLI did not become ready: {message}" + (f" ({tail[0]})" if tail[0] else ""),
        details=details,
    )


async def _read_stderr(instance: Instance) -> str:
    if instance.handle is None:
        return ""
    try:
        return await instance.handle.stderr_tail()
    except PoolError:
        return ""
