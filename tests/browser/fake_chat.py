"""The fake site's users and their chat sockets."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import defaultdict
from typing import Any

from aiohttp import WSMsgType, web

from tests.browser.fake_log import FakeSession, Frame
from tests.browser.fake_script import play

COOKIE = "fake_session"
_HEALTH = {
    "status": "degraded",
    "version": "0",
    "model": {"kind": "demo"},
    "checks": {"isolation": {"ok": False, "detail": "bubblewrap is missing: apt install bubblewrap"}},
}


def error_body(code: str, message: str) -> str:
    """The body of a refusal."""
    return json.dumps({"error": {"code": code, "message": message}})


class FakeSite:
    """Users, their sessions, and the sockets that are open."""

    def __init__(self) -> None:
        self.cookies: dict[str, str] = {}
        self.sessions: dict[str, dict[str, FakeSession]] = defaultdict(dict)
        self.sockets: dict[web.WebSocketResponse, str] = {}
        self.refusing = False
        self.deaf = False
        self.health: dict[str, Any] = dict(_HEALTH)
        self.notices: dict[str, list[Frame]] = defaultdict(list)

    def session(self, user: str, session_id: str) -> FakeSession:
        """The session, made when it is new."""
        sessions = self.sessions[user]
        if session_id not in sessions:
            sessions[session_id] = FakeSession(session_id)
        return sessions[session_id]

    def user(self, request: web.Request) -> str:
        """Who asks. Raises 401."""
        user = self.cookies.get(request.cookies.get(COOKIE, ""))
        if user is None:
            raise web.HTTPUnauthorized(
                text=error_body("unauthorized", "sign in first"), content_type="application/json"
            )
        return user

    async def notify(self, user: str, frame: Frame) -> None:
        """Say something to a user, on sockets that are open and that will be."""
        self.notices[user].append(frame)
        for socket, owner in list(self.sockets.items()):
            if owner == user:
                await socket.send_json(frame)

    async def close_all(self, code: int, user: str | None = None) -> None:
        """Close sockets with a code; 0 cuts the connection without a word."""
        for socket, owner in list(self.sockets.items()):
            if user is not None and owner != user:
                continue
            if code == 0:
                transport = socket._req.transport if socket._req is not None else None
                if transport is not None:
                    transport.abort()
            else:
                await socket.close(code=code)


SITE: web.AppKey[FakeSite] = web.AppKey("site", FakeSite)


class Chat:
    """One open socket."""

    def __init__(self, site: FakeSite, user: str, socket: web.WebSocketResponse) -> None:
        self.site = site
        self.user = user
        self.socket = socket
        self.out: asyncio.Queue[Frame] = asyncio.Queue()
        self.followed: set[str] = set()

    def deliver(self, frame: Frame) -> None:
        """Queue a frame for this socket."""
        self.out.put_nowait(frame)

    async def write(self) -> None:
        """Send what is queued, for ever."""
        while True:
            await self.socket.send_str(json.dumps(await self.out.get()))

    def receive(self, frame: Frame) -> None:
        """Do what a client's frame asks."""
        session = self.site.session(self.user, frame.get("session_id", "default"))
        {
            "subscribe": self.subscribe,
            "unsubscribe": self.unsubscribe,
            "send": self.send,
            "interrupt": self.interrupt,
            "permission": self.permission,
            "set_model": self.set_model,
            "set_permission_mode": self.set_mode,
            "ping": lambda *_: self.deliver({"type": "pong"}),
        }[frame["type"]](session, frame)

    def subscribe(self, session: FakeSession, frame: Frame) -> None:
        """Follow, from a cursor or from now."""
        self.unsubscribe(session, frame)
        cursor = frame.get("cursor", session.cursor)
        asks = list(session.ask_frames.values())
        head = {
            "type": "subscribed",
            "session_id": session.session_id,
            "cursor": cursor,
            "state": session.state,
        }
        self.deliver({**head, "pending_permissions": asks})
        for missed in session.after(cursor):
            self.deliver(missed)
        session.viewers.append(self.deliver)
        self.followed.add(session.session_id)

    def unsubscribe(self, session: FakeSession, _frame: Frame) -> None:
        """Follow no more."""
        if self.deliver in session.viewers:
            session.viewers.remove(self.deliver)

    def send(self, session: FakeSession, frame: Frame) -> None:
        """Queue a turn, once for a message id."""
        message_id, words = frame["message_id"], frame["content"]
        known = session.accepted.get(message_id)
        if known is None and words.startswith("refuse"):
            error = {"type": "error", "code": "queue_full", "message": "the queue is full", "retry_after": 5}
            self.deliver({**error, "message_id": message_id, "session_id": session.session_id})
            return
        fresh = known is None
        if known is None:
            position = session.queue.qsize() + (1 if session.running else 0)
            known = {"type": "accepted", "session_id": session.session_id, "message_id": message_id}
            known |= {"turn_id": str(uuid.uuid4()), "position": position}
            session.accepted[message_id] = known
        if not self.site.deaf:
            self.deliver(known)
        if fresh:
            self._queue(session, known, words)

    def _queue(self, session: FakeSession, accepted: Frame, words: str) -> None:
        session.title = session.title or words[:60]
        turn = {"type": "turn", "turn_id": accepted["turn_id"], "state": "queued", "origin": "user"}
        turn |= {"message_id": accepted["message_id"], "content": words}
        session.publish(turn)
        session.queue.put_nowait(turn)
        if session.worker is None:
            session.worker = asyncio.create_task(_work(session))

    def interrupt(self, session: FakeSession, _frame: Frame) -> None:
        """End the running turn, withdraw the others."""
        while not session.queue.empty():
            session.publish({**session.queue.get_nowait(), "state": "withdrawn"})
        if session.running is not None:
            session.interrupt.set()
        for request_id in list(session.asks):
            session.answer(request_id, {"decision": "deny", "message": "interrupted"})

    def permission(self, session: FakeSession, frame: Frame) -> None:
        """Answer an approval."""
        if not session.answer(frame["request_id"], frame):
            self.deliver({"type": "error", "code": "already_resolved", "message": "answered before"})

    def set_model(self, session: FakeSession, frame: Frame) -> None:
        """Take another model."""
        session.model = frame["value"]

    def set_mode(self, session: FakeSession, frame: Frame) -> None:
        """Take another permission mode."""
        session.permission_mode = frame["value"]
        status = {"type": "system", "subtype": "status", "permissionMode": frame["value"]}
        session.event({**status, "uuid": str(uuid.uuid4())})


async def _work(session: FakeSession) -> None:
    while True:
        turn = await session.queue.get()
        await play(session, turn["turn_id"], turn["content"], turn["message_id"])


async def chat(request: web.Request) -> web.StreamResponse:
    """The chat socket."""
    site = request.app[SITE]
    user = site.user(request)
    if site.refusing:
        raise web.HTTPServiceUnavailable
    socket = web.WebSocketResponse(heartbeat=30)
    await socket.prepare(request)
    talk = Chat(site, user, socket)
    site.sockets[socket] = user
    talk.deliver({"type": "welcome", "protocol": 1, "user_id": user})
    for notice in site.notices[user]:
        talk.deliver(notice)
    writer = asyncio.create_task(talk.write())
    try:
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                talk.receive(json.loads(message.data))
    finally:
        writer.cancel()
        site.sockets.pop(socket, None)
        for session in site.sessions[user].values():
            talk.unsubscribe(session, {})
    return socket
