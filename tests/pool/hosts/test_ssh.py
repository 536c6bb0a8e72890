"""Case 44: a machine over SSH whose link is cut, half open, or whose sshd starts anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from pool.errors import KeeperUnavailable
from pool.model import InstanceId
from tests.pool.hosts.sshd import Proxy, Sshd
from tests.pool.hosts.stand import (
    QUICK,
    STOP,
    Stand,
    deltas,
    keeper_listens,
    more_results,
    more_than,
    results,
    say,
    some_results,
)
from tests.waiting import eventually


async def test_turns_work_and_no_loss_of_the_link_costs_a_byte(
    own_sshd: Sshd, settings: dict[str, Any]
) -> None:
    """Cut, half open and with a new sshd: the CLI lives on, and its output comes without gap or repeat."""
    own_sshd.let_in(settings)
    async with Proxy(own_sshd.port) as proxy:
        stand = Stand.at(own_sshd.host(proxy.port), settings)
        await _story(stand, (proxy.cut, proxy.swallow, own_sshd.restart))
        await stand.launcher.aclose(end_instances=True)
        assert not keeper_listens(stand.data)


async def _story(stand: Stand, troubles: Sequence[Callable[[], None]]) -> None:
    assert await stand.launcher.open(1) == 1
    handle, sink = await stand.start("one")
    await say(handle, "good morning !huge 6000000")
    await some_results(sink)
    assert len(sink.data) > 6_000_000
    processes = stand.processes("one")

    for number, trouble in enumerate(troubles, start=1):
        await say(handle, "stream 150 10")
        before = len(sink.data)
        await more_than(sink, before + 1000)
        trouble()
        await stand.is_lost(number)
        assert sink.lost == number
        with pytest.raises(KeeperUnavailable):
            await say(handle, "nobody hears it")
        assert stand.processes("one") == processes

        assert await stand.launcher.open(1) == 1
        assert [one.exit_status for one in await stand.launcher.list()] == [None]
        # the sink minds the offsets
        handle = await stand.launcher.attach(InstanceId("one"), len(sink.data), sink)
        await more_results(sink, number)
        assert "".join(deltas(sink)[-150:]) == " ".join(f"w{each}" for each in range(150))

    assert results(sink)[0] == "echo: good morning"
    await handle.stop(STOP)
    assert (await sink.exit()).code == 0
    assert stand.processes("one") == []


async def test_a_half_open_link_keeps_nothing_alive_when_the_server_stays_away(
    sshd: Sshd, settings: dict[str, Any]
) -> None:
    times = replace(QUICK, speaks_every_seconds=0.6)
    async with Proxy(sshd.port) as proxy:
        settings |= {"orphan_lease_seconds": 1.0}
        sshd.let_in(settings)
        stand = Stand.at(sshd.host(proxy.port), settings, times)
        await stand.launcher.open(1)
        handle, sink = await stand.start("one")
        await say(handle, "good night !setsid !double-fork")
        await some_results(sink)
        pids = stand.processes("one")
        assert len(pids) >= 3
        # for longer than the lease: as long as the link stands it is renewed
        await asyncio.sleep(1.8)
        assert stand.processes("one") == pids

        before = sshd.connections()
        assert before >= 1
        proxy.swallow()
        await stand.is_lost(1)
        await eventually(lambda: stand.processes("one") == [], 30, what="the tree ends by its lease")
        await eventually(lambda: not keeper_listens(stand.data), 30, what="and the keeper with it")
        # it was not the end of a connection that ended it
        assert sshd.connections() == before

        assert await stand.launcher.open(1) == 1
        (listed,) = await stand.launcher.list()
        assert listed.exit_status is not None
        await stand.launcher.aclose(end_instances=True)
