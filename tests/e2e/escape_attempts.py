"""What a hostile program in a session would try; run inside a sandbox as a script of its own.

Each attempt returns something true when it got through, and raises or returns
something false when not. None does harm where nothing stops it. Facts about
the host, which an attacker could find out or guess, are in ``facts.json``.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import platform
import pty
import resource
import signal
import socket
import stat
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

SECONDS = 5
METADATA = "169.254.169.254"
FORKS = 400
# modes in which it is the machine that decides, not we: without any wall, and without namespaces
BARE = ("none",)
SHARED = ("none", "uid")
LIBC = ctypes.CDLL(None, use_errno=True)
NUMBERS = {  # x86_64, aarch64
    "keyctl": (250, 219),
    "io_uring_setup": (425, 425),
    "userfaultfd": (323, 282),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "process_vm_readv": (310, 270),
    "pidfd_getfd": (438, 438),
    "name_to_handle_at": (303, 264),
    "syslog": (103, 116),
}
# the host, as the attacker knows it: every name of ``facts.json`` is an attribute
Facts = SimpleNamespace
Run = Callable[[Facts], object]


@dataclass(frozen=True)
class Attempt:
    """``depends``: the modes in which it is the machine that decides, not we."""

    group: str
    words: str
    run: Run
    depends: Collection[str]


ATTEMPTS: list[Attempt] = []


def attempt(group: str, words: str, *, depends: Collection[str] = ()) -> Callable[[Run], Run]:
    """Put a function into the list."""

    def add(run: Run) -> Run:
        ATTEMPTS.append(Attempt(group, words, run, depends))
        return run

    return add


def simple(group: str, words: str, run: Run, *, depends: Collection[str] = ()) -> None:
    """Put an expression into the list."""
    ATTEMPTS.append(Attempt(group, words, run, depends))


def call(name: str, *arguments: Any) -> int:
    """A system call by name."""
    number = NUMBERS[name][platform.machine() == "aarch64"]
    whole = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result: int = LIBC.syscall(ctypes.c_long(number), *whole)
    return result


def checked(result: int) -> bool:
    """Raises ``OSError`` for a C function's -1."""
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return True


def done(function: Callable[..., None], *arguments: Any) -> bool:
    """It did not raise."""
    function(*arguments)
    return True


def read(path: str, length: int = 4096) -> str:
    with open(path, errors="replace") as file:
        return file.read(length)


def writable(path: str, flags: int = 0) -> bool:
    os.close(os.open(path, os.O_WRONLY | flags, 0o600))
    if flags & os.O_CREAT:
        os.unlink(path)
    return True


def connected(family: int, address: Any, kind: int = socket.SOCK_STREAM) -> bool:
    with socket.socket(family, kind) as it:
        it.settimeout(1)
        it.connect(address)
        return True


def tcp(address: str, port: int) -> bool:
    return connected(socket.AF_INET, (address, port))


def unix(address: str) -> bool:
    return connected(socket.AF_UNIX, address)


def linked(make: Callable[[str, str], None], target: str) -> str:
    make(target, "link")
    try:
        return read("link")
    finally:
        os.unlink("link")


FILES = "files of others"
simple(FILES, "read another user's file by its path", lambda f: read(f.secret))
simple(FILES, "by `..`", lambda _: read("../bob/secret"))
simple(FILES, "by a symbolic link", lambda f: linked(os.symlink, f.secret))
simple(FILES, "by a hard link", lambda f: linked(os.link, f.secret))
simple(FILES, "list the users' workspaces", lambda f: "bob" in os.listdir(f.workspaces))
simple(FILES, "change another user's file", lambda f: writable(f.secret))
simple(FILES, "list another user's home", lambda f: os.listdir(os.path.dirname(f.settings)))
simple(FILES, "read another user's conversation", lambda f: read(f.conversation))
simple(FILES, "write rules into another user's settings", lambda f: writable(f.settings))
simple(FILES, "read the database", lambda f: read(f.database))
simple(FILES, "change the database", lambda f: writable(f.database))
simple(FILES, "read the file with the model keys", lambda f: read(f.keys))
simple(FILES, "read the key that signs tokens", lambda f: read(f.jwt))
simple(FILES, "list what other sessions said (spool)", lambda f: os.listdir(f.spool))
simple(FILES, "read other programs' files in /tmp", lambda f: read(f.temporary))
simple(FILES, "read other programs' files in /dev/shm", lambda f: read(f.shared))

SYSTEM = "the system"
simple(SYSTEM, "write the CLI's program", lambda f: writable(f.cli), depends=BARE)
simple(SYSTEM, "make a file in /usr/bin", lambda _: writable("/usr/bin/escape", os.O_CREAT))
simple(SYSTEM, "make a file in /etc", lambda _: writable("/etc/escape", os.O_CREAT))
simple(SYSTEM, "make a file in /", lambda _: writable("/escape", os.O_CREAT))
simple(SYSTEM, "write /proc/sys/kernel/core_pattern", lambda _: writable("/proc/sys/kernel/core_pattern"))
simple(SYSTEM, "write /proc/sysrq-trigger", lambda _: writable("/proc/sysrq-trigger"))
simple(SYSTEM, "read /etc/shadow", lambda _: read("/etc/shadow"))
simple(SYSTEM, "read the kernel's log", lambda _: checked(call("syslog", 3, None, 0)), depends=BARE)
simple(SYSTEM, "mount a file system", lambda _: checked(LIBC.mount(b"x", b".", b"tmpfs", 0, None)))
simple(SYSTEM, "make a user namespace", lambda _: checked(LIBC.unshare(0x10000000)), depends=BARE)
simple(SYSTEM, "change the root", lambda _: done(os.chroot, "."))
simple(SYSTEM, "take the host's name away", lambda _: done(socket.sethostname, socket.gethostname()))
simple(SYSTEM, "hold any capability", lambda _: int(status("CapEff") + status("CapPrm"), 16))
simple(SYSTEM, "gain rights by a set-uid program", lambda _: status("NoNewPrivs") == "0", depends=BARE)


def status(field: str) -> str:
    """A field of this process's status."""
    with open("/proc/self/status") as file:
        return next(line.split()[1] for line in file if line.startswith(field + ":"))


@attempt(SYSTEM, "join the namespaces of a process of the host")
def join(f: Facts) -> object:
    descriptor = os.open(f"/proc/{f.pid}/ns/mnt", os.O_RDONLY)
    return checked(LIBC.setns(descriptor, 0))


@attempt(SYSTEM, "make a set-uid file")
def set_uid(f: Facts) -> object:
    with open("program", "w"):
        os.chmod("program", 0o4755)
    return os.stat("program").st_mode & stat.S_ISUID


@attempt(SYSTEM, "make a device file and read a disk")
def device(f: Facts) -> object:
    os.mknod("disk", stat.S_IFBLK | 0o600, os.makedev(254, 0))
    return read("disk")


@attempt(SYSTEM, "open a disk, the memory or the log of the kernel in /dev", depends=SHARED)
def devices(f: Facts) -> object:
    names = [name for name in ("mem", "kmsg", "vda", "sda", "nvme0n1", "kvm") if os.access(f"/dev/{name}", 4)]
    return [os.open(f"/dev/{name}", os.O_RDONLY) for name in names]


@attempt(SYSTEM, "write a control group", depends=BARE)
def cgroup(f: Facts) -> object:
    groups = (name for name, _, files in os.walk("/sys/fs/cgroup") if "cgroup.procs" in files)
    return [name for name in groups if os.access(name, 2)]


@attempt(SYSTEM, "open a file by its handle", depends=BARE)
def handle(f: Facts) -> object:
    room = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128))
    return checked(call("name_to_handle_at", -100, b".", room, ctypes.byref(ctypes.c_int()), 0))


PROCESSES = "processes of others"
simple(PROCESSES, "see another user's CLI", lambda f: f.word.encode() in raw(f"/proc/{f.pid}/cmdline"))
simple(PROCESSES, "read its environment", lambda f: raw(f"/proc/{f.pid}/environ"))
simple(PROCESSES, "reach its files by /proc/PID/root", lambda f: read(f"/proc/{f.pid}/root{f.secret}"))
simple(PROCESSES, "reach its files by /proc/PID/cwd", lambda f: os.listdir(f"/proc/{f.pid}/cwd"))
simple(PROCESSES, "list its descriptors", lambda f: os.listdir(f"/proc/{f.pid}/fd"))
simple(PROCESSES, "type a message into its input", lambda f: writable(f"/proc/{f.pid}/fd/0"))
simple(PROCESSES, "open its memory", lambda f: raw(f"/proc/{f.pid}/maps") and writable(f"/proc/{f.pid}/mem"))
simple(PROCESSES, "signal it", lambda f: done(os.kill, f.pid, 0))
simple(PROCESSES, "trace it", lambda f: checked(LIBC.ptrace(0x4206, f.pid, None, None)), depends=BARE)
simple(PROCESSES, "signal the keeper", lambda f: done(os.kill, f.keeper, 0))
simple(PROCESSES, "signal the server", lambda f: done(os.kill, f.server, 0))
simple(PROCESSES, "find a secret in any process's environment", lambda f: hunt(f.token.encode()))


def raw(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(4096)


def hunt(wanted: bytes) -> list[str]:
    """The processes that have it in their environment."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and wanted in raw(f"/proc/{name}/environ"):
                found.append(name)
        except OSError:
            continue
    return found


@attempt(PROCESSES, "read its memory by process_vm_readv", depends=BARE)
def peek(f: Facts) -> object:
    start = int(raw(f"/proc/{f.pid}/maps").split(b"-")[0], 16)
    room = ctypes.create_string_buffer(16)
    ours = struct.pack("QQ", ctypes.addressof(room), 16)
    theirs = struct.pack("QQ", start, 16)
    return checked(call("process_vm_readv", f.pid, ours, 1, theirs, 1, 0))


@attempt(PROCESSES, "take one of its descriptors", depends=BARE)
def steal(f: Facts) -> object:
    return checked(call("pidfd_getfd", os.pidfd_open(f.pid), 0, 0))


KERNEL = "parts of the kernel"
simple(KERNEL, "use kernel keyrings", lambda _: checked(call("keyctl", 0, -3, 1)), depends=BARE)
simple(KERNEL, "use io_uring", lambda _: checked(call("io_uring_setup", 1, bytes(120))), depends=BARE)
simple(KERNEL, "use userfaultfd", lambda _: checked(call("userfaultfd", 1)), depends=BARE)
simple(KERNEL, "load a BPF program", lambda _: checked(call("bpf", 0, bytes(128), 128)), depends=BARE)
simple(KERNEL, "read performance counters", lambda _: checked(perf()), depends=BARE)
simple(KERNEL, "open a vsock socket", lambda _: socket.socket(40, socket.SOCK_STREAM), depends=BARE)
simple(KERNEL, "open a raw packet socket", lambda _: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
simple(KERNEL, "open a raw IP socket", lambda _: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
simple(KERNEL, "use the kernel's ciphers (AF_ALG)", lambda _: socket.socket(38, 5), depends=BARE)


def perf() -> int:
    """Open a software counter of this process."""
    attributes = struct.pack("IIQ", 1, 128, 0) + bytes(24) + struct.pack("Q", 0x61) + bytes(80)
    return call("perf_event_open", attributes, 0, -1, -1, 0)


@attempt(KERNEL, "type into the terminal one was started from", depends=BARE)
def typing(f: Facts) -> object:
    os.setsid()
    _, terminal = pty.openpty()
    fcntl.ioctl(terminal, 0x540E, 0)
    fcntl.ioctl(terminal, 0x5412, b"x")
    return True


NETWORK = "network and sockets"
simple(NETWORK, "reach the server's port", lambda f: tcp("127.0.0.1", f.port))
simple(NETWORK, "reach another service on loopback", lambda f: tcp("127.1.2.3", f.port))
simple(NETWORK, "reach the host by its own address", lambda f: tcp(f.own, f.port))


def reached(f: Facts, address: str, port: int | None = None) -> bool:
    """Is there a way to it? In a world that a test made, really go there; else nothing is sent."""
    kind = socket.SOCK_STREAM if f.may_send else socket.SOCK_DGRAM
    return connected(socket.AF_INET, (address, port or f.far_port), kind)


simple(NETWORK, "reach loopback by the gateway", lambda f: reached(f, "10.0.2.2", f.port), depends=SHARED)
simple(NETWORK, "reach the cloud's metadata address", lambda f: reached(f, METADATA), depends=SHARED)
simple(NETWORK, "reach the private network", lambda f: reached(f, f.private), depends=SHARED)
simple(NETWORK, "reach the internet", lambda f: reached(f, f.internet), depends=SHARED)
simple(NETWORK, "reach an abstract socket of the host", lambda f: unix("\0" + f.abstract))
simple(NETWORK, "reach an open socket in /tmp", lambda f: unix(f.path_socket))
simple(NETWORK, "reach the keeper's socket", lambda f: unix(f.keeper_socket))
simple(NETWORK, "reach the server's control socket", lambda f: unix(f.control_socket))
simple(NETWORK, "reach another instance's model socket", lambda f: unix(f.model_socket))
simple(NETWORK, "see the sockets of the host", lambda f: f.path_socket in read("/proc/net/unix", 1 << 24))
simple(NETWORK, "see System V shared memory of the host", lambda f: LIBC.shmget(f.shm_key, 0, 0) >= 0)


SECRETS = "secrets and limits"
simple(SECRETS, "find the operator's model key in the environment", lambda f: f.key in str(os.environ))
simple(SECRETS, "find it in the command line", lambda f: f.key in read("/proc/self/cmdline"))
simple(SECRETS, "leave a core dump", lambda _: limit("CORE", 1 << 20), depends=BARE)
simple(SECRETS, "lift the limit of open files", lambda _: limit("NOFILE", 1025), depends=BARE)
simple(SECRETS, "lift the limit of memory", lambda _: limit("DATA", 8 << 30), depends=BARE)
simple(SECRETS, "take more memory than a process may", lambda _: mmap.mmap(-1, 5 << 30, 0x22), depends=BARE)
simple(SECRETS, "fill memory by way of /tmp", lambda _: filled("/tmp", 1 << 30), depends=SHARED)
simple(SECRETS, "fill memory by way of /dev/shm", lambda _: filled("/dev/shm", 64 << 20), depends=SHARED)
simple(SECRETS, "survive when memory runs out", lambda _: spared(), depends=("uid",))


def spared() -> bool:
    """Be less likely to be ended by the kernel than one was meant to be."""
    path = "/proc/self/oom_score_adj"
    lower = str(int(read(path)) - 1)
    with open(path, "w") as file:
        return bool(file.write(lower))


def limit(name: str, value: int) -> bool:
    resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    return True


def filled(directory: str, limit: int) -> bool:
    """Take more room than the limit; given back at once."""
    path = f"{directory}/flood-{os.getpid()}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    os.unlink(path)
    os.posix_fallocate(descriptor, 0, limit + (1 << 20))
    return True


@attempt(SECRETS, "start processes without end", depends=BARE)
def bomb(f: Facts) -> object:
    children: list[int] = []
    signal.alarm(30)
    try:
        while len(children) < FORKS:
            if (child := os.fork()) == 0:
                signal.pause()
            children.append(child)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return True


@attempt(SECRETS, "start a program with other limits by a helper", depends=BARE)
def helper(f: Facts) -> object:
    return os.spawnlp(os.P_WAIT, "prlimit", "prlimit", "--core=unlimited", "--nofile=4096", "true") == 0


def outcome(one: Attempt, facts: Facts) -> str:
    """Run it in a child, so that whatever it does to itself ends with it."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        # raised, not deadly: an attempt clears away what it started, which would hold our pipe
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.alarm(SECONDS)
        try:
            told = "open" if one.run(facts) else "blocked"
        except OSError as error:
            told = f"blocked: {errno.errorcode.get(error.errno or 0, type(error).__name__)}"
        except (ValueError, KeyboardInterrupt) as error:
            told = f"blocked: {error}"
        except BaseException as error:  # noqa: BLE001 - an attempt that is broken must not pass as blocked
            told = f"broken: {type(error).__name__}: {error}"
        os.write(write_end, told.encode())
        os._exit(0)
    os.close(write_end)
    told = os.read(read_end, 4096).decode()
    os.close(read_end)
    os.waitpid(child, 0)
    return told or "blocked: ended"


def main() -> None:
    """Try everything; one JSON object of words to outcomes."""
    with open("facts.json") as file:
        facts = Facts(**json.load(file))
    print(json.dumps({one.words: outcome(one, facts) for one in ATTEMPTS}), flush=True)


if __name__ == "__main__":
    main()
