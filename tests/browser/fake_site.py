"""A stand-in for the server: the page's files, sign-in, lists and the chat socket, with scripted turns.

Run as ``python -m tests.browser.fake_site``; prints its address. Any name
signs in with the password ``open-sesame``, or by the one-time code
``let-me-in``. Below ``/_fake/`` a test breaks things.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from tests.browser.fake_chat import COOKIE, SITE, FakeSite, chat, error_body
from tests.browser.fake_log import FakeSession

PASSWORD = "open-sesame"
CODE = "let-me-in"
WEB = Path(__file__).resolve().parents[2] / "server" / "web"
CSP = "default-src 'self'; base-uri 'none'; object-src 'none'; frame-ancestors 'none'; form-action 'self'"


# --- REST ---------------------------------------------------------------------------------


def _let_in(site: FakeSite, user: str) -> web.Response:
    token = secrets.token_urlsafe()
    site.cookies[token] = user
    response = web.json_response({"access_token": token, "token_type": "bearer", "expires_in": 3600})
    response.set_cookie(COOKIE, token, httponly=True, samesite="Strict")
    return response


async def login(request: web.Request) -> web.Response:
    """Sign in by password."""
    body = await request.json()
    if body["password"] != PASSWORD:
        return web.json_response(
            {"error": {"code": "unauthorized", "message": "the user name or the password is wrong"}},
            status=401,
        )
    return _let_in(request.app[SITE], body["username"])


async def redeem(request: web.Request) -> web.Response:
    """Sign in by the one-time code."""
    body = await request.json()
    if body["code"] != CODE:
        message = "this link was used before or has expired; ask for a new one"
        return web.json_response({"error": {"code": "unauthorized", "message": message}}, status=401)
    return _let_in(request.app[SITE], "local")


async def logout(request: web.Request) -> web.Response:
    """Sign out: the sockets of the user close."""
    site = request.app[SITE]
    user = site.user(request)
    del site.cookies[request.cookies[COOKIE]]
    await site.close_all(4401, user)
    response = web.Response(status=204)
    response.del_cookie(COOKIE)
    return response


async def me(request: web.Request) -> web.Response:
    """Who am I."""
    return web.json_response({"user_id": request.app[SITE].user(request), "roles": []})


async def health(request: web.Request) -> web.Response:
    """The ops view."""
    return web.json_response(request.app[SITE].health)


async def list_sessions(request: web.Request) -> web.Response:
    """The user's sessions."""
    site = request.app[SITE]
    sessions = site.sessions[site.user(request)].values()
    listed = [session.describe() for session in sessions if session.state != "archived"]
    return web.json_response({"sessions": listed, "next": None})


async def create_session(request: web.Request) -> web.Response:
    """Make a session."""
    site = request.app[SITE]
    body = await request.json()
    return web.json_response(site.session(site.user(request), body["session_id"]).describe(), status=201)


def _found(request: web.Request) -> FakeSession:
    site = request.app[SITE]
    session = site.sessions[site.user(request)].get(request.match_info["sid"])
    if session is None:
        raise web.HTTPNotFound(
            text=error_body("not_found", "no such session"), content_type="application/json"
        )
    return session


async def get_session(request: web.Request) -> web.Response:
    """One session."""
    return web.json_response(_found(request).describe())


async def change_session(request: web.Request) -> web.Response:
    """Rename."""
    session = _found(request)
    session.title = (await request.json()).get("title", session.title)
    return web.json_response(session.describe())


async def archive_session(request: web.Request) -> web.Response:
    """Put away."""
    _found(request).state = "archived"
    return web.Response(status=204)


async def history(request: web.Request) -> web.Response:
    """A page of durable frames, the newest first when nothing is asked."""
    frames, prev = _found(request).page(request.query.get("before"), int(request.query.get("limit", "100")))
    return web.json_response({"frames": frames, "next": None, "prev": prev})


# --- what a test may do -------------------------------------------------------------------


async def fake(request: web.Request) -> web.Response:
    """``/_fake/ACTION?…``: close sockets, refuse or mute them, look at sessions."""
    site = request.app[SITE]
    action = request.match_info["action"]
    if action == "close":
        await site.close_all(int(request.query["code"]), request.query.get("user"))
    elif action == "refuse":
        site.refusing = request.query["on"] == "1"
    elif action == "deaf":
        site.deaf = request.query["on"] == "1"
    elif action == "notice":
        await site.notify(request.query["user"], json.loads(request.query["body"]))
    elif action == "health":
        site.health = json.loads(request.query["body"])
    elif action == "sessions":
        sessions = site.sessions[request.query["user"]].values()
        return web.json_response([{**s.describe(), "turns": len(s.accepted)} for s in sessions])
    return web.json_response({})


async def page(request: web.Request) -> web.StreamResponse:
    """The page's files."""
    path = (WEB / (request.match_info["path"] or "index.html")).resolve()
    if not path.is_relative_to(WEB) or not path.is_file():
        raise web.HTTPNotFound
    return web.FileResponse(path)


@web.middleware
async def headers(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """The headers that the real server sends with its page."""
    response = await handler(request)
    if not response.prepared:
        response.headers["Content-Security-Policy"] = CSP
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = "no-store"
    return response


def build() -> web.Application:
    """The whole site."""
    app = web.Application(middlewares=[headers])
    app[SITE] = FakeSite()
    session = "/api/v1/sessions/{sid}"
    app.add_routes(
        [
            web.post("/api/v1/auth/login", login),
            web.post("/api/v1/auth/links/redeem", redeem),
            web.post("/api/v1/auth/logout", logout),
            web.get("/api/v1/me", me),
            web.get("/health", health),
            web.get("/api/v1/sessions", list_sessions),
            web.post("/api/v1/sessions", create_session),
            web.get(session, get_session),
            web.patch(session, change_session),
            web.delete(session, archive_session),
            web.get(session + "/history", history),
            web.get("/ws", chat),
            web.get("/_fake/{action}", fake),
            web.get("/{path:.*}", page),
        ]
    )
    return app


async def main() -> None:
    """Serve until the end of input: nobody is left to ask then."""
    runner = web.AppRunner(build(), shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    print(f"http://{host}:{port}", flush=True)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
