"""A host that somebody has taken over answers what it likes, and can do no more than that."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.errors import KeeperUnavailable, NotFound, PoolError
from pool.hosts import wire
from pool.hosts.conversation import Conversation, HostClient
from pool.hosts.facts import HostFacts
from pool.steward.wire import BadFrame
from pool.workspace.workspaces import WorkspacePaths


class Host:
    """The far end, which a test plays."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def asked(self) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        head = await loop.sock_recv(self._sock, 4)
        body = await loop.sock_recv(self._sock, struct.unpack(">I", head)[0])
        return dict(msgspec.json.decode(body))

    async def send(self, frame: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._sock, frame)

    async def answer(self, kind: str, value: Any) -> None:
        await self.send(wire.reply((await self.asked())["id"], kind, value))

    def close(self) -> None:
        self._sock.close()


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Conversation, Host, list[str]]]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    lost: list[str] = []
    conversation = await Conversation.open("h1", ours, lambda: lost.append("lost"))
    host = Host(theirs)
    yield conversation, host, lost
    conversation.close()
    host.close()
    await asyncio.sleep(0)


Pair = tuple[Conversation, Host, list[str]]


async def test_a_pickle_is_no_answer_and_runs_nothing(pair: Pair, short_dir: Path) -> None:
    conversation, host, lost = pair

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(short_dir / "taken over"),)

    body = pickle.dumps((1, "result", Hostile()))
    # it would have done it
    pickle.loads(body)
    (short_dir / "taken over").rmdir()
    asking = asyncio.create_task(conversation.ask("homes"), name="asking")
    await host.asked()
    await host.send(wire.HEAD.pack(len(body)) + body)
    with pytest.raises(KeeperUnavailable):
        await asking
    assert lost == ["lost"]
    assert list(short_dir.iterdir()) == []


@pytest.mark.parametrize(
    ("verb", "value"),
    [
        ("homes", "alice"),
        ("homes", ["alice", 1]),
        ("highest_uid", "0"),
        ("ensure", {"workspace": "/w"}),
        ("ensure", {"workspace": 1, "home": "/h", "config": "/c"}),
        ("hello", {"version": "1"}),
        ("process_report", []),
        ("archive", "text"),
        ("request", [1]),
    ],
)
async def test_what_is_of_another_type_is_refused(pair: Pair, verb: str, value: Any) -> None:
    conversation, host, lost = pair
    asking = asyncio.create_task(conversation.ask(verb), name="asking")
    await host.answer("result", value)
    with pytest.raises(PoolError, match="host h1 answers what is none"):
        await asking
    assert lost == []


async def test_an_answer_is_what_the_verb_gives_and_an_error_what_it_raised(pair: Pair) -> None:
    conversation, host, _lost = pair
    made = WorkspacePaths(Path("/w/alice"), Path("/h/alice"), Path("/h/alice/.claude"), uid=200001)
    asking = asyncio.create_task(conversation.ask("ensure", user_id="alice"), name="asking")
    await host.answer("result", made)
    assert await asking == made
    for failure, expected in (
        ({"type": "NotFound", "message": "nobody", "details": {"a": 1}}, NotFound),
        ({"errno": 28, "message": "no space"}, OSError),
        ({"type": "os", "message": "x"}, PoolError),
        ({"type": "InvalidTransition", "message": "x"}, PoolError),
        ({"type": 1}, PoolError),
        ("failed", PoolError),
    ):
        asking = asyncio.create_task(conversation.ask("homes"), name="asking")
        await host.answer("failure", failure)
        with pytest.raises(expected):
            await asking


async def test_a_frame_without_end_is_not_waited_for(pair: Pair) -> None:
    conversation, host, lost = pair
    asking = asyncio.create_task(conversation.ask("homes"), name="asking")
    await host.asked()
    await host.send(wire.HEAD.pack(wire.MAX_REPLY_BYTES + 1))
    with pytest.raises(KeeperUnavailable):
        await asking
    assert lost == ["lost"]


async def test_threads_that_wait_are_told_of_the_end_and_nobody_waits_after_it(pair: Pair) -> None:
    conversation, host, lost = pair
    client = HostClient("h1")
    with pytest.raises(KeeperUnavailable):
        await asyncio.to_thread(client.call, "homes")
    client.conversation = conversation
    waiting = [asyncio.create_task(asyncio.to_thread(client.call, "homes"), name="w") for _ in range(3)]
    for _ in waiting:
        await host.asked()
    host.close()
    for one in waiting:
        with pytest.raises(KeeperUnavailable, match="host h1 is not connected"):
            await one
    assert lost == ["lost"]
    with pytest.raises(KeeperUnavailable):
        await asyncio.to_thread(client.call, "homes")
    with pytest.raises(KeeperUnavailable):
        await conversation.ask("homes")


async def test_a_thread_may_wait_for_so_long_only(pair: Pair) -> None:
    conversation, host, lost = pair
    with pytest.raises(KeeperUnavailable, match=r"h1 does not answer within 0\.01 s"):
        await asyncio.to_thread(conversation.call_within, 0.01, "homes")
    # the late answer is nobody's, and the conversation goes on
    await host.answer("result", ["late"])
    asking = asyncio.create_task(asyncio.to_thread(conversation.call_within, 10, "homes"), name="asking")
    await host.answer("result", ["alice"])
    assert await asking == ["alice"]
    assert not lost


async def test_pieces_are_of_one_conversation(pair: Pair) -> None:
    conversation, host, _lost = pair
    client = HostClient("h1")
    client.conversation = conversation
    pieces = client.iterate("archive", user_id="alice")
    first = asyncio.create_task(asyncio.to_thread(next, pieces), name="first")
    await host.answer("result", 7)
    await host.answer("item", b"one")
    assert await first == b"one"
    # the number of another conversation's pieces is none of ours
    client.conversation = None
    host.close()
    with pytest.raises(KeeperUnavailable):
        await asyncio.to_thread(next, pieces)


async def test_pieces_that_are_given_up_on_the_loop_hold_nobody_up(pair: Pair) -> None:
    conversation, host, _lost = pair
    pieces = conversation.iterate("archive", user_id="alice")
    first = asyncio.create_task(asyncio.to_thread(next, pieces), name="first")
    await host.answer("result", 7)
    await host.answer("item", b"one")
    await first
    pieces.close()  # type: ignore[attr-defined]
    asked = await host.asked()
    assert (asked["verb"], asked["arguments"]) == ("close", {"iterator": 7})


async def test_to_wait_on_the_loop_for_the_loop_is_refused(pair: Pair) -> None:
    with pytest.raises(RuntimeError, match="in a thread"):
        pair[0].call("homes")


async def test_words_are_said_and_a_program_that_answers_none_is_given_up(pair: Pair) -> None:
    conversation, host, lost = pair
    conversation.speak(0.02)
    for _ in range(10):
        assert (await host.asked())["verb"] == "alive"
        await host.send(wire.reply(0, "result", None))
    assert lost == []
    # from here on it only listens
    said = 0
    while not lost:
        await asyncio.sleep(0.02)
        said += 1
        assert said < 500


@given(body=st.binary(max_size=200))
def test_no_bytes_are_more_than_a_bad_frame(body: bytes) -> None:
    try:
        _number, _kind, value = wire.parse_reply(body)
    except BadFrame:
        return
    for verb in wire.RESULTS:
        with contextlib.suppress(BadFrame):
            wire.typed(verb, value)


def test_facts_come_as_they_went(facts: HostFacts) -> None:
    sent = wire.reply(1, "result", facts)
    found = wire.typed("hello", wire.parse_reply(sent[4:])[2])
    assert isinstance(found, HostFacts)
    assert (found.data_dir, found.isolation.mode) == (facts.data_dir, "none")
    assert wire.typed("hello", wire.parse_reply(wire.reply(1, "result", found)[4:])[2]) == found
