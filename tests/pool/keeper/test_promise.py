"""A server that promised to speak and says nothing is none, whoever holds its connection."""

from __future__ import annotations

import asyncio

import pytest

from pool.keeper.client import KeeperClient, KeeperError
from tests.pool.keeper.rig import ECHO, Rig, python, start
from tests.pool.keeper.test_upgrade import upgrade

# what would be there for ever: a child with a session of its own
PARENT = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    print('up', flush=True)
    time.sleep(600)
sys.stdin.read()
"""

# as keepers before it, which pass the key over
_KNOWS_NO_PROMISE = """
import sys
from pool.keeper import server
server._promise = lambda request: None
from pool.keeper.__main__ import main
sys.exit(main())
"""


def keep_silent(client: KeeperClient) -> None:
    """Say nothing any more; the connection stays."""
    client._words.end()


async def test_everything_ends_though_the_connection_is_open(rig: Rig, wrapper: str) -> None:
    await rig.keeper(lease=1.0)
    client = await rig.client(speaks_every=0.5)
    _, parent = await start(client, wrapper, "one", python(PARENT))
    await parent.line_count(1)
    # as long as it speaks that is for longer than a lease
    await asyncio.sleep(1.7)
    assert [one["exit"] for one in (await client.request("list"))["instances"]] == [None]
    keep_silent(client)
    assert await rig.wait(30) == 0
    assert rig.nothing_left("one")
    assert '"lease_expired"' in rig.log()


async def test_it_is_held_to_it_after_an_upgrade_in_place(rig: Rig) -> None:
    await rig.keeper(lease=1.0)
    client = await rig.client(speaks_every=0.5)
    await start(client, "shim", "one", python(ECHO))
    await upgrade(client)
    # a higher epoch takes the promise along
    assert await client.raise_epoch(5) == 5
    await asyncio.sleep(1.7)
    assert [one["exit"] for one in (await client.request("list"))["instances"]] == [None]
    keep_silent(client)
    assert await rig.wait(30) == 0
    assert rig.nothing_left("one")


async def test_who_promised_nothing_may_be_silent(rig: Rig) -> None:
    await rig.keeper(lease=0.2)
    client = await rig.client()
    await start(client, "shim", "one", python(ECHO))
    await asyncio.sleep(0.6)
    assert [one["exit"] for one in (await client.request("list"))["instances"]] == [None]


async def test_a_keeper_that_knows_no_promise_is_told_no_words(rig: Rig) -> None:
    await rig.keeper(lease=0.2, program=("-c", _KNOWS_NO_PROMISE))
    client = await rig.client(speaks_every=0.1)
    assert client._words._next is None
    await start(client, "shim", "one", python(ECHO))
    await asyncio.sleep(0.6)
    assert [one["exit"] for one in (await client.request("list"))["instances"]] == [None]


@pytest.mark.parametrize("promise", [0, -1, 3601, True, "soon", float("nan")])
async def test_a_promise_is_a_number_of_seconds(rig: Rig, promise: object) -> None:
    await rig.keeper()
    with pytest.raises(KeeperError) as refusal:
        await rig.client(speaks_every=promise)
    assert refusal.value.code == "bad_request"
