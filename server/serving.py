"""The life of ``serve``: take the data directory, take running instances over, serve, end in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from pool import ClaudeInstancePool, Host, Notifier
from pool.errors import IsolationUnavailable
from server.accepting import AcceptFailures
from server.access_log import AccessLog
from server.allocator import give_holes_back
from server.app import build_app, build_services, installed_version
from server.audit import note_start
from server.auth.passwords import Passwords
from server.auth.tokens import signing_secret
from server.collector import keep_what_is_loaded
from server.config import ServerConfig
from server.connections import Limits, Patience, Site
from server.control import ControlSocket
from server.door import Pool
from server.gateway_files import GatewayFiles
from server.hosts import gateways_of
from server.listening import address_of, bind, link_address, tls_context
from server.operations import Operations
from server.pool_settings import keys_not_in_effect, to_pool_config
from server.replicas.commands import StandByCommands
from server.replicas.replica import Replica
from server.rules import isolation_check
from server.services import Services
from server.settings import ConfigError

_log = logging.getLogger(__name__)

_CLOSE_SECONDS = 3.0
_KEEPALIVE_SECONDS = 75.0
_POLL_SECONDS = 0.1
# after the drain: the ladders of all instances, keeper and gateway
_END_SECONDS = 60.0


class Ending(Enum):
    """Why the server ended."""

    STOPPED = "stopped"
    RELOAD = "reload"
    HANDED_OVER = "handed over"
    """Another replica goes on with what runs."""


@dataclass
class Wishes:
    """What signals and commands want of the server."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    ending: Ending = Ending.STOPPED

    def signalled(self) -> None:
        """SIGTERM or SIGINT: the first one ends gracefully, the second one at once."""
        if self.stop.is_set():
            self.hurry.set()
        self.stop.set()

    def reload(self) -> None:
        """Make room for the next image of this server."""
        if not self.stop.is_set():
            self.ending = Ending.RELOAD
            self.stop.set()


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Everything that one run of the server is given.

    ``host`` and ``gateway_files`` do what needs the service's own rights.
    ``listen_fd`` is a listening socket inherited from the image before;
    ``check`` proves the installed code and configuration before a reload,
    or raises ``Conflict``; ``notes`` are for the health page; ``say`` prints a
    line for people and scripts. ``come_back`` ends this image at once and has
    the next one serve on the listening socket, given it and why: it never returns.
    """

    config: ServerConfig
    data_dir: Path
    environ: Mapping[str, str]
    host: Host
    gateway_files: GatewayFiles
    listen_fd: int | None = None
    check: Callable[[], None] = lambda: None
    notes: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    say: Callable[[str], None] = lambda line: print(line, flush=True)
    come_back: Callable[[int, str], None] = lambda _listener, _reason: os._exit(1)


class Server:
    """One run. After a reload the next image gets ``listen_fd``, its socket, and its configuration."""

    def __init__(self, serving: Serving) -> None:
        self._given = serving
        self._config = serving.config
        self._wishes = Wishes()
        self._generation = uuid.uuid4().hex
        self._notifier = Notifier(serving.environ)
        self._replica: Replica | None = None
        self.listen_fd: int | None = None

    @property
    def is_reloading(self) -> bool:
        """Has it ended to make room for the next image?"""
        return self._wishes.ending is Ending.RELOAD

    async def run(self) -> None:
        """Serve until told to end.

        Raises ``ConfigError`` (wrong configuration, or too little isolation
        for it), a ``PoolError`` or an ``OSError`` when it cannot start.
        """
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(AcceptFailures())
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._wishes.signalled)
        try:
            async with AsyncExitStack() as stack:
                await self._serve(stack)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def _serve(self, stack: AsyncExitStack) -> None:
        config = self._config
        tls = tls_context(config.server)
        listener = bind(config.server, inherited=self._given.listen_fd)
        stack.callback(listener.close)
        if config.replica.url is not None and not await self._own(stack, listener, tls):
            return
        pool = self._make_pool()
        machines = pool.machines
        gateway_files = gateways_of(machines, self._given.gateway_files, config.quotas)
        stack.push_async_callback(self._shut_down, pool)
        if not await self._start(pool):
            return
        notes = self._notes(pool)
        passwords = await stack.enter_async_context(Passwords())
        services = build_services(
            config,
            pool,
            self._given.data_dir,
            passwords,
            notes=notes,
            gateway_files=gateway_files,
            place=machines.place if machines.clients else None,
            replica=self._replica.described() if self._replica is not None else None,
        )
        runner = web.AppRunner(
            build_app(services, arrivals=self._replica.arrivals if self._replica is not None else None),
            shutdown_timeout=_CLOSE_SECONDS,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        address = link_address(config.server, listener.getsockname()[1])
        control = ControlSocket(self._given.data_dir, self._control(services, address))
        stack.push_async_callback(control.aclose)
        await control.start()
        key, _is_configured = signing_secret(config.auth.jwt, self._given.data_dir)
        await note_start(pool.audit, config, services.version, key)
        # The site closes its socket when it stops; the original outlives it for a reload.
        await self._site(runner, listener.dup(), services, tls).start()
        keep_what_is_loaded()
        status = f"listening on {address_of(config.server, listener)}"
        self._given.say(status)
        self._notifier.ready(status)
        watchdog = asyncio.create_task(self._prove_alive(), name="watchdog")
        stack.push_async_callback(_end_task, watchdog)
        memory = asyncio.create_task(give_holes_back(), name="memory")
        stack.push_async_callback(_end_task, memory)
        await self._greet(services, address)
        await self._wishes.stop.wait()
        await self._leave(pool, listener)

    async def _own(self, stack: AsyncExitStack, listener: socket.socket, tls: ssl.SSLContext | None) -> bool:
        """Stand by until this replica owns the pool; False when it is to end first."""
        address = address_of(self._config.server, listener)
        replica = Replica(self._config, self._given.data_dir, installed_version())
        stack.push_async_callback(replica.aclose)
        commands = StandByCommands(
            self._hello(installed_version()), self._wishes.signalled, self._wishes.reload, self._given.check
        )
        control = ControlSocket(self._given.data_dir, commands.run)
        await control.start()
        watchdog = asyncio.create_task(self._prove_alive(), name="watchdog")
        try:
            owns = await replica.own(
                listener,
                tls,
                stop=self._wishes.stop,
                come_back=partial(_come_back, self._given, self._wishes, listener),
                stands_by=partial(_stands_by, self._given, self._notifier, address),
            )
        finally:
            await _end_task(watchdog)
            await control.aclose()
        self._replica = replica
        if not owns and self._wishes.ending is Ending.RELOAD:
            self.listen_fd = os.dup(listener.fileno())
        return owns

    def _site(
        self, runner: web.AppRunner, listener: socket.socket, services: Services, tls: ssl.SSLContext | None
    ) -> Site:
        config = self._config.server
        limits = Limits(config.max_connections, config.max_connections_per_address, services.proxies)
        return Site(
            runner,
            listener,
            limits,
            Patience(),
            ssl_context=tls,
            access_log_class=AccessLog,
            keepalive_timeout=_KEEPALIVE_SECONDS,
        )

    def _make_pool(self) -> ClaudeInstancePool:
        try:
            config = to_pool_config(self._config, self._given.data_dir, self._given.environ)
            ownership = self._replica.ownership if self._replica is not None else None
            fence = ownership.fence if ownership is not None else None
            return ClaudeInstancePool(config, host=self._given.host, fence=fence)
        except IsolationUnavailable as error:
            raise ConfigError(error.message) from error

    async def _start(self, pool: Pool) -> bool:
        """Start the pool; False when a signal came first. It is never left half started."""
        starting = asyncio.create_task(pool.start(), name="pool-start")
        stopping = asyncio.create_task(self._wishes.hurry.wait(), name="hurry")
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
            await starting
        except IsolationUnavailable as error:
            raise ConfigError(error.message) from error
        except asyncio.CancelledError:
            if not self._wishes.hurry.is_set():
                raise
            return False
        finally:
            stopping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await stopping
        return not self._wishes.stop.is_set()

    def _notes(self, pool: Pool) -> dict[str, dict[str, Any]]:
        notes = {
            **self._given.notes,
        }
        if self._config.pool.max_instances != 0:
            # what runs on other machines is kept apart, or not, by their own configuration
            notes["isolation"] = dict(isolation_check(self._config, pool.isolation(), pool.uid_range()))
            if not notes["isolation"]["ok"]:
                _log.warning("isolation: %s", notes["isolation"]["detail"])
        _uid, obstacle = pool.gateway_user()
        if obstacle is not None:
            _log.warning("gateway: %s", obstacle)
        idle = keys_not_in_effect(self._config)
        if idle:
            text = f"configured, but without effect in this version: {', '.join(idle)}"
            notes["configuration"] = {"ok": False, "detail": text}
            _log.warning(text)
        return notes

    async def _greet(self, services: Services, address: str) -> None:
        first = await services.sign_in.ensure_first_account()
        if first is not None:
            code = await services.sign_in.make_link(first.user_id)
            self._given.say(f"sign in as {first.user_id}, once, within an hour: {address}/#signin={code}")
        model = services.model()
        if model.get("demo"):
            _log.warning("the built-in demo model answers: no model provider is configured")
        elif model.get("error"):
            _log.error("no model can answer: %s", model["error"])
        _log.info("serving", extra={"address": address, "version": services.version, "pid": os.getpid()})

    def _hello(self, version: str) -> dict[str, Any]:
        return {"pid": os.getpid(), "generation": self._generation, "version": version}

    def _control(self, services: Services, address: str) -> Callable[[str, Mapping[str, Any]], Any]:
        operations = Operations(services.users, services.sign_in, services.pool, address, services.pool.audit)

        async def run(name: str, arguments: Mapping[str, Any]) -> Any:
            if name == "hello":
                return self._hello(services.version)
            if name in ("stop", "reload"):
                await services.pool.audit.tell(f"server.{name}")
            if name == "stop":
                self._wishes.signalled()
                return {}
            if name == "reload":
                await asyncio.to_thread(self._given.check)
                done = await services.pool.upgrade(force=bool(arguments.get("force")))
                # After the answer is on its way.
                asyncio.get_running_loop().call_later(_POLL_SECONDS, self._wishes.reload)
                return {"generation": self._generation, **done}
            return await operations.run(name, arguments)

        return run

    async def _prove_alive(self) -> None:
        """Tell the service manager, from the loop itself, that the loop turns."""
        while self._notifier.watchdog_seconds is not None:
            self._notifier.alive()
            await asyncio.sleep(self._notifier.watchdog_seconds)

    async def _leave(self, pool: Pool, listener: socket.socket) -> None:
        """Let what runs finish, as far as this ending wants it; sockets and pool are ended by the stack."""
        if self._wishes.ending is Ending.RELOAD:
            _log.info("reloading: instances go on")
            self._notifier.reloading()
            self.listen_fd = os.dup(listener.fileno())
            return
        ownership = self._replica.ownership if self._replica is not None else None
        if ownership is not None and await ownership.has_successor():
            _log.info("another replica takes over: instances go on")
            self._wishes.ending = Ending.HANDED_OVER
            self._notifier.stopping(_END_SECONDS)
            return
        pool.drain()
        seconds = self._config.pool.drain_timeout_seconds
        self._notifier.stopping(seconds + _END_SECONDS)
        _log.info("draining for at most %s s", seconds)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self._wishes.hurry.is_set():
            counts = pool.health()["instances"]
            if not counts["busy"] and not counts["starting"]:
                break
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wishes.hurry.wait(), _POLL_SECONDS)
        _log.info("stopping")

    async def _shut_down(self, pool: Pool) -> None:
        end_instances = self._wishes.ending is Ending.STOPPED
        await pool.shutdown(end_instances=end_instances, drain_timeout_seconds=0)


def _stands_by(given: Serving, notifier: Notifier, address: str) -> None:
    status = f"standing by on {address}"
    given.say(status)
    notifier.ready(status)
    _log.info("standing by", extra={"address": address, "pid": os.getpid()})


def _come_back(given: Serving, wishes: Wishes, listener: socket.socket, reason: str) -> None:
    """The pool is not ours any more: nothing of this image may act from here on."""
    if wishes.stop.is_set() and wishes.ending is not Ending.RELOAD:
        os.write(2, f"ended before its time: {reason}\n".encode())
        os._exit(1)
    given.come_back(listener.fileno(), reason)


async def _end_task(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
