"""The transcript that a session keeps below the config directory, and small words on messages."""

from __future__ import annotations

import json
import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    Frame = dict[str, Any]


def new_id() -> str:
    """A random UUID (the uuid module is slow to import)."""
    h = os.urandom(16).hex()
    return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-a{h[17:20]}-{h[20:]}"


def leave(code: int, text: str = "") -> NoReturn:
    """End the process at once, from any thread."""
    os.write(2, f"{text}\n".encode() if text else b"")
    os._exit(code)


def text_of(message: Frame) -> str:
    """The plain text of a message's content, string or blocks."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(block.get("text", "") for block in content)


class Transcript:
    """The session's file below the config directory; leaves when the ids do not fit what is there."""

    def __init__(self, session: str | None, resume: str | None, fork: bool) -> None:
        home = os.environ.get("CLAUDE_CONFIG_DIR") or os.path.expanduser("~/.claude")
        self.root = os.path.join(home, "projects")
        self.folder = os.path.join(self.root, re.sub(r"[^A-Za-z0-9]", "-", os.getcwd()))
        os.makedirs(self.folder, exist_ok=True)
        if session and self.find(session):
            leave(1, f"Error: Session ID {session} is already in use.")
        old = self.find(resume) if resume else None
        self.missing = bool(resume) and old is None
        self.path = old if old and not fork else os.path.join(self.folder, f"{session or new_id()}.jsonl")
        self.texts: list[str] = []
        self.finished: set[str] = set()
        self.load(old, fork)

    def find(self, session: str) -> str | None:
        """The path of a session's file in any project folder."""
        paths = (os.path.join(self.root, folder, session + ".jsonl") for folder in os.listdir(self.root))
        return next((path for path in paths if os.path.exists(path)), None)

    def load(self, path: str | None, copy: bool) -> None:
        """Read an old file; a torn line is passed over, a message without an answer may be sent again."""
        waiting: list[str] = []
        for line in open(path or os.devnull, "rb").read().splitlines():  # noqa: SIM115
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if row["type"] == "user":
                waiting.append(row["uuid"])
                self.texts.append(text_of(row["message"]))
            else:
                self.finished.update(waiting)
            if copy:
                self.append(row)

    @property
    def session(self) -> str:
        """The session's id, as the file's name tells it."""
        return os.path.basename(self.path)[:-6]

    def append(self, row: Frame) -> None:
        """Add one line."""
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")

    def clear(self) -> None:
        """Begin a new file with a new id, as ``/clear`` does."""
        self.path, self.texts = os.path.join(self.folder, new_id() + ".jsonl"), []
