"""A process that outlives KILL is reported, never believed dead, and told of when it goes at last."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.pool.keeper.rig import SLEEPER, Rig, python, start
from tests.waiting import eventually, eventually_sync

FREEZER = Path("/sys/fs/cgroup/freezer")


class Freezer:
    """A cgroup of version 1, in which a frozen process does not even take a KILL."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def freeze(self, pid: int) -> None:
        (self._directory / "cgroup.procs").write_text(str(pid))
        (self._directory / "freezer.state").write_text("FROZEN")
        eventually_sync(lambda: self._state() == "FROZEN")

    def thaw(self) -> None:
        (self._directory / "freezer.state").write_text("THAWED")

    def _state(self) -> str:
        return (self._directory / "freezer.state").read_text().strip()


@pytest.fixture
def freezer() -> Iterator[Freezer]:
    directory = FREEZER / f"claude-pool-test-{os.getpid()}"
    try:
        directory.mkdir()
        (directory / "freezer.state").read_text()
    except OSError as error:
        with suppress(OSError):
            directory.rmdir()
        pytest.skip(f"no freezer of cgroup version 1: {error}")
    freezer = Freezer(directory)
    yield freezer
    freezer.thaw()

    def is_removed() -> bool:
        with suppress(OSError):
            directory.rmdir()
        return not directory.exists()

    eventually_sync(is_removed)


async def test_what_outlives_kill_is_stuck_until_it_is_gone(rig: Rig, wrapper: str, freezer: Freezer) -> None:
    await rig.keeper()
    client = await rig.client()
    attached, collector = await start(client, wrapper, "one", python(SLEEPER))
    await collector.line_count(1)
    freezer.freeze(attached.facts["identity"]["pid"])
    answer = await client.request("stop", instance="one", graces=[0.1, 0.1, 0.5])
    assert answer["gone"] is False
    assert {"event": "stuck", "instance": "one"} in rig.events
    assert collector.exits == []
    assert not rig.nothing_left("one")
    # others are served all the while
    _, other = await start(client, wrapper, "two", ["/bin/true"])
    await other.exit()
    freezer.thaw()
    # both signals waited for it; the kernel says which it died of
    assert (await collector.exit())[1] in ("SIGKILL", "SIGTERM")
    await eventually(lambda: rig.nothing_left("one"))


async def test_a_keeper_does_not_wait_for_ever_for_what_is_stuck(
    rig: Rig, wrapper: str, freezer: Freezer
) -> None:
    await rig.keeper()
    client = await rig.client()
    attached, collector = await start(client, wrapper, "one", python(SLEEPER))
    await collector.line_count(1)
    freezer.freeze(attached.facts["identity"]["pid"])
    await client.request("shutdown", graces=[0, 0, 0.2])
    # it says that something is left
    assert await rig.wait(20) == 1
    assert "keeper_gives_up" in rig.log()
    freezer.thaw()
    await eventually(lambda: rig.nothing_left("one"))
