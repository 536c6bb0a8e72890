"""A process that was stopped past its deadline: it does nothing more, whatever it was in the middle of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from server.replicas.alarm import Alarm, now
from tests.waiting import eventually_sync

_BEGIN = """
import asyncio, os
from server.replicas.alarm import Alarm, now

def ring():
    os._exit(7)

alarm = Alarm(ring)
deadline = now() + 1
alarm.set(deadline)
os.write(1, b"%a;" % deadline)
"""
_TIGHT = "while True: os.write(1, b'x')"
_LOOP = """
async def act():
    while True:
        os.write(1, b'x')
        await asyncio.sleep(0)

async def many():
    await asyncio.gather(*(act() for _ in range(50)))

asyncio.run(many())
"""


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("T")


@pytest.mark.parametrize("program", [_TIGHT, _LOOP], ids=["a tight loop", "many tasks that are ready"])
def test_who_wakes_after_the_deadline_is_ended_before_it_acts(program: str) -> None:
    reading, writing = os.pipe()
    command = [sys.executable, "-c", _BEGIN + program]
    process = subprocess.Popen(command, stdout=writing)
    os.close(writing)
    try:
        deadline = float(os.read(reading, 1 << 16).split(b";")[0])
        assert os.read(reading, 1 << 16), "it acts"
        os.kill(process.pid, signal.SIGSTOP)
        eventually_sync(lambda: _is_stopped(process.pid), 10, what="it is stopped")
        os.set_blocking(reading, False)
        while True:
            try:
                os.read(reading, 1 << 16)
            except BlockingIOError:
                break
        time.sleep(max(0.0, deadline + 0.1 - now()))
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait(30) == 7
        os.set_blocking(reading, True)
        said = os.read(reading, 1 << 16)
        # a call into the kernel that it was stopped in is finished, and that is all
        assert len(said) <= 1
    finally:
        process.kill()
        process.wait()
        os.close(reading)


def test_the_last_setting_counts_and_one_that_is_over_rings_at_once() -> None:
    rings: list[float] = []
    before = signal.getsignal(signal.SIGALRM)
    alarm = Alarm(lambda: rings.append(now()))
    try:
        began = now()
        alarm.set(began + 0.05)
        alarm.set(began + 3600)
        time.sleep(0.1)
        assert rings == []
        alarm.set(began)
        eventually_sync(lambda: len(rings) == 1, 10)
        alarm.set(now() + 0.05)
        eventually_sync(lambda: len(rings) == 2, 10)
    finally:
        alarm.close()
    alarm.close()
    assert signal.getsignal(signal.SIGALRM) is before
