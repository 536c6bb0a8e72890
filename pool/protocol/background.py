"""Which background work (shells, agents) one instance has in flight."""

from __future__ import annotations

from pool.protocol.frames import TaskEvent

_OVER = ("completed", "failed", "stopped", "killed", "cancelled")


class BackgroundWork:
    """Follows the task frames of one instance. An instance with work in flight is not idle.

    The CLI sends the full live set after each change, which is the truth; the
    frames about one task count until it comes.
    """

    def __init__(self) -> None:
        self._live: set[str] = set()

    @property
    def task_ids(self) -> frozenset[str]:
        """The ids of the tasks in flight."""
        return frozenset(self._live)

    @property
    def is_active(self) -> bool:
        """Is anything in flight?"""
        return bool(self._live)

    def feed(self, event: TaskEvent) -> None:
        """Take the next task frame."""
        if event.tasks is not None:
            ids = (task.get("task_id") for task in event.tasks)
            self._live = {task_id for task_id in ids if isinstance(task_id, str)}
        elif event.task_id is None:
            return
        elif event.status in _OVER:
            self._live.discard(event.task_id)
        elif event.is_backgrounded:
            self._live.add(event.task_id)
