"""The host program: what a server runs on another machine over SSH, in a channel of its own.

It does what the server asks by name (``pool.hosts.verbs``), with this
machine's own configuration, and sees to it that it is the only one that does.
It knows nothing of SSH: it speaks over standard input and output. The other
channel is ``pool.hosts.pump``.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from pool.config import PoolConfig
from pool.errors import BadRequest, Conflict
from pool.hosts import wire
from pool.hosts.facts import facts_of, installed_version
from pool.hosts.place import take_place
from pool.hosts.streams import Streams
from pool.hosts.verbs import HostVerbs
from pool.steward.data_directory import take_data
from pool.steward.hosting import Host, open_host
from pool.steward.service import Service, Verb
from pool.steward.service_user import service_uid
from pool.steward.wire import FAILURE, RESULT, BadFrame, failure, parse_request, receive

_log = logging.getLogger(__name__)

MoreVerbs = Callable[[Host], Mapping[str, Verb]]

_HELLO_SECONDS = 30.0
_HELLO_BYTES = 64 * 1024
# so many words of the server may be missing
_MISSED = 6
_PROMPT = ("alive",)


def serve_files(config: PoolConfig, more_verbs: MoreVerbs, streams: Streams | None = None) -> int:
    """Serve one server until it goes; how this process is to end, which is to be ``os._exit(...)``.

    ``more_verbs`` is called once nobody else is at work on the data directory, and gives verbs beside
    those of ``HostVerbs``; what it raises refuses the server. ``streams`` are the standard ones unless
    given. Also ends the process by itself: when the server says nothing for longer than it promised, and
    when a later server's host program takes its place. That one waits for this process to be gone, so
    nothing is to be given back in between: the kernel does.
    """
    streams = streams or Streams.standard()
    silence = _Silence(streams)
    number, hello = _read_hello(streams)
    try:
        silence.seconds = _promised(hello) * _MISSED
        _check_version(hello)
        _check_epoch(config, hello)
        config.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        take_place(config.data_dir)
        host = _open(config)
        verbs = {**HostVerbs(config, host).by_name(), **more_verbs(host)}
        answer = wire.reply(number, RESULT, facts_of(config, host))
    except Exception as error:  # noqa: BLE001 - whatever it is, the server is told
        _log.exception("the server is refused")
        streams.sendall(wire.reply(number, FAILURE, failure(error)))
        return 1
    streams.sendall(answer)
    Service(streams, verbs, reply=wire.reply, prompt=_PROMPT).run()
    return 0


def _open(config: PoolConfig) -> Host:
    take_data(config.data_dir)
    # a link that was cut is to be back soon
    host = open_host(config, believes_keeper=True)
    has_gateway_user = host.local.gateway_user.uid is not None or not config.gateway_command
    if host.local.isolation.has_uids and has_gateway_user:
        # the keeper is root's and the server somebody else's: it is kept in bounds like one that is not root
        host.local.service_uid = service_uid(config)
    return host


def _read_hello(streams: Streams) -> tuple[int, Mapping[str, Any]]:
    body = receive(streams, _HELLO_BYTES)
    if body is None:
        raise BadFrame("no server is there")
    number, verb, arguments = parse_request(body)
    if verb != "hello":
        raise BadFrame("a server says hello first")
    return number, arguments


def _promised(hello: Mapping[str, Any]) -> float:
    seconds = hello.get("speaks_every_seconds")
    if not isinstance(seconds, int | float) or not 0 < seconds <= 3600:
        raise BadRequest("speaks_every_seconds must be above 0 and at most 3600")
    return float(seconds)


def _check_version(hello: Mapping[str, Any]) -> None:
    theirs, ours = hello.get("version"), installed_version()
    if theirs != ours or hello.get("protocol") != wire.PROTOCOL:
        raise Conflict(
            f"the server is Claude Pool {theirs} (protocol {hello.get('protocol')}), this host has {ours} "
            f"(protocol {wire.PROTOCOL}): install the same version on both"
        )


def _check_epoch(config: PoolConfig, hello: Mapping[str, Any]) -> None:
    """A server that was attached and that a later one has followed ends nobody's host program."""
    epoch, was_attached = hello.get("epoch"), hello.get("was_attached")
    if type(epoch) is not int or type(was_attached) is not bool:
        raise BadRequest("no epoch")
    if not was_attached:
        return
    try:
        highest = int(json.loads((config.data_dir / "keeper" / "epoch").read_bytes())["epoch"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    if epoch < highest:
        raise Conflict(f"another server took over with epoch {highest}")


class _Silence:
    """Ends this process when nothing came for ``seconds``."""

    def __init__(self, streams: Streams) -> None:
        self.seconds = _HELLO_SECONDS
        self._streams = streams
        threading.Thread(target=self._watch, name="silence", daemon=True).start()

    def _watch(self) -> None:
        while (left := self._streams.heard_at + self.seconds - time.monotonic()) > 0:
            time.sleep(min(left, 1.0))
        os.write(2, b"the server says nothing any more\n")
        os._exit(3)
