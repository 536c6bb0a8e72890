"""What a server may have its steward do below the data directory: the steward's side.

The arguments are names, and each is checked: see ``pool.steward.verbs``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pool.errors import BadRequest, Forbidden
from pool.names import check_name
from pool.steward.service import Verb
from pool.workspace.host_files import HostFiles
from pool.workspace.trees import Usage
from pool.workspace.workspaces import WorkspacePaths


class FileVerbs:
    """Each method with a public name is a verb; its keyword arguments are those of a request.

    ``uids`` are those of users; the first is for trials. None: they have none of their own.
    """

    def __init__(self, files: HostFiles, uids: range | None) -> None:
        self._files = files
        self._uids = uids
        self._trial_uid = None if uids is None else uids[0]

    def by_name(self) -> dict[str, Verb]:
        """All of them."""
        names = [name for kind in type(self).__mro__[:-1] for name in vars(kind)]
        return {name: getattr(self, name) for name in names if not name.startswith("_") and name != "by_name"}

    def ensure(
        self, *, user_id: str, template: str, uid: int | None, may_change_owner: bool
    ) -> WorkspacePaths:
        """See ``Workspaces.ensure``."""
        self._check_uid(uid)
        return self._files.ensure(
            text(user_id), text(template), uid=uid, may_change_owner=bool(may_change_owner)
        )

    def check_user(self, *, user_id: str) -> None:
        """See ``Workspaces.paths``: may this be a user's name here?"""
        self._files.paths(text(user_id))

    def has_transcript(self, *, user_id: str, cli_session: str) -> bool:
        """See ``WorkspacePaths.has_transcript``."""
        return self._files.paths(text(user_id)).has_transcript(text(cli_session))

    def is_spoilt(self, *, user_id: str, cli_session: str) -> bool:
        """See ``WorkspacePaths.is_spoilt``."""
        return self._files.paths(text(user_id)).is_spoilt(text(cli_session))

    def highest_uid(self) -> int:
        """See ``Workspaces.highest_uid``."""
        return self._files.highest_uid()

    def measure(self, *, user_id: str) -> Iterator[Usage]:
        """See ``Workspaces.measure``."""
        return self._files.measure(text(user_id))

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
        kept = {text(name) for name in kept_sessions}
        return self._files.prune_home(text(user_id), kept, float(changed_before))

    def keep_aside(self, *, user_id: str) -> Path | None:
        """See ``Workspaces.keep_aside``."""
        return self._files.keep_aside(text(user_id))

    def remove(self, *, user_id: str) -> None:
        """See ``Workspaces.remove``."""
        self._files.remove(text(user_id))

    def archive(self, *, user_id: str) -> Iterator[bytes]:
        """See ``HostFiles.archive``."""
        return self._files.archive(text(user_id))

    def make_scratch(self) -> Path:
        """See ``HostFiles.make_scratch``; it is the trial user's."""
        return self._files.make_scratch(self._trial_uid)

    def scratch_has(self, *, name: str, file: str) -> bool:
        """See ``HostFiles.scratch_has``."""
        place = self._files.scratch(check_name(name, "scratch"))
        return self._files.scratch_has(place, text(file).rpartition("/")[2])

    def remove_scratch(self, *, name: str) -> None:
        """See ``HostFiles.remove_scratch``; by the last component of its path."""
        self._files.remove_scratch(self._files.scratch(check_name(name, "scratch")))

    def sweep_scratch(self) -> None:
        """See ``HostFiles.sweep_scratch``."""
        self._files.sweep_scratch()

    def _check_uid(self, uid: object) -> None:
        if self._uids is None:
            if uid is not None:
                raise Forbidden("users have no uids here")
        elif type(uid) is not int or uid not in self._uids:
            raise Forbidden("not a uid of a user's")


def text(value: object) -> str:
    """``value``, if it is text. Raises ``BadRequest``."""
    if not isinstance(value, str):
        raise BadRequest("not text")
    return value
