"""Somebody else's session id on every verb: the answer is the same as for an id that nobody has."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import aiohttp

from tests.e2e.test_mixed_callers import House, house
from tests.test_docs import routes
from tests.waiting import eventually

THEIRS, NOBODYS = "secret-project", "no-such-session"
BODIES: dict[str, Any] = {
    "messages": {"content": "hello"},
    "permissions": {"decision": "allow"},
    "fork": {},
}


def body_for(path: str) -> Any:
    return next((body for word, body in BODIES.items() if word in path), {})


def told_of(text: str, session_id: str) -> str:
    """An answer without what differs by itself: the id that was asked for, ids, times, cursors."""
    text = text.replace(session_id, "ID")
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{32}", "UUID", text)
    return re.sub(r"\d+\.\d+(e[+-]?\d+)?", "N", text)


async def ask(
    http: aiohttp.ClientSession, url: str, method: str, path: str, session_id: str
) -> tuple[int, str]:
    path = path.replace("{sid}", session_id)
    path = re.sub(r"\{\w+\}", "some-id", path)
    async with http.request(method, url + path, json=body_for(path) if method != "GET" else None) as answer:
        if answer.content_type == "text/event-stream":
            return answer.status, "a stream"
        return answer.status, told_of(await answer.text(), session_id)


async def bobs(place: House) -> aiohttp.ClientSession:
    """Bob's HTTP client."""
    services = place.services
    account = await services.users.add("bob", admin=False)
    token = (await services.sign_in.issue(account, kind="api")).token
    return aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"})


async def alices_session(place: House) -> str:
    """A session with an open approval and secret words; the request id of its approval."""
    await place.pool.submit("alice", THEIRS, "write note.txt SECRET-WORDS", message_id="m1")
    (info,) = await eventually(lambda: place.pool.permissions("alice", THEIRS))
    return str(info.request_id)


async def test_every_route_answers_as_for_an_id_that_nobody_has(short_dir: Path, fake_claude: Path) -> None:
    about_sessions = sorted((method, path) for method, path in routes() if "{sid}" in path)
    assert len(about_sessions) > 8
    async with house(short_dir, fake_claude) as place:
        request_id = await alices_session(place)
        async with await bobs(place) as http:
            for method, pattern in about_sessions:
                path = pattern.replace("{request_id}", request_id)
                theirs = await ask(http, place.url, method, path, THEIRS)
                nobodys = await ask(http, place.url, method, path, NOBODYS)
                assert theirs == nobodys, (method, path)
                assert "SECRET" not in theirs[1]
            async with place.http() as own, own.get(f"{place.url}/api/v1/auth/tokens") as answer:
                (token,) = (await answer.json())["tokens"]
            gone = [
                await ask(http, place.url, "DELETE", "/api/v1/auth/tokens/{sid}", one)
                for one in (token["id"], "x1")
            ]
            assert gone[0] == gone[1]
            async with http.get(f"{place.url}/api/v1/sessions") as answer:
                listed = await answer.text()
            async with http.get(f"{place.url}/api/v1/instances") as answer:
                seen = await answer.text()
            assert "SECRET" not in listed + seen
            assert "alice" not in listed + seen
            async with place.http() as own, own.get(f"{place.url}/api/v1/me") as answer:
                assert answer.status == 200
        await is_untouched(place, request_id)


async def test_every_frame_of_the_socket_reaches_only_the_senders_own_session(
    short_dir: Path, fake_claude: Path
) -> None:
    async with house(short_dir, fake_claude) as place:
        request_id = await alices_session(place)
        frames: list[dict[str, Any]] = [
            {"type": "subscribe", "cursor": "0"},
            {"type": "interrupt"},
            {"type": "permission", "request_id": request_id, "decision": "allow"},
            {"type": "set_model", "value": "other"},
            {"type": "set_permission_mode", "value": "plan"},
            {"type": "unsubscribe"},
        ]
        heard: dict[str, list[str]] = {THEIRS: [], NOBODYS: []}
        async with await bobs(place) as http, http.ws_connect(f"{place.url}/ws") as socket:
            await socket.receive()
            for session_id, answers in heard.items():
                for frame in frames:
                    await socket.send_json({**frame, "session_id": session_id})
                    await socket.send_json({"type": "ping"})
                while sum('"pong"' in answer for answer in answers) < len(frames):
                    answers.append(told_of((await socket.receive(timeout=20)).data, session_id))
        kinds = {name: sorted(json.loads(a)["type"] for a in answers) for name, answers in heard.items()}
        assert "SECRET" not in str(heard)
        assert "permission_request" not in kinds[THEIRS]
        await is_untouched(place, request_id)


async def is_untouched(place: House, request_id: str) -> None:
    """Alice's turn still waits for her, and nothing was answered in her name."""
    (info,) = await place.pool.permissions("alice", THEIRS)
    assert info.request_id == request_id
    sessions = {str(item.session_id): item for item in await place.pool.list_sessions("alice")}
    assert sessions[THEIRS].model is None
    (instance,) = place.pool.instances("alice")
    assert instance.state.value == "busy"
    assert not (place.pool.config.data_dir / "workspaces/alice/note.txt").exists()
