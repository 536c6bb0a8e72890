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
from collections.abc import Iterator, Mapping, Sequence
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
from pool.steward.service import Verb
from pool.workspace.host_files import HostFiles
from pool.workspace.trees import Usage
from pool.workspace.workspaces import WorkspacePaths


class Verbs:
    """Each method with a public name is a verb; its keyword arguments are those of a request."""

    def __init__(self, config: PoolConfig, files: HostFiles, host: LocalHost, service_uid: int) -> None:
        self._config = config
        self._files = files
        self._host = host
        # the first is for trials, the last two are the server's and the gateway's
        self._uids = range(config.uid_range[0], service_uid)
        self._runtime_dir: Path | None = None

    def by_name(self) -> dict[str, Verb]:
        """All of them."""
        names = [name for name in vars(Verbs) if not name.startswith("_") and name != "by_name"]
        return {name: getattr(self, name) for name in names}

    # --- files ---------------------------------------------------------------------------

    def ensure(
        self, *, user_id: str, template: str, uid: int | None, may_change_owner: bool
    ) -> WorkspacePaths:
        """See ``Workspaces.ensure``."""
        self._check_uid(uid)
        return self._files.ensure(
            _text(user_id), _text(template), uid=uid, may_change_owner=bool(may_change_owner)
        )

    def check_user(self, *, user_id: str) -> None:
        """See ``Workspaces.paths``: may this be a user's name here?"""
        self._files.paths(_text(user_id))

    def has_transcript(self, *, user_id: str, cli_session: str) -> bool:
        """See ``WorkspacePaths.has_transcript``."""
        return self._files.paths(_text(user_id)).has_transcript(_text(cli_session))

    def is_spoilt(self, *, user_id: str, cli_session: str) -> bool:
        """See ``WorkspacePaths.is_spoilt``."""
        return self._files.paths(_text(user_id)).is_spoilt(_text(cli_session))

    def highest_uid(self) -> int:
        """See ``Workspaces.highest_uid``."""
        return self._files.highest_uid()

    def measure(self, *, user_id: str) -> Iterator[Usage]:
        """See ``Workspaces.measure``."""
        return self._files.measure(_text(user_id))

    def data_sizes(self) -> Iterator[dict[str, int]]:
        """See ``HostFiles.data_sizes``."""
        return self._files.data_sizes()

    def homes(self) -> list[str]:
        """See ``Workspaces.homes``."""
        return self._files.homes()

    def prune_home(
        self, *, user_id: str, kept_sessions: Sequence[str], changed_before: float
    ) -> Iterator[int]:
        """See ``Workspaces.prune_home``."""
        kept = {_text(name) for name in kept_sessions}
        return self._files.prune_home(_text(user_id), kept, float(changed_before))

    def keep_aside(self, *, user_id: str) -> Path | None:
        """See ``Workspaces.keep_aside``."""
        return self._files.keep_aside(_text(user_id))

    def remove(self, *, user_id: str) -> None:
        """See ``Workspaces.remove``."""
        self._files.remove(_text(user_id))

    def archive(self, *, user_id: str) -> Iterator[bytes]:
        """See ``HostFiles.archive``."""
        return self._files.archive(_text(user_id))

    def make_scratch(self) -> Path:
        """See ``HostFiles.make_scratch``; it is the trial user's."""
        return self._files.make_scratch(self._uids[0])

    def scratch_has(self, *, name: str, file: str) -> bool:
        """See ``HostFiles.scratch_has``."""
        place = self._files.scratch(check_name(name, "scratch"))
        return self._files.scratch_has(place, _text(file).rpartition("/")[2])

    def remove_scratch(self, *, name: str) -> None:
        """See ``HostFiles.remove_scratch``; by the last component of its path."""
        self._files.remove_scratch(self._files.scratch(check_name(name, "scratch")))

    def sweep_scratch(self) -> None:
        """See ``HostFiles.sweep_scratch``."""
        self._files.sweep_scratch()

    # --- the host ------------------------------------------------------------------------

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
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            finally:
                os.close(pidfd)

    def remove_leftovers(self, *, known: Sequence[str], changed_before: float) -> int:
        """See ``LocalHost.remove_leftovers``."""
        return self._host.remove_leftovers({_text(name) for name in known}, float(changed_before))

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

    def _check_uid(self, uid: object) -> None:
        if type(uid) is not int or uid not in self._uids:
            raise Forbidden("not a uid of a user's")

    def _spec(self, plain: Mapping[str, Any]) -> LaunchSpec:
        """The instance that is to be started; where it lives follows from whose it is."""
        uid = plain["uid"]
        self._check_uid(uid)
        user, scratch = _text(plain["user_id"]), plain["scratch"]
        if scratch is None:
            paths = self._files.paths(user)
            workspace, home = paths.workspace, paths.home
        elif uid == self._uids[0]:
            place = self._files.scratch(check_name(scratch, "scratch"))
            workspace, home = place / "workspace", place / "home"
        else:
            raise Forbidden("trials run as the trial user")
        limits = plain["tool_limits"]
        return LaunchSpec(
            instance_id=InstanceId(check_name(plain["instance_id"], "instance_id")),
            key=SessionKey(UserId(user), SessionId(_text(plain["session_id"]))),
            cli_args=tuple(_text(word) for word in plain["cli_args"]),
            env=_texts(plain["env"]),
            workspace=workspace,
            home=home,
            labels=_texts(plain["labels"]),
            network=None if plain["network"] is None else _text(plain["network"]),
            uid=uid,
            tool_limits=None if limits is None else ToolLimits(*(_limit(value) for value in limits)),
        )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise BadRequest("not text")
    return value


def _texts(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise BadRequest("not texts by name")
    return {_text(name): _text(one) for name, one in value.items()}


def _limit(value: object) -> int | None:
    if value is not None and type(value) is not int:
        raise BadRequest("not a limit")
    return value
