"""What clients may ask of sessions: the same few verbs behind REST, WebSocket, SSE and Python."""

from __future__ import annotations

import asyncio
import hashlib
import re
import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec

from pool.errors import BadRequest, Draining, KeyReused
from pool.model import (
    Accepted,
    PermissionInfo,
    SessionId,
    SessionInfo,
    SessionKey,
    SessionState,
    TurnId,
    TurnState,
    UserId,
)
from pool.names import check_name
from pool.protocol.command_line import check_model
from pool.protocol.connection import user_message
from pool.protocol.content import check_content
from pool.runtime import choices
from pool.runtime.counting import counts_refusals
from pool.runtime.faults import pause_point
from pool.runtime.patience import store_answers
from pool.runtime.session import Session, info_of
from pool.runtime.turn_admission import TurnAdmission
from pool.runtime.viewing import Viewing, check_title
from pool.store.base import TurnRecord

_MESSAGE_ID = re.compile(r"[\x21-\x7e]{1,200}")
_TITLE_CHARACTERS = 60


class Dialogue(Viewing):
    """The verbs of a conversation, each on ``user_id:session_id``. Names are checked here."""

    _is_draining: bool
    _admission: TurnAdmission

    # --- sessions -----------------------------------------------------------------------

    @counts_refusals
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
        """The session and whether it was made now; without an id a new one is chosen."""
        key = self._key(user_id, session_id or uuid.uuid4().hex[:12])
        async with self._patience():
            session, created = await self._find_or_make(key, template, title, model, permission_mode)
        return session.info(), created

    @counts_refusals
    async def get_session(self, user_id: str, session_id: str) -> SessionInfo:
        """The session. Raises ``NotFound``."""
        return (await self._get(user_id, session_id)).info()

    @counts_refusals
    async def list_sessions(
        self,
        user_id: str,
        *,
        search: str = "",
        include_archived: bool = False,
        limit: int = 100,
        after: str | None = None,
    ) -> list[SessionInfo]:
        """The user's sessions, last active first."""
        user = UserId(check_name(user_id, "user_id"))
        records = await self._supervisor.around.store.list_sessions(
            user,
            search=search,
            include_archived=include_archived,
            limit=limit,
            after=SessionId(check_name(after, "after")) if after else None,
        )
        infos = []
        for record in records:
            live = self._supervisor.sessions.get(record.key)
            infos.append(live.info() if live is not None else info_of(record))
        return infos

    @counts_refusals
    async def update_session(
        self,
        user_id: str,
        session_id: str,
        *,
        title: str | None = None,
        model: str | None = None,
        permission_mode: str | None = None,
    ) -> SessionInfo:
        """Rename, change the model, change the permission mode."""
        session = await self._get(user_id, session_id)
        if title is not None:
            session.patch(title=check_title(title))
        if model is not None:
            await choices.set_model(session, check_model(model))
        if permission_mode is not None:
            await choices.set_permission_mode(session, permission_mode)
        await self._stored(session)
        return session.info()

    @counts_refusals
    async def archive_session(self, user_id: str, session_id: str) -> None:
        """Take the session out of the list and stop its instance; a new message brings it back."""
        session = await self._get(user_id, session_id)
        if session.state is not SessionState.ARCHIVED:
            self._supervisor.archive(session)
        await self._stored(session)

    @counts_refusals
    async def fork_session(
        self, user_id: str, session_id: str, new_session_id: str | None = None
    ) -> SessionInfo:
        """A new session that goes on from the same conversation; ``BadRequest`` if nothing was said."""
        source = await self._get(user_id, session_id)
        if source.record.cli_session is None:
            raise BadRequest("nothing was said in this session yet: start a new one instead")
        record = source.record
        key = self._key(user_id, new_session_id or uuid.uuid4().hex[:12])
        title = f"{record.title} (fork)" if record.title else None
        async with self._patience():
            session, created = await self._find_or_make(
                key, record.template, title, record.model, record.permission_mode
            )
        if not created:
            raise BadRequest(f"session {key.session_id!r} exists already")
        session.patch(resume_from=record.cli_session)
        await self._stored(session)
        return session.info()

    @counts_refusals
    async def set_model(self, user_id: str, session_id: str, model: str | None) -> None:
        """Take another model for this session."""
        session = await self._get(user_id, session_id)
        await choices.set_model(session, check_model(model) if model is not None else None)
        await self._stored(session)

    @counts_refusals
    async def set_permission_mode(self, user_id: str, session_id: str, mode: str) -> None:
        """Take another permission mode. Raises ``Forbidden`` for one that is not configured."""
        session = await self._get(user_id, session_id)
        await choices.set_permission_mode(session, mode)
        await self._stored(session)

    # --- messages ------------------------------------------------------------------------

    @counts_refusals
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
        """Queue a turn; when this returns it is stored and no kill can lose it.

        ``on_accepted`` is called just before viewers get the turn's first
        frame. The same ``message_id`` again gives the first answer and runs
        nothing; with other content it raises ``KeyReused``. Raises
        ``StoreTimeout`` when the database does not answer: the message may be
        stored later and run then, and the same ``message_id`` finds it.
        """
        if not _MESSAGE_ID.fullmatch(message_id):
            raise BadRequest(
                "message_id must be 1 to 200 printable ASCII characters", details={"field": "message_id"}
            )
        checked = check_content(content)
        if literal and not self._supervisor.around.features.literal:
            raise BadRequest("the CLI in use cannot take a message literally; send it without 'literal'")
        key = self._key(user_id, session_id)
        digest = hashlib.sha256(msgspec.json.encode([checked, literal])).hexdigest()
        async with self._patience(message_id):
            session = await self._session_for_message(key)
            async with session.accepting:
                return await self._accept(session, checked, message_id, digest, literal, on_accepted)

    @counts_refusals
    async def interrupt(self, user_id: str, session_id: str) -> None:
        """End the running turn, withdraw the queued ones. Nothing open: nothing happens."""
        session = await self._get(user_id, session_id)
        session.interrupt()
        session.log.flush()
        await self._stored(session)

    @counts_refusals
    async def permissions(self, user_id: str, session_id: str) -> list[PermissionInfo]:
        """The approvals that wait for an answer."""
        return (await self._get(user_id, session_id)).approvals.open()

    @counts_refusals
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
        """Answer an approval; the first answer wins. Raises ``NotFound`` or ``AlreadyResolved``."""
        session = await self._get(user_id, session_id)
        line = session.approvals.answer(
            request_id,
            decision,
            message=message,
            updated_input=updated_input,
            scope=scope,
            answered_by=answered_by,
        )
        async with self._patience():
            await asyncio.shield(session.delivery.decide(line))

    # --- inside --------------------------------------------------------------------------

    def _patience(self, message_id: str | None = None) -> AbstractAsyncContextManager[None]:
        return store_answers(self._supervisor.around.config.store_timeout_seconds, message_id)

    async def _stored(self, session: Session) -> None:
        async with self._patience():
            await session.log.settled()

    async def _accept(
        self,
        session: Session,
        content: str | list[dict[str, Any]],
        message_id: str,
        digest: str,
        literal: bool,
        on_accepted: Callable[[Accepted], None] | None,
    ) -> Accepted:
        around = self._supervisor.around
        if session.message_ids.may_have(message_id):
            await session.log.settled()  # the first one may still be on its way to the store
            earlier = await around.store.find_turn(session.key, message_id)
            if earlier is not None:
                return _first_answer(earlier, digest, on_accepted)
        await pause_point("accept.before_store")
        self._check_admission(session)
        turn_id = TurnId(str(uuid.uuid4()))
        record = TurnRecord(
            turn_id=turn_id,
            key=session.key,
            number=session.next_turn_number,
            state=TurnState.QUEUED,
            origin="user",
            created_at=around.clock.wall(),
            message_id=message_id,
            content_hash=digest,
            position=len(session.turns.queued),
            line=user_message(turn_id, content, literal=literal),
        )
        if not session.record.title:
            session.patch(title=_title_of(content))
        return await session.accept(record, content, on_accepted)

    async def _session_for_message(self, key: SessionKey) -> Session:
        session = await self._supervisor.find(key)
        if session is not None:
            return session
        if self._is_draining:
            raise Draining("the server is draining and takes no new work", retry_after_seconds=10)
        session, _made = await self._find_or_make(key, None, None, None, None)
        return session

    def _check_admission(self, session: Session) -> None:
        if self._is_draining:
            raise Draining("the server is draining and takes no new work", retry_after_seconds=10)
        self._admission.admit(session)


def _first_answer(
    earlier: TurnRecord, digest: str, on_accepted: Callable[[Accepted], None] | None
) -> Accepted:
    if earlier.content_hash != digest:
        raise KeyReused("this message_id was used before with other content; use a new one")
    accepted = Accepted(earlier.turn_id, earlier.message_id or "", earlier.position, repeated=True)
    if on_accepted is not None:
        on_accepted(accepted)
    return accepted


def _title_of(content: str | list[dict[str, Any]]) -> str:
    """The first words of the first message."""
    text = content if isinstance(content, str) else " ".join(str(block.get("text", "")) for block in content)
    return " ".join(text.split())[:_TITLE_CHARACTERS]
