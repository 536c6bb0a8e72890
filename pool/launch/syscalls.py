"""Which system calls a sandboxed program may not make, and what it is told instead.

The kernel is the one thing that all sandboxes share. What is refused here is
what a CLI and its tools have no use for and what holes in kernels, and ways
out of sandboxes, were mostly found in. The answer is an error and not a death,
since many programs try such a call and go on without it.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

X86_64 = "x86_64"
AARCH64 = "aarch64"

# the numbers of a call: x86_64, aarch64; None where there is no such call
_Numbers = tuple[int | None, int | None]


@dataclass(frozen=True, slots=True)
class AnyBit:
    """True when the argument has one of the bits of ``mask``."""

    argument: int
    mask: int


@dataclass(frozen=True, slots=True)
class OneOf:
    """True when the argument is one of ``values``."""

    argument: int
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NoneOf:
    """True when the argument is none of ``values``."""

    argument: int
    values: tuple[int, ...]


Condition = AnyBit | OneOf | NoneOf


@dataclass(frozen=True, slots=True)
class Refusal:
    """The call fails with ``error`` when all conditions hold; without any, always.

    Only the low 32 bits of an argument are looked at: the kernel looks at no
    more of those that are named here.
    """

    error: int
    conditions: tuple[Condition, ...] = ()


# other processes
_PROCESSES: Mapping[str, _Numbers] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
}
# parts of the kernel with a long list of holes
_KERNEL_PARTS: Mapping[str, _Numbers] = {
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    "lookup_dcookie": (212, 18),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "sysfs": (139, None),
    "_sysctl": (156, None),
    "nfsservctl": (180, 42),
    "syslog": (103, 116),
}
# mounts, namespaces, files by handle instead of by path
_MOUNTS: Mapping[str, _Numbers] = {
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "unshare": (272, 97),
    "setns": (308, 268),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
}
# the machine itself
_MACHINE: Mapping[str, _Numbers] = {
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "create_module": (174, None),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "vhangup": (153, 58),
    "iopl": (172, None),
    "ioperm": (173, None),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
}
# programs that try these first know another way, if they are told that the kernel has none of them;
# clone3 and openat2 have their flags in memory, where a filter cannot look
_UNKNOWN: Mapping[str, _Numbers] = {
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "clone3": (435, 435),
    "openat2": (437, 437),
}
_OTHERS: Mapping[str, _Numbers] = {
    "clone": (56, 220),
    "ioctl": (16, 29),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "creat": (85, None),
    "open": (2, None),
    "openat": (257, 56),
    "mknod": (133, None),
    "mknodat": (259, 33),
}

# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET; NEWTIME is for clone3 and unshare only
_NAMESPACES = 0x7E020000
# they type into the terminal that one was started from
_TERMINAL_INPUT = (0x5412, 0x541C)
_SOCKET_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
_NETLINK_ROUTE = 0
# S_ISUID and S_ISGID: who runs such a file on the host becomes its owner
_SET_ID = 0o6000
_CREATES = 0o100 | 0o20000000

_SET_ID_ARGUMENTS: Mapping[str, int] = {
    "chmod": 1,
    "fchmod": 1,
    "fchmodat": 2,
    "fchmodat2": 2,
    "creat": 1,
    "mknod": 1,
    "mknodat": 2,
}


def refusals(machine: str) -> Mapping[int, tuple[Refusal, ...]]:
    """What is refused on ``machine``, by the call's number. Raises ``KeyError`` for an unknown machine."""
    column = {X86_64: 0, AARCH64: 1}[machine]
    numbers = {**_PROCESSES, **_KERNEL_PARTS, **_MOUNTS, **_MACHINE, **_UNKNOWN, **_OTHERS}
    found: dict[int, tuple[Refusal, ...]] = {}
    for name, refusal in _named():
        number = numbers[name][column]
        if number is not None:
            found[number] = (*found.get(number, ()), refusal)
    return found


def _named() -> Iterator[tuple[str, Refusal]]:
    for table in (_PROCESSES, _KERNEL_PARTS, _MOUNTS, _MACHINE):
        for name in table:
            yield name, Refusal(errno.EPERM)
    for name in _UNKNOWN:
        yield name, Refusal(errno.ENOSYS)
    yield "clone", Refusal(errno.EPERM, (AnyBit(0, _NAMESPACES),))
    yield "ioctl", Refusal(errno.EPERM, (OneOf(1, _TERMINAL_INPUT),))
    for name in ("socket", "socketpair"):
        yield name, Refusal(errno.EAFNOSUPPORT, (NoneOf(0, _SOCKET_FAMILIES),))
    yield (
        "socket",
        Refusal(errno.EPROTONOSUPPORT, (OneOf(0, (socket.AF_NETLINK,)), NoneOf(2, (_NETLINK_ROUTE,)))),
    )
    for name, argument in _SET_ID_ARGUMENTS.items():
        yield name, Refusal(errno.EPERM, (AnyBit(argument, _SET_ID),))
    for name, flags in (("open", 1), ("openat", 2)):
        # without these flags the mode is whatever happens to lie in the register
        yield name, Refusal(errno.EPERM, (AnyBit(flags, _CREATES), AnyBit(flags + 1, _SET_ID)))
