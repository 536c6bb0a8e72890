"""What each command of a client does at the pool, for one socket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

import msgspec

from pool import Accepted
from server.auth.identity import Identity
from server.door import Pool, Subscription
from server.outbox import Outbox
from server.ws import protocol as p


class SessionViewer:
    """One subscription's way into the socket's outbox; silent once it is replaced or ended."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self.subscription: Subscription | None = None
        self._is_closed = False

    @property
    def backlog_bytes(self) -> int:
        """See ``Viewer.backlog_bytes``: of the whole socket, which all its sessions share."""
        return self._outbox.backlog_bytes

    def deliver(self, frames: Sequence[bytes]) -> None:
        """See ``Viewer.deliver``."""
        if not self._is_closed:
            self._outbox.put(frames)

    def attach(self, subscription: Subscription) -> None:
        """The pool made the subscription; ends it when the viewer was closed meanwhile."""
        self.subscription = subscription
        if self._is_closed:
            subscription.close()

    def close(self) -> None:
        """Take nothing more."""
        self._is_closed = True
        if self.subscription is not None:
            self.subscription.close()


class Commands:
    """Carries out commands in the name of ``identity``; errors are the caller's to tell."""

    def __init__(self, pool: Pool, identity: Identity, outbox: Outbox) -> None:
        self._pool = pool
        self._identity = identity
        self._outbox = outbox
        self._viewers: dict[str, SessionViewer] = {}
        self._is_closed = False

    def drained(self) -> None:
        """The outbox is half empty: let the sessions that wait go on."""
        for viewer in list(self._viewers.values()):
            if viewer.subscription is not None:
                viewer.subscription.drained()

    def close(self) -> None:
        """End every subscription, also those still being made."""
        self._is_closed = True
        for viewer in self._viewers.values():
            viewer.close()
        self._viewers.clear()

    async def carry_out(self, session_id: str, command: p.Command) -> None:
        """Do it. Raises whatever the pool raises."""
        if isinstance(command, p.Subscribe):
            await self._subscribe(session_id, command)
            return
        if isinstance(command, p.Unsubscribe):
            self._unsubscribe(session_id)
            return
        self._identity.require_write()
        user_id = self._identity.user_id
        match command:
            case p.Send():
                await self._send(session_id, command)
            case p.Interrupt():
                await self._pool.interrupt(user_id, session_id)
            case p.AnswerPermission():
                await self._answer(session_id, command)
            case p.SetModel():
                await self._pool.set_model(user_id, session_id, command.value)
            case p.SetPermissionMode():
                await self._pool.set_permission_mode(user_id, session_id, command.value)
            case _:
                assert_never(command)

    async def _subscribe(self, session_id: str, command: p.Subscribe) -> None:
        self._unsubscribe(session_id)
        viewer = SessionViewer(self._outbox)
        self._viewers[session_id] = viewer
        try:
            subscription = await self._pool.subscribe(
                self._identity.user_id,
                session_id,
                command.cursor,
                viewer,
                create=self._identity.may_write,
            )
        except BaseException:
            viewer.close()
            if self._viewers.get(session_id) is viewer:
                del self._viewers[session_id]
            raise
        viewer.attach(subscription)

    def _unsubscribe(self, session_id: str) -> None:
        viewer = self._viewers.pop(session_id, None)
        if viewer is not None:
            viewer.close()

    async def _send(self, session_id: str, command: p.Send) -> None:
        told = False

        def tell(accepted: Accepted) -> None:
            nonlocal told
            if not told and not self._is_closed:
                told = True
                self._outbox.reply(_accepted_frame(session_id, accepted))

        accepted = await self._pool.submit(
            self._identity.user_id,
            session_id,
            command.content,
            message_id=command.message_id,
            literal=command.literal,
            on_accepted=tell,
        )
        tell(accepted)

    async def _answer(self, session_id: str, command: p.AnswerPermission) -> None:
        await self._pool.answer_permission(
            self._identity.user_id,
            session_id,
            command.request_id,
            command.decision,
            message=command.message,
            updated_input=command.updated_input,
            scope=command.scope,
            answered_by=self._identity.user_id,
        )


def _accepted_frame(session_id: str, accepted: Accepted) -> bytes:
    return msgspec.json.encode(
        {
            "type": "accepted",
            "session_id": session_id,
            "message_id": accepted.message_id,
            "turn_id": accepted.turn_id,
            "position": accepted.position,
        }
    )
