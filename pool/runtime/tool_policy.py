"""The tool policy at work: the hook that asks us about every tool call, and our answers.

The hook is registered with every ``initialize``, at a launch and at a
takeover, so no file that a tool can write takes it away. An answer follows
from the request and the configuration alone: it is never stored, and what a
dead server may not have written is simply worked out and written again. That
must come before ``initialize``: by it the CLI gives up every open hook and
tells the model to try that call again (measured).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pool.config import PoolConfig
from pool.errors import PoolError
from pool.launch.sandbox import HOME, WORKSPACE
from pool.policy.rules.decision import (
    RULE_LISTS,
    Decision,
    Kind,
    Rules,
    ToolCall,
    add_rules,
    compile_rules,
    decide,
)
from pool.policy.rules.paths import Places
from pool.protocol.connection import success_response
from pool.protocol.encoding import decode
from pool.protocol.frames import ControlCancelRequest, ControlRequest, UserFrame
from pool.protocol.framing import Line, LineFramer
from pool.protocol.parsing import parse_line
from pool.runtime import auditing, edges
from pool.runtime.faults import pause_point

if TYPE_CHECKING:
    from pool.runtime.instance import Instance
    from pool.runtime.session import Session

_log = logging.getLogger(__name__)

CALLBACK = "policy"
"""The id of our hook in ``hook_callback`` requests."""

LOOK_BACK_BYTES = 16 * 1024 * 1024
"""How much of the spool is searched for requests that an earlier server left open."""

_READ_BYTES = 1024 * 1024
_TIMEOUT_MARGIN_SECONDS = 60
_MAX_TIMEOUT_SECONDS = 2_000_000  # the CLI counts milliseconds in 31 bits
_TELLING = (b'"hook_callback"', b'"tool_result"', b'"control_cancel_request"', b'"can_use_tool"')
_KEPT = 64
_OUTCOMES = {Kind.ALLOW: "allow", Kind.ASK: "ask", Kind.DENY: "deny"}


class ToolPolicy:
    """The rules of one pool: of all, of the user's plan, of the session's template. They add up; deny wins.

    Raises ``BadRequest`` for a rule that is none.
    """

    def __init__(self, config: PoolConfig) -> None:
        self._quotas = config.quotas
        self._own = {name: tuple(getattr(config, name)) for name in RULE_LISTS}
        self._plans = dict(config.plan_rules)
        self._user_programs = config.user_programs
        self._compiled: dict[tuple[tuple[str, ...], ...], Rules] = {}
        for plan in ({}, *self._plans.values()):
            self._rules(plan, {})
        # An unanswered hook fails the tool: it must outlast the time that a new server may take to come.
        seconds = int(config.orphan_lease_seconds) + _TIMEOUT_MARGIN_SECONDS
        self._timeout_seconds = min(seconds, _MAX_TIMEOUT_SECONDS)

    def hooks(self, session: Session) -> Mapping[str, Any]:
        """What ``initialize`` is to register; nothing when no rule holds for the session."""
        if not self._has_rules(session):
            return {}
        hook = {"matcher": None, "hookCallbackIds": [CALLBACK], "timeout": self._timeout_seconds}
        return {"PreToolUse": [hook]}

    def allows_user_programs(self, session: Session) -> bool:
        """May the CLI start programs by itself that the user's own files name?"""
        if self._user_programs == "auto":
            return not self._has_rules(session)
        return self._user_programs == "allow"

    def _has_rules(self, session: Session) -> bool:
        try:
            return not self._rules_of(session).is_empty
        except PoolError:
            # They cannot be read: every call will be denied, and the hook is what does it.
            return True

    def _rules_of(self, session: Session) -> Rules:
        """Raises a ``PoolError`` when the template is gone or cannot be read."""
        plan = self._quotas.plan_of(session.key.user_id)
        template = session.around.workspaces.template(session.record.template)
        return self._rules(self._plans.get(plan or "", {}), template.security.lists())

    def _rules(self, plan: Mapping[str, Sequence[str]], template: Mapping[str, Sequence[str]]) -> Rules:
        lists = add_rules(self._own, plan, template)
        key = tuple(lists.values())
        rules = self._compiled.get(key)
        if rules is None:
            if len(self._compiled) >= _KEPT:
                self._compiled.clear()
            rules = self._compiled[key] = compile_rules(**lists)
        return rules

    def answer(self, session: Session, instance: Instance, frame: ControlRequest) -> bool:
        """Answer a ``hook_callback``, whoever registered it. False: it is no tool call."""
        line = self._answer(session, frame, is_new=True)
        if line is None:
            return False
        session.around.tasks.start(_write(instance, line), f"hook:{frame.request_id}")
        return True

    def _answer(self, session: Session, frame: ControlRequest, *, is_new: bool) -> bytes | None:
        given = frame.request.get("input")
        if not isinstance(given, dict) or given.get("hook_event_name") != "PreToolUse":
            return None
        try:
            decision = decide(self._rules_of(session), _call(session, given))
        except PoolError as error:
            decision = Decision(Kind.DENY, f"the rules of this session cannot be read: {error.message}")
        if is_new:
            name, call = str(given.get("tool_name")), frame.request.get("tool_use_id")
            audited = auditing.tool_decided(session, name, given.get("tool_input"), call, decision)
            session.log.change(audited)
        if decision.kind is Kind.DENY:
            edges.tool_call_denied(session, str(given.get("tool_name")), decision.rule)
        return success_response(frame.request_id, hook_output(decision))

    async def answer_again(self, session: Session, instance: Instance) -> None:
        """Answer what an earlier server read but perhaps did not answer; the CLI ignores a second answer.

        To be called at a takeover, before ``initialize``.
        """
        if not self._has_rules(session):
            return
        try:
            open_calls = await _open_calls(session, instance, instance.received_offset)
        except PoolError as error:
            _log.warning("instance %s: its output cannot be read again: %s", instance.id, error)
            return
        for frame in open_calls:
            line = self._answer(session, frame, is_new=False)
            if line is not None:
                await _write(instance, line)


def hook_output(decision: Decision) -> dict[str, Any]:
    """A decision in the CLI's words; a denial is worded for the model, an ask for the person."""
    outcome = _OUTCOMES.get(decision.kind)
    if outcome is None:
        return {}
    reason = decision.reason
    if decision.kind is Kind.DENY:
        reason = (
            f"The policy of this server does not permit this: {reason}. Do not try to reach the same in"
            " another way; go on without it, or tell the user what you would need."
        )
    output = {
        "hookEventName": "PreToolUse",
        "permissionDecision": outcome,
        "permissionDecisionReason": reason,
    }
    return {"hookSpecificOutput": output}


async def _write(instance: Instance, line: bytes) -> None:
    await pause_point("hook.before_write")
    try:
        await instance.write(line)
    except PoolError as error:
        _log.warning("instance %s did not take the answer to a hook: %s", instance.id, error)


def _call(session: Session, given: Mapping[str, Any]) -> ToolCall:
    tool_input = given.get("tool_input")
    return ToolCall(
        tool=str(given.get("tool_name")),
        given=tool_input if isinstance(tool_input, dict) else {},
        places=_places(session, given.get("cwd")),
        mode=str(given.get("permission_mode")),
    )


def _places(session: Session, cwd: object) -> Places:
    """Where things are, as the instance sees them."""
    around = session.around
    workspace: str | None = WORKSPACE
    home: str | None = HOME
    if session.host.launcher.describe_isolation()[0] != "bwrap":
        try:
            paths = around.workspaces.paths(session.key.user_id)
            workspace, home = str(paths.workspace), str(paths.home)
        except PoolError:
            workspace = home = None
    return Places(cwd=cwd if isinstance(cwd, str) else None, workspace=workspace, home=home)


async def _open_calls(session: Session, instance: Instance, end_offset: int) -> list[ControlRequest]:
    """The hook requests in the last of the spool after which nothing shows that they were answered."""
    framer: LineFramer | None = None
    offset = max(0, end_offset - LOOK_BACK_BYTES)
    found: dict[str, ControlRequest] = {}
    while offset < end_offset:
        start, data = await session.host.launcher.read_spool(instance.id, offset, _READ_BYTES)
        if not data:
            break
        if framer is None or start != offset:
            framer = LineFramer(session.around.config.max_line_bytes, start)
        for line in framer.feed(data):
            if any(mark in line.data for mark in _TELLING):
                _note(line, found)
        offset = start + len(data)
    return list(found.values())


def _note(line: Line, found: dict[str, ControlRequest]) -> None:
    frame = parse_line(line)
    if isinstance(frame, ControlRequest):
        if frame.subtype == "hook_callback":
            found[frame.request_id] = frame
        elif frame.subtype == "can_use_tool":
            _settle(found, {frame.request.get("tool_use_id")})
    elif isinstance(frame, ControlCancelRequest):
        found.pop(frame.request_id, None)
    elif isinstance(frame, UserFrame):
        _settle(found, _results_in(line.data))


def _settle(found: dict[str, ControlRequest], tool_use_ids: set[Any]) -> None:
    for request_id, frame in list(found.items()):
        if frame.request.get("tool_use_id") in tool_use_ids:
            del found[request_id]


def _results_in(line: bytes) -> set[Any]:
    content = decode(line).get("message", {}).get("content")
    blocks = content if isinstance(content, list) else []
    return {block.get("tool_use_id") for block in blocks if isinstance(block, dict)}
