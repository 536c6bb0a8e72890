"""The launcher of this machine keeps the contract of ``pool.launch.base``, sandboxed or not."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pool.config import PoolConfig
from pool.errors import (
    BadRequest,
    Conflict,
    InputBlocked,
    InstanceGone,
    IsolationUnavailable,
    KeeperUnavailable,
    LaunchFailed,
)
from pool.launch.base import StopGraces
from pool.launch.local import LocalLauncher
from pool.model import ExitStatus, InstanceId
from tests.pool.launch.rig import QUICK, Sink, Stand, cancelled
from tests.procfs import is_alive
from tests.waiting import eventually

LINE = b'{"type":"keep_alive","n":%d}'


async def test_a_life_from_start_to_forget(stand_of: Callable[..., Stand], mode: str) -> None:
    stand = stand_of(mode)
    launcher = stand.launcher
    assert await launcher.open(3) == 3
    assert launcher.describe_isolation()[0] == mode
    sink = Sink()
    handle = await launcher.start(stand.spec("one", "--print", env={"EXTRA": "1"}), sink)
    [hello] = await sink.lines(1)
    assert hello["args"] == ["--print"]
    assert hello["env"]["EXTRA"] == "1"
    assert hello["env"]["CLAUDE_POOL_INSTANCE"] == "one"
    assert hello["env"]["ANTHROPIC_API_KEY"] == "dummy"
    assert hello["cwd"] == ("/workspace" if mode == "bwrap" else str(stand.workspace))
    assert handle.isolation.startswith(mode)
    assert handle.identity is not None
    assert handle.identity.pid in stand.processes("one")
    await handle.write(LINE % 1)
    await handle.write(LINE % 2 + b"\n")
    assert [line["n"] for line in (await sink.lines(3))[1:]] == [1, 2]
    with pytest.raises(BadRequest):
        await handle.write(b"null")
    handle.committed(len(sink.data))
    assert await handle.read(0, 10) == (0, bytes(sink.data[:10]))
    [listing] = await launcher.list()
    assert (listing.instance_id, listing.exit_status, listing.end_offset) == ("one", None, len(sink.data))
    assert listing.identity == handle.identity
    with pytest.raises(Conflict):
        await launcher.forget(InstanceId("one"))
    await handle.stop(QUICK)
    assert await sink.exit() == ExitStatus(0)
    assert not stand.processes("one")
    for gone in (handle.write(LINE % 3), handle.signal("SIGTERM")):
        with pytest.raises(InstanceGone):
            await gone
    await handle.stop(QUICK)
    [listing] = await launcher.list()
    assert listing.exit_status == ExitStatus(0)
    assert await launcher.read_spool(InstanceId("one"), 0, 10) == (0, bytes(sink.data[:10]))
    await launcher.forget(InstanceId("one"))
    assert await launcher.list() == []
    with pytest.raises(InstanceGone):
        await launcher.read_spool(InstanceId("one"), 0, 10)
    with pytest.raises(InstanceGone):
        await launcher.attach(InstanceId("one"), 0, Sink())


async def test_the_next_server_takes_over(stand_of: Callable[..., Stand], mode: str) -> None:
    first = stand_of(mode)
    await first.launcher.open(1)
    sink = Sink()
    handle = await first.launcher.start(first.spec("one"), sink)
    await handle.write(LINE % 1)
    await sink.lines(2)
    await first.launcher.aclose(end_instances=False)
    assert sink.lost == 0
    second = stand_of(mode)
    # its store knows of no epoch yet: the keeper's counts
    assert await second.launcher.open(1) == 1
    [listing] = await second.launcher.list()
    again = Sink(listing.end_offset)
    taken = await second.launcher.attach(InstanceId("one"), listing.end_offset, again)
    assert taken.identity == handle.identity
    await taken.write(LINE % 2)
    assert [line["n"] for line in await again.lines(1)] == [2]
    begin, data = await taken.read(0, 10**6)
    assert begin == 0
    assert data == bytes(sink.data + again.data)


async def test_a_server_that_looks_elsewhere_finds_the_keeper_that_runs(
    stand_of: Callable[..., Stand], short_dir: Path
) -> None:
    first = stand_of("none")
    await first.launcher.open(1)
    sink = Sink()
    await first.launcher.start(first.spec("one"), sink)
    await first.launcher.aclose(end_instances=False)
    second = stand_of("none", runtime_dir=short_dir / "elsewhere")
    await second.launcher.open(2)
    taken = await second.launcher.attach(InstanceId("one"), 0, again := Sink())
    await taken.write(LINE % 1)
    await again.lines(2)
    await second.launcher.aclose(end_instances=True)
    third = stand_of("none", runtime_dir=short_dir / "elsewhere")
    await third.launcher.open(3)
    assert (short_dir / "elsewhere" / "keeper.sock").exists()


async def test_a_server_that_was_taken_over_stays_away(stand_of: Callable[..., Stand]) -> None:
    first, second = stand_of("none"), stand_of("none")
    await first.launcher.open(1)
    sink = Sink()
    handle = await first.launcher.start(first.spec("one"), sink)
    assert await second.launcher.open(5) == 5
    await eventually(lambda: first.lost == ["lost"])
    assert sink.lost == 1
    with pytest.raises(KeeperUnavailable):
        await handle.write(LINE % 1)
    with pytest.raises(KeeperUnavailable, match="epoch 5"):
        await first.launcher.open(1)
    third = stand_of("none")
    # a fresh server whose store knows less passes by what the keeper has seen
    assert await third.launcher.open(2) == 6


async def test_a_keeper_that_dies_is_told_of_and_replaced(stand_of: Callable[..., Stand], mode: str) -> None:
    stand = stand_of(mode)
    await stand.launcher.open(1)
    sink = Sink()
    handle = await stand.launcher.start(stand.spec("one"), sink)
    await sink.lines(1)
    keeper = stand.keeper()
    os.kill(keeper, signal.SIGKILL)
    await eventually(lambda: stand.lost == ["lost"])
    assert (sink.lost, sink.exits) == (1, [])
    assert stand.launcher.supervisor_pids() == set()
    with pytest.raises(KeeperUnavailable):
        await handle.write(LINE % 1)
    with pytest.raises(KeeperUnavailable):
        await stand.launcher.list()
    assert await stand.launcher.open(1) == 1
    assert not stand.processes("one")
    [listing] = await stand.launcher.list()
    assert listing.exit_status == ExitStatus(None, None)
    assert listing.end_offset == len(sink.data)
    # nobody is told twice
    assert (stand.lost, sink.lost) == (["lost"], 1)


async def test_a_frozen_keeper_is_told_of_and_what_it_holds_runs_on(
    stand_of: Callable[..., Stand], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand = stand_of("none")
    await stand.launcher.open(1)
    sink = Sink()
    handle = await stand.launcher.start(stand.spec("one"), sink)
    [keeper] = stand.launcher.supervisor_pids()
    monkeypatch.setattr("pool.launch.local._HELLO_SECONDS", 0.3)
    os.kill(keeper, signal.SIGSTOP)
    try:
        for _ in range(2):
            with pytest.raises(KeeperUnavailable, match="does not answer"):
                await stand_of("none").launcher.open(2)
    finally:
        os.kill(keeper, signal.SIGCONT)
    monkeypatch.undo()
    # Unknown is not dead: nothing was ended, nothing was started beside it.
    second = stand_of("none")
    await second.launcher.open(2)
    assert second.launcher.supervisor_pids() == {keeper}
    [listing] = await second.launcher.list()
    assert (listing.identity, listing.exit_status) == (handle.identity, None)


async def test_the_end_of_all_is_waited_for(
    stand_of: Callable[..., Stand], mode: str, short_dir: Path
) -> None:
    stand = stand_of(mode)
    await stand.launcher.open(1)
    sink = Sink()
    deaf = "import signal; signal.signal(15, signal.SIG_IGN); print('1', flush=True); time.sleep(600)"
    await stand.launcher.start(stand.spec("one", "--do", deaf), sink)
    await sink.lines(1)
    keeper = stand.keeper()
    await stand.launcher.aclose(end_instances=True)
    assert await sink.exit() == ExitStatus(None, "SIGKILL")
    assert not is_alive(keeper)
    assert not stand.processes("one")
    assert not (short_dir / "run").exists()
    assert stand.lost == []


async def test_a_higher_epoch_is_taken_without_losing_what_is_attached(
    stand_of: Callable[..., Stand],
) -> None:
    stand = stand_of("none")
    await stand.launcher.open(1)
    sink = Sink()
    handle = await stand.launcher.start(stand.spec("one"), sink)
    assert await stand.launcher.open(7) == 7
    await handle.write(LINE % 1)
    await sink.lines(2)
    assert (stand.lost, sink.lost) == ([], 0)


async def test_two_opens_at_once_start_one_keeper(stand_of: Callable[..., Stand]) -> None:
    stand = stand_of("none")
    assert await asyncio.gather(*(stand.launcher.open(1) for _ in range(5))) == [1] * 5
    # of a keeper elsewhere no pid means anything here
    assert stand.launcher.supervisor_pids() <= {stand.keeper()}


@pytest.mark.parametrize("moment", [0.0, 0.001, 0.005, 0.01, 0.02, 0.05])
async def test_a_cancelled_start_leaves_nothing(
    stand_of: Callable[..., Stand], mode: str, moment: float
) -> None:
    stand = stand_of(mode)
    await stand.launcher.open(1)
    sink = Sink()
    task = asyncio.create_task(stand.launcher.start(stand.spec("one"), sink), name="start")
    await asyncio.sleep(moment)
    if await cancelled(task):
        assert await stand.launcher.list() == []
        assert not stand.processes("one")
        assert (sink.exits, sink.lost) == ([], 0)


async def test_a_start_that_fails_says_why(
    stand_of: Callable[..., Stand], mode: str, short_dir: Path
) -> None:
    stand = stand_of(mode)
    await stand.launcher.open(1)
    spec = stand.spec("one")
    stand.workspace.rmdir()
    with pytest.raises(LaunchFailed) as failure:
        await stand.launcher.start(spec, Sink())
    assert failure.value.details["step"] == "workspace"
    stand.workspace.mkdir()
    broken = short_dir / "broken"
    broken.write_text("#!/nonexistent/interpreter\n")
    broken.chmod(0o755)
    await stand.launcher.aclose(end_instances=True)
    other = stand_of(mode, cli_path=broken)
    await other.launcher.open(1)
    with pytest.raises(LaunchFailed) as failure:
        await other.launcher.start(spec, Sink())
    # without a sandbox it is the shim that says so, in one the shell
    assert re.search("No such file|not found", failure.value.details["stderr"])
    assert await other.launcher.list() == []
    await other.launcher.aclose(end_instances=True)
    missing = stand_of(mode, cli_path=short_dir / "missing")
    await missing.launcher.open(1)
    with pytest.raises(LaunchFailed) as failure:
        await missing.launcher.start(spec, Sink())
    assert failure.value.details["step"] == "cli"


async def test_a_cli_that_does_not_read_is_told_of_in_time(stand_of: Callable[..., Stand]) -> None:
    stand = stand_of("none")
    await stand.launcher.open(1)
    sink = Sink()
    handle = await stand.launcher.start(
        stand.spec("one", "--do", "print('1', flush=True); time.sleep(600)"), sink
    )
    await sink.lines(1)
    big = b'{"type":"keep_alive","x":"' + b"y" * 3_000_000 + b'"}'
    with pytest.raises(InputBlocked):
        await handle.write(big, timeout_seconds=0.2)
    await handle.stop(StopGraces(0, 0.5, 5))
    assert await sink.exit() == ExitStatus(None, "SIGTERM")


async def test_a_private_temporary_directory_lives_as_long_as_its_instance(
    stand_of: Callable[..., Stand], short_dir: Path
) -> None:
    stand = stand_of("none")
    await stand.launcher.open(1)
    sink = Sink()
    handle = await stand.launcher.start(stand.spec("one"), sink)
    [hello] = await sink.lines(1)
    directory = Path(hello["env"]["TMPDIR"])
    assert directory.is_dir()
    assert directory.is_relative_to(short_dir)
    (directory / "left").touch()
    await handle.stop(QUICK)
    await eventually(lambda: not directory.exists())


async def test_nothing_of_the_servers_environment_reaches_the_cli(
    stand_of: Callable[..., Stand], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN", "NODE_OPTIONS", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("CLAUDECODE", "secret")
    stand = stand_of(mode)
    await stand.launcher.open(1)
    sink = Sink()
    await stand.launcher.start(stand.spec("one"), sink)
    [hello] = await sink.lines(1)
    assert "secret" not in hello["env"].values()
    keeper = stand.keeper()
    assert b"secret" not in Path(f"/proc/{keeper}/environ").read_bytes()


async def test_before_open_nothing_can_be_done(stand_of: Callable[..., Stand]) -> None:
    stand = stand_of("none")
    with pytest.raises(KeeperUnavailable, match="open"):
        await stand.launcher.list()
    with pytest.raises(KeeperUnavailable):
        await stand.launcher.start(stand.spec("one"), Sink())


async def test_a_keeper_that_does_not_start_says_why(stand_of: Callable[..., Stand], short_dir: Path) -> None:
    broken = ("/bin/sh", "-c", "echo the reason >&2; exit 1")
    launcher = LocalLauncher(
        PoolConfig(
            data_dir=short_dir / "other",
            runtime_dir=short_dir / "other-run",
            keeper_command=broken,
            isolation_mode="none",
        )
    )
    with pytest.raises(KeeperUnavailable, match="the reason"):
        await launcher.open(1)
    await launcher.aclose(end_instances=True)


def test_a_mode_that_cannot_be_had_is_refused_at_once(short_dir: Path) -> None:
    with pytest.raises(IsolationUnavailable):
        LocalLauncher(PoolConfig(data_dir=short_dir, isolation_mode="uid"))
