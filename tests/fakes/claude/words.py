"""The misbehaviours, by word: each takes the process and its numbers."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from functools import partial

from .transcript import leave, new_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .process import Claude

FOR_EVER = 1e6
PLACES = {"now": -1, "before": -2, "after": -3, "idle": -4}
_WORD = re.compile(r"(?:^|\s)!([a-z][a-z0-9-]*)((?:\s+\d+(?:\.\d+)?(?=\s|$))*)")


class Interrupted(Exception):
    """The host interrupted the running turn."""


class Cut(Exception):
    """The model's stream broke off; it is asked again."""


class ApiError(Exception):
    """The model's API answered with an error that is not retried."""


def words_of(text: str) -> Iterator[tuple[int, str, list[float]]]:
    """Every word of a text: the place (a delta's number, or one of ``PLACES``), the name, the numbers."""
    place = PLACES["now"]
    for match in _WORD.finditer(text):
        name, numbers = match[1], [float(number) for number in match[2].split()]
        if name == "at":
            place = int(numbers[0])
        elif name in PLACES:
            place = PLACES[name]
        else:
            yield (0 if name == "retry" and place == PLACES["now"] else place), name, numbers


def prompt_of(text: str) -> str:
    """The text before the first word."""
    match = _WORD.search(text)
    return (text[: match.start()] if match else text).strip()


def rest(claude: Claude, seconds: float = FOR_EVER) -> None:
    """Wait; an interrupt ends it."""
    if claude.cut.wait(seconds):
        raise Interrupted


def freeze(claude: Claude) -> None:
    """Do nothing any more, not even read."""
    claude.deaf = True
    while True:
        time.sleep(FOR_EVER)


def deaf(claude: Claude) -> None:
    """Read stdin no more (one more line may be read, but nothing is done with it)."""
    claude.deaf = True


def leave_with(claude: Claude, code: float = 1) -> None:
    """Exit with this code."""
    leave(int(code), "fake claude: exit as told")


def half_line(claude: Claude) -> None:
    """Die within a frame."""
    claude.raw(b'{"type":"assistant","message":{"role":"assi')
    leave(1)


def crashes(claude: Claude, times: float = 1) -> None:
    """Leave with 1 in the first processes of this workspace; a file counts them."""
    with open(".fake-crashes", "ab") as file:
        file.write(b"x")
    if os.path.getsize(".fake-crashes") <= times:
        leave(1, "fake claude: crashed as told")


def mute(claude: Claude) -> None:
    """Print nothing from now on."""
    claude.muted = True


def close_stdout(claude: Claude) -> None:
    """Let go of the pipe; the number 1 stays taken, so that no other file gets it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def ignore_term(claude: Claude) -> None:
    """Take no polite signal."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def ignore_eof(claude: Claude) -> None:
    """Live on after the end of input."""
    claude.stay = True


def _spawn(command: str) -> None:
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", command], os.environ)
    if command.endswith("&"):
        os.waitpid(pid, 0)


def spin(claude: Claude, seconds: float = 1) -> None:
    """Burn CPU."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def flood(claude: Claude, count: float = 1000) -> None:
    """Write lines of 100 bytes to stderr, ``count`` bytes in all."""
    line = b"stderr " * 14 + b"x\n"
    left = int(count)
    while left > 0:
        left -= os.write(2, (line * 600)[:left])


def huge(claude: Claude, count: float = 1e6) -> None:
    """One assistant frame with a text of ``count`` bytes."""
    content = [{"type": "text", "text": "x" * int(count)}]
    message = {"id": "msg_huge", "type": "message", "role": "assistant", "content": content}
    claude.emit("assistant", message=message, parent_tool_use_id=None)


def split(claude: Claude, step: float = 7, milliseconds: float = 0) -> None:
    """Write stdout in pieces from now on; 0 is whole again."""
    claude.step, claude.gap = int(step), milliseconds / 1000


def bad_utf8(claude: Claude) -> None:
    """A frame with bytes that are no UTF-8."""
    text = (
        b'{"type":"system","subtype":"ui_invalidate","note":"\xff\xfe\xc3(","session_id":"%s","uuid":"%s"}\n'
    )
    claude.raw(text % (claude.transcript.session.encode(), new_id().encode()))


def unknown(claude: Claude) -> None:
    """Frames and lines that nobody has heard of, all of them valid JSON."""
    claude.emit("wombat", burrow={"depth": [1, 2, 3]})
    claude.emit("system", "wombat_seen", count=1)
    claude.raw(
        b'[1,2]\n7\nnull\n"text"\n{}\n{"type":5}\n{"type":"user","message":{"role":"user","content":"s"}}\n'
    )


def turn(claude: Claude) -> None:
    """A turn that the CLI begins by itself."""
    frame = {
        "message": {"role": "user", "content": "a task has ended"},
        "origin": {"kind": "task-notification"},
    }
    claude.submit(frame)


def task(claude: Claude, seconds: float = 1) -> None:
    """A background task; its end begins a turn."""
    ids = {"task_id": new_id()[:8], "tool_use_id": "toolu_" + new_id()[:8]}
    row = {"task_id": ids["task_id"], "task_type": "local_bash", "description": "sleep"}
    claude.emit("system", "task_started", **ids, task_type="local_bash", is_backgrounded=True)
    claude.emit("system", "background_tasks_changed", tasks=[row])

    def end() -> None:
        claude.emit("system", "task_updated", **ids, patch={"status": "completed"})
        claude.emit("system", "task_notification", **ids, status="completed", summary="slept", output_file="")
        claude.emit("system", "background_tasks_changed", tasks=[])
        turn(claude)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def storm(claude: Claude, count: float = 7, twins: float = 0) -> None:
    """Ask many things at once; the answers are told in the turn's text."""
    ids = [new_id() for _ in range(int(count))]
    asks = []
    for number, tool_use_id in enumerate(ids):
        given = {"file_path": f"storm-{number}.txt", "content": "x"}
        body = {"subtype": "can_use_tool", "tool_name": "Write", "display_name": "Write", "input": given}
        body.update(tool_use_id="toolu_twin" if number < twins else f"toolu_{tool_use_id[:8]}")
        asks.append(claude.send({**body, "agent_id": f"agent-{number}"}))
    answers = [claude.wait(ask) for ask in asks]
    claude.told = " ".join(answer.get("response", {}).get("behavior", "error") for answer in answers)


def retry(claude: Claude) -> None:
    """The model's stream breaks off here, once."""
    raise Cut


def api_error(claude: Claude, status: float = 400) -> None:
    """The API refuses."""
    raise ApiError(int(status))


def without(name: str, claude: Claude) -> None:
    """Lack something that hosts may rely on."""
    claude.without.add(name)


WORDS: dict[str, Callable[..., object]] = {
    "sleep": rest,
    "hang": rest,
    "freeze": freeze,
    "deaf": deaf,
    "exit": leave_with,
    "signal": lambda _, number=9: os.kill(os.getpid(), int(number)),
    "half-line": half_line,
    "crashes": crashes,
    "mute": mute,
    "close-stdout": close_stdout,
    "ignore-term": ignore_term,
    "ignore-eof": ignore_eof,
    "child": lambda _: _spawn("exec sleep 600"),
    "setsid": lambda _: _spawn("exec setsid sleep 600"),
    "double-fork": lambda _: _spawn("setsid sleep 600 &"),
    "spin": spin,
    "memory": lambda claude, count=1e6: claude.kept.append(b"x" * int(count)),
    "stderr": flood,
    "huge": huge,
    "split": split,
    "noise": lambda claude: claude.raw(b"Warning: this is not JSON {\n\n   \n"),
    "nul": lambda claude: claude.raw(b"\0\0\0\0\n"),
    "bad-utf8": bad_utf8,
    "glued": lambda claude: claude.raw(b'{"type":"keep_alive"}{"type":"keep_alive"}\n'),
    "unknown": unknown,
    "storm": storm,
    "retry": retry,
    "api-error": api_error,
    "turn": turn,
    "task": task,
    **{
        f"without-{name}": partial(without, name)
        for name in ("lifecycle", "state", "pending", "repeats", "literal", "order", "unknown", "prefix")
    },
}
