"""Gives a sandbox a network of its own and then becomes bubblewrap; run as a script of its own.

Usage: ``python -I -S network.py SETTINGS BWRAP ARGUMENT...``, SETTINGS being
a JSON object::

    {"kind": "outbound", "slirp4netns": path, "nft": path}
    {"kind": "proxy", "port": number, "log": descriptor, "egress": {…}}

and in both ``uid``: the user to become first, null for none, and ``env``: the
descriptor of a file that holds bubblewrap's environment, else it is ours.

Either way the network namespace is made here, in a user namespace of its own,
before there is a sandbox: nothing in the sandbox ever has a right over it, and
the CLI cannot begin before all is set up. Whatever fails ends the start.

``outbound``: slirp4netns, started before and outside, carries the traffic to
the host's network. It ends when the sandbox's first process does, which holds
the other end of its exit pipe, and its end takes the interface away, so that
the network is cut rather than open. Packet filter rules close what is not the
internet; the routes alone would not, since a program may name the interface.

``proxy``: nothing leads out. A socket that listens on the namespace's loopback
address is sent to ``egress.py``, which accepts from outside, connects to the
hosts that are allowed, and ends as slirp4netns does.

It imports nothing of the project: it may run under another interpreter path.
"""

from __future__ import annotations

import array
import codecs
import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
import time

DNS = "10.0.2.3"
# what is not the internet: RFC 6890 and its successors, and slirp4netns's own network in 10/8
CLOSED = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
    *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
    *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
)

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_PR_SET_DUMPABLE = 4
_READY_SECONDS = 10.0
_BACKLOG = 128
_ENVIRONMENT = ("CLAUDE_POOL_INSTANCE", "CLAUDE_POOL_SITE")


class Failed(Exception):
    """The network cannot be had; the text says why."""


def main() -> None:
    """Set the network up and become the program of the arguments; never returns."""
    settings, program = json.loads(sys.argv[1]), sys.argv[2:]
    env = _environment(settings.get("env"))
    inherited = [fd for fd in _inherited() if fd != settings.get("log")]
    try:
        for fd in inherited:
            os.set_inheritable(fd, False)
        uid = settings.get("uid")
        if settings["kind"] == "proxy":
            sync = _listen(settings["port"], settings["log"], settings["egress"], uid)
        else:
            _become(uid)
            sync = _connect(settings["slirp4netns"], settings["nft"])
        program = [program[0], "--sync-fd", str(sync), *program[1:]]
        for fd in (*inherited, sync):
            os.set_inheritable(fd, True)
        os.execve(program[0], program, env)
    except (Failed, OSError, ValueError) as error:
        # the keeper knows by the name that the CLI has not run
        os.write(2, f"network: {error}\n".encode())
    finally:
        os._exit(1)


def _environment(told: int | None) -> dict[str, str]:
    if told is None:
        return dict(os.environ)
    with open(told, "rb") as file:
        env: dict[str, str] = json.loads(file.read())
    return env


def _inherited() -> list[int]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if int(name) > 2 and os.get_inheritable(int(name)):
                found.append(int(name))
    return found


def _become(uid: int | None) -> None:
    if uid is None:
        return
    # a module like any other, which the user may not be able to reach
    codecs.lookup("ascii")
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    # else what maps users in a namespace would be root's; no secret was ever in this memory
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def _unshare() -> None:
    """Become root of a new user namespace, which owns a new network namespace."""
    uid, gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise Failed(f"no namespace of users and network: {os.strerror(number)}")
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def _listen(port: int, log: int, egress: dict[str, object], uid: int | None) -> int:
    """A port inside that the proxy outside serves; the descriptor whose closing ends it."""
    exit_in, exit_out = os.pipe()
    said_in, said_out = os.pipe()
    os.set_blocking(said_out, False)
    ours, theirs = socket.socketpair()
    script = os.path.join(os.path.dirname(__file__), "egress.py")
    words = [str(theirs.fileno()), str(exit_in), str(log), json.dumps(egress)]
    # as with slirp4netns, nobody reads later what it says
    keep = (theirs.fileno(), exit_in, log, said_in, said_out)
    _start([sys.executable, "-I", "-S", script, *words], keep=keep, says=said_out)
    for fd in (exit_in, said_in, said_out, log):
        os.close(fd)
    theirs.close()
    # the proxy needs our interpreter, which the user may not reach, and drops its own rights
    _become(uid)
    _unshare()
    with ours, socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack_from("H", fcntl.ioctl(listener, _SIOCGIFFLAGS, request), 16)[0]
        fcntl.ioctl(listener, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))
        listener.bind(("127.0.0.1", port))
        listener.listen(_BACKLOG)
        descriptors = array.array("i", [listener.fileno()])
        ours.sendmsg([b"listener"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
    return exit_out


def _connect(slirp: str, nft: str) -> int:
    """The new namespace's way out; the descriptor whose closing ends it."""
    own = own_addresses()
    go_in, go_out = os.pipe()
    exit_in, exit_out = os.pipe()
    ready_in, ready_out = os.pipe()
    said_in, said_out = os.pipe()
    os.set_blocking(said_out, False)
    me = os.getpid()
    command = [
        *(slirp, "--configure", "--mtu=65520", "--disable-host-loopback", "--enable-sandbox"),
        *("--enable-seccomp", f"--exit-fd={exit_in}", f"--ready-fd={ready_out}", str(me), "tap0"),
    ]
    # it holds the reading end of what it says itself: nobody reads it later, and it must not die of that
    helper = _start(command, keep=(exit_in, ready_out, said_in, said_out), says=said_out, after=go_in)
    for fd in (go_in, exit_in, ready_out, said_out):
        os.close(fd)
    _unshare()
    os.write(go_out, b"go")
    _filter(nft, own)
    _wait_ready(ready_in, said_in, helper)
    for fd in (go_out, ready_in, said_in):
        os.close(fd)
    return exit_out


def _filter(nft: str, own: list[str]) -> None:
    rules_in, rules_out = os.pipe()
    said_in, said_out = os.pipe()
    os.write(rules_out, rules(own).encode())
    os.close(rules_out)
    child = _start([nft, "-f", "-"], keep=(), says=said_out, stdin=rules_in)
    os.close(said_out)
    os.close(rules_in)
    said = b""
    while chunk := os.read(said_in, 4096):
        said += chunk
    os.close(said_in)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != 0:
        raise Failed(f"the packet filter was not set: {_text(said) or f'{nft} exited with {status}'}")


def rules(own: list[str]) -> str:
    """The packet filter of a sandbox on a host that has the addresses ``own``."""
    mine = f"set own {{ type ipv4_addr; elements = {{ {', '.join(own)} }}; }}\n" if own else ""
    return f"""\
table inet claude_pool {{
set closed {{ type ipv4_addr; flags interval; elements = {{ {", ".join(CLOSED)} }}; }}
{mine}chain output {{
type filter hook output priority filter; policy drop;
oifname "lo" accept
ip daddr {DNS} udp dport 53 accept
ip daddr {DNS} tcp dport 53 accept
ip daddr @closed reject with icmp type admin-prohibited
{"ip daddr @own reject with icmp type admin-prohibited" if own else ""}
ip version 4 accept
meta nfproto ipv6 reject with icmpv6 type admin-prohibited
}}
}}
"""


def own_addresses() -> list[str]:
    """The host's own IPv4 addresses, without those of its loopback."""
    found = []
    address = ""
    with open("/proc/net/fib_trie", encoding="ascii") as file:
        for line in file:
            mark, _, rest = line.strip().partition(" ")
            if mark == "|--":
                address = rest
            elif line.strip() == "/32 host LOCAL" and not address.startswith("127."):
                found.append(address)
    return sorted(set(found))


def own_addresses6() -> list[str]:
    """The host's own IPv6 addresses."""
    try:
        with open("/proc/net/if_inet6", encoding="ascii") as file:
            packed = [bytes.fromhex(line.split()[0]) for line in file]
    except FileNotFoundError:
        return []
    return [socket.inet_ntop(socket.AF_INET6, address) for address in packed]


def _start(
    command: list[str],
    *,
    keep: tuple[int, ...],
    says: int,
    stdin: int = -1,
    after: int = -1,
) -> int:
    """Run a program with ``says`` as its standard error; once ``after`` is written to, if it is given."""
    child = os.fork()
    if child:
        return child
    try:
        if after >= 0 and not os.read(after, 2):
            os._exit(1)
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null if stdin < 0 else stdin, 0)
        os.dup2(null, 1)
        os.dup2(says, 2)
        for fd in keep:
            os.set_inheritable(fd, True)
        env = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        os.execve(command[0], command, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **env})
    except OSError as error:
        os.write(says, f"{command[0]}: {error.strerror}".encode())
    finally:
        os._exit(127)


def _wait_ready(ready: int, said: int, helper: int) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    poll = select.poll()
    poll.register(ready, select.POLLIN)
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            os.kill(helper, signal.SIGKILL)
            raise Failed(f"slirp4netns was not ready within {_READY_SECONDS:.0f} seconds")
        if os.read(ready, 1):
            return
        os.set_blocking(said, False)
        text = b""
        with contextlib.suppress(BlockingIOError):
            text = os.read(said, 4096)
        raise Failed(f"slirp4netns ended: {_text(text)}")


def _text(said: bytes) -> str:
    return " ".join(said.decode(errors="replace").split())[:500]


if __name__ == "__main__":
    main()
