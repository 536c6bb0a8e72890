"""The files of several machines as one: each user's are on the machine where the user lives.

A machine that cannot be reached now is left out of what is done for all of
them; for its own users it is an error of theirs alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pool.errors import HostUnavailable, KeeperUnavailable
from pool.hosts.base import LOCAL
from pool.launch.base import (
    InstanceHandle,
    InstanceListing,
    InstanceSink,
    Launcher,
    LaunchSpec,
)
from pool.model import InstanceId
from pool.workspace.host_files import HostFiles
from pool.workspace.templates import Template
from pool.workspace.trees import Usage
from pool.workspace.workspaces import DEFAULT_TEMPLATE, WorkspacePaths

T = TypeVar("T")

_log = logging.getLogger(__name__)


class RoutedFiles(HostFiles):
    """See ``HostFiles``. Templates and trials are those of ``here``.

    ``others`` are the files of the other machines by their names;
    ``where`` tells on which one a user lives, None for who lives nowhere yet.
    """

    def __init__(
        self, here: HostFiles, others: Mapping[str, HostFiles], where: Callable[[str], str | None]
    ) -> None:
        self._here = here
        self._files = {LOCAL: here, **others}
        self._where = where
        self._seen: dict[str, str] = {}

    def of(self, user_id: str) -> HostFiles:
        """Where the user's files are. Raises ``HostUnavailable`` for a machine that nobody has configured."""
        found = self._files.get(self._where(user_id) or self._seen.get(user_id, LOCAL))
        if found is None:
            raise HostUnavailable("the machine that holds these files is not configured any more")
        return found

    # --- templates ------------------------------------------------------------------------

    def template(self, name: str) -> Template:
        """See ``Workspaces``."""
        return self._here.template(name)

    def template_names(self) -> list[str]:
        """See ``Workspaces``."""
        return self._here.template_names()

    # --- of one user ----------------------------------------------------------------------

    def paths(self, user_id: str) -> WorkspacePaths:
        """See ``Workspaces``."""
        return self.of(user_id).paths(user_id)

    def unchecked_paths(self, user_id: str) -> WorkspacePaths:
        """See ``Workspaces``."""
        return self.of(user_id).unchecked_paths(user_id)

    def ensure(
        self,
        user_id: str,
        template: str = DEFAULT_TEMPLATE,
        *,
        uid: int | None = None,
        may_change_owner: bool = False,
    ) -> WorkspacePaths:
        """See ``Workspaces``."""
        return self.of(user_id).ensure(user_id, template, uid=uid, may_change_owner=may_change_owner)

    def measure(self, user_id: str, *, max_entries: int = 0) -> Iterator[Usage]:
        """See ``Workspaces``; how many entries is each machine's own affair. One not reached: nothing."""
        return _while_reached(lambda: self.of(user_id).measure(user_id), f"the files of {user_id}")

    def prune_home(
        self, user_id: str, kept_sessions: Collection[str], changed_before: float
    ) -> Iterator[int]:
        """See ``Workspaces``."""
        return self.of(user_id).prune_home(user_id, kept_sessions, changed_before)

    def keep_aside(self, user_id: str) -> Path | None:
        """See ``Workspaces``."""
        return self.of(user_id).keep_aside(user_id)

    def remove(self, user_id: str) -> None:
        """See ``Workspaces``."""
        self.of(user_id).remove(user_id)

    def archive(self, user_id: str) -> Iterator[bytes]:
        """See ``HostFiles``."""
        return self.of(user_id).archive(user_id)

    # --- of all machines ------------------------------------------------------------------

    def highest_uid(self) -> int:
        """See ``Workspaces``."""
        return max(self._of_each(lambda files: files.highest_uid()).values(), default=0)

    def homes(self) -> list[str]:
        """See ``Workspaces``; also of users who live nowhere any more."""
        found = self._of_each(lambda files: files.homes())
        self._seen = {name: host for host, names in found.items() for name in names}
        return sorted(self._seen)

    def data_sizes(self) -> Iterator[dict[str, int]]:
        """See ``HostFiles``: sums of the parts of all machines."""
        total: dict[str, int] = {}
        for name, files in self._files.items():
            last: dict[str, int] = {}
            for last in _while_reached(files.data_sizes, f"the host {name}"):
                yield _added(total, last)
            total = _added(total, last)

    def _of_each(self, ask: Callable[[HostFiles], T]) -> dict[str, T]:
        found = {}
        for name, files in self._files.items():
            try:
                found[name] = ask(files)
            except KeeperUnavailable as error:
                _log.warning("the host %s is left out: %s", name, error.message)
        return found

    # --- trials ---------------------------------------------------------------------------

    def make_scratch(self, uid: int | None) -> Path:
        """See ``HostFiles``."""
        return self._here.make_scratch(uid)

    def scratch(self, name: str) -> Path:
        """See ``HostFiles``."""
        return self._here.scratch(name)

    def scratch_has(self, scratch: Path, name: str) -> bool:
        """See ``HostFiles``."""
        return self._here.scratch_has(scratch, name)

    def remove_scratch(self, scratch: Path) -> None:
        """See ``HostFiles``."""
        self._here.remove_scratch(scratch)

    def sweep_scratch(self) -> None:
        """See ``HostFiles``."""
        self._here.sweep_scratch()


def _while_reached(items: Callable[[], Iterator[T]], what: str) -> Iterator[T]:
    try:
        yield from items()
    except KeeperUnavailable as error:
        _log.warning("%s: not counted, %s", what, error.message)


def _added(left: Mapping[str, int], right: Mapping[str, int]) -> dict[str, int]:
    return {name: left.get(name, 0) + right.get(name, 0) for name in [*left, *(right.keys() - left.keys())]}


class AbsentLauncher(Launcher):
    """Of a machine that users live on and that is not, or no more, configured."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def open(self, epoch: int) -> int:
        """See ``Launcher``."""
        raise self._absent()

    async def list(self) -> Sequence[InstanceListing]:
        """See ``Launcher``."""
        raise self._absent()

    async def start(self, spec: LaunchSpec, sink: InstanceSink) -> InstanceHandle:
        """See ``Launcher``."""
        raise self._absent()

    async def abandon(self, instance_id: InstanceId) -> bool:
        """See ``Launcher``."""
        raise self._absent()

    async def attach(self, instance_id: InstanceId, offset: int, sink: InstanceSink) -> InstanceHandle:
        """See ``Launcher``."""
        raise self._absent()

    async def read_spool(self, instance_id: InstanceId, offset: int, limit: int) -> tuple[int, bytes]:
        """See ``Launcher``."""
        raise self._absent()

    async def forget(self, instance_id: InstanceId) -> None:
        """See ``Launcher``."""
        raise self._absent()

    def on_lost(self, callback: Callable[[], None]) -> None:
        """See ``Launcher``; it is never found."""

    async def aclose(self, *, end_instances: bool) -> None:
        """See ``Launcher``."""

    def supervisor_pids(self) -> set[int]:
        """See ``Launcher``."""
        return set()

    def describe_isolation(self) -> tuple[str, str, Sequence[str]]:
        """See ``Launcher``."""
        return "unknown", "unknown", ()

    def _absent(self) -> HostUnavailable:
        return HostUnavailable(f"the host {self._name} is not configured")
