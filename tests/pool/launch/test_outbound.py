"""From inside a sandbox with network ``outbound``: the internet, and nothing that is not it.

The internet is ``tests.internet``; whether something came through is what the other side saw.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from pool.launch.isolation import probe
from pool.launch.way_out import find_way_out
from tests import internet as world
from tests.internet import Internet, internet
from tests.pool.launch.sandboxed import SOMEBODY, sandboxed

LOCAL_PORT = 8098

# every way that a program without rights has to say where a packet is to go
ATTEMPTS = """
import json, os, socket, struct, subprocess
from concurrent.futures import ThreadPoolExecutor
def attempt(what):
    try:
        return what()
    except Exception as error:
        return type(error).__name__
def tcp(address, port, *options, family=socket.AF_INET):
    with socket.socket(family, socket.SOCK_STREAM) as it:
        it.settimeout(1)
        for option in options:
            it.setsockopt(*option)
        it.connect((address, port))
        return it.recv(16).decode() or 'closed'
def udp(address, port, *options, ancillary=(), flags=0, family=socket.AF_INET):
    with socket.socket(family, socket.SOCK_DGRAM) as it:
        it.settimeout(0.2)
        it.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for option in options:
            it.setsockopt(*option)
        it.sendmsg([b'ping'], list(ancillary), flags, (address, port))
        return it.recv(16).decode()
INDEX = socket.if_nametoindex('tap0') if 'tap0' in [name for _, name in socket.if_nameindex()] else 0
BIND = (socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'tap0')
UNICAST = (socket.IPPROTO_IP, 50, struct.pack('!i', INDEX))
GROUP = (socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack('4s4si', bytes(4), bytes(4), INDEX))
PKTINFO = (socket.IPPROTO_IP, 8, struct.pack('i4s4s', INDEX, bytes(4), bytes(4)))
def all_ways(address, port):
    ways = {
        'tcp': lambda: tcp(address, port),
        'tcp by device': lambda: tcp(address, port, BIND),
        'tcp by index': lambda: tcp(address, port, UNICAST),
        'udp': lambda: udp(address, port),
        'udp by device': lambda: udp(address, port, BIND),
        'udp by index': lambda: udp(address, port, UNICAST),
        'udp by group index': lambda: udp(address, port, GROUP),
        'udp by packet info': lambda: udp(address, port, ancillary=[PKTINFO]),
        'udp unrouted': lambda: udp(address, port, BIND, flags=socket.MSG_DONTROUTE),
        'mapped': lambda: tcp('::ffff:' + address, port, family=socket.AF_INET6),
    }
    with ThreadPoolExecutor(len(ways)) as pool:
        return dict(zip(ways, pool.map(attempt, ways.values())))
"""


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Internet]:
    found = find_way_out(probe().path) if probe().path and probe().works else None
    if found is None or found.remedy is not None:
        pytest.skip(f"no network of its own: {found.remedy if found else probe().detail}")
    with internet(tmp_path_factory.mktemp("internet")) as one:
        yield one


@pytest.fixture(scope="module")
def host(net: Internet) -> Internet:
    """With a service on the host of it."""
    net.host_service(LOCAL_PORT)
    return net


@pytest.fixture(params=[None, SOMEBODY], ids=["root", "somebody"])
def uid(request: pytest.FixtureRequest) -> int | None:
    """Who runs the service."""
    found: int | None = request.param
    return found


def seen_by(net: Internet, uid: int | None, code: str, **options: Any) -> Any:
    """What ``code``, which fills ``seen``, sees in a sandbox on the host of ``net``."""
    program = f"{ATTEMPTS}\nseen = {{}}\n{code}\nprint(json.dumps(seen))"
    options = {"isolation_network": "outbound", **options}
    return sandboxed(program, prefix=net.inside, uid=uid, **options)


def from_the_host(net: Internet, code: str) -> Any:
    """The same from the host itself."""
    program = f"{ATTEMPTS}\nseen = {{}}\n{code}\nprint(json.dumps(seen))"
    done = subprocess.run(
        [*net.inside, "/usr/bin/python3", "-c", program], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_the_internet_is_there_by_name_and_by_address(net: Internet, uid: int | None) -> None:
    subprocess.run(["git", "init", "-q", "--bare", str(net.served / f"{uid}.git")], check=True)
    subprocess.run(["git", "-C", str(net.served / f"{uid}.git"), "update-server-info"], check=True)
    (net.served / "page").write_text("a page")
    code = f"""
run = lambda *words: subprocess.run(words, capture_output=True, text=True)
seen['tcp'] = attempt(lambda: tcp({world.PUBLIC!r}, {world.PORT}))
seen['udp'] = attempt(lambda: udp({world.OTHER_PUBLIC!r}, {world.PORT}))
seen['name'] = attempt(lambda: socket.gethostbyname('other.example.net'))
seen['unknown'] = attempt(lambda: socket.gethostbyname('nobody.example.org'))
seen['curl'] = run('curl', '-s', 'http://public.example.org/page').stdout
seen['git'] = run('git', 'clone', '-q', 'http://public.example.org/{uid}.git', '/tmp/clone').returncode
"""
    assert seen_by(net, uid, code) == {
        "tcp": "hello\n",
        "udp": "ping",
        "name": world.OTHER_PUBLIC,
        "unknown": "gaierror",
        "curl": "a page",
        "git": 0,
    }


def test_nothing_that_is_not_the_internet_is_reached_in_any_way(net: Internet, uid: int | None) -> None:
    closed = [*world.UNREACHABLE, world.MULTICAST]
    code = "\n".join(
        [
            *(f"seen[{address!r}] = all_ways({address!r}, {world.PORT})" for address in closed),
            f"seen['fence'] = attempt(lambda: tcp({world.PUBLIC!r}, {world.PORT}))",
        ]
    )
    from_the_host(net, code)
    before = {address: net.arrived(address) for address in closed}
    assert all(before.values()), "the host itself must get there, or this test could not fail"
    seen = seen_by(net, uid, code)
    assert {address: net.arrived(address) for address in closed} == before
    assert seen.pop("fence") == "hello\n"
    assert not [
        (address, way) for address, ways in seen.items() for way in ways if way in ("hello\n", "ping")
    ]


def test_the_host_itself_is_not_reached_by_any_of_its_addresses(host: Internet, uid: int | None) -> None:
    mine = ("127.0.0.1", world.OWN_PUBLIC, world.OWN_PRIVATE)
    addresses = (*mine, "10.0.2.2", "10.0.2.3", "10.0.2.255", "255.255.255.255", "0.0.0.0")
    code = "\n".join(
        [
            *(f"seen[{address!r}] = all_ways({address!r}, {LOCAL_PORT})" for address in addresses),
            "it = socket.socket(socket.AF_UNIX)",
            f"seen['abstract'] = attempt(lambda: it.connect(chr(0) + {host.abstract!r}))",
            f"seen['fence'] = attempt(lambda: tcp({world.PUBLIC!r}, {world.PORT}))",
        ]
    )
    from_the_host(host, code)
    before = host.arrived("host")
    assert before > 2 * len(mine), "the host itself must get there, or this test could not fail"
    seen = seen_by(host, uid, code)
    assert host.arrived("host") == before, seen
    assert seen["fence"] == "hello\n"
    assert seen["abstract"] == "ConnectionRefusedError"


def test_a_sandbox_cannot_open_what_is_closed(net: Internet, uid: int | None) -> None:
    code = """
run = lambda *words: subprocess.run(words, capture_output=True).returncode
seen['rules'] = run('/usr/sbin/nft', 'flush', 'ruleset')
seen['route'] = run('/usr/sbin/ip', 'route', 'add', '192.168.0.0/16', 'dev', 'tap0')
gateway = ['lladdr', '52:55:0a:00:02:02', 'dev', 'tap0']
seen['neighbour'] = run('/usr/sbin/ip', 'neigh', 'add', '192.168.77.9', *gateway)
seen['namespace'] = run('unshare', '-rn', 'true')
seen['raw'] = attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1) and 0)
seen['packet'] = attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW) and 0)
seen['tun'] = attempt(lambda: os.open('/dev/net/tun', os.O_RDWR))
"""
    seen = seen_by(net, uid, code)
    assert 0 not in seen.values(), seen


def test_a_template_asks_for_it_and_gets_it_beside_sessions_without_a_network(net: Internet) -> None:
    code = f"seen['tcp'] = attempt(lambda: tcp({world.PUBLIC!r}, {world.PORT}))"
    assert seen_by(net, None, code, isolation_network="auto", wanted="outbound") == {"tcp": "hello\n"}
    assert seen_by(net, None, code, isolation_network="auto") == {"tcp": "OSError"}
