"""The program that runs every command of the CLI's tools, under limits that would end the CLI itself."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path

from pool.config import Quota
from pool.errors import LaunchFailed

IN_SANDBOX = "/opt/claude/tool-limits"

# with less the shell cannot do what the CLI has it do around a command
LEAST_FILE_BYTES = 1024 * 1024
# after SIGXCPU, until the kernel kills
_GRACE_SECONDS = 5
# sh counts the size of files in these, whichever shell it is
_BLOCK_BYTES = 512
# so much sooner than the CLI does the kernel take a tool when memory runs out
_SOONER = 100

# Names and builtins are not taken from the environment, where a user's settings may have put them.
_BEGIN = """\
#!/bin/sh
# Written by claude-pool. The limits are part of the text: a variable could be changed by a settings file.
unset -f ulimit read echo
__refuse() {
    echo "claude-pool did not run this command: $1" >&2
    exit 126
}
__is_at_most() {
    case $1 in '' | *[!0-9]*) return 1 ;; esac
    case $(($1 <= $2)) in 1) return 0 ;; esac
    return 1
}
case $# in 1) ;; *) __refuse "the CLI gave $# arguments for one" ;; esac
"""

# What counts is what the kernel says afterwards: a limit that was lower before is as good.
_LOOK = """\
__file= __cpu=
while read -r __name __one __two __soft __hard __rest; do
    case "$__one $__two" in
        'file size') __file=$__hard ;;
        'cpu time') __cpu=$__hard ;;
    esac
done </proc/self/limits
"""

# Raising needs no right; where /proc cannot be written to, nothing changes.
_RUN = f"""\
{{ read -r __name </proc/self/oom_score_adj && echo $((__name + {_SOONER})) >/proc/self/oom_score_adj
}} 2>/dev/null
unset __file __cpu __name __one __two __soft __hard __rest
if [ -x /bin/bash ]; then exec /bin/bash -c "$1"; fi
exec /bin/sh -c "$1"
"""


@dataclass(frozen=True, slots=True)
class ToolLimits:
    """What one process of a tool may take; None is no limit.

    ``file_bytes`` is the largest file that it can write, ``cpu_seconds`` its
    processor time.
    """

    file_bytes: int | None
    cpu_seconds: int | None

    @classmethod
    def of(cls, quota: Quota) -> ToolLimits | None:
        """The limits of a quota, not below what a shell needs; None when there are none."""
        size, seconds = quota.tool_file_bytes, quota.tool_cpu_seconds
        if size is None and seconds is None:
            return None
        return cls(
            None if size is None else max(size, LEAST_FILE_BYTES) // _BLOCK_BYTES * _BLOCK_BYTES,
            None if seconds is None else max(1, math.ceil(seconds)),
        )


def limiting_program(limits: ToolLimits) -> str:
    """A script for sh that takes on the limits and runs its one argument, or nothing at all."""
    lines = []
    checks = []
    if limits.file_bytes is not None:
        blocks = limits.file_bytes // _BLOCK_BYTES
        lines += [f"ulimit -S -f {blocks}", f"ulimit -H -f {blocks}"]
        checks.append(f'__is_at_most "$__file" {limits.file_bytes} || __refuse "its files have no limit"')
    if limits.cpu_seconds is not None:
        hard = limits.cpu_seconds + _GRACE_SECONDS
        lines += [f"ulimit -S -t {limits.cpu_seconds}", f"ulimit -H -t {hard}"]
        checks.append(f'__is_at_most "$__cpu" {hard} || __refuse "its processor time has no limit"')
    taken = "{ " + "; ".join(lines) + "; } 2>/dev/null\n"
    return _BEGIN + taken + _LOOK + "\n".join(checks) + "\n" + _RUN


class ToolPrograms:
    """The programs in one data directory, one for each pair of limits."""

    def __init__(self, data_dir: Path) -> None:
        self._directory = data_dir / "tools"

    def path(self, limits: ToolLimits) -> Path:
        """Where the program for ``limits`` is, or will be."""
        return self._directory / hashlib.sha256(limiting_program(limits).encode()).hexdigest()[:16]

    def write(self, limits: ToolLimits) -> Path:
        """See that the program is there, and that everybody can run it and only the service change it.

        Blocking. Raises ``LaunchFailed``.
        """
        path, content = self.path(limits), limiting_program(limits).encode()
        try:
            if not path.exists() or path.read_bytes() != content:
                self._put(path, content)
        except OSError as error:
            problem = f"the program that limits tools cannot be written: {error}"
            raise LaunchFailed(problem, details={"step": "tools"}) from error
        if not os.access(path, os.X_OK):
            raise LaunchFailed(
                f"{path} cannot be run: mount its file system without noexec,"
                " or set tool_file_bytes and tool_cpu_seconds to null",
                details={"step": "tools"},
            )
        return path

    def _put(self, path: Path, content: bytes) -> None:
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._directory.chmod(0o755)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
        temporary.write_bytes(content)
        temporary.chmod(0o755)
        temporary.replace(path)


def check_prefix(path: str) -> str:
    """``path`` as the CLI takes it. Raises ``LaunchFailed`` where the CLI would see options in it."""
    if " -" in path:
        raise LaunchFailed(
            f"{path}: with ' -' in its path no program can limit tools; move the data directory,"
            " or set tool_file_bytes and tool_cpu_seconds to null",
            details={"step": "tools"},
        )
    return path
