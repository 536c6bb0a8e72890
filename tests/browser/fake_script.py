"""What the fake site answers: a table of words, each a short scene in the shapes of the real CLI."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence

from tests.browser.fake_log import FakeSession, Frame
from tests.browser.fake_texts import MARKDOWN

_numbers = itertools.count(1)
_PAUSE_SECONDS = 0.01


def _id(kind: str) -> str:
    return f"{kind}-{next(_numbers)}"


class Scene:
    """One turn being played in a session."""

    def __init__(self, session: FakeSession, words: str) -> None:
        self.session = session
        self.words = words
        self.message_id = ""

    def stream(self, event: Frame) -> None:
        """Publish a token delta or its like."""
        self.session.event({"type": "stream_event", "uuid": _id("u"), "event": event}, durable=False)

    def system(self, subtype: str, **fields: object) -> None:
        """Publish a line of type ``system``."""
        self.session.event({"type": "system", "subtype": subtype, "uuid": _id("u"), **fields})

    def assistant(self, block: Frame) -> None:
        """Publish a complete block."""
        message = {"id": self.message_id, "role": "assistant", "content": [block]}
        self.session.event({"type": "assistant", "uuid": _id("u"), "message": message})

    def begin_message(self) -> None:
        """A model call's answer begins."""
        self.message_id = _id("msg")
        self.stream({"type": "message_start", "message": {"id": self.message_id}})

    def end_message(self) -> None:
        """A model call's answer ends well."""
        self.stream({"type": "message_delta", "delta": {"stop_reason": "end_turn"}})
        self.stream({"type": "message_stop"})

    async def deltas(self, pieces: Sequence[str], *, index: int = 0) -> None:
        """The pieces of a text block, one by one; an interrupt ends them."""
        self.stream(
            {"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}}
        )
        for piece in pieces:
            if self.session.interrupt.is_set():
                return
            self.delta(piece, index=index)
            await asyncio.sleep(_PAUSE_SECONDS)

    def delta(self, piece: str, *, index: int = 0) -> None:
        """One piece."""
        delta = {"type": "text_delta", "text": piece}
        self.stream({"type": "content_block_delta", "index": index, "delta": delta})

    async def say(self, text: str) -> None:
        """A whole message of one text."""
        self.begin_message()
        await self.deltas([text[at : at + 9] for at in range(0, len(text), 9)])
        self.finish_text(text)

    def finish_text(self, text: str, *, index: int = 0) -> None:
        """The complete block of deltas that were sent, and the message's end."""
        self.assistant({"type": "text", "text": text})
        self.stream({"type": "content_block_stop", "index": index})
        self.end_message()

    def use(self, name: str, tool_input: Frame) -> str:
        """A message of one tool use. Returns its id."""
        self.begin_message()
        tool_id = _id("toolu")
        block = {"type": "tool_use", "id": tool_id, "name": name, "input": tool_input}
        self.stream({"type": "content_block_start", "index": 0, "content_block": {**block, "input": {}}})
        self.assistant(block)
        self.stream({"type": "content_block_stop", "index": 0})
        self.end_message()
        return tool_id

    def result(self, tool_id: str, text: str, *, is_error: bool = False, structured: object = None) -> None:
        """What a tool gave back."""
        block = {"type": "tool_result", "tool_use_id": tool_id, "content": text, "is_error": is_error}
        line = {"type": "user", "uuid": _id("u"), "message": {"role": "user", "content": [block]}}
        self.session.event({**line, "tool_use_result": structured})


async def _default(scene: Scene) -> None:
    await scene.say(f"You said: {scene.words}")


async def _stream(scene: Scene) -> None:
    count = int(scene.words.split()[1])
    await scene.say(" ".join(f"word{number}" for number in range(1, count + 1)))


async def _markdown(scene: Scene) -> None:
    await scene.say(MARKDOWN)


async def _verbatim(scene: Scene) -> None:
    await scene.say(scene.words.split(" ", 1)[1])


async def _ask(scene: Scene) -> None:
    command = scene.words.partition(" ")[2] or "rm -rf build && make"
    tool_input = {"command": command, "description": "Build the project anew"}
    tool_id = scene.use("Bash", tool_input)
    rule = {"toolName": "Bash", "ruleContent": "make:*"}
    suggestions = [{"type": "addRules", "rules": [rule], "behavior": "allow", "destination": "localSettings"}]
    answer = await scene.session.ask(
        _id("ask"), "Bash", tool_input, permission_suggestions=suggestions, remembers=["Bash(make:*)"]
    )
    if answer["decision"] == "allow":
        scene.result(tool_id, "cc -o app main.c\nok")
        await scene.say(f"Built, allowed {answer.get('scope', 'once')}.")
    else:
        scene.result(tool_id, answer.get("message") or "denied", is_error=True)
        await scene.say(f"Then not: {answer.get('message', 'no reason given')}.")


async def _write(scene: Scene) -> None:
    tool_input = {"file_path": "/workspace/notes.txt", "content": "tea\ncake\nmusic\n"}
    tool_id = scene.use("Write", tool_input)
    suggestions = [{"type": "setMode", "mode": "acceptEdits", "destination": "session"}]
    await scene.session.ask(
        _id("ask"), "Write", tool_input, permission_suggestions=suggestions, remembers=["all file edits"]
    )
    scene.result(tool_id, "File created successfully at: /workspace/notes.txt")
    await scene.say("Done: `notes.txt` is written.")


async def _question(scene: Scene) -> None:
    options = [
        {"label": "Python", "description": "Quick to write"},
        {"label": "Rust", "description": "Quick to run"},
    ]
    questions = [{"question": "Which language?", "header": "Language", "options": options}]
    tool_id = scene.use("AskUserQuestion", {"questions": questions})
    answer = await scene.session.ask(_id("ask"), "AskUserQuestion", {"questions": questions})
    chosen = answer.get("updated_input", {}).get("answers", {}).get("Which language?", "nothing")
    scene.result(tool_id, chosen)
    await scene.say(f"You chose {chosen}.")


async def _todo(scene: Scene) -> None:
    for number, thing in enumerate(("Read the code", "Write a test", "Mend the bug"), 1):
        tool_id = scene.use("TaskCreate", {"subject": thing, "description": thing})
        scene.result(tool_id, f"Task #{number} created", structured={"task": {"id": str(number)}})
    for number, status in ((1, "completed"), (2, "in_progress")):
        tool_id = scene.use("TaskUpdate", {"taskId": str(number), "status": status})
        scene.result(tool_id, f"Updated task #{number}")
    await scene.say("The list is made.")


async def _tools(scene: Scene) -> None:
    read = scene.use("Read", {"file_path": "/workspace/projects/app/main.py"})
    scene.result(read, "\n".join(f"{number:>4}  print({number})" for number in range(1, 60)))
    failed = scene.use("Bash", {"command": "make check", "description": "Run the checks"})
    scene.result(failed, "Exit code 2\nmake: *** No rule to make target 'check'.", is_error=True)
    await scene.say("One of the two worked.")


async def _retry(scene: Scene) -> None:
    scene.begin_message()
    await scene.deltas(["This attempt ", "will be ", "cut."])
    scene.stream({"type": "content_block_stop", "index": 0})
    scene.stream({"type": "message_stop"})
    scene.system("api_retry", attempt=1, max_retries=5, retry_delay_ms=900, error="overloaded")
    await asyncio.sleep(0.9)
    await scene.say("The second attempt holds.")


async def _gap(scene: Scene) -> None:
    """Deltas in the middle are lost to everybody who looks on; the whole block is not."""
    scene.begin_message()
    await scene.deltas(["one ", "two "])
    session = scene.session
    before = session.cursor
    session.keep({"type": "event", "event": {"type": "stream_event"}}, durable=False)
    for deliver in list(session.viewers):
        deliver({"type": "gap", "session_id": session.session_id, "from": before, "to": session.cursor})
    scene.delta("four ")
    await asyncio.sleep(0.3)
    scene.finish_text("one two three four ")


async def _slow(scene: Scene) -> None:
    scene.begin_message()
    said = [f"{number} " for number in range(1, 3000)]
    before = len(scene.session.log)
    await scene.deltas(said)
    scene.finish_text("".join(said[: len(scene.session.log) - before - 1]))


async def _fail(scene: Scene) -> None:
    message = {
        "id": _id("msg"),
        "model": "<synthetic>",
        "content": [{"type": "text", "text": "API Error: 400"}],
    }
    scene.session.event(
        {"type": "assistant", "uuid": _id("u"), "message": message, "error": "invalid_request"}
    )
    raise TurnEnds("failed", {"code": "model_error", "message": "The model refused the request (400)."})


async def _lose(scene: Scene) -> None:
    scene.begin_message()
    await scene.deltas(["half ", "an "])
    raise TurnEnds(
        "lost",
        {"code": "instance_exited", "message": "The process was ended by SIGKILL.", "signal": "SIGKILL"},
    )


class TurnEnds(Exception):
    """The turn ends in another way than well."""

    def __init__(self, state: str, reason: Frame) -> None:
        super().__init__(state)
        self.state = state
        self.reason = reason


_SCENES: dict[str, Callable[[Scene], Awaitable[None]]] = {
    "stream": _stream,
    "markdown": _markdown,
    "verbatim": _verbatim,
    "ask": _ask,
    "write": _write,
    "question": _question,
    "todo": _todo,
    "tools": _tools,
    "retry": _retry,
    "gap": _gap,
    "slow": _slow,
    "fail": _fail,
    "lose": _lose,
}


async def play(session: FakeSession, turn_id: str, words: str, message_id: str) -> None:
    """Play one turn from ``running`` to its outcome."""
    turn = {"type": "turn", "turn_id": turn_id, "origin": "user", "message_id": message_id}
    session.running = turn_id
    session.publish({**turn, "state": "running"})
    scene = Scene(session, words)
    scene.system(
        "init", model=session.model or "demo", permissionMode=session.permission_mode, cwd="/workspace"
    )
    try:
        await _SCENES.get(words.split(maxsplit=1)[0], _default)(scene)
        ending: Frame = {"state": "interrupted" if session.interrupt.is_set() else "succeeded"}
    except TurnEnds as end:
        ending = {"state": end.state, "reason": end.reason}
    if ending["state"] != "lost":
        usage = {"input_tokens": 1204, "output_tokens": 310, "cache_read_input_tokens": 0}
        result = {"subtype": "success", "usage": usage, "duration_ms": 2140}
        session.event({"type": "result", "uuid": _id("u"), **result})
    session.running = None
    session.interrupt.clear()
    session.publish({**turn, **ending})
