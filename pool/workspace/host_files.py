"""All that the pool does below the data directory in directories that are not the server's own.

It is one class because a server that is not root has its steward do the same.
Blocking: call it in a thread.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from pool.errors import BadRequest
from pool.workspace import archive
from pool.workspace.sizes import measure_parts
from pool.workspace.workspaces import Workspaces

_SCRATCH = "probe-"


class HostFiles(Workspaces):
    """See ``Workspaces``; beside users' directories also what instances leave, and room for trials."""

    def __init__(self, data_dir: Path, templates_dir: Path | None = None) -> None:
        super().__init__(data_dir, templates_dir)
        self._trials = data_dir / "trials"

    def data_sizes(self) -> Iterator[dict[str, int]]:
        """See ``pool.workspace.sizes.measure_parts``."""
        return measure_parts(self._data_dir)

    def archive(self, user_id: str) -> Iterator[bytes]:
        """The user's part of an export in pieces: ``workspace/``, ``transcripts/`` and ``egress/``.

        Raises ``InvalidName`` or ``Conflict``.
        """
        paths = self.paths(user_id)
        trees = [(paths.workspace, "workspace"), (paths.config / "projects", "transcripts")]
        if paths.egress is not None:
            trees.append((paths.egress, "egress"))
        for root, name in trees:
            yield from archive.tree(root, name)

    def make_scratch(self, uid: int | None) -> Path:
        """A directory for one trial, with ``workspace`` and ``home`` in it that are ``uid``'s (None: ours).

        As with a user's, what is above these can be passed through. Raises ``OSError``.
        """
        scratch = self.scratch(f"{_SCRATCH}{secrets.token_hex(6)}")
        for directory in (self._trials, scratch):
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o711)
        for name in ("workspace", "home"):
            (scratch / name).mkdir(mode=0o700)
            if uid is not None:
                os.chown(scratch / name, uid, uid)
        return scratch

    def scratch(self, name: str) -> Path:
        """Where the scratch directory of this name is."""
        return self._trials / name

    def scratch_has(self, scratch: Path, name: str) -> bool:
        """Is there a file of this name in the trial's workspace? Links are not followed."""
        return (scratch / "workspace" / name).is_file() and not (scratch / "workspace" / name).is_symlink()

    def remove_scratch(self, scratch: Path) -> None:
        """Remove what ``make_scratch`` has made. Raises ``BadRequest`` for anything else."""
        if scratch.parent != self._trials or not scratch.name.startswith(_SCRATCH):
            raise BadRequest("not a directory of a trial")
        shutil.rmtree(scratch, ignore_errors=True)

    def sweep_scratch(self) -> None:
        """Remove the trials that a killed server left."""
        for left in self._trials.glob(f"{_SCRATCH}*"):
            shutil.rmtree(left, ignore_errors=True)
