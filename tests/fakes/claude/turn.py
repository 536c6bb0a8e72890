"""One turn: what its prompt asks for, frame by frame, and how it ends."""

from __future__ import annotations

import json
import os
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

USAGE = {"input_tokens": 10, "cache_read_input_tokens": 0, "output_tokens": 5, "service_tier": "standard"}
TOOL_VERBS = ("write", "read", "bash", "question", "mcp")


class Turn:
    """All that follows from one batch of messages, to its last frame."""

    def __init__(self, claude: Claude, batch: list[Frame]) -> None:
        self.claude, self.batch = claude, batch
        self.origin = batch[-1].get("origin")
        texts = [text_of(frame["message"]) for frame in batch]
        self.words = list(words_of(" ".join([*texts, claude.every])))
        self.prompt = prompt_of(texts[-1])
        self.plain = bool(batch[-1].get("client_composed"))
        self.said, self.answer, self.streaming = "", "", False
        self.denials: list[Frame] = []
        self.requests, self.began = 0, time.monotonic()

    def run(self) -> None:
        """Play the turn."""
        claude = self.claude
        claude.told = ""
        claude.lifecycle(self.batch, "started")
        claude.tell_state("running")
        try:
            self.do(PLACES["before"])
            self.play()
        except Interrupted:
            self.interrupted()
        except ApiError as error:
            self.refused(error.args[0])
        self.do(PLACES["after"])
        claude.lifecycle(self.batch, "completed")
        claude.tell_state("idle")
        self.do(PLACES["idle"])

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
        self.result("success", is_error=False, result=self.answer, terminal_reason="completed")
        return None

    def init(self) -> None:
        """Tell what the session is."""
        claude = self.claude
        tools = ["AskUserQuestion", "Bash", "Edit", "Glob", "Grep", "Read", "Write"]
        servers = [{"name": name, "status": "connected", "source": "sdk"} for name in claude.servers]
        more = {
            "slash_commands": ["clear", "compact", "cost"],
            "apiKeySource": "none",
            "output_style": "default",
        }
        more.update(claude_code_version="2.1.329", agents=[], skills=[], plugins=[])
        more.update(model=claude.model, permissionMode=claude.mode)
        claude.emit("system", "init", cwd=os.getcwd(), tools=tools, mcp_servers=servers, **more)

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
            self.say([text])
        elif verb == "stream":
            count, pause = ([*map(float, given.split()), 0.0])[:2]
            pieces = [f"w{number}" if number == 0 else f" w{number}" for number in range(int(count))]
            self.say(pieces, pause=pause / 1000)
        else:
            words = self.plain_answer(verb).split(" ")
            self.say([word if k == 0 else f" {word}" for k, word in enumerate(words)])

    def plain_answer(self, verb: str) -> str:
        """The answer to a prompt that needs no tool."""
        if self.claude.told:
            return self.claude.told
        if self.prompt == "history":
            return "\n".join(self.claude.transcript.texts)
        facts = {"env": dict(os.environ), "argv": sys.argv, "cwd": os.getcwd()}
        return json.dumps(facts[verb]) if self.prompt in facts else f"echo: {self.prompt}"

    # Model calls

    def request(self) -> None:
        """Tell that the model is asked."""
        self.requests += 1
        self.claude.emit("system", "status", status="requesting")

    def event(self, kind: str, **fields: object) -> None:
        """One event of the model's stream."""
        if "--include-partial-messages" in self.claude.options:
            self.claude.emit("stream_event", event={"type": kind, **fields}, parent_tool_use_id=None)

    def say(self, pieces: list[str], block: Frame | None = None, pause: float = 0.0) -> None:
        """Stream one message of one block, text or the use of a tool; a cut one begins again."""
        while True:
            self.said, self.streaming = "", True
            head = {
                "id": f"msg_{new_id()[:12]}",
                "type": "message",
                "role": "assistant",
                "model": self.claude.model,
            }
            self.message: Frame = {**head, "content": [], "stop_reason": None, "usage": USAGE}
            self.event("message_start", message=self.message)
            empty = {**block, "input": {}} if block else {"type": "text", "text": ""}
            self.event("content_block_start", index=0, content_block=empty)
            try:
                self.deltas(pieces, bool(block), pause)
                break
            except Cut:
                self.cut_off()
        self.assistant([block or {"type": "text", "text": self.said}])
        self.close("tool_use" if block else "end_turn")
        if not block:
            self.answer = self.said

    def deltas(self, pieces: list[str], of_tool: bool, pause: float) -> None:
        """Stream the pieces, doing the words that stand before each."""
        for number, piece in enumerate(pieces):
            self.do(number)
            if pause or self.claude.cut.is_set():
                rest(self.claude, pause)
            kind = (
                {"type": "input_json_delta", "partial_json": piece}
                if of_tool
                else {"type": "text_delta", "text": piece}
            )
            self.said += piece
            self.event("content_block_delta", index=0, delta=kind)
        self.do(len(pieces))

    def cut_off(self) -> None:
        """What a cut stream looks like: no message_delta, and the call is made again."""
        self.event("content_block_stop", index=0)
        self.event("message_stop")
        retry = {
            "attempt": 1,
            "max_retries": 10,
            "retry_delay_ms": 20,
            "error_status": None,
            "error": "unknown",
        }
        self.claude.emit("system", "api_retry", **retry)
        time.sleep(0.02)

    def assistant(self, content: list[Frame], **more: str) -> None:
        """A complete block."""
        self.claude.transcript.append(
            {"type": "assistant", "uuid": new_id(), "message": {"content": content}}
        )
        message = {**self.message, "content": content}
        self.claude.emit("assistant", None, message=message, parent_tool_use_id=None, **more)

    def close(self, stop_reason: str) -> None:
        """End the message."""
        self.streaming = False
        self.event("content_block_stop", index=0)
        self.event("message_delta", delta={"stop_reason": stop_reason, "stop_sequence": None}, usage=USAGE)
        self.event("message_stop")

    # Ends

    def result(self, subtype: str, **fields: object) -> None:
        """The frame that ends the turn; its type stands behind many other keys, as the CLI has it."""
        claude = self.claude
        milliseconds = int((time.monotonic() - self.began) * 1000)
        claude.failed = bool(fields["is_error"])
        frame: Frame = {"duration_api_ms": milliseconds, "duration_ms": milliseconds, "ttft_ms": 1, **fields}
        frame.update(num_turns=self.requests, stop_reason="end_turn" if subtype == "success" else None)
        frame.update(
            session_id=claude.transcript.session, total_cost_usd=0.001 * (claude.results + 1), usage=USAGE
        )
        frame.update(modelUsage={}, permission_denials=self.denials, queued_turn_count=len(claude.queue))
        frame.update(type="result", subtype=subtype, result_index=claude.results, uuid=new_id())
        uuids = [message["uuid"] for message in self.batch if message.get("uuid")]
        frame.update({"user_message_uuid": uuids[-1]} if uuids else {})
        frame.update({"origin": self.origin} if self.origin else {})
        claude.results += 1
        claude.frame(frame)

    def interrupted(self) -> None:
        """End an interrupted turn: the partial answer, a note, the closing events, the result."""
        reason = "aborted_streaming" if self.streaming or not self.requests else "aborted_tools"
        was_streaming, self.streaming = self.streaming, False
        if was_streaming and self.said:
            self.assistant([{"type": "text", "text": self.said}])
        note = [{"type": "text", "text": "[Request interrupted by user]"}]
        self.claude.emit("user", message={"role": "user", "content": note}, parent_tool_use_id=None)
        if was_streaming:
            self.event("content_block_stop", index=0)
            self.event("message_stop")
        self.result(
            "error_during_execution", is_error=True, errors=["Request was aborted."], terminal_reason=reason
        )

    def refused(self, status: int) -> None:
        """End a turn whose model call was refused: the subtype says success all the same."""
        text = f"API Error: {status} the fake API refuses"
        self.message = {"id": new_id(), "type": "message", "role": "assistant", "model": "<synthetic>"}
        self.assistant([{"type": "text", "text": text}], error="invalid_request")
        more = {"terminal_reason": "api_error", "api_error_status": status}
        self.result("success", is_error=True, result=text, **more)

    def clear(self) -> None:
        """Forget the conversation: the next init has a new session id."""
        transcript = self.claude.transcript
        old = transcript.session
        transcript.clear()
        frame = {"type": "conversation_reset", "new_conversation_id": transcript.session, "trigger": "clear"}
        self.claude.frame({**frame, "session_id": old, "uuid": new_id()})
        self.init()
        self.result("success", is_error=False, result="", terminal_reason="completed")
