"""The real CLI under the launcher: the facts that the keeper's design rests on. No model is needed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pool.launch.base import InstanceHandle, StopGraces
from pool.launch.local import LocalLauncher
from pool.model import ExitStatus, InstanceId
from tests.pool.keeper.test_gate import GOOD
from tests.pool.launch.rig import Sink, Stand
from tests.waiting import eventually

pytestmark = pytest.mark.real_cli
# the shim's part of it has the same story with small programs elsewhere
SANDBOXED = pytest.mark.parametrize(
    "mode", [pytest.param("none", marks=pytest.mark.acceptance), "bwrap"], indirect=True
)

ARGS = (
    *("--print", "--verbose", "--input-format", "stream-json", "--output-format", "stream-json"),
    *("--permission-prompt-tool", "stdio"),
)


def request(request_id: str, subtype: str, **more: Any) -> bytes:
    frame = {"type": "control_request", "request_id": request_id, "request": {"subtype": subtype, **more}}
    return json.dumps(frame, ensure_ascii=False).encode()


async def answer(sink: Sink, request_id: str) -> dict[str, Any]:
    """The CLI's answer to a control request."""

    def find() -> dict[str, Any] | None:
        for line in sink.data.splitlines():
            frame = json.loads(line)
            response = frame.get("response", {})
            if frame.get("type") == "control_response" and response.get("request_id") == request_id:
                return dict(response)
        return None

    found = await eventually(find, 120, what=f"answer to {request_id}")
    assert found is not None
    return found


async def begin(stand: Stand, instance: str = "one") -> tuple[InstanceHandle, Sink]:
    sink = Sink()
    handle = await stand.launcher.start(stand.spec(instance, *ARGS, env={"DISABLE_AUTOUPDATER": "1"}), sink)
    await handle.write(request("1-1", "initialize", hooks={}))
    assert (await answer(sink, "1-1"))["subtype"] == "success"
    return handle, sink


@SANDBOXED
async def test_the_next_server_goes_on_where_the_last_one_was_cut(
    stand_of: Callable[..., Stand], mode: str, real_cli: Path
) -> None:
    first = stand_of(mode, cli_path=real_cli)
    await first.launcher.open(1)
    handle, sink = await begin(first)
    assert isinstance(first.launcher, LocalLauncher)
    first.launcher._client._transport.abort()  # type: ignore[union-attr]
    await eventually(lambda: sink.lost == 1)
    second = stand_of(mode, cli_path=real_cli)
    await second.launcher.open(2)
    again = Sink(len(sink.data))
    taken = await second.launcher.attach(InstanceId("one"), len(sink.data), again)
    assert taken.identity == handle.identity
    # what makes a new attach possible: the CLI accepts a second initialize
    await taken.write(request("2-1", "initialize", hooks={}))
    renewed = await answer(again, "2-1")
    assert renewed["pending_permission_requests"] == []
    seen = bytes(sink.data + again.data)
    begin_at, spooled = await taken.read(0, 10**7)
    assert begin_at == 0
    assert spooled.startswith(seen)
    await taken.stop(StopGraces())
    assert await again.exit() == ExitStatus(0)
    assert not second.processes("one")


async def test_every_line_that_the_gate_lets_through_leaves_the_cli_alive(
    stand_of: Callable[..., Stand], real_cli: Path
) -> None:
    stand = stand_of("none", cli_path=real_cli)
    await stand.launcher.open(1)
    handle, sink = await begin(stand)
    for index, line in enumerate(line for line in GOOD if b'"user"' not in line):
        await handle.write(line)
        await handle.write(request(f"ping-{index}", "get_binary_version"))
        await answer(sink, f"ping-{index}")
    # JavaScript has more line ends than JSON: these two do not cut a line
    name = "a\u2028b\u2029c\u0085d"
    await handle.write(request(name, "get_binary_version"))
    assert (await answer(sink, name))["subtype"] == "success"
    await handle.stop(StopGraces())
    assert await sink.exit() == ExitStatus(0)


async def test_the_identity_is_the_clis_own_and_a_kill_of_it_is_told(
    stand_of: Callable[..., Stand], mode: str, real_cli: Path
) -> None:
    stand = stand_of(mode, cli_path=real_cli)
    await stand.launcher.open(1)
    handle, sink = await begin(stand)
    assert handle.identity is not None
    told = json.loads(sink.data.splitlines()[0])["response"]["response"]["pid"]
    if mode == "none":
        assert told == handle.identity.pid
    exe = Path(f"/proc/{handle.identity.pid}/cmdline").read_bytes().split(b"\0")
    assert exe[0].endswith(b"claude")
    assert exe[1] == b"--print"
    await handle.signal("SIGKILL")
    assert await sink.exit() == ExitStatus(None, "SIGKILL")
    assert not stand.processes("one")


@SANDBOXED
async def test_the_ladder_ends_the_real_cli_by_term(
    stand_of: Callable[..., Stand], mode: str, real_cli: Path
) -> None:
    stand = stand_of(mode, cli_path=real_cli)
    await stand.launcher.open(1)
    handle, sink = await begin(stand)
    await handle.stop(StopGraces(end_of_input=0, term=10, kill=10))
    # it says 143 of its own accord, which is TERM
    assert await sink.exit() == ExitStatus(None, "SIGTERM")


async def test_an_unknown_conversation_fails_the_cli_with_its_words_on_stderr(
    stand_of: Callable[..., Stand], real_cli: Path
) -> None:
    stand = stand_of("none", cli_path=real_cli)
    await stand.launcher.open(1)
    sink = Sink()
    unknown = "--resume=00000000-0000-4000-8000-000000000000"
    handle = await stand.launcher.start(stand.spec("one", *ARGS, unknown), sink)
    async with asyncio.timeout(120):
        await handle.write(request("1-1", "initialize", hooks={}))
    assert await sink.exit() == ExitStatus(1)
    assert "No conversation found" in sink.exits[0][1]
