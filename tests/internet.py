"""A host with a network, made of two network namespaces: one is the host, the other all that it can reach.

Addresses are real ones, so that what is public and what is private is decided
as it would be outside; nothing leaves the two namespaces. What arrived at the
other side is the oracle: it is written down there, whatever the sandbox thinks.
Needs root and iproute2.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

PUBLIC, OTHER_PUBLIC = "93.184.216.34", "151.101.1.69"
PRIVATE, METADATA, CGNAT, LINK_LOCAL = "192.168.77.9", "169.254.169.254", "100.64.0.9", "169.254.7.7"
TEN, SEVENTEEN_TWO, BENCHMARK, MULTICAST = "10.44.0.9", "172.20.0.9", "198.18.0.9", "239.1.2.3"
RESOLVER = "192.168.77.53"
OWN_PUBLIC, OWN_PRIVATE = "93.184.216.2", "192.168.77.1"
ULA, PUBLIC6 = "fd00:77::9", "2606:2800:220:1::9"
PORT = 8099
UNREACHABLE = (PRIVATE, METADATA, CGNAT, LINK_LOCAL, TEN, SEVENTEEN_TWO, BENCHMARK, RESOLVER)

_AWAY = (PUBLIC, OTHER_PUBLIC, *UNREACHABLE)
NAMES = {
    "public.example.org": [PUBLIC],
    "www.public.example.org": [PUBLIC],
    "other.example.net": [OTHER_PUBLIC],
    "rebound.example.org": [PRIVATE],
    "half.example.org": [PUBLIC, METADATA],
    "loopback.example.org": ["127.0.0.1"],
    "own.example.org": [OWN_PUBLIC],
}


class Internet:
    """Two namespaces; ``inside`` is the prefix of a command that runs on the host of it."""

    def __init__(self, directory: Path) -> None:
        self._near = self._far = 0
        self._directory = directory
        self.served = directory / "served"
        self._log = directory / "arrived"
        self._resolv = directory / "resolv.conf"
        self._tun = directory / "tun"
        self.abstract = f"service-of-{os.getpid()}"
        self._processes: list[subprocess.Popen[str]] = []

    @property
    def inside(self) -> list[str]:
        """With the resolver of this internet, and a tun device that anybody may open, as udev makes it."""
        mounts = ((self._resolv, "/etc/resolv.conf"), (self._tun, "/dev/net/tun"))
        script = " && ".join([*(f"mount --bind {source} {target}" for source, target in mounts), 'exec "$@"'])
        return [*_within(self._near), "unshare", "--mount", "sh", "-c", script, "sh"]

    def arrived(self, at: str) -> int:
        """How many connections and datagrams came to this address of the far side, or to the ``"host"``."""
        return [line.split()[0] for line in self._log.read_text().splitlines()].count(at)

    def open(self) -> None:
        """Make it and start its services."""
        self.served.mkdir()
        self._resolv.write_text(f"nameserver {RESOLVER}\n")
        self._log.touch()
        os.mknod(self._tun, stat.S_IFCHR, os.makedev(10, 200))
        self._tun.chmod(0o666)
        near, far = self._near, self._far = self._namespace(), self._namespace()
        for pid in (near, far):
            _ip(pid, "link", "set", "lo", "up")
        _ip(near, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(far))
        for address in (f"{OWN_PUBLIC}/24", f"{OWN_PRIVATE}/24"):
            _ip(near, "addr", "add", address, "dev", "eth0")
        for address in _AWAY:
            _ip(far, "addr", "add", f"{address}/24", "dev", "eth0")
        _ip(near, "-6", "addr", "add", "fd00:77::1/64", "dev", "eth0", "nodad")
        for address in (f"{ULA}/64", f"{PUBLIC6}/64"):
            _ip(far, "-6", "addr", "add", address, "dev", "eth0", "nodad")
        for pid in (near, far):
            _ip(pid, "link", "set", "eth0", "up")
        _ip(near, "route", "add", "default", "via", PUBLIC)
        _ip(near, "-6", "route", "add", "default", "via", ULA)
        _ip(far, "route", "add", "default", "via", OWN_PUBLIC)
        services = json.dumps({"names": NAMES, "port": PORT, "multicast": MULTICAST, "resolver": RESOLVER})
        program = [
            sys.executable,
            "-I",
            str(Path(__file__).with_name("far_side.py")),
            services,
            str(self._log),
        ]
        self._start([*_within(far), *program], "ready")
        web = [sys.executable, "-I", "-u", "-m", "http.server", "--directory", str(self.served), "80"]
        self._start([*_within(far), *web], "Serving")

    def host_service(self, port: int) -> None:
        """A service on all addresses of the host itself; what comes to it has arrived at ``"host"``."""
        program = (
            "import select, socket, sys\n"
            "tcp = socket.create_server(('0.0.0.0', int(sys.argv[1])))\n"
            "udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
            "udp.bind(('0.0.0.0', int(sys.argv[1])))\n"
            "abstract = socket.socket(socket.AF_UNIX)\n"
            "abstract.bind(chr(0) + sys.argv[3])\n"
            "abstract.listen()\n"
            "print('ready', flush=True)\n"
            "log = open(sys.argv[2], 'a', buffering=1)\n"
            "while True:\n"
            "    for one in select.select([tcp, udp, abstract], [], [])[0]:\n"
            "        one.recv(1) if one is udp else one.accept()\n"
            "        log.write('host\\n')\n"
        )
        words = [sys.executable, "-I", "-c", program, str(port), str(self._log), self.abstract]
        self._start([*_within(self._near), *words], "ready")

    def close(self) -> None:
        """End the services and the namespaces with them."""
        for process in self._processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def _namespace(self) -> int:
        """A process in a network namespace of its own, which lives as long as it does."""
        return self._start(["unshare", "--net", "sh", "-c", "echo ready; exec sleep infinity"], "ready").pid

    def _start(self, command: Sequence[str], word: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._processes.append(process)
        assert process.stdout is not None
        assert word in process.stdout.readline()
        return process


def _within(pid: int) -> list[str]:
    return ["nsenter", f"--net=/proc/{pid}/ns/net"]


def _ip(pid: int, *words: str) -> None:
    subprocess.run([*_within(pid), "ip", *words], check=True, capture_output=True)


@contextlib.contextmanager
def internet(directory: Path) -> Iterator[Internet]:
    """One, gone afterwards; skips the test where it cannot be made."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("an internet of network namespaces needs root and iproute2")
    world = Internet(directory)
    try:
        world.open()
        yield world
    finally:
        world.close()
