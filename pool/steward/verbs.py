"""What a server may have its steward do, by name: the steward's side.

A server that somebody has taken over asks too. So every argument is checked
here, or by what it is given to: users by their names, which become one
component of a path; uids by the range of the users; places by the ones that
belong to the user. What a verb does is then what it does for every user.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pool.config import PoolConfig
from pool.errors import BadRequest, Forbidden
from pool.launch.base import LaunchSpec
from pool.launch.isolation import Isolation
from pool.launch.local_host import LocalHost
from pool.launch.process_table import ProcessReport
from pool.launch.tool_limits import ToolLimits
from pool.model import InstanceId, SessionId, SessionKey, UserId
from pool.names import check_name
from pool.steward.file_verbs import FileVerbs, text
from pool.workspace.host_files import HostFiles


class Verbs(FileVerbs):
    """Of a server: those for files, and those for the host. ``service_uid`` None: users have no uids."""

    def __init__(
        self, config: PoolConfig, files: HostFiles, host: LocalHost, service_uid: int | None
    ) -> None:
        # the first is for trials, the last two are the server's and the gateway's
        super().__init__(files, None if service_uid is None else range(config.uid_range[0], service_uid))
        self._config = config
        self._host = host
        self._runtime_dir: Path | None = None

    def facts(self) -> tuple[Isolation, int | None, str | None, Sequence[Path]]:
        """The isolation; the gateway's uid, what is in the way of one, what it is shown: as found out."""
        user = self._host.gateway_user
        return (self._host.isolation, *user.describe(), user.shown)

    def prepare(self) -> Path:
        """See ``LocalHost.prepare``."""
        self._runtime_dir = self._host.prepare()
        return self._runtime_dir

    def request(self, *, spec: Mapping[str, Any]) -> dict[str, Any]:
        """See ``LocalHost.request``."""
        return self._host.request(self._spec(spec), self._prepared())

    def start_keeper(self) -> None:
        """See ``LocalHost.start_keeper``."""
        self._host.start_keeper(self._prepared())

    def kill_keeper(self) -> None:
        """Send KILL to the keeper that holds the lock of the data directory, if one does."""
        path = self._config.data_dir / "keeper" / "lock"
        with contextlib.suppress(FileNotFoundError), path.open("rb") as lock:
            pid = int(lock.read(64) or 0)
            pidfd = os.pidfd_open(pid)
            try:
                # held still, now that it cannot be mistaken for a later process
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not has_open(pid, os.fstat(lock.fileno())):
                    raise BadRequest("the keeper is another one by now") from None
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            finally:
                os.close(pidfd)

    def remove_leftovers(self, *, known: Sequence[str], changed_before: float) -> int:
        """See ``LocalHost.remove_leftovers``."""
        return self._host.remove_leftovers({text(name) for name in known}, float(changed_before))

    def process_report(
        self, *, pids: Mapping[str, int], known: Sequence[str], keepers: Sequence[int]
    ) -> ProcessReport:
        """See ``LocalHost.process_report``."""
        return self._host.process_report(
            {name: int(pid) for name, pid in pids.items()}, set(known), {int(pid) for pid in keepers}
        )

    # --- checks --------------------------------------------------------------------------

    def _prepared(self) -> Path:
        if self._runtime_dir is None:
            raise BadRequest("prepare comes first")
        return self._runtime_dir

    def _spec(self, plain: Mapping[str, Any]) -> LaunchSpec:
        """The instance that is to be started; where it lives follows from whose it is."""
        uid = plain["uid"]
        self._check_uid(uid)
        user, scratch = text(plain["user_id"]), plain["scratch"]
        if scratch is None:
            paths = self._files.paths(user)
            workspace, home = paths.workspace, paths.home
        elif uid == self._trial_uid:
            place = self._files.scratch(check_name(scratch, "scratch"))
            workspace, home = place / "workspace", place / "home"
        else:
            raise Forbidden("trials run as the trial user")
        limits = plain["tool_limits"]
        return LaunchSpec(
            instance_id=InstanceId(check_name(plain["instance_id"], "instance_id")),
            key=SessionKey(UserId(user), SessionId(text(plain["session_id"]))),
            cli_args=tuple(text(word) for word in plain["cli_args"]),
            env=_texts(plain["env"]),
            workspace=workspace,
            home=home,
            labels=_texts(plain["labels"]),
            network=None if plain["network"] is None else text(plain["network"]),
            uid=uid,
            tool_limits=None if limits is None else ToolLimits(*(_limit(value) for value in limits)),
        )


def has_open(pid: int, wanted: os.stat_result) -> bool:
    """Has the process this file open, as the holder of its lock must have?"""
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.path.samestat(os.stat(f"/proc/{pid}/fd/{name}"), wanted):
                    return True
    return False


def _texts(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise BadRequest("not texts by name")
    return {text(name): text(one) for name, one in value.items()}


def _limit(value: object) -> int | None:
    if value is not None and type(value) is not int:
        raise BadRequest("not a limit")
    return value
