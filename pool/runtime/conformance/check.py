"""The check in the background: tries the CLI out after the start, tells the health page and the runtime."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, repeat
from pathlib import Path

from pool.errors import KeeperUnavailable, PoolError
from pool.launch.base import LaunchSpec, StopGraces
from pool.model import InstanceId, SessionId, SessionKey, UserId
from pool.protocol.command_line import SHELL_PREFIX, CliOptions, base_environment, build_args
from pool.runtime.conformance.behaviours import Findings
from pool.runtime.conformance.record import Records, key_of
from pool.runtime.conformance.trial import TRIAL_LIMITS, Trial
from pool.runtime.conformance.witness import Witness
from pool.runtime.instance import Instance
from pool.runtime.surroundings import Surroundings

_log = logging.getLogger(__name__)

PURPOSE = "conformance"
"""The label that makes the gateway answer with the demo model."""

_AGAIN_SECONDS = (10.0, 60.0, 300.0)
# no user can have this name, so nothing that is kept by user is shared with one
_NOBODY = SessionKey(UserId(f"-{PURPOSE}"), SessionId(PURPOSE))


class Conformance:
    """Checks one pool's CLI, once for each CLI, on the first of its hosts: all have the same one.

    ``around.features`` and ``around.cli_check`` are its results; ``on_change``
    is called when the features have changed while sessions live.
    """

    def __init__(self, around: Surroundings, on_change: Callable[[], None]) -> None:
        self._around = around
        self._host = around.hosts.first
        self._on_change = on_change
        self._directory = around.config.data_dir / PURPOSE
        self._records = Records(self._directory)
        self._task: asyncio.Task[None] | None = None
        self._known: Findings | None = None

    def load(self) -> None:
        """Take what is known of this CLI, before running instances are taken over."""
        if not self._around.config.check_cli:
            self._around.cli_check = {"ok": True, "detail": "not checked: check_cli is off"}
            return
        key = self._key()
        self._known = self._records.load(key) if key is not None else None
        if self._known is not None:
            self._take(self._known)

    def start(self) -> None:
        """Check in the background what is not known to be good."""
        if self._around.config.check_cli:
            self._task = self._around.tasks.spawn(self._run(), "conformance")
            self._task.add_done_callback(self._ended)

    async def aclose(self) -> None:
        """Stop; the CLI that is tried out is gone when this returns."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            with contextlib.suppress(KeeperUnavailable):
                await asyncio.to_thread(self._host.files.sweep_scratch)

    # --- the task ------------------------------------------------------------------------

    async def _run(self) -> None:
        await self._host.is_back.wait()
        await asyncio.to_thread(self._host.files.sweep_scratch)
        if self._known is not None and not self._known.missing:
            return
        for delay in self._delays():
            await self._host.is_back.wait()
            # a changed program gets a record of its own, and never that of the one before
            key = self._key()
            findings = await self._findings()
            self._take(findings)
            if findings.is_complete:
                if key is not None and key == self._key():
                    await asyncio.to_thread(self._save, key, findings)
                return
            _log.warning("the CLI check is not complete, again in %g s: %s", delay, findings.problem)
            await asyncio.sleep(delay)

    @staticmethod
    def _delays() -> Iterator[float]:
        return chain(_AGAIN_SECONDS, repeat(_AGAIN_SECONDS[-1]))

    async def _findings(self) -> Findings:
        """Two trials when the first one misses something: a busy machine looks like a missing answer."""
        first = await self._trial()
        return first.merged(await self._trial()) if first.missing else first

    async def _trial(self) -> Findings:
        files = self._host.files
        try:
            scratch = await asyncio.to_thread(files.make_scratch, self._trial_uid())
            try:
                async with self._host.spawn_gate:
                    return await self._try_in(scratch)
            finally:
                await asyncio.to_thread(files.remove_scratch, scratch)
        except (PoolError, OSError) as error:
            return Findings(problem=error.message if isinstance(error, PoolError) else str(error))

    async def _try_in(self, scratch: Path) -> Findings:
        around = self._around
        witness = Witness()
        instance = Instance(
            InstanceId(uuid.uuid4().hex),
            _NOBODY,
            1,
            witness,
            epoch=around.epoch,
            max_line_bytes=around.config.max_line_bytes,
            started_at=around.clock.wall(),
        )
        spec = self._spec(instance.id, scratch)
        instance.handle = await self._host.launcher.start(spec, instance)
        end_of_input = 0.0
        try:
            has_prefix = spec.tool_limits is not None
            has_file = partial(self._host.files.scratch_has, scratch)
            trial = Trial(instance, witness, has_file, has_tool_prefix=has_prefix)
            findings = await trial.run(around.config.start_timeout_seconds)
            end_of_input = 2.0
            return findings
        finally:
            if not witness.keeper_is_gone:
                await instance.end(StopGraces(end_of_input, 1.0, 5.0), "it was checked")
                with contextlib.suppress(PoolError):
                    await self._host.launcher.forget(instance.id)

    def _spec(self, instance_id: InstanceId, scratch: Path) -> LaunchSpec:
        config = self._around.config
        prefix = self._host.launcher.tool_prefix(TRIAL_LIMITS)
        options = CliOptions(
            session_uuid=str(uuid.uuid4()), shell_prefix=prefix, extra_args=config.cli_extra_args
        )
        own = {} if prefix is None else {SHELL_PREFIX: prefix}
        return LaunchSpec(
            instance_id=instance_id,
            key=_NOBODY,
            cli_args=build_args(options),
            env={**base_environment(), **config.cli_env, **own},
            workspace=scratch / "workspace",
            home=scratch / "home",
            labels={"user": "", "session": "", "purpose": PURPOSE},
            uid=self._trial_uid(),
            tool_limits=None if prefix is None else TRIAL_LIMITS,
        )

    def _trial_uid(self) -> int | None:
        uids = self._host.launcher.uid_range()
        return None if uids is None else uids[0]

    # --- results ---------------------------------------------------------------------------

    def _take(self, findings: Findings) -> None:
        around = self._around
        before, around.features = around.features, findings.features
        around.cli_check = findings.summary()
        for behaviour in findings.missing:
            _log.warning("the CLI lacks %s (%s): %s", behaviour.name, behaviour.promise, behaviour.fallback)
        if around.features != before:
            self._on_change()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._around.cli_check = {"ok": False, "detail": "the check itself failed: see the log"}

    def _key(self) -> str | None:
        """Under which name the findings are kept; None when the program cannot be told from another."""
        try:
            stamp = self._around.cli_stamp()
        except (PoolError, OSError):
            return None
        return key_of(stamp, self._around.config, "/".join(self._host.launcher.describe_isolation()[:2]))

    # --- files, in a thread ------------------------------------------------------------------

    def _save(self, key: str, findings: Findings) -> None:
        try:
            self._records.save(key, findings)
        except OSError as error:
            _log.warning("what was found of the CLI cannot be kept: %s", error)
