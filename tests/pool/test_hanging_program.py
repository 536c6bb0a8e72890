"""A CLI whose program cannot even be loaded: the disk under it hangs in ``execve``.

The kernel holds the call itself, by a permission event of fanotify that
nobody answers, so that the process really stands in D as on a dead disk.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pool import errors
from tests.hung_disk import hung_disk, stand_still
from tests.pool.conftest import MakePool, Screen
from tests.waiting import eventually

_CLASS_CONTENT, _CLOEXEC, _OPEN_EXEC_PERM, _MARK_ADD, _CWD = 0x4, 0x1, 0x40000, 0x1, -100


class Hanging:
    """While it is held, whoever executes ``program`` stands still in the kernel."""

    def __init__(self, program: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.fanotify_init(_CLASS_CONTENT | _CLOEXEC, os.O_RDONLY)
        if self._fd < 0:
            pytest.skip(f"no permission events of fanotify: {os.strerror(ctypes.get_errno())}")
        name = ctypes.c_char_p(os.fsencode(program))
        if libc.fanotify_mark(self._fd, _MARK_ADD, ctypes.c_uint64(_OPEN_EXEC_PERM), _CWD, name) < 0:
            error = os.strerror(ctypes.get_errno())
            self.release()
            pytest.skip(f"no permission events of fanotify: {error}")

    def release(self) -> None:
        """Let everybody go on."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@pytest.fixture
def hang() -> Iterator[Callable[[Path], Hanging]]:
    """Makes ``Hanging``; all are released at the end."""
    made: list[Hanging] = []

    def make(program: Path) -> Hanging:
        made.append(Hanging(program))
        return made[-1]

    yield make
    for hanging in made:
        hanging.release()


async def test_a_program_that_cannot_be_loaded_fails_in_time_and_holds_up_nobody(
    make_pool: MakePool, short_dir: Path, fake_claude: Path, hang: Callable[[Path], Hanging]
) -> None:
    program = short_dir / "claude"
    shutil.copy(fake_claude, program)
    pool = await make_pool(cli_path=program, start_timeout_seconds=4, max_instances=2)
    bob = Screen()
    await pool.subscribe("bob", "default", None, bob)
    await bob.ended((await pool.submit("bob", "default", "hello", message_id="m1")).turn_id)
    hanging = hang(program)
    starting = asyncio.create_task(pool.get_or_create_instance("alice"), name="alice")
    try:
        await eventually(lambda: stand_still(pool.config.data_dir), what="somebody in execve")
        turn = (await pool.submit("bob", "default", "are you there?", message_id="m2")).turn_id
        assert (await bob.ended(turn))["state"] == "succeeded"
        assert not starting.done(), "bob was served while alice's program hung"
        with pytest.raises(errors.LaunchFailed) as failure:
            await starting
        assert failure.value.details["step"] == "process"
        await eventually(lambda: not stand_still(pool.config.data_dir))
    finally:
        hanging.release()
        await asyncio.gather(starting, return_exceptions=True)
    assert [info.user_id for info in pool.instances()] == ["bob"]
    assert (await pool.get_or_create_instance("alice")).id


async def test_a_workspace_on_a_disk_that_hangs_holds_up_its_own_user_only(
    make_pool: MakePool,
) -> None:
    pool = await make_pool(start_timeout_seconds=3, isolation_mode="none")
    assert (await pool.get_or_create_instance("alice")).id
    await pool.destroy_instance("alice")
    with hung_disk(pool.config.data_dir / "workspaces" / "alice"):
        for _ in range(2):
            starting = asyncio.create_task(pool.get_or_create_instance("alice"), name="alice")
            await eventually(lambda: pool._around.disk_work, what="a thread that waits for the disk")
            screen = Screen()
            user = f"bob{_}"
            await pool.subscribe(user, "default", None, screen)
            turn = (await pool.submit(user, "default", "are you there?", message_id="m1")).turn_id
            assert (await screen.ended(turn))["state"] == "succeeded"
            with pytest.raises(errors.LaunchFailed) as failure:
                await starting
            assert failure.value.details["step"] == "workspace"
            assert len(pool._around.disk_work) == 1, "one thread, however often it is tried"
    # Whoever waits for a disk that is gone waits for ever; this one was taken away, and so goes on.
    await eventually(lambda: not pool._around.disk_work)
    assert (await pool.get_or_create_instance("alice")).id
