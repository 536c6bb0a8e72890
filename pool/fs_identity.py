"""Touch files as another user, in this thread alone.

The server may be root, but what it does below a user's workspace must not be
able to do more than the user could. Linux keeps one more user id per thread,
for file systems only: while it is not root's, the kernel also takes the
thread's rights over files away (CAP_DAC_OVERRIDE and its kin). The C library
would change all threads, so the system calls are made directly.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator

# x86_64, aarch64
_NUMBERS = {"setfsuid": (122, 151), "setfsgid": (123, 152), "getgroups": (115, 158), "setgroups": (116, 159)}
_MACHINES = ("x86_64", "aarch64")
_ASK = 0xFFFFFFFF
_MOST_GROUPS = 65536

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def acting_as(uid: int, gid: int) -> Iterator[None]:
    """Root's thread opens, makes and renames as ``uid`` and ``gid``, in no other group.

    Without effect for a process that is not root's, and for uid 0. Never
    hold it over an ``await`` or a ``yield``. Raises ``PermissionError`` where
    the kernel does not let us; nothing was done then. A thread that could not
    be given back its own identity takes the process down.
    """
    if os.geteuid() != 0 or uid == 0:
        yield
        return
    groups = _groups()
    try:
        _become(uid, gid, ())
        yield
    finally:
        # first the user: without its rights over files root could still change groups, but not be sure of it
        try:
            _become(0, os.getegid(), groups)
        except OSError:
            os.abort()


@contextlib.contextmanager
def acting_as_owner_of(descriptor: int | None) -> Iterator[None]:
    """``acting_as`` who owns the directory open as ``descriptor``; None: as we are.

    Only root can give a directory to a user, so an owner cannot be made up.
    """
    if descriptor is None or os.geteuid() != 0:
        yield
        return
    status = os.fstat(descriptor)
    with acting_as(status.st_uid, status.st_gid):
        yield


def _become(uid: int, gid: int, groups: tuple[int, ...]) -> None:
    room = (ctypes.c_uint32 * max(1, len(groups)))(*groups)
    _checked(_call("setgroups", len(groups), room))
    # these two do not tell of a failure; asking does
    _call("setfsgid", gid)
    _call("setfsuid", uid)
    if _call("setfsgid", _ASK) != gid or _call("setfsuid", _ASK) != uid:
        raise PermissionError(f"this process may not act as uid {uid}")


def _groups() -> tuple[int, ...]:
    room = (ctypes.c_uint32 * _MOST_GROUPS)()
    count = _checked(_call("getgroups", _MOST_GROUPS, room))
    return tuple(room[:count])


def _call(name: str, *arguments: int | ctypes.Array[ctypes.c_uint32]) -> int:
    number = _NUMBERS[name][_MACHINES.index(platform.machine())]
    whole = [ctypes.c_long(item) if isinstance(item, int) else item for item in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *whole)
    return result


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise PermissionError(code, os.strerror(code))
    return result
