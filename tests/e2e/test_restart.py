"""kill -9 of the server: the instance lives on, and no viewer can tell from the frames."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.e2e.site import Client, Site, client, live_pid, serving
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("forked_servers")


SAMPLED_ROUNDS = 2
ALL_ROUNDS = 30


async def kill_in_mid_stream(site: Site, token: str, viewer: Client, text: str, seen: int) -> str:
    """One round: kill the server after ``seen`` frames of a turn; the text of the whole turn."""
    start = len(viewer.frames)
    turn = await viewer.send(text)
    await eventually(lambda: len(viewer.frames) >= start + seen or viewer.states(turn)[-1:] == ["succeeded"])
    pid = await live_pid(site, token)
    await site.kill()
    await site.start()
    await viewer.resume()
    assert (await viewer.ended(turn))["state"] == "succeeded"
    assert viewer.states(turn) == ["queued", "running", "succeeded"]
    assert await live_pid(site, token) == pid
    assert not viewer.of_type("gap")
    viewer.check_order()
    streamed = viewer.streamed(start)
    assert streamed == viewer.answer(start)
    return streamed


async def rounds(site: Site, text: str, expected: str, number: int) -> None:
    token = await site.add_user("alice")
    async with client(site, token) as viewer:
        await viewer.subscribe()
        await viewer.ended(await viewer.send("hello"))
        for index in range(number):
            seen = 2 + index * 60 // number
            assert await kill_in_mid_stream(site, token, viewer, f"{text}", seen) == expected, index


async def test_a_killed_server_leaves_no_mark_in_a_stream(short_dir: Path, fake_claude: Path) -> None:
    expected = " ".join(f"w{n}" for n in range(60))
    async with serving(short_dir, fake_claude) as site:
        await rounds(site, "stream 60 8", expected, SAMPLED_ROUNDS)


@pytest.mark.real_cli
@pytest.mark.acceptance
async def test_the_real_cli_goes_on_under_a_killed_server(short_dir: Path, real_cli: Path) -> None:
    expected = "\n".join(str(n + 1) for n in range(60))
    async with serving(short_dir, real_cli) as site:
        await rounds(site, "count to 60 every 10 ms", expected, 2)


@pytest.mark.acceptance
@pytest.mark.real_cli
@pytest.mark.timeout(600)
async def test_thirty_moments_with_the_real_cli(short_dir: Path, real_cli: Path) -> None:
    expected = "\n".join(str(n + 1) for n in range(60))
    async with serving(short_dir, real_cli) as site:
        await rounds(site, "count to 60 every 10 ms", expected, ALL_ROUNDS)


POINTS = ("accept.before_store", "accept.after_store", "dispatch.before_write", "dispatch.after_write")


async def paused_kill(site: Site, directory: Path, token: str, point: str, message_id: str) -> None:
    """Send a message to a server that stops at ``point``; kill it there and start another one."""
    await site.kill()
    mark = directory / f"pause-{message_id}"
    mark.mkdir()
    await site.start(CLAUDE_POOL_PAUSE=f"{point}:{mark}")
    async with client(site, token) as sender:
        await sender.put(type="send", content=f"echo {message_id}", message_id=message_id)
        await eventually((mark / f"{point}.reached").exists, what=point)
        await site.kill()
    await site.start()


def times_read(site: Site, message_id: str) -> int:
    """How often the CLI was given the message, by its own account; the same uuid counts once."""
    path = site.data / "workspaces/alice/input.log"
    lines = path.read_text().splitlines() if path.exists() else []
    uuids = {line.split('"uuid":"')[1][:36] for line in lines if f"echo {message_id}" in line}
    return len(uuids)


async def exactly_once(
    site: Site, directory: Path, rounds_each: int, points: tuple[str, ...] = POINTS
) -> None:
    token = await site.add_user("alice")
    workspace = site.data / "workspaces/alice"
    workspace.mkdir(parents=True)
    (workspace / ".fake-claude.json").write_text('{"log_input": "input.log"}')
    async with client(site, token) as viewer:
        await viewer.subscribe()
        await viewer.ended(await viewer.send("hello"))
    for number in range(rounds_each):
        for point in points:
            message_id = f"{point.replace('.', '-')}-{number}"
            await paused_kill(site, directory, token, point, message_id)
            async with client(site, token) as viewer:
                await viewer.subscribe(cursor="0")
                turn = await viewer.send(f"echo {message_id}", message_id=message_id)
                assert (await viewer.ended(turn))["state"] == "succeeded", point
                await asyncio.sleep(0.1)
                assert viewer.states(turn).count("succeeded") == 1
                assert viewer.answer().count(message_id) == 1, point
            assert times_read(site, message_id) == 1, point


async def test_a_message_runs_once_wherever_the_server_is_killed(short_dir: Path, fake_claude: Path) -> None:
    async with serving(short_dir, fake_claude) as site:
        await exactly_once(site, short_dir, 1, POINTS[1:3])


@pytest.mark.acceptance
@pytest.mark.timeout(600)
async def test_a_message_runs_once_in_thirty_rounds(short_dir: Path, fake_claude: Path) -> None:
    async with serving(short_dir, fake_claude) as site:
        await exactly_once(site, short_dir, 8)


@pytest.mark.acceptance
async def test_a_message_is_lost_when_the_cli_dies_with_the_server(
    short_dir: Path, fake_claude: Path
) -> None:
    async with serving(short_dir, fake_claude) as site:
        token = await site.add_user("alice")
        async with client(site, token) as viewer:
            await viewer.subscribe()
            await viewer.ended(await viewer.send("hello"))
            turn = await viewer.send("stream 1000 20")
            await eventually(lambda: "w3" in viewer.streamed())
            pid = await live_pid(site, token)
            await site.kill()
            os.kill(pid, 9)
            await site.start()
            await viewer.resume()
            ending = await viewer.ended(turn)
            assert (ending["state"], ending["reason"]["signal"]) == ("lost", "SIGKILL")
            assert viewer.states(turn) == ["queued", "running", "lost"]
            viewer.check_order()
            assert (await viewer.ended(await viewer.send("hello")))["state"] == "succeeded"


async def an_approval_survives(site: Site, ask_for: str, file: str) -> None:
    token = await site.add_user("alice")
    async with client(site, token) as viewer:
        await viewer.subscribe()
        turn = await viewer.send(ask_for)
        (ask,) = await eventually(lambda: viewer.of_type("permission_request"))
        await site.kill()
        await site.start()
        await viewer.resume()
        (subscribed,) = viewer.of_type("subscribed")[1:]
        assert [item["request_id"] for item in subscribed["pending_permissions"]] == [ask["request_id"]]
        answer = {"type": "permission", "request_id": ask["request_id"], "decision": "allow"}
        await viewer.put(**answer)
        await viewer.put(**answer)
        assert (await viewer.ended(turn))["state"] == "succeeded"
        await eventually(lambda: viewer.of_type("error"))
        assert viewer.of_type("error")[0]["code"] == "already_resolved"
        assert len(viewer.of_type("permission_request")) == 1
        assert len(viewer.of_type("permission_resolved")) == 1
        assert (site.data / "workspaces/alice" / file).is_file()
        viewer.check_order()


async def test_an_open_approval_survives(short_dir: Path, fake_claude: Path) -> None:
    async with serving(short_dir, fake_claude) as site:
        await an_approval_survives(site, "write note.txt hello", "note.txt")


@pytest.mark.real_cli
@pytest.mark.acceptance
async def test_an_open_approval_of_the_real_cli_survives(short_dir: Path, real_cli: Path) -> None:
    async with serving(short_dir, real_cli) as site:
        await an_approval_survives(site, "create a file note.txt with hello", "note.txt")
