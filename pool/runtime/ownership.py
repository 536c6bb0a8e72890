"""As which Linux user a session's instance runs, and that the user's files are theirs before it does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from pool.errors import Conflict
from pool.model import UserId
from pool.workspace.workspaces import WorkspacePaths

if TYPE_CHECKING:
    from pool.runtime.hosts import Host
    from pool.runtime.session import Session
    from pool.runtime.surroundings import Surroundings


async def prepared_paths(session: Session) -> WorkspacePaths:
    """The user's directories, made and owned as they should be; ``uid`` is whom to run as.

    Files that belong to another uid (of an earlier version, of another
    ``uid_range``) change hands here. While an instance that was started before
    still lives on them, a new one runs as their present owner too.
    Raises what ``Workspaces.ensure`` and ``Store.uid_of`` raise.
    """
    around, user, template = session.around, session.key.user_id, session.record.template
    uid = await _uid_of(around, session.host, user)
    ensure = around.workspaces.ensure
    paths = await _on_disk(around, user, partial(ensure, user, template, uid=uid))
    if paths.is_settled:
        return paths
    listed = await session.host.launcher.list()
    if any(one.exit_status is None and one.labels.get("user") == user for one in listed):
        return paths
    paths = await _on_disk(around, user, partial(ensure, user, template, uid=uid, may_change_owner=True))
    if not paths.is_settled:
        raise Conflict(f"the files of {user} belong to another Linux user and cannot be given to uid {uid}")
    return paths


async def _on_disk(around: Surroundings, user: UserId, work: Callable[[], WorkspacePaths]) -> WorkspacePaths:
    """Do ``work`` in a thread. A disk that hangs keeps one thread of its user, however often it is tried."""
    while (before := around.disk_work.get(user)) is not None:
        await asyncio.wait({before})
    running = asyncio.get_running_loop().run_in_executor(None, work)
    around.disk_work[user] = running
    running.add_done_callback(partial(_done, around, user))
    return await asyncio.shield(running)


def _done(around: Surroundings, user: UserId, work: asyncio.Future[WorkspacePaths]) -> None:
    del around.disk_work[user]
    if not work.cancelled():
        work.exception()  # whoever waits raises it; nobody may wait any more


async def _uid_of(around: Surroundings, host: Host, user: UserId) -> int | None:
    uids = host.launcher.uid_range()
    if uids is None:
        return None
    # the first is for trials, the last two for the server and the model gateway
    first, last = uids[0] + 1, uids[1] - 2
    if host.highest_uid is None:
        # Once: it looks at every user's directory, and one of those disks may not answer later.
        host.highest_uid = await asyncio.to_thread(host.files.highest_uid)
    return await around.store.uid_of(user, first, last, host.highest_uid)
