"""``python -I -m server.gateway --data DIR --control-fd N``: the gateway as a process.

With ``--check`` it only shows that whoever starts it can run it.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

from server.collector import keep_what_is_loaded
from server.gateway.calls import Caller, Calls
from server.gateway.configuration import LiveConfiguration, LiveOwnKeys
from server.gateway.control import End, Listen, orders, report
from server.gateway.journal import close_journal, open_journal
from server.gateway.listeners import Listeners
from server.gateway.metering import Metering
from server.gateway.upstream import new_client

_log = logging.getLogger("server.gateway")


def main() -> int:
    """Serve until the control channel ends or SIGTERM comes; the exit status is 0 then."""
    parser = argparse.ArgumentParser(prog="server.gateway", description="The model gateway of Claude Pool.")
    parser.add_argument("--check", action="version", version="it can be run", help="only say so")
    parser.add_argument("--data", type=Path, required=True, help="the data directory")
    parser.add_argument("--control-fd", type=int, required=True, help="the keeper's SOCK_SEQPACKET socket")
    parser.add_argument(
        "--drain-seconds", type=float, default=600.0, help="how long open calls may go on at the end"
    )
    arguments = parser.parse_args()
    os.umask(0o077)
    _set_limits()
    journal = open_journal(arguments.data)
    try:
        with socket.socket(fileno=arguments.control_fd) as channel:
            channel.set_inheritable(False)
            asyncio.run(_serve(arguments.data, channel, arguments.drain_seconds))
    finally:
        close_journal(journal)
    return 0


def _set_limits() -> None:
    """As many descriptors as allowed, and no core file: it would hold the keys."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


async def _serve(data_dir: Path, channel: socket.socket, drain_seconds: float) -> None:
    stopping = asyncio.Event()
    hurried = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        (hurried if stopping.is_set() else stopping).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    with closing(Metering(data_dir)) as metering:
        async with new_client() as client:
            listeners = Listeners(
                Calls(LiveConfiguration(data_dir), LiveOwnKeys(data_dir), client, metering).answer
            )
            keep_what_is_loaded()
            _log.info("started", extra={"fields": {"pid": os.getpid()}})
            await _first_of(_follow(channel, listeners), stopping.wait())
            stopping.set()
            _log.info("draining", extra={"fields": {"seconds": drain_seconds}})
            await _first_of(listeners.drain(drain_seconds), hurried.wait())
            _log.info("stopped")


async def _follow(channel: socket.socket, listeners: Listeners) -> None:
    """Do what the keeper orders until it closes the channel."""
    async for order in orders(channel):
        if isinstance(order, Listen):
            try:
                await listeners.listen(Caller(order.instance, order.labels), order.listener, order.uid)
            except OSError as error:
                order.listener.close()
                fields = {"instance": order.instance, "reason": str(error)}
                _log.exception("cannot listen", extra={"fields": fields})
        elif isinstance(order, End):
            await listeners.end(order.instance)
        else:
            await report(channel)


async def _first_of(*coroutines: Coroutine[Any, Any, object]) -> None:
    """Wait for the first to end and cancel the others; its error is raised."""
    tasks = [asyncio.create_task(coroutine, name="gateway-part") for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


if __name__ == "__main__":
    sys.exit(main())
