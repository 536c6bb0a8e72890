"""Becomes a service user that has no rights, and then another program; run as a script of its own.

Usage: ``python -I -S service_user.py UID PROGRAM ARGUMENT...``

The user is in no group but the one of the same number, holds no capability and
can gain none, not by a set-uid program either; what it makes is its alone.

It imports nothing of the project. The keeper's side of it is here too: the command, and
the directories that such a user has to have.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

PRIVATE_DIRECTORIES = ("gateway", "own-keys")
"""Of a data directory: what the gateway reads its keys from and writes its journal to."""

_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_LAST_CAPABILITY = 63
_CAPABILITY_VERSION = 0x20080522


def main() -> None:
    """Become the program in the arguments; never returns."""
    program = sys.argv[2:]
    try:
        _become(int(sys.argv[1]))
        os.execv(program[0], program)
    except OSError as error:
        os.write(2, f"uid {sys.argv[1]} cannot run {program[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(126)


def as_service_user(uid: int | None, command: Sequence[str]) -> list[str]:
    """``command`` as ``uid``, without any rights; None: as who we are."""
    return [*command] if uid is None else [sys.executable, "-I", "-S", __file__, str(uid), *command]


def give_directories(data_dir: Path, uid: int) -> None:
    """Make the gateway's directories and the files in them ``uid``'s alone. Raises ``OSError``.

    A link, and a file that has a name elsewhere too, stays whose it is: who had
    the directory before may have put it there.
    """
    for name in PRIVATE_DIRECTORIES:
        (data_dir / name).mkdir(mode=0o700, exist_ok=True)
        directory = os.open(data_dir / name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for entry in os.listdir(directory):
                with contextlib.suppress(FileNotFoundError):
                    _give_file(directory, entry, uid)
            os.fchown(directory, uid, uid)
            os.fchmod(directory, 0o700)
        finally:
            os.close(directory)


def _give_file(directory: int, name: str, uid: int) -> None:
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if status.st_uid == uid or not stat.S_ISREG(status.st_mode):
        return
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.open(name, flags, dir_fd=directory)
    try:
        status = os.fstat(file)
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
            os.fchown(file, uid, uid)
    finally:
        os.close(file)


def _become(uid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(_LAST_CAPABILITY + 1):
        # unknown to an older kernel, or not allowed: without new privileges it could not be used anyway
        libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.umask(0o077)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    nothing = (ctypes.c_uint32 * 6)()
    no_new = [ctypes.c_ulong(1), *(ctypes.c_ulong(0) for _ in range(3))]
    if libc.capset(header, nothing) != 0 or libc.prctl(_PR_SET_NO_NEW_PRIVS, *no_new) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


if __name__ == "__main__":
    main()
