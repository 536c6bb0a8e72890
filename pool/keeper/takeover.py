"""The new image after an upgrade: it takes over, or ends everything and says so."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

from pool.keeper import procfs
from pool.keeper.handover import Unpacker
from pool.keeper.journal import Journal
from pool.keeper.log import Log
from pool.keeper.program import Program, Settings
from pool.keeper.reconcile import reconcile
from pool.keeper.server import SOCKET_NAME
from pool.keeper.upgrade import die_with_parent, release_signals

_END_SECONDS = 10.0
_PAUSE_SECONDS = 0.02


def log_path(settings: Settings) -> Path:
    """Where the keeper's log lies."""
    return settings.data_dir / "keeper" / "keeper.log"


def take_over(settings: Settings, state_fd: int) -> int:
    """Go on where the image before was; the exit code in the end.

    When its state cannot be taken over nothing is left of it, and the code is 1.
    """
    log = Log(log_path(settings))
    try:
        unpacker = Unpacker(state_fd)
        os.close(state_fd)
        lock_fd = unpacker.descriptor(unpacker.state["lock"])
        program = Program(settings, log, lock_fd)
        call = program.restore(unpacker)
        program.restored(call, unpacker.close_unclaimed())
    except Exception:
        log.exception("take_over_failed")
        traceback.print_exc()
        _end_everything(settings, log)
        return 1
    release_signals()
    return program.run()


def check(settings: Settings, state_fd: int) -> int:
    """Would ``take_over`` work? Everything is built of copies of the descriptors, and nothing is run."""
    die_with_parent()
    try:
        unpacker = Unpacker(state_fd)
        lock_fd = unpacker.descriptor(unpacker.state["lock"])
        Program(settings, Log(Path(os.devnull)), lock_fd).restore(unpacker)
    except Exception as error:  # noqa: BLE001 - the answer is no, for whatever reason
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    # nothing of it is to be closed in order: it is all somebody else's
    os._exit(0)


def _end_everything(settings: Settings, log: Log) -> None:
    """KILL every child, and what the journal knows; all of it is ours, since it was the image's before."""
    deadline = time.monotonic() + _END_SECONDS
    while time.monotonic() < deadline:
        left = procfs.children(os.getpid())
        for pid in left:
            # nobody but us can reap a child of ours: the pid is nobody else's
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not left:
            break
        time.sleep(_PAUSE_SECONDS)
    reconcile(Journal(settings.data_dir / "keeper" / "instances"), procfs.site_of(settings.data_dir), log)
    (settings.runtime_dir / SOCKET_NAME).unlink(missing_ok=True)
    log.write("keeper_left", code=1)
