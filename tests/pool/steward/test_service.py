"""The steward does what it is asked by name, many things at once, and ends when the server does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest

from pool.errors import BadRequest, NotFound, PoolError
from pool.steward import wire
from pool.steward.client import StewardClient
from pool.steward.service import Service


@contextmanager
def a_pair(verbs: dict[str, Callable[..., Any]], on_lost: Any = lambda: None) -> Iterator[StewardClient]:
    ours, theirs = socket.socketpair()
    service = threading.Thread(target=Service(ours, verbs).run)
    service.start()
    client = StewardClient(theirs, on_lost)
    try:
        yield client
    finally:
        client.close()
        service.join(10)
        ours.close()
        assert not service.is_alive()


def counted(*, to: int) -> Iterator[int]:
    yield from range(to)


def failing() -> None:
    raise NotFound("nobody is here")


def stumbling() -> Iterator[int]:
    yield 1
    raise OSError(5, "the disk is gone")


def test_a_verb_is_done_and_its_result_comes_back() -> None:
    with a_pair({"add": lambda *, a, b: a + b}) as steward:
        assert steward.call("add", a=1, b=2) == 3


def test_what_it_raises_is_raised_here_and_the_next_request_is_served() -> None:
    with a_pair({"failing": failing, "one": lambda: 1}) as steward:
        with pytest.raises(NotFound, match="nobody is here"):
            steward.call("failing")
        with pytest.raises(BadRequest, match="no verb"):
            steward.call("os.system")
        with pytest.raises(PoolError, match="TypeError"):
            steward.call("one", more=1)
        assert steward.call("one") == 1


def test_pieces_come_one_by_one_and_an_error_among_them_in_its_place() -> None:
    with a_pair({"counted": counted, "stumbling": stumbling}) as steward:
        assert list(steward.iterate("counted", to=5)) == [0, 1, 2, 3, 4]
        assert list(steward.iterate("counted", to=0)) == []
        pieces = steward.iterate("stumbling")
        assert next(pieces) == 1
        with pytest.raises(OSError, match="the disk is gone"):
            next(pieces)


def test_what_is_given_up_is_closed_at_the_steward() -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    with a_pair({"endless": endless}) as steward:
        pieces = steward.iterate("endless")
        assert next(pieces) == 1
        pieces.close()  # type: ignore[attr-defined]
        assert closed.wait(10)


def test_one_that_hangs_holds_up_no_other() -> None:
    held = threading.Event()
    with a_pair({"hang": lambda: held.wait(60), "one": lambda: 1}) as steward:
        hanging = threading.Thread(target=steward.call, args=("hang",))
        hanging.start()
        assert steward.call("one") == 1
        assert hanging.is_alive()
        held.set()
        hanging.join(10)
        assert not hanging.is_alive()


def test_a_server_without_its_steward_is_told_and_nobody_waits_for_ever() -> None:
    lost = threading.Event()
    ours, theirs = socket.socketpair()
    client = StewardClient(theirs, lost.set)
    failures: list[str] = []

    def ask() -> None:
        try:
            client.call("one")
        except PoolError as error:
            failures.append(error.message)

    asking = threading.Thread(target=ask)
    asking.start()
    ours.recv(1)
    ours.close()
    asking.join(10)
    assert lost.wait(10)
    assert failures == ["the steward is gone"]
    client.close()


@pytest.mark.parametrize("noise", [b"\xff\xff\xff\xff", b"\0\0\0\x02{}", b"\0\0\0\x04null"])
def test_what_is_no_request_ends_the_service(noise: bytes) -> None:
    ours, theirs = socket.socketpair()
    service = threading.Thread(target=Service(ours, {}).run)
    service.start()
    theirs.sendall(noise)
    service.join(10)
    assert not service.is_alive()
    assert theirs.recv(1) == b""
    theirs.close()
    ours.close()


def test_an_answer_that_was_not_taken_yet_keeps_nobody_from_hearing_of_the_loss() -> None:
    lost = threading.Event()
    ours, theirs = socket.socketpair()
    client = StewardClient(theirs, lost.set)
    answered: Future[wire.Reply] = Future()
    answered.set_result((1, wire.RESULT, None))
    client._waiting[1] = answered
    ours.close()
    assert lost.wait(10)
    client.close()
