"""As which Linux user the model gateway runs when the service is root; found out by trying, like the uids.

It is the last uid of ``isolation.uid_range``, which no user of the pool gets and no
trial runs as: who is that user can read the model keys. What it needs of a directory that is closed
to it, a Python in somebody's home for one, it is shown (``pool.launch.shown``).
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pool.config import PoolConfig
from pool.fs_identity import acting_as
from pool.keeper.client import KeeperClient, KeeperError
from pool.keeper.program import noted_runtime_dir
from pool.launch.shown import certificates, problem_of, program_of, program_places
from pool.launch.uids import first_blocked

_log = logging.getLogger(__name__)

_UP_TO_DATE = "claude-pool reload, or stop and serve"


def gateway_uid(config: PoolConfig) -> int:
    """The uid that is the gateway's, where there are uids."""
    return config.uid_range[1]


class GatewayUser:
    """The user that the gateway is to have, and the one that it has.

    ``has_uids``: users of the pool are Linux users of their own; else the
    gateway runs as the service does. The constructor tries it out. ``shown`` is what it is to
    see wherever that lies. ``believes_keeper``: a keeper that runs has one that is that user, so it need
    not be tried whether it starts; that takes a second of processor time.
    """

    def __init__(
        self,
        config: PoolConfig,
        environment: Mapping[str, str],
        *,
        has_uids: bool,
        believes_keeper: bool = False,
    ) -> None:
        self.uid: int | None = None
        self.shown: Sequence[Path] = ()
        self._obstacle: str | None = None
        self._trouble: str | None = None
        self._in_force: int | None = None
        self._service_uid = os.geteuid()
        if has_uids and config.gateway_command:
            uid = gateway_uid(config)
            self.shown = program_places(config.gateway_command, environment)
            is_tried = believes_keeper and _runs_as(uid, config.data_dir)
            self._obstacle = next(_obstacles(config, environment, uid, self.shown, is_tried=is_tried), None)
            self.uid = uid if self._obstacle is None else None
            self._in_force = self.uid

    def of_request(self) -> dict[str, Any]:
        """What ``replace_gateway`` is told: as whom, and what to show."""
        return {"gateway_uid": self.uid, "gateway_shown": [str(path) for path in self.shown]}

    def describe(self) -> tuple[int | None, str | None]:
        """(the uid in force, None for the service's own; what is in the way of a better one, or None)."""
        return self._in_force, self._trouble or self._obstacle

    async def settle(self, client: KeeperClient) -> None:
        """See to it that the gateway that runs is that user; that it cannot be is told of, not raised."""
        hello = client.hello
        if hello is None or hello.gateway_uid is None:
            return
        wanted = self._service_uid if self.uid is None else self.uid
        self._in_force, self._trouble = self.uid, None
        if hello.gateway_uid == wanted:
            return
        try:
            await client.request("replace_gateway", **self.of_request())
        except KeeperError as error:
            self._in_force = hello.gateway_uid or None
            self._trouble = f"the model gateway that runs could not be replaced ({error}): {_UP_TO_DATE}"
            _log.warning("gateway: %s", self._trouble)


class FoundGatewayUser(GatewayUser):
    """What another process has tried out, for a keeper that runs as ``service_uid``."""

    def __init__(
        self, uid: int | None, obstacle: str | None, shown: Sequence[Path], *, service_uid: int
    ) -> None:
        self.uid = self._in_force = uid
        self.shown = shown
        self._obstacle, self._trouble = obstacle, None
        self._service_uid = service_uid


def _obstacles(
    config: PoolConfig, environment: Mapping[str, str], uid: int, shown: Sequence[Path], *, is_tried: bool
) -> Iterator[str]:
    command = config.gateway_command
    user = _user_who_is(uid, config.data_dir / "workspaces")
    if user is not None:
        yield f"the model gateway runs as root, since uid {uid} is that of {user}: widen isolation.uid_range"
    for name, path in certificates(environment).items():
        if not _can_read(path, uid):
            yield f"the model gateway runs as root, since its uid {uid} cannot read {name}: chmod it"
    problem = None if is_tried else problem_of([*command, "--check"], uid, shown)
    if problem is None:
        return
    program = program_of(command, environment)
    for path in (program, program.resolve(), Path(__file__)):
        directory = first_blocked(path, uid)
        if directory is not None:
            yield (
                f"the model gateway runs as root, since its uid {uid} cannot pass through {directory} "
                f"({problem}): chmod o+x {directory}, or install Claude Pool with a Python that every user "
                "can run"
            )
    yield f"the model gateway runs as root, since it does not start as uid {uid} ({problem})"


def _runs_as(uid: int, data_dir: Path) -> bool:
    """Does a keeper run whose gateway was given its directory?"""
    with contextlib.suppress(OSError):
        return (data_dir / "gateway").lstat().st_uid == uid and noted_runtime_dir(data_dir) is not None
    return False


def _user_who_is(uid: int, workspaces: Path) -> str | None:
    """A user who got this uid while the range was another one."""
    with contextlib.suppress(FileNotFoundError), os.scandir(workspaces) as entries:
        for entry in entries:
            if entry.stat(follow_symlinks=False).st_uid == uid:
                return entry.name
    return None


def _can_read(path: Path, uid: int) -> bool:
    """Whatever is on the way to it, which it is shown."""
    with contextlib.suppress(OSError):
        found = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            with acting_as(uid, uid):
                os.close(os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC))
        finally:
            os.close(found)
        return True
    return False
