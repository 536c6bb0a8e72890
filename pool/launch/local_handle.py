"""One instance as its keeper's client sees it, in the pool's words."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from pool.errors import (
    BadRequest,
    Conflict,
    InputBlocked,
    InstanceGone,
    KeeperUnavailable,
    LaunchFailed,
    PoolError,
)
from pool.keeper.client import KeeperClient, KeeperError
from pool.keeper.code_version import code_version
from pool.launch.base import InstanceHandle, InstanceListing, InstanceSink, ProcessIdentity, StopGraces
from pool.model import ExitStatus, InstanceId

_RIGHTS_SINCE = 3


class Feed:
    """From the keeper's client to the pool's sink; muted, it says nothing more."""

    def __init__(self, sink: InstanceSink) -> None:
        self._sink = sink
        self.has_exited = False
        self.is_muted = False

    def data_received(self, offset: int, data: bytes) -> None:
        """See ``InstanceSink``."""
        if not self.is_muted:
            self._sink.data_received(offset, data)

    def exited(
        self, code: int | None, signal: str | None, stderr_tail: str, cause: str | None = None
    ) -> None:
        """See ``InstanceSink``."""
        self.has_exited = True
        if not self.is_muted:
            self._sink.exited(
                exit_status_of({"code": code, "signal": signal, "cause": cause}), str(stderr_tail)
            )

    def launcher_lost(self) -> None:
        """See ``InstanceSink``."""
        if not self.is_muted:
            self._sink.launcher_lost()


class LocalHandle(InstanceHandle):
    """See ``InstanceHandle``."""

    def __init__(
        self,
        client: KeeperClient,
        instance_id: InstanceId,
        handle: int,
        facts: Mapping[str, Any],
        feed: Feed,
    ) -> None:
        self.instance_id = instance_id
        self.identity = identity_of(facts)
        self.isolation = str(facts["isolation"])
        self._client = client
        self._handle = handle
        self._feed = feed

    async def write(self, line: bytes, *, timeout_seconds: float = 30.0) -> None:
        """See ``InstanceHandle``."""
        if self._feed.has_exited:
            raise InstanceGone(f"instance {self.instance_id} has exited")
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._client.write(self._handle, line)
        except TimeoutError:
            raise InputBlocked(
                f"instance {self.instance_id} did not read its input for {timeout_seconds:g} seconds"
            ) from None
        except KeeperError as error:
            raise pool_error(error) from error

    def committed(self, offset: int) -> None:
        """See ``InstanceHandle``; without effect when the keeper is lost."""
        self._client.tell("commit", instance=self.instance_id, offset=offset)

    def hold(self, is_held: bool) -> None:
        """See ``InstanceHandle``."""
        self._client.hold(self._handle, is_held)

    def trim(self, offset: int) -> None:
        """See ``InstanceHandle``; without effect when the keeper is lost."""
        self._client.tell("trim", instance=self.instance_id, offset=offset)

    async def read(self, offset: int, limit: int) -> tuple[int, bytes]:
        """See ``InstanceHandle``."""
        try:
            return await self._client.read(self.instance_id, offset, limit)
        except KeeperError as error:
            raise pool_error(error) from error

    async def stderr_tail(self) -> str:
        """See ``InstanceHandle``."""
        return str((await self._request("stderr"))["stderr_tail"])

    async def stop(self, graces: StopGraces) -> None:
        """See ``InstanceHandle``."""
        with suppress(InstanceGone):
            await self._request("stop", graces=graces_of(graces))

    async def signal(self, name: str) -> None:
        """See ``InstanceHandle``."""
        await self._request("signal", signal=name)

    async def _request(self, op: str, **fields: Any) -> dict[str, Any]:
        try:
            return await self._client.request(op, instance=self.instance_id, **fields)
        except KeeperError as error:
            raise pool_error(error) from error


def graces_of(graces: StopGraces) -> Sequence[float]:
    """The graces as the keeper's requests have them."""
    return [graces.end_of_input, graces.term, graces.kill]


def identity_of(facts: Mapping[str, Any]) -> ProcessIdentity | None:
    """The process that the keeper's facts name. Raises ``LookupError``, ``TypeError`` or ``ValueError``."""
    found = facts["identity"]
    if found is None:
        return None
    return ProcessIdentity(
        int(found["pid"]), int(found["start_ticks"]), str(found["boot_id"]), str(found["marker"])
    )


def exit_status_of(ended: Mapping[str, Any]) -> ExitStatus:
    """How it ended; a keeper that says nothing sensible has said nothing."""
    code, signal, cause = ended["code"], ended["signal"], ended.get("cause")
    return ExitStatus(
        code if isinstance(code, int) else None,
        signal if isinstance(signal, str) else None,
        cause if isinstance(cause, str) else None,
    )


def listing_of(facts: Mapping[str, Any]) -> InstanceListing:
    """One line of the keeper's list. Raises as ``identity_of``."""
    ended, exited_at = facts["exit"], facts["exited_at"]
    return InstanceListing(
        instance_id=InstanceId(str(facts["instance"])),
        identity=identity_of(facts),
        end_offset=int(facts["end_offset"]),
        exit_status=None if ended is None else exit_status_of(ended),
        exited_at=None if exited_at is None else float(exited_at),
        stderr_tail=str(facts["stderr_tail"]),
        labels={str(name): str(label) for name, label in facts["labels"].items()},
    )


def launch_failed(error: KeeperError) -> LaunchFailed:
    """A start that the keeper could not do."""
    details = {"step": error.details.get("step", error.code)}
    stderr = str(error.details.get("stderr_tail", ""))[-4096:]
    details |= {
        key: error.details[key] for key in ("exit_code", "signal") if error.details.get(key) is not None
    }
    return LaunchFailed(
        f"{error}: {stderr.strip()}" if stderr else str(error), details={**details, "stderr": stderr}
    )


def check_takes_rights(client: KeeperClient) -> None:
    """Blocking. Raises ``LaunchFailed`` for a keeper that would start an instance as root and say nothing."""
    hello = client.hello
    # one that was upgraded in place speaks the version of its first hello on, but runs our code
    knows = hello is not None and (hello.version >= _RIGHTS_SINCE or hello.code == code_version())
    if not knows:
        raise LaunchFailed(
            "the keeper that runs is of a version that knows no uids: it has to be upgraded first",
            details={"step": "uid"},
        )


def pool_error(error: KeeperError) -> PoolError:
    """What the pool calls the keeper's refusal."""
    kinds: Mapping[str, type[PoolError]] = {
        "bad_line": BadRequest,
        "bad_request": BadRequest,
        "not_found": InstanceGone,
        "gone": InstanceGone,
        "input_closed": InstanceGone,
        "full": InputBlocked,
        "alive": Conflict,
        "busy": Conflict,
        "upgrade_refused": Conflict,
        "gateway_refused": Conflict,
    }
    return kinds.get(error.code, KeeperUnavailable)(str(error), details={"code": error.code})
