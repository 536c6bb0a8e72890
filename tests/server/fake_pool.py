"""A pool in memory that echoes: real accounts in a real database, no processes.

It keeps the promises of ``server.door.Pool`` that the server depends on:
``on_accepted`` before the first frame of a turn, cursors that can be resumed
from, one answer for one message id.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pool import Metric, ProcessReport, Viewer, remove_user_files
from pool.errors import AlreadyResolved, BadRequest, Draining, Forbidden, KeyReused, NotFound
from pool.model import (
    Accepted,
    Cursor,
    InstanceId,
    InstanceInfo,
    InstanceState,
    PermissionInfo,
    SessionId,
    SessionInfo,
    SessionState,
    TurnId,
    TurnInfo,
    TurnState,
    UserId,
)
from pool.names import check_name
from pool.runtime.exporting import export
from pool.store.accounts import Accounts
from pool.store.audit import AuditLog
from pool.store.database import Database
from pool.store.personal import PersonalData
from pool.store.usage import Usage
from pool.workspace.host_files import HostFiles


@dataclass
class FakeSession:
    """One session's log and what is open in it."""

    info: SessionInfo
    log: list[tuple[Cursor, bytes]] = field(default_factory=list)
    followers: list[FakeSubscription] = field(default_factory=list)
    answers: dict[str, tuple[str, Accepted]] = field(default_factory=dict)
    asked: dict[str, PermissionInfo] = field(default_factory=dict)
    resolved: dict[str, str] = field(default_factory=dict)

    @property
    def head(self) -> Cursor:
        return self.log[-1][0] if self.log else Cursor(0, 0, 0)

    def publish(self, body: dict[str, Any]) -> None:
        cursor = Cursor(1, self.head.offset + 10, 0)
        frame = {"session_id": self.info.session_id, "cursor": str(cursor), **body}
        self.log.append((cursor, json.dumps(frame).encode()))
        for follower in list(self.followers):
            follower.push()


class FakeSubscription:
    """Follows a session; skips while the viewer is above its budget."""

    def __init__(self, session: FakeSession, viewer: Viewer, position: Cursor, budget: int) -> None:
        self.session, self.viewer, self.position, self.budget = session, viewer, position, budget
        self.seen = 0
        session.followers.append(self)

    def push(self) -> None:
        for cursor, frame in itertools.islice(self.session.log, self.seen, None):
            if self.viewer.backlog_bytes >= self.budget:
                return
            self.seen += 1
            if cursor > self.position:
                self.viewer.deliver([frame])
                self.position = cursor

    def drained(self) -> None:
        self.push()

    def close(self) -> None:
        if self in self.session.followers:
            self.session.followers.remove(self)


class FakePool:
    """See the module."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.database = Database(None, data_dir)
        self.accounts = Accounts(self.database)
        self.usage = Usage(self.database)
        self.audit = AuditLog(self.database)
        self.sessions: dict[tuple[str, str], FakeSession] = {}
        self.live: list[InstanceInfo] = []
        self.stopped_users: list[str] = []
        self.modes = ("default", "plan")
        self.budget = 262144
        self.is_draining = False
        self.before_submit: Callable[[], Any] | None = None
        self.fails_with: Exception | None = None
        self.ended: bool | None = None

    async def start(self) -> None:
        await self.database.open()

    async def shutdown(
        self, *, end_instances: bool = True, drain_timeout_seconds: float | None = None
    ) -> None:
        self.ended = end_instances
        await self.database.aclose()

    def session(self, user_id: str, session_id: str) -> FakeSession:
        check_name(session_id, "session_id")
        try:
            return self.sessions[user_id, session_id]
        except KeyError:
            raise NotFound(f"there is no session {session_id}") from None

    async def create_session(
        self,
        user_id: str,
        session_id: str | None = None,
        *,
        template: str | None = None,
        title: str | None = None,
        model: str | None = None,
        permission_mode: str | None = None,
    ) -> tuple[SessionInfo, bool]:
        name = check_name(session_id or f"s{len(self.sessions)}", "session_id")
        if (user_id, name) in self.sessions:
            return self.sessions[user_id, name].info, False
        info = SessionInfo(
            UserId(user_id),
            SessionId(name),
            title or "",
            SessionState.PARKED,
            template or "default",
            model,
            permission_mode or "default",
            time.time(),
            time.time(),
            Cursor(0, 0, 0),
        )
        self.sessions[user_id, name] = FakeSession(info)
        return info, True

    async def get_session(self, user_id: str, session_id: str) -> SessionInfo:
        return self.session(user_id, session_id).info

    async def list_sessions(
        self,
        user_id: str,
        *,
        search: str = "",
        include_archived: bool = False,
        limit: int = 100,
        after: str | None = None,
    ) -> list[SessionInfo]:
        mine = [one.info for (user, _), one in sorted(self.sessions.items()) if user == user_id]
        found = [info for info in mine if search in info.title + info.session_id]
        if not include_archived:
            found = [info for info in found if info.state is not SessionState.ARCHIVED]
        return [info for info in found if after is None or info.session_id > after][:limit]

    async def update_session(
        self,
        user_id: str,
        session_id: str,
        *,
        title: str | None = None,
        model: str | None = None,
        permission_mode: str | None = None,
    ) -> SessionInfo:
        session = self.session(user_id, session_id)
        if permission_mode is not None:
            await self.set_permission_mode(user_id, session_id, permission_mode)
        if title is not None:
            session.info = replace(session.info, title=title)
        if model is not None:
            session.info = replace(session.info, model=model)
        return session.info

    async def archive_session(self, user_id: str, session_id: str) -> None:
        session = self.session(user_id, session_id)
        session.info = replace(session.info, state=SessionState.ARCHIVED)

    async def fork_session(
        self, user_id: str, session_id: str, new_session_id: str | None = None
    ) -> SessionInfo:
        source = self.session(user_id, session_id).info
        info, _ = await self.create_session(user_id, new_session_id, title=source.title)
        return info

    async def submit(
        self,
        user_id: str,
        session_id: str,
        content: object,
        *,
        message_id: str,
        literal: bool = False,
        on_accepted: Callable[[Accepted], None] | None = None,
    ) -> Accepted:
        if self.fails_with is not None:
            raise self.fails_with
        if not content:
            raise BadRequest("the content is empty")
        if self.is_draining:
            raise Draining("draining", retry_after_seconds=2.2)
        if self.before_submit is not None:
            await self.before_submit()
        await self.create_session(user_id, session_id)
        session = self.session(user_id, session_id)
        text = json.dumps(content)
        if message_id in session.answers:
            earlier, accepted = session.answers[message_id]
            if earlier != text:
                raise KeyReused("this key was used with other content")
            return replace(accepted, repeated=True)
        accepted = Accepted(TurnId(f"t{len(session.answers)}"), message_id, 0)
        session.answers[message_id] = (text, accepted)
        if on_accepted is not None:
            on_accepted(accepted)
        turn = {"type": "turn", "turn_id": accepted.turn_id, "origin": "user", "message_id": message_id}
        session.publish({**turn, "state": "queued"})
        session.publish({**turn, "state": "running"})
        session.publish({"type": "event", "event": {"type": "assistant", "text": content}})
        session.publish({**turn, "state": "succeeded"})
        return accepted

    async def interrupt(self, user_id: str, session_id: str) -> None:
        self.session(user_id, session_id).resolved["interrupt"] = "yes"

    def ask(self, user_id: str, session_id: str, request_id: str) -> None:
        session = self.session(user_id, session_id)
        session.asked[request_id] = PermissionInfo(
            request_id, "Bash", {"command": "ls"}, session.head, time.time(), {"title": "Bash ls"}
        )

    async def answer_permission(
        self,
        user_id: str,
        session_id: str,
        request_id: str,
        decision: str,
        *,
        message: str | None = None,
        updated_input: dict[str, Any] | None = None,
        scope: str = "once",
        answered_by: str,
    ) -> None:
        session = self.session(user_id, session_id)
        if request_id in session.resolved:
            raise AlreadyResolved("answered before")
        if session.asked.pop(request_id, None) is None:
            raise NotFound("there is no such approval")
        session.resolved[request_id] = f"{decision} {scope} {answered_by}"
        session.publish({"type": "permission_resolved", "request_id": request_id, "decision": decision})

    async def permissions(self, user_id: str, session_id: str) -> list[PermissionInfo]:
        return list(self.session(user_id, session_id).asked.values())

    async def set_model(self, user_id: str, session_id: str, model: str | None) -> None:
        session = self.session(user_id, session_id)
        session.info = replace(session.info, model=model)

    async def set_permission_mode(self, user_id: str, session_id: str, mode: str) -> None:
        if mode not in self.modes:
            raise Forbidden("this permission mode is not allowed here")
        session = self.session(user_id, session_id)
        session.info = replace(session.info, permission_mode=mode)

    async def subscribe(
        self, user_id: str, session_id: str, cursor: str | None, viewer: Viewer, *, create: bool = True
    ) -> FakeSubscription:
        asked = Cursor.parse(cursor) if cursor is not None else None
        if create:
            await self.create_session(user_id, session_id)
        session = self.session(user_id, session_id)
        position = session.head if asked is None else asked
        frame: dict[str, Any] = {
            "type": "subscribed",
            "session_id": session_id,
            "cursor": str(position),
            "state": session.info.state.value,
            "pending_permissions": [],
        }
        viewer.deliver([json.dumps(frame).encode()])
        subscription = FakeSubscription(session, viewer, position, self.budget)
        subscription.push()
        return subscription

    async def history(
        self,
        user_id: str,
        session_id: str,
        *,
        after: str | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> tuple[list[bytes], str | None, str | None]:
        session = self.session(user_id, session_id)
        low = Cursor.parse(after) if after is not None else Cursor(-1, 0, 0)
        high = Cursor.parse(before) if before is not None else Cursor(9, 0, 0)
        rows = [row for row in session.log if low < row[0] < high][:limit]
        return [frame for _, frame in rows], str(rows[-1][0]) if rows else None, None

    async def status(self, user_id: str, session_id: str) -> dict[str, Any]:
        session = self.session(user_id, session_id)
        turn = TurnInfo(TurnId("t0"), TurnState.RUNNING, "user", "m") if session.answers else None
        return {"state": session.info.state.value, "turn": turn, "queued": [], "usage": {}}

    def add_instance(self, user_id: str, session_id: str) -> InstanceInfo:
        info = InstanceInfo(
            InstanceId(f"i{len(self.live)}"),
            UserId(user_id),
            SessionId(session_id),
            InstanceState.READY,
            4242,
            time.time(),
            3,
            1000,
            0.5,
            "none",
        )
        self.live.append(info)
        return info

    def instances(self, user_id: str | None = None) -> list[InstanceInfo]:
        return [info for info in self.live if user_id is None or info.user_id == user_id]

    async def stop_instance(self, instance_id: str) -> bool:
        before = len(self.live)
        self.live = [info for info in self.live if info.id != instance_id]
        return len(self.live) < before

    async def forget_user(self, user_id: str, *, keep_workspace: bool = False) -> None:
        await self.stop_user(user_id)
        remove_user_files(self.data_dir, user_id, keep_workspace=keep_workspace)

    async def stop_user(self, user_id: str) -> None:
        self.stopped_users.append(user_id)
        self.live = [info for info in self.live if info.user_id != user_id]

    def health(self) -> dict[str, Any]:
        states = ("starting", "ready", "busy", "stopping", "stuck")
        counts = {state: sum(info.state.value == state for info in self.live) for state in states}
        return {
            "status": "draining" if self.is_draining else "ok",
            "instances": {"total": len(self.live), **counts},
            "users": {"active": len({info.user_id for info in self.live})},
            "queue": {"length": 0, "oldest_seconds": 0.0},
            "checks": {"database": {"ok": True, "detail": "works"}},
        }

    async def run_checks(self) -> None:
        return

    async def metrics(self) -> list[Metric]:
        return [Metric("claude_pool_sessions", "gauge", "Sessions.", (), [((), len(self.sessions))])]

    def hosts(self) -> list[dict[str, Any]]:
        return []

    async def process_report(self) -> ProcessReport:
        return ProcessReport({}, [])

    async def export_user(self, user_id: str) -> AsyncGenerator[bytes]:
        async for piece in export(PersonalData(self.database), HostFiles(self.data_dir), user_id):
            yield piece

    def uid_range(self) -> tuple[int, int] | None:
        return None

    def gateway_user(self) -> tuple[int | None, str | None]:
        return None, None

    def isolation(self) -> tuple[str, str, Sequence[str]]:
        return "none", "open", ["install bubblewrap"]

    def unready_reasons(self) -> list[str]:
        return ["draining"] * self.is_draining

    async def upgrade(self, *, force: bool = False) -> Mapping[str, str]:
        return {"keeper": "upgraded" if force else "unchanged", "gateway": "replaced"}

    def drain(self) -> None:
        self.is_draining = True

    def resume(self) -> None:
        self.is_draining = False
