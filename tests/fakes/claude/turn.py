"""One turn: what its prompt asks for, frame by frame, and how it ends."""

from __future__ import annotations

import json
import os
import re
import sys
import time

from .tools import use
from .transcript import new_id, text_of
from .words import PLACES, WORDS, ApiError, Cut, Interrupted, prompt_of, rest, words_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .process import Claude

    Frame = dict[str, Any]
    Block = tuple[Frame | None, list[str]]

USAGE = {"input_tokens": 10, "cache_read_input_tokens": 0, "output_tokens": 5, "service_tier": "standard"}
# A few words of the demo model, for hosts that speak with either.
PHRASES = (
    (r"^create a file (\S+) with (.*)$", r"write \1 \2"),
    (r"^count to (\d+) slowly$", r"stream \1 200"),
    (r"^run `(.*)`$", r"bash \1"),
)
NOW = "\0now"
TOOL_VERBS = ("write", "read", "bash", "question", "mcp")


class Turn:
    """All that follows from one batch of messages, to its last frame."""

    def __init__(self, claude: Claude, batch: list[Frame]) -> None:
        self.claude, self.batch = claude, batch
        self.origin = batch[-1].get("origin")
        texts = [text_of(frame["message"]) for frame in batch]
        self.words = list(words_of(" ".join([*texts, claude.every])))
        self.prompt = prompt_of(texts[-1])
        for phrase, ours in PHRASES:
            self.prompt = re.sub(phrase, ours, self.prompt)
        self.plain = bool(batch[-1].get("client_composed")) and "literal" not in claude.without
        self.said, self.answer, self.index, self.streaming = "", "", 0, False
        self.message: Frame = {}
        self.denials: list[Frame] = []
        self.requests, self.began = 0, time.monotonic()

    def run(self) -> None:
        """Play the turn, to the lifecycle of its messages."""
        self.claude.told = ""
        self.claude.lifecycle(self.batch, "started")
        end = "cancelled"
        try:
            self.do(PLACES["before"])
            self.play()
            end = "completed"
        except Interrupted:
            self.interrupted()
        except ApiError as error:
            self.refused(error.args[0])
        self.do(PLACES["after"])
        self.claude.lifecycle(self.batch, end)

    def do(self, place: int) -> None:
        """Do the words of one place, each once."""
        for word in [word for word in self.words if word[0] == place]:
            self.words.remove(word)
            WORDS[word[1]](self.claude, *word[2])

    def play(self) -> None:
        """From system/init to the result."""
        claude = self.claude
        if self.prompt == "/clear" and not self.plain:
            return self.clear()
        for server in list(claude.servers.values()):
            server.wait()
        self.init()
        self.remember()
        self.request()
        self.do(PLACES["now"])
        self.body()
        self.result(
            "success", is_error=False, result=self.answer, stop_reason="end_turn", terminal_reason="completed"
        )
        return None

    def init(self) -> None:
        """Tell what the session is."""
        claude = self.claude
        tools = ["AskUserQuestion", "Bash", "Edit", "Glob", "Grep", "Read", "Write"]
        tools += [n for n in claude.options.get("--allowedTools", "").split(",") if n.startswith("Task")]
        servers = [{"name": name, "status": "connected", "source": "sdk"} for name in claude.servers]
        more = {
            "slash_commands": ["clear", "compact", "cost"],
            "apiKeySource": "none",
            "output_style": "default",
        }
        more.update(claude_code_version="2.1.329", agents=[], skills=[], plugins=[])
        more.update(model=claude.model, permissionMode=claude.mode)
        session = claude.transcript.session
        claude.emit(
            "system", "init", cwd=os.getcwd(), session_id=session, tools=tools, mcp_servers=servers, **more
        )

    def remember(self) -> None:
        """Write the batch into the transcript, before the model is called."""
        for frame in self.batch:
            if self.origin is None:
                self.claude.transcript.texts.append(prompt_of(text_of(frame["message"])))
                uuid = frame.get("uuid") or new_id()
                self.claude.transcript.append({"type": "user", "uuid": uuid, "message": frame["message"]})

    def body(self) -> None:
        """Do what the prompt says."""
        verb, _, given = self.prompt.partition(" ")
        if verb in TOOL_VERBS and not self.claude.told:
            text = use(self, verb, given)
            self.request()
            self.say([(None, [text])])
        elif verb == "stream":
            count, pause = ([*map(float, given.split()), 0.0])[:2]
            pieces = [f"w{number}" if number == 0 else f" w{number}" for number in range(int(count))]
            self.say([(None, pieces)], pause / 1000)
        elif verb == "clock":
            count, pause = ([*map(float, given.split()), 0.0])[:2]
            self.say([(None, [NOW] * int(count))], pause / 1000)
        else:
            words = self.plain_answer(verb).split(" ")
            self.say([(None, [word if k == 0 else f" {word}" for k, word in enumerate(words)])])

    def plain_answer(self, verb: str) -> str:
        """The answer to a prompt that needs no tool."""
        if self.claude.told:
            return self.claude.told
        if self.prompt == "history":
            return "\n".join(self.claude.transcript.texts)
        facts = {"env": dict(os.environ), "argv": sys.argv, "cwd": os.getcwd()}
        return json.dumps(facts[verb]) if self.prompt in facts else f"echo: {self.prompt}"

    # Model calls

    @property
    def uuids(self) -> list[str]:
        """The stamps of the user's messages."""
        return [message["uuid"] for message in self.batch if message.get("uuid")]

    def request(self) -> None:
        """Tell that the model is asked."""
        self.requests += 1
        self.claude.emit("system", "status", status="requesting", user_message_uuids=self.uuids)

    def line(self, kind: str, message: Frame, **more: object) -> None:
        """A frame with a whole message, of the model or of the user's side."""
        ids = {"session_id": self.claude.transcript.session, "uuid": new_id()}
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        more = {"message": message, "parent_tool_use_id": None, **ids, "timestamp": stamp, **more}
        self.claude.emit(kind, None, **more)

    def event(self, kind: str, **fields: object) -> None:
        """One event of the model's stream."""
        if "--include-partial-messages" in self.claude.options:
            ids = {"session_id": self.claude.transcript.session, "parent_tool_use_id": None, "uuid": new_id()}
            event = {"type": kind, **fields}
            self.claude.emit("stream_event", None, event=event, **ids, api_message_id=self.message["id"])

    def say(self, blocks: list[Block], pause: float = 0.0) -> None:
        """Stream one message: its blocks are texts (None) or uses of tools. A cut one begins again."""
        self.streaming = True
        while True:
            head = {"id": f"msg_{new_id()[:12]}", "type": "message", "role": "assistant"}
            self.message = {
                **head,
                "model": self.claude.model,
                "content": [],
                "stop_reason": None,
                "usage": USAGE,
            }
            self.event("message_start", message=self.message)
            try:
                for index, (block, pieces) in enumerate(blocks):
                    self.block(index, block, pieces, pause)
                break
            except Cut:
                self.cut_off()
        self.answer = self.said
        self.event("message_delta", delta={"stop_reason": self.stop_reason(blocks)}, usage=USAGE)
        self.event("message_stop")
        self.streaming = False

    @staticmethod
    def stop_reason(blocks: list[Block]) -> str:
        """Why the model stopped."""
        return "tool_use" if blocks[-1][0] else "end_turn"

    def block(self, index: int, block: Frame | None, pieces: list[str], pause: float) -> None:
        """Stream one block, doing the words that stand before each delta."""
        self.said, self.index = "", index
        empty = {**block, "input": {}} if block else {"type": "text", "text": ""}
        self.event("content_block_start", index=index, content_block=empty)
        kind, field = ("input_json_delta", "partial_json") if block else ("text_delta", "text")
        for number, piece in enumerate(pieces):
            self.do(number)
            if pause or self.claude.cut.is_set():
                rest(self.claude, pause)
            piece = f" {time.monotonic_ns()}" if piece == NOW else piece  # noqa: PLW2901
            self.said += piece
            self.event("content_block_delta", index=index, delta={"type": kind, field: piece})
        self.do(len(pieces))
        self.assistant(block or {"type": "text", "text": self.said})
        self.event("content_block_stop", index=index)

    def cut_off(self) -> None:
        """What a cut stream looks like: no message_delta, and the call is made again."""
        self.event("content_block_stop", index=self.index)
        self.event("message_stop")
        retry: Frame = {"attempt": 1, "max_retries": 10, "retry_delay_ms": 20, "error_status": None}
        self.claude.emit("system", "api_retry", **retry, error="unknown")
        time.sleep(0.02)

    def assistant(self, block: Frame, **more: str) -> None:
        """A complete block."""
        row = {"type": "assistant", "uuid": new_id(), "message": {"role": "assistant", "content": [block]}}
        self.claude.transcript.append(row)
        self.line(
            "assistant", {**self.message, "content": [block]}, request_id=f"req_{new_id()[:12]}", **more
        )

    # Ends

    def result(self, subtype: str, **fields: Any) -> None:
        """The frame that ends the turn; its type stands behind many other keys, as the CLI has it."""
        claude = self.claude
        if "order" in claude.without:
            claude.lifecycle(self.batch, "completed")
        milliseconds = int((time.monotonic() - self.began) * 1000)
        claude.failed = bool(fields["is_error"])
        frame: Frame = {"duration_api_ms": milliseconds, "stop_reason": fields.pop("stop_reason", None)}
        frame.update(
            session_id=claude.transcript.session, total_cost_usd=0.001 * (claude.results + 1), usage=USAGE
        )
        frame.update(
            modelUsage={}, permission_denials=self.denials, terminal_reason=fields.pop("terminal_reason")
        )
        frame.update(is_error=fields.pop("is_error"), num_turns=self.requests, subtype=subtype, **fields)
        frame.update({} if fields.get("errors") else {"ttft_ms": 1})
        frame.update(type="result", duration_ms=milliseconds, uuid=new_id())
        if self.uuids:
            frame.update(user_message_uuid=self.uuids[-1], user_message_uuids=self.uuids)
        frame.update({"origin": self.origin} if self.origin else {})
        frame.update(queued_turn_count=len(claude.queue), result_index=claude.results)
        claude.results += 1
        claude.frame(frame)

    def interrupted(self) -> None:
        """End an interrupted turn: the partial answer, a note, the closing events, the result."""
        of_tool = self.requests > 0 and self.answer != "" and not self.streaming
        if self.streaming and self.said:
            self.assistant({"type": "text", "text": self.said})
        note = "[Request interrupted by user for tool use]" if of_tool else "[Request interrupted by user]"
        self.line("user", {"role": "user", "content": [{"type": "text", "text": note}]})
        if self.streaming:
            self.event("content_block_stop", index=self.index)
            self.event("message_delta", delta={"stop_reason": None}, usage=USAGE)
            self.event("message_stop")
        stop_reason = "tool_use" if of_tool else None
        text = f"[ede_diagnostic] result_type=user last_content_type=n/a stop_reason={stop_reason or 'null'}"
        more = {"terminal_reason": "aborted_tools" if of_tool else "aborted_streaming", "errors": [text]}
        self.result("error_during_execution", is_error=True, stop_reason=stop_reason, **more)

    def refused(self, status: int) -> None:
        """End a turn whose model call was refused: the subtype says success all the same."""
        text = f"API Error: {status} the fake API refuses"
        self.message = {"id": new_id(), "type": "message", "role": "assistant", "model": "<synthetic>"}
        self.assistant({"type": "text", "text": text}, error="invalid_request")
        more = {"terminal_reason": "api_error", "stop_reason": "stop_sequence", "api_error_status": status}
        self.result("success", is_error=True, result=text, **more)

    def clear(self) -> None:
        """Forget the conversation. Only the next init tells the new session id, the reset does not."""
        transcript = self.claude.transcript
        old, reset_id = transcript.session, new_id()
        transcript.clear()
        frame = {
            "type": "conversation_reset",
            "new_conversation_id": reset_id,
            "uuid": reset_id,
            "trigger": "clear",
        }
        self.claude.frame({**frame, "session_id": old})
        self.init()
        self.result("success", is_error=False, result="", terminal_reason="completed")
