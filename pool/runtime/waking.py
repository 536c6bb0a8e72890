"""How a session regains a live instance: by a launch, by adoption after a restart, after a keeper's death.

A launch is single-flight: whoever needs the instance while one is under way
waits for the same task and gets the same result or the same typed error.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from pool.errors import Conflict, InstanceGone, KeeperUnavailable, LaunchFailed, PoolError, Refused
from pool.launch.base import LaunchSpec, StopGraces
from pool.lifecycle.instance import InstanceEvent
from pool.lifecycle.session import SessionEvent
from pool.model import InstanceState, Place, Reason, SessionState
from pool.runtime import edges
from pool.runtime.instance import Instance
from pool.runtime.launching import launch_spec, new_instance, note_identity
from pool.runtime.ownership import prepared_paths
from pool.runtime.remembering import remind
from pool.runtime.unanswered import UnansweredStart, see_to_its_end

if TYPE_CHECKING:
    from pool.runtime.hosts import Host
    from pool.runtime.session import Session

_log = logging.getLogger(__name__)
_INGEST_SECONDS = 60.0
_ATTACH_SECONDS = 15.0


class Waking:
    """Gets a session its instance."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._task: asyncio.Task[Instance] | None = None
        self._may_wait = True
        self._was_told_to_stop = False
        self._was_told_place = False

    @property
    def is_under_way(self) -> bool:
        """Is an instance being started?"""
        return self._task is not None

    # --- launch --------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the one launch task; the session is ``waking``.

        One that is still under way (the session was archived and restored
        meanwhile) goes on; if it is being given up, its end begins the next.
        """
        session = self._session
        if self._task is None:
            self._was_told_to_stop = False
            self._task = session.around.tasks.spawn(self._run(), f"wake:{session.key}")
            self._task.add_done_callback(_read_failure)

    def give_up(self) -> None:
        """Nobody wants the instance that is being started any more."""
        if self._task is not None:
            self._was_told_to_stop = True
            # Not at once: a task that is cancelled before its first step could clean up nothing.
            asyncio.get_running_loop().call_soon(self._task.cancel)

    async def given_up(self) -> bool:
        """As ``give_up``; returns when nothing of the launch is left, False if there was none."""
        task = self._task
        if task is None:
            return False
        self.give_up()
        await asyncio.wait({task})
        return True

    async def instance(self, *, may_wait: bool) -> Instance:
        """The live instance, started if need be.

        Raises ``QuotaExceeded``, ``PoolFull``, ``LaunchFailed``, ``HostUnavailable``, … The launch
        goes on when a caller is cancelled: others may wait for it.
        """
        session = self._session
        while True:
            session.host.check()
            if self._task is not None and session.state is SessionState.ARCHIVED:
                await asyncio.wait({self._task})
                continue
            if self._task is not None:
                return await asyncio.shield(self._task)
            instance = session.instance
            if instance is None or instance.has_exited:
                if session.state is not SessionState.LIVE:
                    session.host.slots.check(session.key, may_wait=may_wait)
                    self._may_wait = may_wait
                    session.revive()
                    if session.state is SessionState.COOLING:
                        session.feed(SessionEvent.WAKE_DUE)
                    elif session.state is SessionState.PARKED:
                        session.feed(SessionEvent.TURN_SUBMITTED)
                    continue
                raise InstanceGone(f"session {session.key} lost its instance")
            if instance.state in (InstanceState.READY, InstanceState.BUSY):
                return instance
            await self._gone(instance)

    async def _run(self) -> Instance:
        session = self._session
        may_wait, self._may_wait = self._may_wait, True
        counters, began = session.around.counters, time.perf_counter()
        try:
            if not session.host.is_here:
                await self._host_is_back()  # while it is not reached nobody's slot is taken for it
            with counters.spawn_step.judged("slot"):
                await self._take_slot(may_wait)
            began = time.perf_counter()
            await self._let_through(may_wait)
            async with session.host.spawn_gate:
                counters.spawn_step.observe(time.perf_counter() - began, "gate", "done")
                instance = await self._launch()
        except _NoSlot as refusal:
            self._task = None
            if may_wait:  # who may not wait is told, and counted, at the front door
                counters.rejected.add(refusal.error.code)
            session.feed(SessionEvent.WAKE_REFUSED, Reason(refusal.error.code, refusal.error.message))
            session.log.flush()
            raise refusal.error from None
        except (Exception, asyncio.CancelledError) as error:
            self._task = None
            failure = _typed(error, session.host)
            session.host.launches.failed(session.key.user_id, failure)
            self._launch_failed(failure)
            edges.launch_failed(session, failure, time.perf_counter() - began)
            raise failure from error
        self._task = None
        session.host.launches.succeeded()
        edges.instance_ready(session, instance, time.perf_counter() - began)
        self._ready()
        return instance

    async def _take_slot(self, may_wait: bool) -> None:
        session = self._session
        try:
            if session.instance is not None:
                await self._gone(session.instance)
            try:
                await session.host.slots.acquire(session.key, may_wait=may_wait, tell=self._tell_place)
            finally:
                was_told, self._was_told_place = self._was_told_place, False
            if was_told:  # it stands in no line any more
                session.steps.tell_waking(None)
        except Refused as error:
            raise _NoSlot(error) from error

    async def _let_through(self, may_wait: bool) -> None:
        """Where nothing can be started nothing is tried: the slot is given back."""
        session = self._session
        try:
            await session.host.launches.may_launch(may_wait=may_wait)
        except Refused as error:
            session.host.slots.release(session.key)
            raise _NoSlot(error) from error

    def _tell_place(self, place: Place) -> None:
        self._was_told_place = True
        self._session.steps.tell_waking(place)

    @staticmethod
    async def _gone(instance: Instance) -> None:
        """Wait for the end of an instance that is being stopped: a session never has two."""
        while not instance.has_exited:
            if instance.state is InstanceState.STUCK:
                raise Conflict("the session's last process cannot be ended; an operator must look after it")
            await instance.resolved.wait()

    def _ready(self) -> None:
        session = self._session
        session.idleness.touch()
        session.feed(SessionEvent.INSTANCE_READY)
        session.log.flush()

    def _launch_failed(self, error: PoolError) -> None:
        session = self._session
        reason = Reason(
            error.code, error.message, error.details.get("exit_code"), error.details.get("signal")
        )
        event = SessionEvent.INSTANCE_ENDED
        if session.instance is None:
            session.host.slots.release(session.key)
        is_stuck = session.instance is not None and session.instance.state is InstanceState.STUCK
        if is_stuck:
            event, reason = SessionEvent.INSTANCE_STUCK, _stuck(reason)
        elif isinstance(error, KeeperUnavailable):
            event = SessionEvent.INSTANCE_CRASHED  # nobody saw the queued turns: they outlive the keeper
        elif not self._was_told_to_stop and not session.around.is_stopping:
            session.fail_queued(reason)
        session.feed(event, reason)
        session.log.flush()

    async def _launch(self) -> Instance:
        session = self._session
        around = session.around
        seconds = around.config.start_timeout_seconds
        with around.counters.spawn_step.judged("workspace"):
            async with _within(seconds, "workspace"):
                paths = await prepared_paths(session)
        await self._host_is_back()
        instance = new_instance(session)
        try:
            await self._start(instance, launch_spec(session, instance, paths))
        except BaseException:
            self._was_told_to_stop |= instance.stop_reason is not None
            await asyncio.shield(self._abandon(instance))
            if instance.losses and not self._was_told_to_stop:
                raise KeeperUnavailable("the host was lost while it started the instance") from None
            raise
        instance.machine.feed(InstanceEvent.HANDSHAKE_DONE)
        if session.turns.by_cli is not None:
            instance.machine.feed(InstanceEvent.TURN_STARTED)
        return instance

    async def _host_is_back(self) -> None:
        session = self._session
        try:
            async with asyncio.timeout(session.around.config.start_timeout_seconds):
                await session.host.is_back.wait()
        except TimeoutError:
            raise KeeperUnavailable("there is no keeper to start an instance") from None

    async def _start(self, instance: Instance, spec: LaunchSpec) -> None:
        session = self._session
        around = session.around
        await session.log.settled()  # the intent is stored: a restart finds the child by its marker
        session.log.begin_instance(instance.id, instance.ordinal)
        session.replay.spools[instance.ordinal] = instance.id
        deadline = asyncio.get_running_loop().time() + around.config.start_timeout_seconds
        with around.counters.spawn_step.judged("process"):
            async with _within(around.config.start_timeout_seconds, "process"):
                instance.handle = await session.host.launcher.start(spec, instance)
        edges.instance_started(session, instance)
        note_identity(session, instance)
        left = deadline - asyncio.get_running_loop().time()
        with around.counters.spawn_step.judged("handshake"):
            await instance.handshake(max(left, 0.1), around.tool_policy.hooks(session))
            await remind(session, instance)
        if instance.stop_reason is not None:
            raise LaunchFailed("the instance was stopped while it started", details={"step": "stopped"})

    async def _abandon(self, instance: Instance) -> None:
        """A launch that failed leaves nothing behind, or keeps its slot until it is known to."""
        if instance.handle is None:
            instance.handle = UnansweredStart(self._session.host, instance)
        await instance.end(StopGraces(end_of_input=0, term=1), "the launch failed")
        if not instance.has_exited:
            see_to_its_end(self._session, instance)


def _stuck(reason: Reason) -> Reason:
    message = "its process cannot be ended, or its host does not tell: an operator must look after it"
    return Reason("instance_stuck", f"{reason.message}; {message}")


class _NoSlot(Exception):
    """Admission has refused; ``error`` says why."""

    def __init__(self, error: Refused) -> None:
        super().__init__(error.message)
        self.error = error


@asynccontextmanager
async def _within(seconds: float, step: str) -> AsyncIterator[None]:
    """Bound a step of a launch: a disk or a program that hangs keeps neither the slot nor the gate for ever.

    Raises ``LaunchFailed`` that names the step.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        message = f"the instance could not be started: the {step} was not there within {seconds:g} s"
        raise LaunchFailed(message, details={"step": step}) from None


def _typed(error: BaseException, host: Host) -> PoolError:
    if isinstance(error, KeeperUnavailable) and not host.is_here:
        # which machine it is, is for operators
        _log.warning("the host %s was lost in a launch: %s", host.name, error.message)
        return host.unavailable()
    if isinstance(error, PoolError):
        return error
    if isinstance(error, asyncio.CancelledError):
        return LaunchFailed("the launch was given up", details={"step": "given_up"})
    return LaunchFailed(
        f"the instance could not be started: {type(error).__name__}", details={"step": "prepare"}
    )


def _read_failure(task: asyncio.Task[Instance]) -> None:
    if not task.cancelled():
        task.exception()
