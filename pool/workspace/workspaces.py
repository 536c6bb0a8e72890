"""The directories of each user: the workspace, and the home with the CLI's configuration.

Below the data directory: ``workspaces/USER``, ``homes/USER`` with ``.claude``
in it, and ``templates-applied/USER`` with an empty file for each template
whose files the workspace got. That note is kept where the user cannot write.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import stat
import threading
from collections.abc import Collection, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID
from weakref import WeakValueDictionary

from pool.errors import PoolError
from pool.names import check_name
from pool.workspace.ownership import give_tree, highest_owner
from pool.workspace.paths import open_below, refusal_of, resolve_below, user_directory
from pool.workspace.pruning import prune_home
from pool.workspace.templates import DESCRIPTION_FILE, Template, Templates
from pool.workspace.trees import Usage, copy_missing, directory, measure, remove_tree

_log = logging.getLogger(__name__)

DEFAULT_TEMPLATE = "default"

_LEAVE_OUT = frozenset({DESCRIPTION_FILE, ".gitkeep", ".git"})
_MAX_ENTRIES = 2_000_000
_FIRST_BYTES = 1 << 18


def shipped_templates() -> Path:
    """The templates that come with the program, beside the ``pool`` package."""
    return Path(__file__).resolve().parents[2] / "workspaces_template"


@dataclass(frozen=True, slots=True)
class WorkspacePaths:
    """Where a user's things are on this host. ``config`` is the CLI's, in the home.

    ``egress`` has the records of their connections, if there are any.
    ``uid`` is the Linux user that they belong to, None when that is the service's.
    Not ``is_settled``: they do not (all) belong to whom they should.
    """

    workspace: Path
    home: Path
    config: Path
    uid: int | None = None
    is_settled: bool = True
    egress: Path | None = None

    def has_transcript(self, cli_session: str) -> bool:
        """Has the CLI a transcript of this session (a UUID), so that it can be resumed?

        The name of the directory in between depends on where the sandbox
        shows the workspace, so every one is looked at.
        """
        try:
            file = f"{UUID(cli_session)}.jsonl"
            projects = open_below(self.home, ".claude/projects", os.O_RDONLY | os.O_DIRECTORY)
        except (ValueError, PoolError):
            return False
        try:
            return any(_is_file(projects, f"{name}/{file}") for name in os.listdir(projects))
        finally:
            os.close(projects)

    def is_spoilt(self, cli_session: str) -> bool:
        """Is there a transcript of this session with no message left in it? No CLI resumes from that."""
        try:
            file = f"{UUID(cli_session)}.jsonl"
            projects = open_below(self.home, ".claude/projects", os.O_RDONLY | os.O_DIRECTORY)
        except (ValueError, PoolError):
            return False
        try:
            for folder in os.listdir(projects):
                try:
                    descriptor = open_below(projects, f"{folder}/{file}", os.O_RDONLY)
                except PoolError:
                    continue
                with open(descriptor, "rb") as transcript:
                    if _holds_message(transcript.read(_FIRST_BYTES)):
                        return False
        finally:
            os.close(projects)
        return self.has_transcript(cli_session)


def _holds_message(head: bytes) -> bool:
    for line in head.splitlines():
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and row.get("type") in ("user", "assistant"):
                return True
    return len(head) == _FIRST_BYTES  # what comes later is not looked for


def _is_file(directory_: int, path: str) -> bool:
    try:
        descriptor = resolve_below(directory_, path)
    except PoolError:
        return False
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


class Workspaces:
    """Makes and removes the directories below ``data_dir``. Blocking: call it in a thread.

    ``templates_dir`` None: the shipped ones. Errors of the file system come
    as the ``PoolError`` that ``paths.refusal_of`` makes of them.
    """

    def __init__(self, data_dir: Path, templates_dir: Path | None = None) -> None:
        self._data_dir = data_dir
        self._workspaces = data_dir / "workspaces"
        self._homes = data_dir / "homes"
        self._applied = data_dir / "templates-applied"
        # where the keeper writes down which hosts a user's sessions connected to
        self._egress = data_dir / "egress"
        self._kept = data_dir / "kept"
        self._templates = Templates(templates_dir or shipped_templates())
        # Two new users whose ids differ only in case must not both find no other.
        self._making = threading.Lock()
        # Beside that a user's disk may hang without anybody else waiting for it.
        self._users: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()

    def template(self, name: str) -> Template:
        """What sessions of this template get. Raises ``InvalidName``, ``NotFound`` or ``BadRequest``."""
        return self._templates.load(name)

    def template_names(self) -> list[str]:
        """The templates that there are, sorted."""
        return self._templates.names()

    def paths(self, user_id: str) -> WorkspacePaths:
        """Where the user's directories are, made or not. Raises ``InvalidName`` or ``Conflict``."""
        for parent in (self._homes, self._egress, self._workspaces):
            user_directory(parent, user_id)
        return self.unchecked_paths(user_id)

    def unchecked_paths(self, user_id: str) -> WorkspacePaths:
        """As ``paths``, whether or not there is somebody whose name differs only in case."""
        return paths_below(self._data_dir, user_id)

    def highest_uid(self) -> int:
        """The highest uid that has a workspace or home here, also of users that no database knows; or 0."""
        return highest_owner(self._workspaces, self._homes, self._kept)

    def ensure(
        self,
        user_id: str,
        template: str = DEFAULT_TEMPLATE,
        *,
        uid: int | None = None,
        may_change_owner: bool = False,
    ) -> WorkspacePaths:
        """Make what is missing of the user's directories, all 0700, and return them.

        What is made belongs to ``uid`` (root only; None: to us). Directories
        of somebody else are given to ``uid`` when that is allowed, which
        nothing of the user may live to see; if not, the answer has the owner
        that they have and is not settled.

        A workspace gets the files of a template once: nothing that exists is
        overwritten, no symbolic link followed, and what the user deletes does
        not come back. Raises ``InvalidName``, ``NotFound`` (no such template)
        or ``Conflict``.
        """
        source = self._templates.path(template)
        check_name(user_id, "user_id")
        try:
            with self._lock_of(user_id), nullcontext() if self._is_known(user_id) else self._making:
                paths, is_new = self._make(user_id, uid, may_change_owner)
                self._fill(paths, user_id, template, source, is_new=is_new)
                return paths
        except OSError as error:
            raise refusal_of(error) from error

    def _lock_of(self, user_id: str) -> threading.Lock:
        return self._users.setdefault(user_id, threading.Lock())

    def _is_known(self, user_id: str) -> bool:
        """Does everything of the user exist already? Then there is nobody else of that name."""
        return all(
            os.path.lexists(parent / user_id) for parent in (self._workspaces, self._homes, self._applied)
        )

    def _make(self, user_id: str, uid: int | None, may_change: bool) -> tuple[WorkspacePaths, bool]:
        """The directories, and is the workspace new?"""
        data = self._workspaces.parent
        data.parent.mkdir(parents=True, exist_ok=True)
        shared = ((data, 0o711), (self._workspaces, 0o711), (self._homes, 0o711), (self._applied, 0o700))
        for parent, mode in shared:
            with directory(parent, mode=mode):
                pass
        paths = self.paths(user_id)
        wanted = os.geteuid() if uid is None else uid
        home_owner, _is_new = _owned(paths.home, wanted, may_change)
        owner, is_new = _owned(paths.workspace, wanted, may_change)
        if home_owner == owner:  # else half given away, by a service that was killed
            with directory(paths.home) as (home, _made), directory(".claude", below=home):
                pass
        is_settled = home_owner == owner == wanted or os.geteuid() != 0
        return replace(paths, uid=None if owner == os.geteuid() else owner, is_settled=is_settled), is_new

    def _fill(
        self, paths: WorkspacePaths, user_id: str, template: str, source: Path, *, is_new: bool
    ) -> None:
        record = user_directory(self._applied, user_id)
        with directory(paths.workspace) as (workspace, _made), directory(record) as (applied, _made):
            if is_new or not _is_noted(applied, template):
                copy_missing(source, workspace, leave_out=_LEAVE_OUT)
                _note(applied, template)

    def measure(self, user_id: str, *, max_entries: int = _MAX_ENTRIES) -> Iterator[Usage]:
        """Count what the user's workspace and home take, in slices; the last item is the result."""
        paths = self.paths(user_id)
        done = Usage(0, 0, complete=True)
        for root in (paths.workspace, paths.home):
            before = done
            for usage in measure(root, max_entries=max(1, max_entries - before.entries)):
                done = before.plus(usage)
                yield replace(done, complete=False)
        yield done

    def size_bytes(self, user_id: str) -> int:
        """What the user's workspace and home take on disk; 0 for a user without any."""
        size = 0
        for usage in self.measure(user_id):
            size = usage.bytes
        return size

    def homes(self) -> list[str]:
        """The names of all who have a home here, sorted."""
        try:
            return sorted(os.listdir(self._homes))
        except FileNotFoundError:
            return []

    def prune_home(
        self, user_id: str, kept_sessions: Collection[str], changed_before: float
    ) -> Iterator[int]:
        """See ``pool.workspace.pruning.prune_home``. Raises ``InvalidName`` for what is no user's home."""
        return prune_home(self.paths(user_id).home, kept_sessions, changed_before)

    def keep_aside(self, user_id: str) -> Path | None:
        """Move the workspace to ``<data>/kept``, where nobody of the same name finds it; None without one."""
        name = check_name(user_id, "user_id")
        target = self._kept / f"{name}-{secrets.token_hex(4)}"
        try:
            with self._lock_of(name), directory(self._kept):
                os.rename(self._workspaces / name, target)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise refusal_of(error) from error
        return target

    def remove(self, user_id: str) -> None:
        """Remove all of the user's directories; none is fine. Nothing may live on them.

        Raises ``PoolError`` when something cannot be removed; the rest is gone
        then, and calling it again goes on.
        """
        name = check_name(user_id, "user_id")
        failures: list[OSError] = []
        with self._lock_of(name):
            for parent in (self._applied, self._workspaces, self._homes, self._egress):
                failures.extend(_remove(parent, name))
        if failures:
            raise PoolError(f"the files of {name} could not all be removed: {failures[0].strerror}") from (
                failures[0]
            )


def paths_below(data_dir: Path, user_id: str) -> WorkspacePaths:
    """Where a user's directories are below ``data_dir``, on whatever machine. Raises ``InvalidName``."""
    name = check_name(user_id, "user_id")
    home = data_dir / "homes" / name
    return WorkspacePaths(
        data_dir / "workspaces" / name, home, home / ".claude", egress=data_dir / "egress" / name
    )


def _owned(path: Path, wanted: int, may_change: bool) -> tuple[int, bool]:
    """Make a user's directory if it is missing; who owns it in the end, and is it new?"""
    with directory(path) as (descriptor, made):
        owner = os.fstat(descriptor).st_uid
        if owner == wanted or not (made or may_change) or os.geteuid() != 0:
            return owner, made
        left = give_tree(descriptor, wanted, wanted)
        if left:
            _log.warning("%s things in %s have names elsewhere or are no files: not given away", left, path)
        return wanted, made


def _remove(parent: Path, name: str) -> list[OSError]:
    try:
        with directory(parent) as (descriptor, _made):
            remove_tree(descriptor, name)
    except OSError as error:
        return [error]
    return []


def _is_noted(applied: int, template: str) -> bool:
    try:
        os.stat(template, dir_fd=applied, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _note(applied: int, template: str) -> None:
    os.close(os.open(template, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=applied))
