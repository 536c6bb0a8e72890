"""What the HTTP side counts of itself; the pool counts the rest."""

from __future__ import annotations

from pool import Count, Histogram, Level, Metric

_LAG_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0)


class Counts:
    """One for each server."""

    def __init__(self) -> None:
        self.loop_lag = Histogram(
            "claude_pool_loop_lag_seconds",
            "How late the event loop came back to a task that slept, four times a second.",
            _LAG_SECONDS,
        )
        self.loop_work = Histogram(
            "claude_pool_loop_work_seconds",
            "The part of each such lateness in which the event loop's own thread was computing; "
            "the rest is a machine without a free processor, or a wait in the kernel.",
            _LAG_SECONDS,
        )
        self.connections = Level(
            "claude_pool_connections", "Open WebSockets and event streams.", "view", ("ws", "sse")
        )
        self.upgrades_lost = Count(
            "claude_pool_upgrades_lost_total",
            "WebSockets whose client had gone before they were open.",
        )
        self.bytes_sent = Count(
            "claude_pool_bytes_sent_total",
            "Bytes of frames that were handed to the kernel for clients, by view.",
            ("view",),
            known=("ws", "sse"),
        )
        self.errors = Count(
            "claude_pool_error_answers_total",
            "Errors that clients were answered, by view (http or ws) and error code.",
            ("view", "code"),
        )

    def metrics(self) -> list[Metric]:
        """All of them, as they are now."""
        return [one.metric() for one in vars(self).values()]
