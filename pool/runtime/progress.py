"""What an instance is at, as far as its frames tell: which tools run, whether a model call is made again."""

from __future__ import annotations

from pool.protocol import frames
from pool.protocol.tool_use import tools_answered, tools_called


class Progress:
    """Kept by the reader. Token deltas are not shown to it: they count as output by themselves.

    ``tools`` are the ids of calls without an answer; ``is_retrying`` from a
    failed model call to the next frame; ``idle_bytes`` is output that says
    only that the CLI lives.
    """

    def __init__(self) -> None:
        self.tools: set[str] = set()
        self.is_retrying = False
        self.idle_bytes = 0

    def saw(self, frame: frames.Frame) -> None:
        """Take one frame that is no token delta."""
        if isinstance(frame, frames.KeepAlive | frames.ControlResponse):
            self.idle_bytes += len(frame.raw) + 1
            return
        self.is_retrying = isinstance(frame, frames.ApiRetry)
        if isinstance(frame, frames.Assistant):
            self.tools.update(tools_called(frame.raw))
        elif isinstance(frame, frames.UserFrame):
            self.tools.difference_update(tools_answered(frame.raw))
        elif isinstance(frame, frames.Result):
            self.tools.clear()
