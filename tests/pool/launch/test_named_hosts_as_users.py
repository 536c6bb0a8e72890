"""``isolation.egress_allow`` where each user is a Linux user too: its records are root's alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest

from pool.launch.isolation import probe
from pool.launch.uids import first_blocked
from pool.launch.way_out import find_way_out
from tests.pool.launch.test_uids import ALICE, Site
from tests.pool.launch.test_uids import site_of as site_of  # the fixture

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start something as somebody else")

ASK_PROXY = """
import socket
with socket.create_connection(('127.0.0.1', 3128), 10) as it:
    it.sendall(b'CONNECT other.example.net:443 HTTP/1.1\\r\\n\\r\\n')
    print(json.dumps({'answer': it.recv(100).decode().split()[1], 'interfaces': socket.if_nameindex()}))
open('made', 'w').close()
"""


async def test_a_users_connections_to_named_hosts_are_written_where_the_user_cannot_reach(
    site_of: Callable[..., Site],
) -> None:
    found = find_way_out(probe().path or "", to_named_hosts=True, uid=ALICE) if probe().path else None
    if found is None or found.remedy is not None:
        pytest.skip("no network of its own can be made here")
    site = site_of("bwrap", egress_allow=("example.org",))
    await site.launcher.open(1)
    seen = await site.do(ASK_PROXY)
    assert (seen["answer"], [name for _index, name in seen["interfaces"]]) == ("403", ["lo"])
    assert (site.config.data_dir / "workspaces" / "alice" / "made").stat().st_uid == ALICE
    log = site.config.data_dir / "egress" / "alice" / "connections.jsonl"
    (line,) = [json.loads(line) for line in log.read_text().splitlines()]
    assert (line["user"], line["host"], line["allowed"]) == ("alice", "other.example.net", False)
    assert {path.stat().st_uid for path in (log, log.parent, log.parent.parent)} == {0}
    assert first_blocked(log, ALICE) is not None
