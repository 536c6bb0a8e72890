"""A pool of threads is whole from the beginning."""

from __future__ import annotations

import threading

from server.threads import whole_pool


def test_all_threads_are_there_before_any_work_and_no_more_come() -> None:
    executor = whole_pool(5, "whole")
    mine = {thread for thread in threading.enumerate() if thread.name.startswith("whole")}
    assert len(mine) == 5
    together = threading.Barrier(5)
    for place in [executor.submit(together.wait, 10) for _ in range(5)]:
        place.result(10)
    assert {thread for thread in threading.enumerate() if thread.name.startswith("whole")} == mine
    executor.shutdown()
    assert not any(thread.is_alive() for thread in mine)
