"""What is loaded when a process begins to serve is left alone by the garbage collector."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc
from server.collector import keep_what_is_loaded, wait_until_all_is_loaded

wait_until_all_is_loaded()
import server.app

class Loop:
    pass

loaded = len(gc.get_objects())
keep_what_is_loaded()
left = len(gc.get_objects())
loop = Loop()
loop.me = loop
del loop
print(loaded, left, gc.collect(), gc.isenabled())
"""


def test_only_what_came_later_is_looked_through() -> None:
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60
    )
    *counts, goes_on = told.stdout.split()
    loaded, left, found = map(int, counts)
    assert left < loaded // 100
    assert found > 0, "and that is still collected"
    assert goes_on == "True"
