"""``make test-memory-controller``: boots user-mode Linux, a kernel as a process, and runs the tests in it.

The machine's own control groups are not touched. Its files are seen through
hostfs, mounted read-only; what is written goes to memory. Needs Debian's
package user-mode-linux; without it nothing is run and the reason told, which is a
failure where ``CI`` is set.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

TREE = Path(__file__).parents[2]
TESTS = ("tests/pool/keeper/test_memory_controller.py", "tests/pool/keeper/test_cgroup.py")
_RESULT = "RESULT "

_INIT = """#!/bin/bash
export PATH={path} HOME=/tmp LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc
mount -t sysfs sys /sys
for place in /tmp /run /dev/shm; do mkdir -p $place 2>/dev/null; mount -t tmpfs tmpfs $place; done
mkdir -p /dev/pts && mount -t devpts devpts /dev/pts
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo '+memory +pids' > /sys/fs/cgroup/cgroup.subtree_control
hostname inside
ip link set lo up
chmod 1777 /tmp
cd {tree}
echo "KERNEL $(uname -sr), controllers: $(cat /sys/fs/cgroup/cgroup.subtree_control)"
{python} -m pytest -q -rs --color=no -p no:randomly -p no:cacheprovider -o timeout=600 {words}
echo "{result}$?"
echo o > /proc/sysrq-trigger
sleep 60
"""


def main() -> int:
    """Boot, show what comes, shut down."""
    parser = argparse.ArgumentParser(prog="python -m tests.memory_controller", description=__doc__)
    parser.add_argument("--kernel", default=shutil.which("linux.uml"), help="the kernel's program")
    parser.add_argument("--memory", default="3G", help="of the machine in the machine")
    parser.add_argument("--seconds", type=float, default=1200, help="until it is given up")
    parser.add_argument("words", nargs="*", default=list(TESTS), help="for pytest")
    options = parser.parse_args()
    if options.kernel is None:
        return skipped("there is no linux.uml; install Debian's package user-mode-linux")
    if os.geteuid() != 0:
        return skipped("only root may read what root in the machine in the machine must read")
    with TemporaryDirectory(prefix="cp-uml-") as directory:
        init = Path(directory, "init")
        init.write_text(
            _INIT.format(
                path=os.environ["PATH"],
                tree=shlex.quote(str(TREE)),
                python=shlex.quote(sys.executable),
                words=shlex.join(options.words),
                result=_RESULT,
            )
        )
        init.chmod(0o755)
        return boot(options.kernel, init, options.memory, options.seconds, Path(directory))


def skipped(reason: str) -> int:
    """Tell why nothing was run; the exit code."""
    print(f"skipped: {reason}")
    return 1 if os.environ.get("CI") else 0


def boot(kernel: str, init: Path, memory: str, seconds: float, directory: Path) -> int:
    """Run ``init`` as the first process of a kernel; the exit code of what it ran."""
    command = [
        kernel,
        f"mem={memory}",
        "root=/dev/root",
        "rootfstype=hostfs",
        "rootflags=/",
        "ro",
        f"init={init}",
        f"uml_dir={directory}",
        "con=null",
        "con0=null,fd:1",
        "quiet",
    ]
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(directory)}
    process = subprocess.Popen(
        ["timeout", "--kill-after=10", str(seconds), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        text=True,
        errors="replace",
    )
    result = 1
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(_RESULT):
            result = int(line[len(_RESULT) :])
        else:
            print(line, end="", flush=True)
    process.wait()
    return result


if __name__ == "__main__":
    sys.exit(main())
