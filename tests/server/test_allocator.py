"""Memory that threads have freed goes back to the machine. glibc's options, in a process of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = r"""
import re, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from argon2 import PasswordHasher
from server.allocator import give_memory_back

def resident_kib():
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1])

known = give_memory_back() if sys.argv[1] == "asked" else True
hasher = PasswordHasher(time_cost=1, memory_cost=19456, parallelism=1)
with ThreadPoolExecutor(1) as threads:
    threads.submit(sum, ()).result()
    before = resident_kib()
    for _ in range(3):
        threads.submit(hasher.hash, "correct horse").result()
    print(int(known), resident_kib() - before)
"""


def kept_kib(word: str) -> int:
    """What a process keeps after its thread has hashed passwords."""
    command = [sys.executable, "-c", PROGRAM, word]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    known, kept = map(int, told.stdout.split())
    if not known:
        pytest.skip("this C library has no mallopt")
    return kept


def test_a_thread_that_has_hashed_keeps_nothing_of_it() -> None:
    assert kept_kib("asked") < 4096
    assert kept_kib("left alone") > 16384, "so this is what does it"


HOLES = r"""
import asyncio, re
from pathlib import Path
from server import allocator

def resident_kib():
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1])

async def main():
    allocator.give_memory_back()
    frames = [bytes(8000) for _ in range(6000)]
    del frames[1::2]
    for _ in range(8):
        frames[:] = [frame for number, frame in enumerate(frames) if number % 8]
    before = resident_kib()
    giving = asyncio.create_task(allocator.give_holes_back())
    while not giving.done() and resident_kib() > before - 4096:
        await asyncio.sleep(0.01)
    giving.cancel()
    print(before - resident_kib(), len(frames) > 100)

allocator._EVERY_SECONDS = 0.01
asyncio.run(main())
"""


def test_holes_between_what_lives_are_given_back() -> None:
    command = [sys.executable, "-c", HOLES]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    given, some_live = told.stdout.split()
    assert some_live == "True"
    assert int(given) > 4096
