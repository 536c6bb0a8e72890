"""From inside a sandbox that may reach hosts on a list: those by the proxy, and nothing else by any way.

What came through is what the other side of ``tests.internet`` saw.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pool.config import PoolConfig
from pool.errors import BadRequest
from pool.launch.isolation import probe
from pool.launch.local import LocalLauncher
from pool.launch.way_out import find_way_out
from tests import internet as world
from tests.internet import Internet, internet
from tests.pool.launch.sandboxed import SOMEBODY, sandboxed
from tests.pool.launch.test_outbound import ATTEMPTS

ALLOW = (
    *("public.example.org", "*.public.example.org", f"public.example.org:{world.PORT}"),
    *(f"{name}.example.org:{world.PORT}" for name in ("rebound", "half", "loopback", "own")),
)
STEPS = f"""
PORT = {world.PORT}
def proxied(target, port=PORT):
    with socket.create_connection(('127.0.0.1', 3128), 5) as it:
        it.sendall(b'CONNECT %s:%d HTTP/1.1\\r\\n\\r\\n' % (target.encode(), port))
        text = b''
        while chunk := it.recv(1000):
            text += chunk
        return int(text.split()[1]), text.endswith(b'hello\\n')
def run(*words):
    return subprocess.run(words, capture_output=True, text=True)
"""


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Internet]:
    found = find_way_out(probe().path, to_named_hosts=True) if probe().path and probe().works else None
    if found is None or found.remedy is not None:
        pytest.skip(f"no network of its own: {found.remedy if found else probe().detail}")
    with internet(tmp_path_factory.mktemp("internet")) as one:
        one.host_service(world.PORT)
        yield one


@pytest.fixture(params=[None, SOMEBODY], ids=["root", "somebody"])
def uid(request: pytest.FixtureRequest) -> int | None:
    """Who runs the service."""
    found: int | None = request.param
    return found


def seen_by(
    net: Internet, uid: int | None, code: str, allow: Sequence[str] = ALLOW
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What ``code`` sees in a sandbox, and what was written down of it."""
    program = f"{ATTEMPTS}\n{STEPS}\nseen = {{}}\n{code}\nprint(json.dumps(seen))"
    told = sandboxed(
        program,
        prefix=net.inside,
        uid=uid,
        egress_allow=list(allow),
        read="data/egress/alice/connections.jsonl",
    )
    return told["seen"], [json.loads(line) for line in told["read"].splitlines()]


def test_names_on_the_list_are_reached_by_the_tools_of_a_session(net: Internet, uid: int | None) -> None:
    repository = net.served / f"{uid}.git"
    subprocess.run(["git", "init", "-q", "--bare", str(repository)], check=True)
    subprocess.run(["git", "-C", str(repository), "update-server-info"], check=True)
    (net.served / "page").write_text("a page")
    code = f"""
seen['exact'] = attempt(lambda: proxied('public.example.org'))
seen['curl'] = run('curl', '-s', 'http://www.public.example.org/page?token=secret').stdout
seen['git'] = run('git', 'clone', '-q', 'http://public.example.org/{uid}.git', '/tmp/clone').returncode
seen['refused'] = run('curl', '-s', '-o', '/dev/null', '-w', '%{{http_code}}', 'http://other.example.net/').stdout
"""
    seen, lines = seen_by(net, uid, code)
    assert seen == {"exact": [200, True], "curl": "a page", "git": 0, "refused": "403"}
    assert {line["user"] for line in lines} == {"alice"}
    assert {(line["host"], line["port"], line["allowed"]) for line in lines} == {
        ("public.example.org", world.PORT, True),
        ("public.example.org", 80, True),
        ("www.public.example.org", 80, True),
        ("other.example.net", 80, False),
    }
    assert [line["bytes_in"] for line in lines if line.get("ended") and line["port"] == world.PORT] == [6]
    assert "secret" not in json.dumps(lines)
    assert "page" not in json.dumps(lines)


def test_what_is_not_on_the_list_or_leads_astray_is_refused(net: Internet, uid: int | None) -> None:
    targets = (
        *("other.example.net", "rebound.example.org", "half.example.org", "loopback.example.org"),
        *("own.example.org", world.PUBLIC, world.PRIVATE, "127.0.0.1", "[::1]", "2130706433", "0x7f.1"),
    )
    code = "\n".join(
        [
            *(f"seen[{target!r}] = attempt(lambda: proxied({target!r}))" for target in targets),
            "seen['port'] = attempt(lambda: proxied('public.example.org', 22))",
            "seen['fence'] = attempt(lambda: proxied('public.example.org'))",
        ]
    )
    before = [net.arrived(at) for at in ("host", world.PRIVATE, world.METADATA, world.OTHER_PUBLIC)]
    seen, lines = seen_by(net, uid, code)
    assert seen.pop("fence") == [200, True]
    assert seen == {target: [403, False] for target in (*targets, "port")}
    after = [net.arrived(at) for at in ("host", world.PRIVATE, world.METADATA, world.OTHER_PUBLIC)]
    assert after == before
    assert sum(not line["allowed"] for line in lines) == len(targets) + 1
    rebound = next(line for line in lines if line["host"] == "rebound.example.org")
    assert "not the internet's" in rebound["reason"]


def test_nothing_is_reached_without_the_proxy(net: Internet, uid: int | None) -> None:
    addresses = (world.PUBLIC, world.PRIVATE, world.OWN_PUBLIC, world.METADATA)
    code = "\n".join(
        [
            *(f"seen[{address!r}] = all_ways({address!r}, {world.PORT})" for address in addresses),
            "seen['names'] = attempt(lambda: socket.gethostbyname('public.example.org'))",
            "seen['interfaces'] = [name for _, name in socket.if_nameindex() if name == 'tap0']",
        ]
    )
    before = [net.arrived(address) for address in addresses]
    seen, lines = seen_by(net, uid, code)
    assert [net.arrived(address) for address in addresses] == before
    assert (seen["names"], seen["interfaces"], lines) == ("gaierror", [], [])


def test_an_entry_that_is_no_name_is_refused_at_the_start() -> None:
    if not probe().works:
        pytest.skip(f"no bubblewrap that works: {probe().detail}")
    with pytest.raises(BadRequest, match=r"'10\.0\.0\.1' is no host name"):
        LocalLauncher(PoolConfig(data_dir=Path("/nonexistent"), egress_allow=("a.org", "10.0.0.1")))
