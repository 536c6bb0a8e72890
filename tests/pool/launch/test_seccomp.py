"""The filter of system calls: as a program that is played here, and as the kernel runs it."""

from __future__ import annotations

import errno
import platform
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pool.launch.isolation import probe
from pool.launch.seccomp import MACHINES, filter_program, steps
from pool.launch.syscalls import AARCH64, X86_64, refusals
from tests.pool.launch.rig import Stand

ARCHITECTURES = {X86_64: 0xC000003E, AARCH64: 0xC00000B7}
ALLOWED, KILLED = 0x7FFF0000, 0x80000000
NUMBERS = {
    X86_64: {"read": 0, "clone": 56, "socket": 41, "ioctl": 16, "openat": 257, "fchmod": 91, "execve": 59},
    AARCH64: {
        "read": 63,
        "clone": 220,
        "socket": 198,
        "ioctl": 29,
        "openat": 56,
        "fchmod": 52,
        "execve": 221,
    },
}


def play(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """What the kernel would make of a call."""
    data = struct.pack(
        "<IIQ6Q",
        number,
        ARCHITECTURES[machine] if architecture is None else architecture,
        0,
        *(*arguments, *(0,) * (6 - len(arguments))),
    )
    at, loaded = 0, 0
    program = steps(machine)
    while True:
        step = program[at]
        at += 1
        if step.code == 0x06:
            return step.value
        if step.code == 0x20:
            (loaded,) = struct.unpack_from("<I", data, step.value)
            continue
        holds = {0x15: loaded == step.value, 0x35: loaded >= step.value, 0x45: bool(loaded & step.value)}
        at += step.if_true if holds[step.code] else step.if_false


def refused(error: int) -> int:
    return 0x00050000 | error


@pytest.mark.parametrize("machine", MACHINES)
def test_every_call_that_is_refused_whatever_its_arguments(machine: str) -> None:
    always = {number: rules[0] for number, rules in refusals(machine).items() if not rules[0].conditions}
    assert len(always) > 50
    for number, rule in always.items():
        for argument in (0, 1, 2**64 - 1):
            assert play(machine, number, *(argument,) * 6) == refused(rule.error)


@pytest.mark.parametrize("machine", MACHINES)
def test_every_other_call_is_let_through(machine: str) -> None:
    for number in set(range(480)) - set(refusals(machine)):
        assert play(machine, number, *(2**64 - 1,) * 6) == ALLOWED


@pytest.mark.parametrize("machine", MACHINES)
def test_some_depend_on_what_is_asked(machine: str) -> None:
    number = NUMBERS[machine]
    thread, process = 0x3D0F00, 0x1200011
    assert play(machine, number["clone"], thread) == play(machine, number["clone"], process) == ALLOWED
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert play(machine, number["clone"], process | flag) == refused(errno.EPERM)
    assert play(machine, number["ioctl"], 0, 0x5413) == ALLOWED
    for typing in (0x5412, 0x541C, 0x5412 | 1 << 32):
        assert play(machine, number["ioctl"], 0, typing) == refused(errno.EPERM)
    assert play(machine, number["fchmod"], 3, 0o755) == ALLOWED
    for mode in (0o4755, 0o2755):
        assert play(machine, number["fchmod"], 3, mode) == refused(errno.EPERM)
        assert play(machine, number["openat"], 3, 0, 0o101, mode) == refused(errno.EPERM)
        # the mode counts only when a file is made
        assert play(machine, number["openat"], 3, 0, 0o1, mode) == ALLOWED
    assert play(machine, number["openat"], 3, 0, 0o101, 0o644) == ALLOWED


@pytest.mark.parametrize("machine", MACHINES)
def test_families_of_sockets(machine: str) -> None:
    number = NUMBERS[machine]["socket"]
    usual = {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK}
    for family in range(64):
        expected = ALLOWED if family in usual else refused(errno.EAFNOSUPPORT)
        assert play(machine, number, family, 1, 0) == expected, family
        assert play(machine, number, family | 7 << 32, 1, 0) == expected
    assert play(machine, number, socket.AF_INET, 1, 6) == ALLOWED
    assert play(machine, number, socket.AF_NETLINK, 3, 4) == refused(errno.EPROTONOSUPPORT)


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_in_another_architectures_way(machine: str) -> None:
    for architecture in (0x40000003, 0x40000028, 0):
        assert play(machine, NUMBERS[machine]["read"], architecture=architecture) == KILLED
    second_set = 0x40000000 | 101
    assert play(machine, second_set) == (refused(errno.ENOSYS) if machine == X86_64 else ALLOWED)


@pytest.mark.parametrize("machine", MACHINES)
def test_the_bytes_are_what_the_kernel_takes(machine: str) -> None:
    program = filter_program(machine)
    assert len(program) == 8 * len(steps(machine)) < 8 * 4096
    assert struct.unpack_from("<HBBI", program) == (0x20, 0, 0, 4)


needs_filter = pytest.mark.skipif(not probe().filters_calls, reason="no bubblewrap with a filter")

# every call without conditions, with arguments that do nothing; and what would work if nobody refused it
TRY = """
import ctypes, errno, os, pty, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    ctypes.set_errno(0)
    given = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    if libc.syscall(*given) >= 0:
        return 'done'
    return errno.errorcode[ctypes.get_errno()]
def attempt(what):
    try:
        what()
    except OSError as error:
        return errno.errorcode[error.errno]
    return 'done'
"""


@needs_filter
async def test_the_kernel_refuses_each_of_them(stand_of: Callable[..., Stand]) -> None:
    stand = stand_of("bwrap")
    await stand.launcher.open(1)
    rules = refusals(platform.machine())
    always = {number: each[0].error for number, each in rules.items() if not each[0].conditions}
    program = TRY + f"print(json.dumps({{number: call(number, *[-1] * 6) for number in {list(always)}}}))"
    seen = {int(number): told for number, told in (await stand.do(program)).items()}
    assert seen == {number: errno.errorcode[error] for number, error in always.items()}


@needs_filter
async def test_the_kernel_looks_at_arguments_too(stand_of: Callable[..., Stand]) -> None:
    stand = stand_of("bwrap")
    await stand.launcher.open(1)
    number = NUMBERS[platform.machine()]
    program = f"""{TRY}
(stand_in := open('made', 'w')).close()
primary, secondary = pty.openpty()
import fcntl
print(json.dumps({{
    'vsock': attempt(lambda: socket.socket(40, socket.SOCK_STREAM)),
    'packet': attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
    'alg': attempt(lambda: socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)),
    'netfilter': attempt(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)),
    'tcp': attempt(lambda: socket.socket().close()),
    'pair': attempt(lambda: [end.close() for end in socket.socketpair()]),
    'names': attempt(lambda: socket.getaddrinfo('localhost', 80)),
    'namespace': call({number["clone"]}, 0x10000011, 0, 0, 0, 0),
    'typing': attempt(lambda: fcntl.ioctl(secondary, 0x5412, b'x')),
    'window': attempt(lambda: fcntl.ioctl(secondary, 0x5413, b'12345678')),
    'setuid': attempt(lambda: os.chmod('made', 0o4755)),
    'setgid': attempt(lambda: os.open('other', os.O_CREAT | os.O_WRONLY, 0o2755)),
    'mode': attempt(lambda: os.chmod('made', 0o755)),
}}))"""
    assert await stand.do(program) == {
        "vsock": "EAFNOSUPPORT",
        "packet": "EAFNOSUPPORT",
        "alg": "EAFNOSUPPORT",
        "netfilter": "EPROTONOSUPPORT",
        "tcp": "done",
        "pair": "done",
        "names": "done",
        "namespace": "EPERM",
        "typing": "EPERM",
        "window": "done",
        "setuid": "EPERM",
        "setgid": "EPERM",
        "mode": "done",
    }


@needs_filter
@pytest.mark.skipif(platform.machine() != X86_64, reason="the old way of calling is x86's")
async def test_a_call_in_the_old_way_is_death(stand_of: Callable[..., Stand]) -> None:
    stand = stand_of("bwrap")
    await stand.launcher.open(1)
    # mov eax, 20 (getpid); int 0x80; ret
    program = """
import ctypes, mmap, os
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex('b814000000cd80c3'))
child = os.fork()
if child == 0:
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    # SIGSYS, or SIGSEGV from a kernel that has no such calls at all
    assert await stand.do(program) in (-31, -11)


@needs_filter
async def test_what_people_use_goes_on(stand_of: Callable[..., Stand], short_dir: Path) -> None:
    stand = stand_of("bwrap")
    await stand.launcher.open(1)
    script = (
        "set -e; git init -q repo; cd repo; echo x > a; git add a; "
        "git -c user.name=u -c user.email=u@e commit -q -m first; git log --oneline | wc -l; "
        "mkfifo pipe; cp -a a b; tar cf t.tar a b; tar xf t.tar; "
        "seq 3 | xargs -P 3 -n 1 echo | sort | tail -1; "
        "python3 -c 'import threading; t = threading.Thread(target=print, args=(7,)); t.start(); t.join()'"
    )
    program = f"""
import subprocess
done = subprocess.run(['bash', '-c', {script!r}], capture_output=True, text=True)
print(json.dumps([done.returncode, done.stdout.split(), done.stderr]))"""
    assert await stand.do(program) == [0, ["1", "3", "7"], ""]
