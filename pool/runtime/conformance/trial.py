"""The trial: one conversation with a CLI on the demo model, in which every behaviour must show itself."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping

from pool.errors import PoolError
from pool.launch.tool_limits import ToolLimits
from pool.protocol import frames as f
from pool.protocol.command_line import SETTINGS
from pool.protocol.connection import pending_asks, permission_response, success_response, user_message
from pool.runtime.conformance.behaviours import Findings
from pool.runtime.conformance.witness import Respond, SeenTurn, Witness, refuse
from pool.runtime.instance import Instance

ANSWER_SECONDS = 10.0
QUIET_SECONDS = 1.0

# a number that no shell has by itself
TRIAL_LIMITS = ToolLimits(file_bytes=None, cpu_seconds=86413)

_FILE = "probe.txt"
_DENIED = "denied by the conformance check"
_HOOKS = {"PreToolUse": [{"matcher": None, "hookCallbackIds": ["conformance"], "timeout": 30}]}


class Trial:
    """Tries one started CLI out. ``has_file``: is there such a file where it works? It may block.

    ``has_tool_prefix``: it was told the program that takes on ``TRIAL_LIMITS``.
    """

    def __init__(
        self, instance: Instance, witness: Witness, has_file: Callable[[str], bool], *, has_tool_prefix: bool
    ) -> None:
        self._instance = instance
        self._witness = witness
        self._has_file = has_file
        self._has_tool_prefix = has_tool_prefix
        self._version: str | None = None
        self._seen: dict[str, bool] = {}
        self._notes: dict[str, str] = {}
        self._first_uuid = ""

    async def run(self, start_seconds: float) -> Findings:
        """Everything, in an order in which what fails spoils least of the rest."""
        problem: str | None = None
        try:
            await self._initialize(start_seconds)
            await self._requests()
            if await self._plain_turn():
                await self._repeat()
                await self._literal()
                await self._hook()
                await self._ask()
                await self._tool_prefix()
                await self._interrupt()
            else:
                problem = self._notes["model_socket"]
            await self._unknown_request()
        except (PoolError, TimeoutError) as error:
            problem = str(error) or "the CLI did not answer in time"
        return Findings(self._version, self._seen, self._notes, problem)

    def _saw(self, name: str, held: bool, note: str = "") -> None:
        self._seen[name] = held
        if not held and note:
            self._notes[name] = note

    # --- without a model -----------------------------------------------------------------

    async def _initialize(self, start_seconds: float) -> None:
        answer = await self._instance.handshake(start_seconds)
        version = answer.response.get("claude_code_version")
        self._version = version if isinstance(version, str) else None
        self._saw("initialize", True)

    async def _answer(self, subtype: str, **fields: object) -> f.ControlResponse | None:
        try:
            return await self._instance.ask(subtype, timeout_seconds=ANSWER_SECONDS, **fields)
        except TimeoutError:
            return None

    async def _requests(self) -> None:
        self._saw("ping", _is_good(await self._answer("get_binary_version")))
        settings = await self._answer("get_settings")
        effective = settings.response.get("effective") if settings is not None else None
        in_force = effective if isinstance(effective, Mapping) else {}
        self._saw(
            "peer_messages_refused",
            all(in_force.get(name) == value for name, value in SETTINGS.items()),
            "" if settings is None or settings.ok else f"get_settings: {settings.error}",
        )
        answers = [
            await self._answer("set_permission_mode", mode="plan"),
            await self._answer("set_permission_mode", mode="default"),
            await self._answer("set_model", model=None),
        ]
        self._saw("live_changes", all(_is_good(answer) for answer in answers))

    async def _unknown_request(self) -> None:
        try:
            answer = await self._answer("claude_pool_no_such_request")
            again = await self._answer("get_binary_version")
        except PoolError:
            self._saw("unknown_request", False, "the CLI exited")
            return
        held = answer is not None and not answer.ok and (again is not None or not self._seen["ping"])
        self._saw("unknown_request", held)

    # --- turns ---------------------------------------------------------------------------

    async def _turn(self, text: str, respond: Respond = refuse, *, literal: bool = False) -> SeenTurn:
        turn = await self._witness.turn(self._instance, text, respond=respond, literal=literal)
        if turn.result is None:
            raise TimeoutError(f"the turn {text!r} did not end")
        return turn

    async def _plain_turn(self) -> bool:
        """The first turn; False when the model cannot be reached."""
        turn = await self._witness.turn(self._instance, "say ok")
        result = turn.result
        if result is None or result.is_error:
            text = (result.result if result is not None else None) or "the turn did not end"
            self._saw("model_socket", False, f"the demo model was not reached: {text[:300]}")
            return False
        self._saw("model_socket", True)
        inits = turn.of(f.SystemInit)
        ended, started = turn.lifecycle("completed"), turn.lifecycle("started")
        result_at = turn.of(f.Result)[0]
        self._saw("turn_init", bool(inits) and inits[0] < result_at)
        self._saw("lifecycle", ended is not None and started is not None)
        # without a lifecycle there is no order to keep, and nothing more to say
        self._saw("result_first", ended is None or result_at < ended)
        self._saw("session_state", turn.idle_after(result_at if ended is None else ended))
        tools = {name for frame in turn.frames if isinstance(frame, f.SystemInit) for name in frame.tools}
        self._saw("todo_tools", bool({"TaskCreate", "ToolSearch"} & tools))
        self._first_uuid = turn.uuid
        return True

    async def _repeat(self) -> None:
        since = len(self._witness.frames)
        await self._instance.write(user_message(self._first_uuid, "say ok"))
        ran = await self._witness.until(
            lambda frame: isinstance(frame, f.SystemInit | f.Result), since, QUIET_SECONDS
        )
        self._saw("repeats_ignored", ran is None)
        if ran is not None:
            await self._witness.until(lambda frame: isinstance(frame, f.Result), since, ANSWER_SECONDS)
            await self._witness.settled(self._first_uuid, since)

    async def _literal(self) -> None:
        turn = await self._turn("/clear", literal=True)
        self._saw("literal", not turn.of(f.ConversationReset))

    async def _hook(self) -> None:
        """Deny Read, which the CLI would allow by itself, by a hook; then clear the hook."""
        asked: list[str] = []

        async def deny(request: f.ControlRequest) -> bytes:
            if request.subtype != "hook_callback":
                return await refuse(request)
            asked.append(request.request_id)
            decision = {
                "hookEventName": "PreToolUse",
                "permissionDecision": "deny",
                "permissionDecisionReason": _DENIED,
            }
            return success_response(request.request_id, {"hookSpecificOutput": decision})

        await self._answer("initialize", hooks=_HOOKS)
        turn = await self._turn(f"read {_FILE}", deny)
        denied = any(_DENIED.encode() in turn.frames[place].raw for place in turn.of(f.UserFrame))
        self._saw("hook_decides", bool(asked) and denied, "" if asked else "it was not asked")
        await self._answer("initialize", hooks={})

    async def _ask(self) -> None:
        """A write that must be asked for; while it is open, play a server that takes over."""
        hooks: list[str] = []
        answers: list[bytes] = []
        listed: list[str] = []

        async def allow(request: f.ControlRequest) -> bytes:
            if request.subtype == "hook_callback":
                hooks.append(request.request_id)
            if request.subtype != "can_use_tool":
                return await refuse(request)
            again = await self._answer("initialize", hooks={})
            asks = pending_asks(again) if again is not None else ()
            listed.extend(ask.request_id for ask in asks if ask.request_id == request.request_id)
            given = request.request.get("input")
            tool_input = given if isinstance(given, Mapping) else None
            answers.append(permission_response(request.request_id, "allow", updated_input=tool_input))
            return answers[-1]

        await self._turn(f"create a file {_FILE} with x", allow)
        written = await asyncio.to_thread(self._has_file, _FILE)
        unasked = "it was written without asking" if written else "nothing was asked and nothing written"
        self._saw("asks", bool(answers) and written, "it was allowed, but not done" if answers else unasked)
        self._saw("pending_asks", bool(listed), "" if answers else "no ask was seen")
        self._saw("hooks_cleared", not hooks)
        await self._second_answer(answers)

    async def _second_answer(self, answers: list[bytes]) -> None:
        for line in answers[:1]:
            await self._instance.write(line)
        try:
            answer = await self._answer("get_binary_version")
        except PoolError:
            self._saw("second_answer", False, "the CLI exited")
            raise
        self._saw("second_answer", bool(answers) and answer is not None, "" if answers else "no ask was seen")

    async def _tool_prefix(self) -> None:
        """Have a shell tell its limit of processor time, which nothing but the program can have set."""
        if not self._has_tool_prefix:
            self._saw("tool_prefix", True)
            return

        async def allow(request: f.ControlRequest) -> bytes:
            if request.subtype != "can_use_tool":
                return await refuse(request)
            given = request.request.get("input")
            tool_input = given if isinstance(given, Mapping) else None
            return permission_response(request.request_id, "allow", updated_input=tool_input)

        turn = await self._turn("run `ulimit -t`", allow)
        told = str(TRIAL_LIMITS.cpu_seconds).encode()
        self._saw("tool_prefix", any(told in turn.frames[place].raw for place in turn.of(f.UserFrame)))

    async def _interrupt(self) -> None:
        since = len(self._witness.frames)
        running, waiting = str(uuid.uuid4()), str(uuid.uuid4())
        await self._instance.write(user_message(running, "count to 100 slowly"))
        await self._witness.until(lambda frame: isinstance(frame, f.StreamEvent), since, ANSWER_SECONDS)
        await self._instance.write(user_message(waiting, "say queued"))
        answer = await self._answer("interrupt", cancel_queued=True)
        ended = await self._witness.until(
            lambda frame: isinstance(frame, f.Result), since, ANSWER_SECONDS / 2
        )
        if ended is None:
            self._saw("interrupt", False, "the turn went on")
            return
        await self._witness.settled(running, since)
        seen = SeenTurn(running, self._witness.frames[since:])
        ran_on = any(place > seen.of(f.Result)[0] for place in seen.of(f.SystemInit))
        self._saw("interrupt", _is_good(answer) and not ran_on, "the next message ran" if ran_on else "")


def _is_good(answer: f.ControlResponse | None) -> bool:
    return answer is not None and answer.ok
