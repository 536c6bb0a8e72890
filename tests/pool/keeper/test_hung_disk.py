"""The disk of one workspace does not answer: its instance waits, the keeper does not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pool.keeper.client import KeeperError
from tests.hung_disk import hung_disk, stand_still
from tests.pool.keeper.rig import ECHO, SLEEPER, Rig, python, start
from tests.waiting import eventually

LINE = b'{"type":"user","message":{"role":"user","content":"hello"}}'


@pytest.fixture
def workspace(short_dir: Path) -> Path:
    directory = short_dir / "w"
    directory.mkdir()
    return directory


async def test_a_start_that_hangs_on_its_workspace_delays_nobody_else(
    rig: Rig, wrapper: str, workspace: Path
) -> None:
    await rig.keeper()
    client = await rig.client()
    attached, collector = await start(client, "shim", "other", python(ECHO))
    with hung_disk(workspace):
        hanging = asyncio.create_task(
            start(client, wrapper, "hung", python(SLEEPER), cwd=str(workspace)), name="hanging"
        )
        await eventually(lambda: stand_still(rig.data), what="somebody who waits for the disk")
        await asyncio.wait_for(client.write(attached.handle, LINE), 20)
        await collector.line_count(1)
        third, said = await start(client, "shim", "third", python(ECHO))
        await asyncio.wait_for(client.write(third.handle, LINE), 20)
        await said.line_count(1)
        assert not hanging.done(), "others were started and served while it hung"
        # Whoever wanted it gives up: nothing of it is left, though the disk still hangs.
        await asyncio.wait_for(client.request("abandon", instance="hung"), 20)
        await eventually(lambda: rig.nothing_left("hung"))
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)
    _, collector = await start(client, wrapper, "hung", python(SLEEPER), cwd=str(workspace))
    await collector.line_count(1)


async def test_what_hangs_in_its_start_ends_when_the_keeper_is_killed(rig: Rig, workspace: Path) -> None:
    await rig.keeper()
    client = await rig.client()
    with hung_disk(workspace):
        hanging = asyncio.create_task(
            start(client, "shim", "hung", python(SLEEPER), cwd=str(workspace)), name="hanging"
        )
        await eventually(lambda: stand_still(rig.data), what="somebody who waits for the disk")
        await rig.kill()
        await eventually(lambda: rig.nothing_left("hung"), what="the shim sees that its keeper is gone")
        await asyncio.gather(hanging, return_exceptions=True)


async def test_a_workspace_that_cannot_be_entered_fails_the_start_with_the_reason(
    rig: Rig, workspace: Path
) -> None:
    await rig.keeper()
    client = await rig.client()
    missing = workspace / "missing"
    with pytest.raises(KeeperError) as refusal:
        await start(client, "shim", "none", python(SLEEPER), cwd=str(missing))
    assert f"{missing} cannot be entered: No such file" in refusal.value.details["stderr_tail"]
    assert rig.nothing_left("none")
