"""What a process holds, as ``/proc`` says, and what it has left on the machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.procfs import processes


@dataclass(frozen=True, slots=True)
class Holdings:
    """Counts of one process and of the directories that it makes temporary things in."""

    descriptors: int
    threads: int
    children: int
    zombies: int
    entries: int
    tasks: int = 0

    @classmethod
    def of(cls, pid: int, directories: Iterable[Path] = (), tasks: int = 0) -> Holdings:
        """What ``pid`` holds now; ``entries`` are those of ``directories``."""
        children = [process for process in processes() if process.ppid == pid]
        return cls(
            descriptors=len(os.listdir(f"/proc/{pid}/fd")),
            threads=len(os.listdir(f"/proc/{pid}/task")),
            children=len([child for child in children if not child.is_zombie]),
            zombies=len([child for child in children if child.is_zombie]),
            entries=sum(len(list(directory.iterdir())) for directory in directories if directory.is_dir()),
            tasks=tasks,
        )

    @classmethod
    def least(cls, looks: Sequence[Holdings]) -> Holdings:
        """The least of each count: what was there in every look."""
        return cls(**{name: min(asdict(look)[name] for look in looks) for name in asdict(looks[0])})

    def above(self, start: Holdings) -> list[str]:
        """In what it is above ``start``."""
        mine, theirs = asdict(self), asdict(start)
        return [f"{name} {theirs[name]} -> {mine[name]}" for name in mine if mine[name] > theirs[name]]


def resident_kib(pid: int) -> int:
    """The resident memory of a process, KiB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1])
