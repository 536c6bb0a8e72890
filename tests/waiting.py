"""Waiting in tests: on a condition, with a deadline."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, overload

T = TypeVar("T")
INTERVAL_SECONDS = 0.02


@overload
async def eventually(
    predicate: Callable[[], Coroutine[Any, Any, T]], seconds: float = 60.0, *, what: str = ""
) -> T: ...
@overload
async def eventually(predicate: Callable[[], T], seconds: float = 60.0, *, what: str = "") -> T: ...
async def eventually(predicate: Callable[[], Any], seconds: float = 60.0, *, what: str = "") -> Any:
    """The first true value of ``predicate``, plain or async.

    An ``AssertionError`` in it counts as "not yet". Raises ``AssertionError``
    with ``what`` when nothing came true within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while True:
        last: AssertionError | None = None
        try:
            value = predicate()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return value
        except AssertionError as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(_story(predicate, seconds, what)) from last
        await asyncio.sleep(INTERVAL_SECONDS)


def eventually_sync(predicate: Callable[[], T], seconds: float = 60.0, *, what: str = "") -> T:
    """As ``eventually``, for tests without an event loop."""
    deadline = time.monotonic() + seconds
    while True:
        last: AssertionError | None = None
        try:
            value = predicate()
            if value:
                return value
        except AssertionError as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(_story(predicate, seconds, what)) from last
        time.sleep(INTERVAL_SECONDS)


def _story(predicate: Callable[[], object], seconds: float, what: str) -> str:
    return f"not within {seconds} s: {what or getattr(predicate, '__qualname__', predicate)}"
