"""Following a session: from a cursor, from now, or page by page.

A subscription begins with one ``subscribed`` frame; what follows it has no
hole that is not told by a ``gap``.
"""

from __future__ import annotations

from typing import Any

from pool.errors import BadRequest, Forbidden
from pool.model import BEGINNING, Cursor, SessionId, SessionKey, TurnState, UserId
from pool.names import check_name
from pool.protocol.command_line import check_model
from pool.runtime.counting import Counters, counts_refusals
from pool.runtime.hub import Subscription, Viewer
from pool.runtime.session import Session
from pool.runtime.supervisor import Supervisor, new_record
from pool.runtime.unloading import held


class Viewing:
    """The reading half of the front door."""

    _supervisor: Supervisor

    @property
    def counters(self) -> Counters:
        """What this pool counts of itself."""
        return self._supervisor.around.counters

    @counts_refusals
    async def subscribe(
        self, user_id: str, session_id: str, cursor: str | None, viewer: Viewer, *, create: bool = True
    ) -> Subscription:
        """Follow a session from ``cursor`` (None: from now). Delivers ``subscribed`` first.

        Raises ``BadCursor``, and without ``create`` ``NotFound``.
        """
        asked = Cursor.parse(cursor) if cursor is not None else None
        key = self._key(user_id, session_id)
        if create:
            session, _made = await self._find_or_make(key, None, None, None, None)
        else:
            session = await self._supervisor.get(key)
        with held(session):
            return await self._follow(session, asked, viewer)

    @counts_refusals
    async def history(
        self,
        user_id: str,
        session_id: str,
        *,
        after: str | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> tuple[list[bytes], str | None, str | None]:
        """Durable frames, oldest first: (frames, cursor for the next page, cursor for the one before)."""
        session = await self._get(user_id, session_id)
        store = self._supervisor.around.store
        start = Cursor.parse(after) if after is not None else None
        end = Cursor.parse(before) if before is not None else None
        newest_first = start is None
        rows = list(
            await store.read_events(
                session.key, after=start, before=end, limit=limit + 1, newest_first=newest_first
            )
        )
        more = len(rows) > limit
        rows = rows[:limit]
        if newest_first:
            rows.reverse()
        frames = [session.envelope.entry(row) for row in rows]
        if not rows:
            return frames, None, None
        following = str(rows[-1].cursor) if (more and not newest_first) or end is not None else None
        preceding = str(rows[0].cursor) if (more and newest_first) or start is not None else None
        return frames, following, preceding

    @counts_refusals
    async def status(self, user_id: str, session_id: str) -> dict[str, Any]:
        """State, place in line, open turn, queued turns, open approvals and usage of a session."""
        session = await self._get(user_id, session_id)
        turn = session.turns.open_turn
        place = session.host.slots.place(session.key)
        return {
            "state": session.state.value,
            "queue": place.as_dict() if place is not None else None,
            "turn": turn.info() if turn is not None else None,
            "queued": [queued.info() for queued in session.turns.queued],
            "pending_permissions": session.approvals.open(),
            "usage": session.usage,
            "capabilities": dict(session.instance.capabilities) if session.instance is not None else {},
        }

    # --- inside --------------------------------------------------------------------------

    async def _follow(self, session: Session, asked: Cursor | None, viewer: Viewer) -> Subscription:
        if asked is not None:
            await session.adoption.known_to(asked)
        head = session.channel.head
        known = asked is None or await session.replay.is_known(asked, head)
        start = session.channel.head if asked is None else asked
        told = start if known else session.channel.head
        viewer.deliver([_subscribed_frame(session, told)])
        if not known:
            oldest = await self._supervisor.around.store.oldest_event(session.key)
            start = BEGINNING
            gap = (asked or start, oldest or start)
            self.counters.gaps.add()
            viewer.deliver([session.replay.gap_frame(gap)])
        subscription = Subscription(session.channel, session.replay, viewer, start)
        subscription.start()
        self._viewer_arrived(session)
        return subscription

    def _key(self, user_id: str, session_id: str) -> SessionKey:
        return SessionKey(
            UserId(check_name(user_id, "user_id")), SessionId(check_name(session_id, "session_id"))
        )

    async def _get(self, user_id: str, session_id: str) -> Session:
        return await self._supervisor.get(self._key(user_id, session_id))

    async def _find_or_make(
        self,
        key: SessionKey,
        template: str | None,
        title: str | None,
        model: str | None,
        permission_mode: str | None,
    ) -> tuple[Session, bool]:
        found = await self._supervisor.find(key)
        if found is not None:
            return found, False
        around = self._supervisor.around
        template = check_name(template or "default", "template")
        described = around.workspaces.template(template)
        mode = permission_mode or described.permission_mode or "default"
        if mode not in around.config.permission_modes:
            raise Forbidden(f"permission mode {mode!r} is not allowed here")
        if model is not None:
            check_model(model)
        record = new_record(
            around.clock.wall(), key, template, check_title(title) if title else None, model, mode
        )
        return await self._supervisor.get_or_create(key, record)

    def _viewer_arrived(self, session: Session) -> None:
        """A hook for whoever warms sessions up."""


def _subscribed_frame(session: Session, cursor: Cursor) -> bytes:
    turn = session.turns.open_turn
    body: dict[str, Any] = {"type": "subscribed", "cursor": str(cursor), "state": session.state.value}
    place = session.host.slots.place(session.key)
    if place is not None:
        body["queue"] = place.as_dict()
    if turn is not None:
        info = turn.info()
        body["turn"] = {"turn_id": info.turn_id, "state": _public_state(info.state), "origin": info.origin}
        if info.message_id is not None:
            body["turn"]["message_id"] = info.message_id
    body["pending_permissions"] = [
        {**session.approvals.frame(info), "cursor": str(info.cursor)} for info in session.approvals.open()
    ]
    return session.envelope.bare(body)


def _public_state(state: TurnState) -> str:
    """Clients know queued, running and the outcomes; the stages between are ours."""
    if state is TurnState.DISPATCHING:
        return TurnState.QUEUED.value
    if state is TurnState.AWAITING:
        return TurnState.RUNNING.value
    return str(state.value)


def check_title(title: object) -> str:
    """A session's title. Raises ``BadRequest``."""
    if not isinstance(title, str) or len(title) > 200 or any(ord(letter) < 32 for letter in title):
        raise BadRequest("title must be a text of at most 200 characters", details={"field": "title"})
    return title
