"""Files and host as a server that is not root sees them: what needs root is the steward's to do."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pool.config import PoolConfig
from pool.launch.base import LaunchSpec
from pool.launch.gateway_user import FoundGatewayUser
from pool.launch.local_host import LocalHost
from pool.launch.process_table import ProcessReport
from pool.workspace.host_files import HostFiles
from pool.workspace.trees import Usage
from pool.workspace.workspaces import DEFAULT_TEMPLATE, WorkspacePaths


class Asked(Protocol):
    """Whoever does verbs: the steward, or the host program of another machine."""

    def call(self, verb: str, **arguments: Any) -> Any:
        """See ``StewardClient.call``."""

    def iterate(self, verb: str, **arguments: Any) -> Iterator[Any]:
        """See ``StewardClient.iterate``."""


@dataclass(frozen=True, slots=True)
class RemotePaths(WorkspacePaths):
    """See ``WorkspacePaths``."""

    steward: Asked | None = field(default=None, compare=False)

    def has_transcript(self, cli_session: str) -> bool:
        """See ``WorkspacePaths``."""
        return bool(self._ask("has_transcript", cli_session))

    def is_spoilt(self, cli_session: str) -> bool:
        """See ``WorkspacePaths``."""
        return bool(self._ask("is_spoilt", cli_session))

    def _ask(self, verb: str, cli_session: str) -> Any:
        assert self.steward is not None
        return self.steward.call(verb, user_id=self.workspace.name, cli_session=cli_session)


class RemoteFiles(HostFiles):
    """See ``HostFiles``; templates are read here."""

    def __init__(self, steward: Asked, data_dir: Path, templates_dir: Path | None = None) -> None:
        super().__init__(data_dir, templates_dir)
        self._steward = steward

    def paths(self, user_id: str) -> WorkspacePaths:
        """See ``Workspaces``. Of a user who has nothing here yet only the steward can say it."""
        try:
            found = super().paths(user_id)
        except PermissionError:
            self._steward.call("check_user", user_id=user_id)
            found = self.unchecked_paths(user_id)
        return remote_paths(found, self._steward)

    def highest_uid(self) -> int:
        """See ``Workspaces``."""
        return int(self._steward.call("highest_uid"))

    def ensure(
        self,
        user_id: str,
        template: str = DEFAULT_TEMPLATE,
        *,
        uid: int | None = None,
        may_change_owner: bool = False,
    ) -> WorkspacePaths:
        """See ``Workspaces``."""
        made = self._steward.call(
            "ensure", user_id=user_id, template=template, uid=uid, may_change_owner=may_change_owner
        )
        return remote_paths(made, self._steward)

    def measure(self, user_id: str, *, max_entries: int = 0) -> Iterator[Usage]:
        """See ``Workspaces``; ``max_entries`` is the steward's."""
        return self._steward.iterate("measure", user_id=user_id)

    def homes(self) -> list[str]:
        """See ``Workspaces``."""
        return list(self._steward.call("homes"))

    def prune_home(
        self, user_id: str, kept_sessions: Collection[str], changed_before: float
    ) -> Iterator[int]:
        """See ``Workspaces``."""
        kept = sorted(kept_sessions)
        return self._steward.iterate(
            "prune_home", user_id=user_id, kept_sessions=kept, changed_before=changed_before
        )

    def keep_aside(self, user_id: str) -> Path | None:
        """See ``Workspaces``."""
        found = self._steward.call("keep_aside", user_id=user_id)
        return None if found is None else Path(found)

    def remove(self, user_id: str) -> None:
        """See ``Workspaces``."""
        self._steward.call("remove", user_id=user_id)

    def data_sizes(self) -> Iterator[dict[str, int]]:
        """See ``HostFiles``."""
        return self._steward.iterate("data_sizes")

    def archive(self, user_id: str) -> Iterator[bytes]:
        """See ``HostFiles``."""
        return self._steward.iterate("archive", user_id=user_id)

    def make_scratch(self, uid: int | None) -> Path:
        """See ``HostFiles``; it is the trial user's, whatever ``uid`` is."""
        return Path(self._steward.call("make_scratch"))

    def scratch_has(self, scratch: Path, name: str) -> bool:
        """See ``HostFiles``."""
        return bool(self._steward.call("scratch_has", name=scratch.name, file=name))

    def remove_scratch(self, scratch: Path) -> None:
        """See ``HostFiles``."""
        self._steward.call("remove_scratch", name=scratch.name)

    def sweep_scratch(self) -> None:
        """See ``HostFiles``."""
        self._steward.call("sweep_scratch")


class RemoteHost(LocalHost):
    """See ``LocalHost``; what it tried out, the steward did at its start."""

    def __init__(self, steward: Asked, config: PoolConfig) -> None:
        self._steward = steward
        self._trials = config.data_dir / "trials"
        self.isolation, uid, obstacle, shown = steward.call("facts")
        self.gateway_user = FoundGatewayUser(uid, obstacle, shown, service_uid=0)

    def prepare(self) -> Path:
        """See ``LocalHost``."""
        return Path(self._steward.call("prepare"))

    def request(self, spec: LaunchSpec, runtime_dir: Path) -> dict[str, Any]:
        """See ``LocalHost``; the steward knows the runtime directory."""
        is_trial = spec.workspace.parent.parent == self._trials
        plain = {
            "instance_id": spec.instance_id,
            "user_id": spec.key.user_id,
            "session_id": spec.key.session_id,
            "scratch": spec.workspace.parent.name if is_trial else None,
            "cli_args": list(spec.cli_args),
            "env": dict(spec.env),
            "labels": dict(spec.labels),
            "network": spec.network,
            "uid": spec.uid,
            "tool_limits": None if spec.tool_limits is None else list(astuple(spec.tool_limits)),
        }
        return dict(self._steward.call("request", spec=plain))

    def start_keeper(self, runtime_dir: Path) -> None:
        """See ``LocalHost``."""
        self._steward.call("start_keeper")

    def kill_keeper(self, pidfd: int) -> None:
        """See ``LocalHost``; the steward finds it by its lock."""
        self._steward.call("kill_keeper")

    def remove_leftovers(self, known: Collection[str], changed_before: float) -> int:
        """See ``LocalHost``."""
        return int(self._steward.call("remove_leftovers", known=sorted(known), changed_before=changed_before))

    def process_report(
        self, pids: Mapping[str, int], known: Collection[str], keepers: Collection[int]
    ) -> ProcessReport:
        """See ``LocalHost``."""
        report = self._steward.call(
            "process_report", pids=dict(pids), known=sorted(known), keepers=sorted(keepers)
        )
        assert isinstance(report, ProcessReport)
        return report


def remote_paths(paths: WorkspacePaths, steward: Asked) -> RemotePaths:
    """``paths`` of which ``steward`` is asked what is there."""
    # root's own uid is what "the service's" means to the steward
    return RemotePaths(
        paths.workspace, paths.home, paths.config, paths.uid, paths.is_settled, paths.egress, steward
    )
