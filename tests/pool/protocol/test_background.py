"""Background work in flight, followed from its frames."""

from __future__ import annotations

import json
from typing import Any

from pool.protocol.background import BackgroundWork
from pool.protocol.frames import TaskEvent
from pool.protocol.parsing import parse_frame


def event(subtype: str, **fields: Any) -> TaskEvent:
    frame = parse_frame(json.dumps({"type": "system", "subtype": subtype, **fields}).encode())
    assert isinstance(frame, TaskEvent)
    return frame


def test_a_background_shell_from_start_to_end_as_the_cli_tells_it() -> None:
    work = BackgroundWork()
    work.feed(event("background_tasks_changed", tasks=[{"task_id": "b7", "task_type": "local_bash"}]))
    work.feed(event("task_started", task_id="b7", is_backgrounded=True))
    assert work.is_active
    assert work.task_ids == {"b7"}
    work.feed(event("task_updated", task_id="b7", patch={"status": "completed"}))
    work.feed(event("task_notification", task_id="b7", status="completed"))
    work.feed(event("background_tasks_changed", tasks=[]))
    assert not work.is_active


def test_a_foreground_shell_that_takes_long_is_no_background_work() -> None:
    work = BackgroundWork()
    work.feed(event("task_started", task_id="f1", is_backgrounded=False))
    assert not work.is_active
    work.feed(event("task_updated", task_id="f1", patch={"is_backgrounded": True}))
    assert work.is_active


def test_the_full_set_is_the_truth() -> None:
    work = BackgroundWork()
    work.feed(event("task_started", task_id="a", is_backgrounded=True))
    work.feed(event("background_tasks_changed", tasks=[{"task_id": "b"}, {"task_id": 7}]))
    assert work.task_ids == {"b"}
    work.feed(event("task_notification", status="stopped"))
    assert work.task_ids == {"b"}
