"""What ``/proc`` tells of a process: memory and CPU, read on demand, one small file each."""

from __future__ import annotations

import os
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


def rss_bytes(pid: int | None) -> int:
    """Resident memory of ``pid`` in bytes; 0 when it is gone."""
    if pid is None:
        return 0
    try:
        fields = Path(f"/proc/{pid}/statm").read_bytes().split()
    except OSError:
        return 0
    return int(fields[1]) * _PAGE_BYTES if len(fields) > 1 else 0


def cpu_seconds(pid: int | None) -> float:
    """CPU time of ``pid``, user and system, in seconds; 0 when it is gone."""
    if pid is None:
        return 0.0
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0.0
    fields = text[text.rfind(b")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def open_descriptors(pid: int) -> int:
    """How many descriptors ``pid`` has open; 0 when it is gone, or another user's."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def start_ticks(pid: int) -> int | None:
    """Field 22 of ``/proc/PID/stat``: clock ticks from boot to the process's start; None when gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return int(text[text.rfind(b")") + 2 :].split()[19])


def parent(pid: int) -> int | None:
    """The parent's pid; None when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return int(text[text.rfind(b")") + 2 :].split()[1])


def is_descendant(pid: int, ancestors: set[int]) -> bool:
    """Does the chain of parents of ``pid`` lead to one of ``ancestors``?"""
    seen = 0
    current: int | None = pid
    while current is not None and current > 1 and seen < 64:
        current = parent(current)
        if current in ancestors:
            return True
        seen += 1
    return False
