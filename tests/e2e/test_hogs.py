"""One user takes all processes, all memory, all room that they can get: the next turn of another works."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pool.launch.isolation import probe
from tests.e2e.bash_tool import run_in_bash
from tests.e2e.service_users import check_users, service_user
from tests.e2e.site import Client, Frame, client, serving
from tests.waiting import eventually

MIB = 1 << 20
BOMB = """
import os, signal, time
for number in range(800):
    try:
        if os.fork() == 0:
            signal.pause()
    except OSError:
        time.sleep(0.002)
time.sleep(1)
os.kill(0, signal.SIGKILL)
"""
# what the kernel counts for a user, who may be the whole service: then it is everybody's
TABLES = """
import array, ctypes, json, os, signal, socket, time
libc = ctypes.CDLL(None, use_errno=True)

def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "no more")
    return result

def in_flight():
    ends = socket.socketpair()
    ends[0].setblocking(False)
    ends[0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * 250))])
    return ends

def timer():
    return checked(libc.timer_create(1, None, ctypes.byref(ctypes.c_void_p())))

def taken(make):
    kept = []
    try:
        while True:
            kept.append(make())
    except OSError:
        return kept

held = {name: taken(make) for name, make in {
    "watches": lambda: checked(libc.inotify_init()), "in flight": in_flight, "timers": timer,
}.items()}
children = 0
while children < 150 and (child := os.fork()):
    children += 1
if not child:
    pipes = taken(os.pipe)
    signal.pause()
time.sleep(1)
with open("told.json.part", "w") as file:
    json.dump({name: len(kept) for name, kept in held.items()}, file)
os.rename("told.json.part", "told.json")
while not os.path.exists("enough"):
    time.sleep(0.1)
os.killpg(0, signal.SIGKILL)
"""
FULL_BYTES, ROOM_BYTES = 60 * MIB, 40 * MIB
FILL = f"head -c {FULL_BYTES} /dev/zero > big"
HOG = "import time; kept = [bytes([number]) * {0} for number in range(8)]; time.sleep(600)"

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give users uids")
pytestmark = [
    pytest.mark.usefixtures("forked_servers"),
    pytest.mark.skipif(not probe().works, reason="no bubblewrap that works"),
    pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="no Python that a sandbox has too"),
]


@asynccontextmanager
async def asking_all_the_time(other: Client) -> AsyncIterator[list[int]]:
    """Meanwhile the other one takes turns, and each succeeds; the list has how many, counted at the end."""
    over = asyncio.Event()

    async def ask() -> int:
        count = 0
        while not over.is_set():
            ending = await other.ended(await other.send("say still here"), 30)
            assert ending["state"] == "succeeded", ending
            count += 1
            # a busy person, and no load of their own
            await asyncio.sleep(0.1)
        return count

    task = asyncio.create_task(ask(), name="other")
    counts: list[int] = []
    try:
        yield counts
    finally:
        over.set()
        counts.append(await task)


async def answer_to(viewer: Client, text: str) -> Frame:
    """Send a message: what the server says to it at once, an acceptance or an error."""
    message_id = uuid.uuid4().hex
    await viewer.put(type="send", session_id="default", content=text, message_id=message_id)
    kinds = ("accepted", "error")
    (answer,) = await eventually(
        lambda: [frame for frame in viewer.of_type(*kinds) if frame.get("message_id") == message_id]
    )
    return answer


async def answered_again(viewer: Client, seconds: float = 60) -> None:
    """Until a turn succeeds."""
    async with asyncio.timeout(seconds):
        while (await viewer.ended(await viewer.send("say again"), seconds))["state"] != "succeeded":
            await asyncio.sleep(0.2)


async def refused(viewer: Client, seconds: float = 90) -> Frame:
    """Until a turn is refused: a full workspace is found by measuring, once a minute or at a start."""
    async with asyncio.timeout(seconds):
        while (answer := await answer_to(viewer, "say again"))["type"] == "accepted":
            await viewer.ended(answer["turn_id"], seconds)
            await asyncio.sleep(0.2)
    return answer


async def check_hogs(
    directory: Path, cli: Path, *, service: str, words: str, memory_bytes: int, mode: str = "auto"
) -> None:
    """All of it against one server: alice has a fork bomb, carol takes memory and room, bob works."""
    run_as = service_user(service, directory)
    settings = {
        "isolation__mode": mode,
        # bob asks for as long as it lasts: more often than a person may
        "quotas__default": {"turns_per_minute": 6000},
        "quotas__users": {"carol": {"memory_bytes": memory_bytes, "workspace_bytes": ROOM_BYTES}},
    }
    async with serving(directory, cli, run_as=run_as, **settings) as site, AsyncExitStack() as stack:
        tokens = [await site.add_user(name) for name in ("alice", "bob", "carol")]
        alice, bob, carol = [await stack.enter_async_context(client(site, token)) for token in tokens]
        for viewer in (alice, bob, carol):
            await viewer.subscribe()
            assert (await viewer.ended(await viewer.send("say hello"), 60))["state"] == "succeeded"
        await check_users(site, tokens, run_as)

        bomb, hog = (site.data / "workspaces" / name / "program.py" for name in ("alice", "carol"))
        bomb.write_text(BOMB)
        hog.write_text(HOG.format(memory_bytes // 8))
        async with asking_all_the_time(bob) as counts:
            _bombed, ending = await asyncio.gather(
                run_in_bash(alice, "/usr/bin/python3 program.py", words),
                run_in_bash(carol, f"{FILL} && /usr/bin/python3 program.py", words),
            )
        assert (ending["state"], ending["reason"]["code"]) == ("lost", "out_of_memory"), ending
        assert "out of memory" in ending["reason"]["message"]
        assert counts[0] > 0

        assert hog.with_name("big").stat().st_size == FULL_BYTES
        # a user whose instances were all gone for a look is measured with the next one
        assert (await bob.ended(await bob.send("count to 10 slowly"), 60))["state"] == "succeeded"
        async with asking_all_the_time(bob) as counts:
            refusal = await refused(carol)
            # the kernel held her at the limit, or the server saw it and ended it
            await answered_again(alice)
        assert refusal["code"] == "quota_exceeded", refusal
        assert "workspace_bytes" in refusal["message"]
        assert counts[0] > 0
        # his CLI is still his first one
        assert bob.cursors["default"].startswith("1.")


@pytest.mark.timeout(120)
async def test_a_hog_leaves_the_other_working(short_dir: Path, fake_claude: Path) -> None:
    await check_hogs(short_dir, fake_claude, service="ours", words="bash {}", memory_bytes=150 * MIB)


@pytest.mark.acceptance
@pytest.mark.real_cli
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("mode", "service"),
    [("auto", "ours"), ("auto", "somebody"), pytest.param("uid", "ours", marks=ROOT_ONLY)],
)
async def test_a_hog_in_the_real_cli_does(short_dir: Path, real_cli: Path, mode: str, service: str) -> None:
    options: dict[str, Any] = {"words": "run `{}`", "memory_bytes": 1000 * MIB}
    await check_hogs(short_dir, real_cli, mode=mode, service=service, **options)


@pytest.mark.acceptance
@pytest.mark.real_cli
@pytest.mark.timeout(300)
@pytest.mark.parametrize("service", ["ours", "somebody"])
async def test_a_user_without_pipes_watches_and_timers_left_stops_no_other(
    short_dir: Path, real_cli: Path, service: str
) -> None:
    run_as = service_user(service, short_dir)
    async with serving(short_dir, real_cli, run_as=run_as) as site, AsyncExitStack() as stack:
        tokens = [await site.add_user(name) for name in ("alice", "bob", "carol")]
        alice, bob, carol = [await stack.enter_async_context(client(site, token)) for token in tokens]
        for viewer in (alice, bob):
            await viewer.subscribe()
            assert (await viewer.ended(await viewer.send("say hello"), 60))["state"] == "succeeded"
        workspace = site.data / "workspaces/alice"
        (workspace / "program.py").write_text(TABLES)
        hogging = asyncio.create_task(run_in_bash(alice, "/usr/bin/python3 program.py"), name="hog")
        await eventually((workspace / "told.json").exists, 60)
        held = json.loads((workspace / "told.json").read_text())
        assert held["watches"] > 50
        assert held["in flight"] > 2
        assert held["timers"] > 5000
        # who works goes on, and who comes gets a new CLI
        assert (await run_in_bash(bob, "echo here | cat | wc -c"))["state"] == "succeeded"
        await carol.subscribe()
        assert (await carol.ended(await carol.send("say hello"), 60))["state"] == "succeeded"
        await check_users(site, tokens, run_as)
        assert not hogging.done()
        (workspace / "enough").touch()
        await hogging
        await answered_again(alice)
