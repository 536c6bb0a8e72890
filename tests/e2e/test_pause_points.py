"""kill -9 of the server at every named pause point: within five seconds of the restart all is in order.

The points are read from the source, so that a new one is covered by itself. A
point is reached by what every turn does: it is on the way of a message, a tool
call or an answer, or of the parking that comes soon after them.
"""

from __future__ import annotations

import ast
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.machine import instances_of
from tests.e2e.site import Client, Site, client, get, serving
from tests.procfs import MARKER, look_at, processes
from tests.test_architecture import sources, tree_of
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("forked_servers")


IN_ORDER_SECONDS = 5.0
# What brings the server to every point that a session can come by: a message whose turn asks, and the answer.
TEXT = "write note.txt words"


def pause_points() -> Iterator[str]:
    """The names of all pause points, from the source."""
    named = [path for path in sources("pool", "server") if b"pause_point(" in path.read_bytes()]
    for path in named:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "pause_point":
                assert isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno} names no point"
                yield str(node.args[0].value)


POINTS = sorted(set(pause_points()))


async def to_the_point(site: Site, token: str, mark: Path, point: str) -> None:
    """Send a message and answer its approval, until the server stands at ``point``."""
    reached = mark / f"{point}.reached"
    async with client(site, token) as sender:
        await sender.subscribe()
        await sender.put(type="send", session_id="default", content=TEXT, message_id=f"at-{point}")

        def answer() -> dict[str, Any] | None:
            asks = sender.of_type("permission_request")
            return asks[-1] if asks else None

        await eventually(lambda: reached.exists() or answer(), what=point)
        if not reached.exists():
            ask = answer()
            assert ask is not None
            await sender.put(
                type="permission", session_id="default", request_id=ask["request_id"], decision="allow"
            )
        await eventually(reached.exists, what=f"the server comes by {point}")
        await site.kill()


async def comes_to_an_end(viewer: Client, message_id: str) -> tuple[str, str]:
    """Send the message again and answer what is open: its turn and how that ends."""
    turn = await viewer.send(TEXT, message_id=message_id)
    answered: set[str] = set()

    async def ending() -> str | None:
        open_asks = {f["request_id"] for f in viewer.of_type("permission_request")}
        open_asks -= {f["request_id"] for f in viewer.of_type("permission_resolved")}
        for request_id in sorted(open_asks - answered):
            answered.add(request_id)
            await viewer.put(type="permission", request_id=request_id, decision="allow")
        ends = [state for state in viewer.states(turn) if state not in ("queued", "running")]
        return ends[0] if ends else None

    return turn, str(await eventually(ending, 20, what=f"{message_id} ends"))


async def known_or_gone(site: Site, token: str) -> bool:
    """Is every process of an instance one of an instance that the server tells of?"""
    known = {item["id"] for item in (await get(site, token, "/api/v1/instances"))["instances"]}
    return set(instances_of(site)) <= known


@pytest.mark.acceptance
@pytest.mark.parametrize("point", POINTS)
async def test_after_a_kill_at_any_point_everything_is_in_order(
    short_dir: Path, fake_claude: Path, point: str
) -> None:
    mark = short_dir / "pause"
    mark.mkdir()
    settings: dict[str, Any] = {
        # A rule of any kind, so that hooks are asked.
        "security.denied_commands": ["nonesuch"],
        # So that who is idle is parked while we wait.
        "pool.idle_timeout_seconds": 2,
    }
    async with serving(short_dir, fake_claude, **settings) as site:
        token = await site.add_user("alice")
        await site.kill()
        await site.start(CLAUDE_POOL_PAUSE=f"{point}:{mark}")
        await to_the_point(site, token, mark, point)
        await site.start()
        await eventually(lambda: known_or_gone(site, token), IN_ORDER_SECONDS, what="adopted or ended")
        async with client(site, token) as viewer:
            await viewer.subscribe(cursor="0")
            turn, state = await comes_to_an_end(viewer, f"at-{point}")
            assert state == "succeeded"
            assert viewer.states(turn).count("succeeded") == 1
            viewer.check_order()
            assert (await viewer.ended(await viewer.send("hello")))["state"] == "succeeded"


def the_stored_instance(database: Path) -> dict[str, Any]:
    """The row of the one instance that has not exited."""
    with sqlite3.connect(database) as connection:
        connection.row_factory = sqlite3.Row
        [row] = connection.execute("SELECT * FROM instances WHERE exited_at IS NULL").fetchall()
    connection.close()
    return dict(row)


def a_stranger() -> subprocess.Popen[bytes]:
    """A process that has nothing to do with us and tells of every signal by ending."""
    program = "import time; print('up', flush=True); time.sleep(600)"
    stranger = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert stranger.stdout is not None
    assert stranger.stdout.readline() == b"up\n"
    return stranger


@pytest.mark.parametrize(
    "keeper_dies",
    [
        pytest.param(False, id="server", marks=pytest.mark.acceptance),
        pytest.param(True, id="server and keeper"),
    ],
)
async def test_a_stranger_on_a_stored_pid_is_never_signalled(
    short_dir: Path, fake_claude: Path, keeper_dies: bool
) -> None:
    """The pid and the start time of the rows are a stranger's now: only marker and pidfd tell (case 38)."""
    stranger = a_stranger()
    try:
        async with serving(short_dir, fake_claude) as site:
            token = await site.add_user("alice")
            async with client(site, token) as viewer:
                await viewer.subscribe()
                await viewer.ended(await viewer.send("hello"))
                await eventually(lambda: the_stored_instance(site.data / "claude-pool.db")["pid"])
                row = the_stored_instance(site.data / "claude-pool.db")
                await site.kill()
                if keeper_dies:
                    kill_keeper_of(site)
                claim_the_pid(site, row["instance_id"], stranger.pid)
                await site.start()
                await viewer.resume()
                assert (await viewer.ended(await viewer.send("hello")))["state"] == "succeeded"
        # The whole site has ended, with every instance, and with it all that was ever stored.
        assert stranger.poll() is None
        assert not [p for p in processes() if p.environ.get(MARKER) == row["instance_id"]]
    finally:
        stranger.kill()
        stranger.communicate()


def kill_keeper_of(site: Site) -> None:
    """KILL the keeper, and wait until it is gone."""
    [keeper] = [p for p in processes() if "pool.keeper" in p.argv and str(site.data) in p.argv]
    os.kill(keeper.pid, 9)


def claim_the_pid(site: Site, instance_id: str, pid: int) -> None:
    """Let the server's row and the keeper's journal speak of ``pid``, with its very start time."""
    found = look_at(pid)
    assert found is not None
    with sqlite3.connect(site.data / "claude-pool.db") as connection:
        changed = connection.execute(
            "UPDATE instances SET pid = ?, start_ticks = ? WHERE instance_id = ?",
            (pid, found.start_ticks, instance_id),
        )
        assert changed.rowcount == 1
    connection.close()
    journal = site.data / "keeper" / "instances" / f"{instance_id}.json"
    record = json.loads(journal.read_bytes())
    identity = {"pid": pid, "start_ticks": found.start_ticks}
    journal.write_text(json.dumps({**record, "shell": dict(identity), "cli": dict(identity)}))
