"""The keeper's orders to the gateway: which sockets to serve, for whom.

One SOCK_SEQPACKET message is one order in JSON; ``listen`` carries the
listening socket as a descriptor. The end of the channel is the order to stop.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_log = logging.getLogger(__name__)

_MAX_ORDER_BYTES = 64 * 1024
_MAX_DESCRIPTORS = 16
_LABELS = ("user", "session", "purpose")


@dataclass(frozen=True, slots=True)
class Listen:
    """Serve ``listener`` for ``instance``; whoever takes the order owns the socket.

    ``uid`` is whose processes may call, None: whoever gets as far as the socket.
    """

    instance: str
    listener: socket.socket
    labels: Mapping[str, str] = field(default_factory=dict)
    uid: int | None = None


@dataclass(frozen=True, slots=True)
class End:
    """Stop serving ``instance``."""

    instance: str


@dataclass(frozen=True, slots=True)
class Report:
    """Say that everything before is done."""


Order = Listen | End | Report


async def report(channel: socket.socket) -> None:
    """Answer a ``Report``. Raises ``OSError`` when the keeper has gone."""
    await asyncio.get_running_loop().sock_sendall(channel, json.dumps({"event": "ready"}).encode())


async def orders(channel: socket.socket) -> AsyncIterator[Order]:
    """The keeper's orders until it closes the channel; orders that make no sense are logged and left out."""
    channel.setblocking(False)
    while True:
        await _readable(channel)
        try:
            raw, descriptors, flags, _ = socket.recv_fds(
                channel, _MAX_ORDER_BYTES, _MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            continue
        except ConnectionError:
            return
        if not raw and not descriptors:
            return
        order = _understood(raw, descriptors, flags)
        if order is not None:
            yield order


async def _readable(channel: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(channel, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(channel)


def _understood(raw: bytes, descriptors: list[int], flags: int) -> Order | None:
    """The order in a message; descriptors that it does not need are closed."""
    order: Order | None = None
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ValueError("the message was cut")
        order = _parsed(json.loads(raw), descriptors)
    except (ValueError, OSError) as error:
        _log.error("order refused", extra={"fields": {"reason": str(error)}})
    used = order.listener.fileno() if isinstance(order, Listen) else -1
    for descriptor in descriptors:
        if descriptor != used:
            os.close(descriptor)
    return order


def _parsed(body: object, descriptors: list[int]) -> Order:
    if isinstance(body, dict) and body.get("op") == "report":
        return Report()
    if not isinstance(body, dict) or not isinstance(body.get("instance"), str):
        raise ValueError("an order names its instance")
    if body.get("op") == "end":
        return End(body["instance"])
    if body.get("op") != "listen":
        raise ValueError("neither listen nor end")
    if len(descriptors) != 1:
        raise ValueError("listen carries one listening socket")
    uid = body.get("uid")
    if uid is not None and not isinstance(uid, int):
        raise ValueError("a uid is a number")
    return Listen(body["instance"], _listener(descriptors[0]), _labels(body.get("labels")), uid)


def _listener(descriptor: int) -> socket.socket:
    listener = socket.socket(fileno=descriptor)
    if listener.family != socket.AF_UNIX or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listener.detach()
        raise ValueError("the descriptor is no listening unix socket")
    return listener


def _labels(value: Any) -> Mapping[str, str]:
    if not isinstance(value, dict):
        return {}
    return {name: text for name, text in value.items() if name in _LABELS and isinstance(text, str)}
