"""A sandbox with a network of its own and its helper: they begin as one and end as one, whoever is killed."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pool.keeper.client import KeeperClient, KeeperError
from pool.keeper.network import own_addresses, rules
from pool.launch.isolation import probe
from pool.launch.way_out import WayOut, find_way_out
from tests.pool.keeper.rig import Collector, Rig, gone, python, start
from tests.procfs import Process, is_alive, process_tree
from tests.waiting import eventually

INTERFACES = """
import socket, sys, time
print(sorted(name for _, name in socket.if_nameindex() if name in ('lo', 'tap0')), flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def way_out() -> WayOut:
    if not probe().works:
        pytest.skip(f"no bubblewrap that works: {probe().detail}")
    found = find_way_out(probe().path or "bwrap")
    if found.remedy is not None:
        pytest.skip(found.remedy)
    return found


@pytest.fixture(scope="module")
def named_hosts(tmp_path_factory: pytest.TempPathFactory) -> WayOut:
    if not probe().works:
        pytest.skip(f"no bubblewrap that works: {probe().detail}")
    found = find_way_out(probe().path or "bwrap", to_named_hosts=True)
    assert found.remedy is None, found.remedy
    log = str(tmp_path_factory.mktemp("data") / "egress" / "alice" / "connections.jsonl")
    return WayOut({**found.settings, "log": log, "egress": {"allow": ["example.org"]}})


@pytest.fixture(params=["outbound", "proxy"])
def either(request: pytest.FixtureRequest) -> WayOut:
    """Both ways out."""
    way: WayOut = request.getfixturevalue("way_out" if request.param == "outbound" else "named_hosts")
    return way


def helpers(rig: Rig) -> list[Process]:
    assert rig.process is not None
    names = ("slirp4netns", "egress.py")
    return [p for p in process_tree(rig.process.pid) if any(word.endswith(names) for word in p.argv[:4])]


async def connected(
    rig: Rig, client: KeeperClient, way_out: WayOut, instance: str = "one"
) -> tuple[Process, Collector]:
    """Start an instance; its helper and its output."""
    before = {helper.pid for helper in helpers(rig)}
    _, collector = await start(client, "bwrap", instance, python(INTERFACES), network=way_out.settings)
    await collector.line_count(1)
    expected = "['lo']" if way_out.settings["kind"] == "proxy" else "['lo', 'tap0']"
    assert collector.data == f"{expected}\n".encode()
    [helper] = [one for one in helpers(rig) if one.pid not in before]
    return helper, collector


async def test_the_cli_begins_in_a_network_that_is_complete_and_its_end_ends_the_helper(
    rig: Rig, either: WayOut
) -> None:
    await rig.keeper()
    client = await rig.client()
    helper, collector = await connected(rig, client, either)
    assert helper.environ["CLAUDE_POOL_INSTANCE"] == "one"
    assert set(helper.environ) == {"PATH", "CLAUDE_POOL_INSTANCE", "CLAUDE_POOL_SITE"}
    await client.request("stop", instance="one", graces=[5, 5, 5])
    assert await collector.exit() == (0, None, "")
    assert not is_alive(helper.pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_the_end_of_the_helper_ends_the_instance_and_is_told(
    rig: Rig, either: WayOut, number: signal.Signals
) -> None:
    await rig.keeper()
    client = await rig.client()
    helper, collector = await connected(rig, client, either)
    other, others_output = await connected(rig, client, either, "two")
    os.kill(helper.pid, number)
    _, _, said = await collector.exit()
    assert "network has ended" in said
    assert '"network_helper_died", "instance": "one"' in rig.log()
    assert rig.nothing_left("one")
    assert is_alive(other.pid)
    assert not others_output.exits


async def test_a_helper_that_does_not_move_is_ended_with_its_instance(rig: Rig, way_out: WayOut) -> None:
    await rig.keeper()
    client = await rig.client()
    helper, collector = await connected(rig, client, way_out)
    os.kill(helper.pid, signal.SIGSTOP)
    await client.request("stop", instance="one", graces=[5, 5, 5])
    assert (await collector.exit())[:2] == (0, None)
    assert not is_alive(helper.pid)


@pytest.mark.parametrize("whom", ["cli", "wrapper"])
async def test_a_killed_cli_or_wrapper_takes_the_helper_along(rig: Rig, either: WayOut, whom: str) -> None:
    await rig.keeper()
    client = await rig.client()
    helper, collector = await connected(rig, client, either)
    facts = (await client.request("list"))["instances"][0]
    os.kill(facts["identity"]["pid"] if whom == "cli" else helper.ppid, signal.SIGKILL)
    assert (await collector.exit())[:2] == (None, "SIGKILL")
    assert not is_alive(helper.pid)
    assert rig.nothing_left("one")


async def test_a_killed_keeper_leaves_no_helper(rig: Rig, either: WayOut) -> None:
    await rig.keeper()
    client = await rig.client()
    helper, _ = await connected(rig, client, either)
    await rig.kill()
    await gone(helper.pid)
    assert rig.nothing_left("one")


async def test_the_next_keeper_ends_a_helper_that_could_not_end_itself(rig: Rig, way_out: WayOut) -> None:
    await rig.keeper()
    client = await rig.client()
    helper, _ = await connected(rig, client, way_out)
    os.kill(helper.pid, signal.SIGSTOP)
    await rig.kill()
    assert is_alive(helper.pid)
    await rig.keeper()
    await gone(helper.pid)


async def test_a_keeper_that_became_another_image_still_watches(rig: Rig, way_out: WayOut) -> None:
    await rig.keeper()
    client = await rig.client()
    helper, collector = await connected(rig, client, way_out)
    await client.request("upgrade")
    assert is_alive(helper.pid)
    os.kill(helper.pid, signal.SIGKILL)
    assert "network has ended" in (await collector.exit())[2]


def program(directory: Path, name: str, text: str) -> str:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("which", "text", "words"),
    [
        ("slirp4netns", "echo no tap here >&2; exit 3", "slirp4netns ended: no tap here"),
        ("nft", "echo no such table >&2; exit 1", "packet filter was not set: no such table"),
        ("nft", "exit 7", "exited with 7"),
        ("slirp4netns", None, "slirp4netns ended"),
        ("nft", None, "packet filter was not set"),
    ],
)
async def test_a_network_that_cannot_be_made_is_a_refusal_and_leaves_nothing(
    rig: Rig, way_out: WayOut, short_dir: Path, which: str, text: str | None, words: str
) -> None:
    path = "/nonexistent" if text is None else program(short_dir, which, text)
    await rig.keeper()
    client = await rig.client()
    marker = short_dir / "cli-ran"
    with pytest.raises(KeeperError, match="could not be started") as refused:
        await start(
            client,
            "bwrap",
            "one",
            ["/bin/touch", str(marker)],
            network={**way_out.settings, which: path},
        )
    assert words in refused.value.details["stderr_tail"]
    assert not marker.exists()
    await eventually(lambda: rig.nothing_left("one"))
    assert not helpers(rig)


async def test_a_start_that_hangs_in_the_network_can_be_given_up(
    rig: Rig, way_out: WayOut, short_dir: Path
) -> None:
    await rig.keeper()
    client = await rig.client()
    settings = {**way_out.settings, "slirp4netns": program(short_dir, "slirp4netns", "exec sleep 600")}
    starting = asyncio.create_task(start(client, "bwrap", "one", ["/bin/true"], network=settings))
    await eventually(lambda: not rig.nothing_left("one"))
    await client.request("abandon", instance="one")
    assert rig.nothing_left("one")
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)


async def test_no_descriptor_of_the_keeper_gets_into_the_helper(rig: Rig, either: WayOut) -> None:
    await rig.keeper()
    client = await rig.client()
    helper, _ = await connected(rig, client, either)
    second, _ = await connected(rig, client, either, "two")

    def kinds(pid: int) -> list[str]:
        names = os.listdir(f"/proc/{pid}/fd")
        return sorted(os.readlink(f"/proc/{pid}/fd/{name}").partition(":")[0] for name in names)

    await eventually(lambda: kinds(helper.pid) == kinds(second.pid))
    # the pipes: the exit pipe, both ends of what it says; nothing of the CLI's
    assert kinds(second.pid).count("pipe") <= 5
    assert not [kind for kind in kinds(second.pid) if "spool" in kind or "keeper" in kind]


def test_the_rules_name_the_hosts_own_addresses() -> None:
    text = rules(["192.0.2.7", "203.0.113.9"])
    assert "elements = { 192.0.2.7, 203.0.113.9 }" in text
    assert "ip daddr @own reject" in text
    assert "@own" not in rules([])
    own: list[Any] = own_addresses()
    assert not [address for address in own if address.startswith("127.")]


@pytest.mark.skipif(shutil.which("ip") is None, reason="iproute2 is not installed")
def test_the_hosts_own_addresses_are_those_that_iproute_knows() -> None:
    command = ["ip", "-4", "-o", "addr", "show", "scope", "global"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    known = {word.partition("/")[0] for before, word in itertools.pairwise(listed) if before == "inet"}
    assert known <= set(own_addresses())
