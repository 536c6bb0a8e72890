"""A real server as a process of its own, and clients that speak to it over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from pool.keeper import procfs
from tests import known_clis
from tests.forking import Forked, forker
from tests.waiting import eventually

OUTCOMES = ("succeeded", "failed", "interrupted", "lost", "withdrawn")
Frame = dict[str, Any]
DROPPED = "CLAUDE_POOL_TEST_DROPPED"
"""In the environment of a run: every server of root's is a user of its own, where there are uids."""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Site:
    """One data directory and the server that serves it, if one runs.

    ``run_as``: the Linux user of the server, None for ours, and the interpreter that
    they have (``service_users.service_user``). Root's server stays root, which is started
    sooner, unless ``isolation__server_user`` or the environment (``DROPPED``) says otherwise.
    """

    def __init__(
        self,
        directory: Path,
        cli: Path | None = None,
        *,
        run_as: Any = None,
        **settings: Any,
    ) -> None:
        self.data = directory / "data"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.output = directory / "server.log"
        self._settings: dict[str, Any] = {"cli.path": str(cli)} if cli is not None else {}
        self._settings |= {key.replace("__", "."): value for key, value in settings.items()}
        self._directory = directory
        self._uid: int | None = None
        self.python = sys.executable
        if os.environ.get(DROPPED) and os.geteuid() == 0 and run_as is None:
            directory.chmod(0o711)
            self._settings.setdefault("isolation.server_user", "auto")
        self._is_forked = self._settings.setdefault("isolation.server_user", "root") == "root"
        if run_as is not None:
            self._uid, self.python = run_as
        self._process: asyncio.subprocess.Process | Forked | None = None
        self._link_code = ""
        self._admin: str | None = None

    @property
    def pid(self) -> int:
        """The server's pid."""
        assert self._process is not None
        return self._process.pid

    @property
    def server_pid(self) -> int:
        """The pid of who serves: where ``pid`` is a steward's, its child's."""
        dropped = (child for child in procfs.children(self.pid) if os.stat(f"/proc/{child}").st_uid)
        return next(dropped, self.pid)

    def environment(self, **more: str) -> dict[str, str]:
        """What the commands are run with."""
        environment = {
            name: value
            for name, value in os.environ.items()
            # Without cached bytecode every start of a server would compile it anew.
            if not name.startswith(("ANTHROPIC", "CLAUDE", "PYTHONDONTWRITE"))
        }
        for key, value in self._settings.items():
            name = "CLAUDE_POOL__" + key.replace(".", "__").upper()
            environment[name] = value if isinstance(value, str) else json.dumps(value)
        if self._uid is not None:
            own = str(self._directory)
            environment |= {"HOME": own, "TMPDIR": own, "XDG_RUNTIME_DIR": own}
        marker = os.environ.get("CLAUDE_POOL_TEST")
        return environment | ({"CLAUDE_POOL_TEST": marker} if marker else {}) | more

    async def start(self, **more: str) -> None:
        """Start the server; returns when it says that it listens."""
        if self._uid is not None:
            os.chown(self._directory, self._uid, self._uid)
        else:
            known_clis.tell(self.data)
        words = ("serve", "--port", str(self.port), "--data", str(self.data))
        environment = self.environment(**more)
        with self.output.open("ab") as log:
            if self._uid is None and self._is_forked and (forked := forker()) is not None:
                self._process = await forked.start(words, environment, log.fileno())
            else:
                self._process = await asyncio.create_subprocess_exec(
                    *(self.python, "-m", "server", *words),
                    stdout=asyncio.subprocess.PIPE,
                    stderr=log,
                    env=environment,
                    **self._become(),
                )
        assert self._process.stdout is not None
        async with asyncio.timeout(90):
            async for line in self._process.stdout:
                if line.startswith((b"listening on ", b"standing by on ")) and self._link_code:
                    return
                if b"#signin=" in line:
                    self._link_code = line.decode().rsplit("#signin=", 1)[1].strip()
                    return
        raise AssertionError(f"the server did not start:\n{self.log()}")

    def log(self) -> str:
        """What the server wrote to standard error."""
        return self.output.read_text() if self.output.exists() else ""

    def _become(self) -> dict[str, Any]:
        if self._uid is None:
            return {}
        return {"user": self._uid, "group": self._uid, "extra_groups": [], "cwd": str(self._directory)}

    async def kill(self) -> None:
        """kill -9."""
        await self._end(signal.SIGKILL)

    async def wait(self) -> int:
        """Wait for an end that the test has brought about otherwise; the exit code."""
        process, self._process = self._process, None
        assert process is not None
        async with asyncio.timeout(60):
            return await process.wait()

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        return await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> int:
        process = self._process
        if process is None or process.stdout is None:
            return 0
        self._process = None
        known_clis.learn(self.data)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        async with asyncio.timeout(60):
            await process.stdout.read()
            return await process.wait()

    def command(self, *words: str, text: str = "", seconds: float = 60) -> str:
        """Run a command of ``claude-pool``; its standard output."""
        given = (*words, "--data", str(self.data))
        if self._uid is None and (forked := forker()) is not None:
            done = forked.run(given, self.environment(), text, seconds)
        else:
            done = subprocess.run(
                [self.python, "-m", "server", *given],
                input=text,
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
                env=self.environment(),
                **self._become(),
            )
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return str(done.stdout).strip()

    async def admin(self) -> str:
        """A token of the first account, which may do everything."""
        if self._admin is None:
            self._admin = await self._redeem(self._link_code)
        return self._admin

    async def add_user(self, name: str, password: str | None = None) -> str:
        """A new user; a token of theirs, by a link where there is no password."""
        body: Frame = {"user_id": name, **({} if password is None else {"password": password})}
        await self._post("/api/v1/admin/users", body, await self.admin())
        if password is None:
            link = await self._post(f"/api/v1/admin/users/{name}/link", {}, await self.admin())
            return await self._redeem(link["url"].rpartition("#signin=")[2])
        signed_in = await self._post("/api/v1/auth/login", {"username": name, "password": password})
        return str(signed_in["access_token"])

    async def _redeem(self, code: str) -> str:
        return str((await self._post("/api/v1/auth/links/redeem", {"code": code}))["access_token"])

    async def _post(self, path: str, body: Frame, token: str | None = None) -> Frame:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with (
            aiohttp.ClientSession(headers=headers) as http,
            http.post(f"{self.url}{path}", json=body) as response,
        ):
            answer: Frame = await response.json()
        assert response.status < 300, answer
        return answer


@asynccontextmanager
async def serving(
    directory: Path,
    cli: Path | None = None,
    *,
    run_as: Any = None,
    **settings: Any,
) -> AsyncIterator[Site]:
    """A running site; whatever the test did to the server, nothing is left at the end."""
    site = Site(directory, cli, run_as=run_as, **settings)
    await site.start()
    try:
        yield site
    finally:
        if site._process is None:
            await site.start()
        await site.stop()


class Client:
    """A WebSocket client that keeps every frame, in order, over reconnects."""

    def __init__(self, site: Site, token: str) -> None:
        self.frames: list[Frame] = []
        self.cursors: dict[str, str] = {}
        self._site = site
        self._token = token
        self._http: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reader: asyncio.Task[None] | None = None
        self.close_code: int | None = None

    async def connect(self) -> None:
        """Open the socket and begin to read."""
        self._http = aiohttp.ClientSession()
        headers = {"Authorization": f"Bearer {self._token}"}
        self._socket = await self._http.ws_connect(f"{self._site.url}/ws", headers=headers, max_msg_size=0)
        self._reader = asyncio.create_task(self._read(), name="client-reader")

    async def _read(self) -> None:
        assert self._socket is not None
        async for message in self._socket:
            frame = json.loads(message.data)
            self.frames.append(frame)
            if "cursor" in frame and frame["type"] != "subscribed":
                self.cursors[frame["session_id"]] = frame["cursor"]
            elif frame["type"] == "subscribed":
                self.cursors.setdefault(frame["session_id"], frame["cursor"])
        self.close_code = self._socket.close_code

    async def close(self) -> None:
        """Leave."""
        if self._socket is not None:
            await self._socket.close()
        if self._reader is not None:
            with contextlib.suppress(Exception):
                await self._reader
        if self._http is not None:
            await self._http.close()
        self._socket = self._reader = self._http = None

    async def put(self, **frame: Any) -> None:
        """Send a frame."""
        assert self._socket is not None
        await self._socket.send_str(json.dumps(frame))

    async def subscribe(self, session_id: str = "default", cursor: str | None = None) -> None:
        """Follow a session; returns when ``subscribed`` came."""
        before = len(self.frames)
        more = {"cursor": cursor} if cursor is not None else {}
        await self.put(type="subscribe", session_id=session_id, **more)
        await eventually(
            lambda: any(frame["type"] in ("subscribed", "error") for frame in self.frames[before:])
        )

    async def resume(self, session_id: str = "default") -> None:
        """Connect anew and go on where the last frame was."""
        await self.close()
        await self.connect()
        await self.subscribe(session_id, self.cursors[session_id])

    async def send(self, text: str, session_id: str = "default", message_id: str | None = None) -> str:
        """Send a message; the turn's id once it is accepted."""
        message_id = message_id or uuid.uuid4().hex
        await self.put(type="send", session_id=session_id, content=text, message_id=message_id)
        return str((await self.accepted(message_id))["turn_id"])

    async def accepted(self, message_id: str) -> Frame:
        """The acceptance of a message."""

        def answers() -> list[Frame]:
            return [
                frame
                for frame in self.frames
                if frame["type"] in ("accepted", "error") and frame.get("message_id") == message_id
            ]

        (answer, *_rest) = await eventually(answers, what=f"an answer to {message_id}")
        assert answer["type"] == "accepted", answer
        return answer

    def of_type(self, *kinds: str) -> list[Frame]:
        """The frames of these types."""
        return [frame for frame in self.frames if frame["type"] in kinds]

    def states(self, turn_id: str) -> list[str]:
        """What was told of a turn."""
        return [frame["state"] for frame in self.of_type("turn") if frame["turn_id"] == turn_id]

    async def ended(self, turn_id: str, seconds: float = 90) -> Frame:
        """The turn's ending."""
        what = f"turn {turn_id} ended; {self.states(turn_id)}"
        await eventually(lambda: self.endings(turn_id), seconds, what=what)
        return self.endings(turn_id)[0]

    def endings(self, turn_id: str) -> list[Frame]:
        """What told that the turn had ended; empty while it has not."""
        return [
            frame
            for frame in self.of_type("turn")
            if frame["turn_id"] == turn_id and frame["state"] in OUTCOMES
        ]

    def events(self, kind: str) -> list[Frame]:
        """The CLI's frames of a type."""
        return [frame["event"] for frame in self.of_type("event") if frame["event"].get("type") == kind]

    def streamed(self, start: int = 0) -> str:
        """The text of all deltas from frame number ``start`` on; what a cut model call left is void."""
        text = ""
        for frame in self.frames[start:]:
            if frame["type"] != "event":
                continue
            event = frame["event"]
            if event.get("subtype") == "api_retry":
                text = ""
            inner = event.get("event", {}) if event.get("type") == "stream_event" else {}
            if inner.get("type") == "content_block_delta":
                text += inner["delta"].get("text", "")
        return text

    def answer(self, start: int = 0) -> str:
        """The text of the assistant frames from frame number ``start`` on."""
        return "".join(
            block["text"]
            for frame in self.frames[start:]
            if frame["type"] == "event" and frame["event"].get("type") == "assistant"
            for block in frame["event"]["message"]["content"]
            if block["type"] == "text"
        )

    def check_order(self) -> None:
        """Cursors only grow: nothing was repeated, nothing came late."""
        places = [
            tuple(map(int, frame["cursor"].split(".")))
            for frame in self.frames
            if "cursor" in frame and frame["type"] != "subscribed"
        ]
        assert places == sorted(set(places))


@asynccontextmanager
async def client(site: Site, token: str) -> AsyncIterator[Client]:
    """A connected client."""
    it = Client(site, token)
    await it.connect()
    try:
        yield it
    finally:
        await it.close()


async def live_pid(site: Site, token: str, session_id: str = "default") -> int:
    """The pid of a session's CLI, from the REST interface."""
    status = await get(site, token, f"/api/v1/sessions/{session_id}/status")
    return int(status["instance"]["pid"])


async def get(site: Site, token: str, path: str) -> Any:
    """The JSON that a GET gives."""
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(headers=headers) as http, http.get(f"{site.url}{path}") as response:
        return await response.json()
