"""What of a session goes into the audit log: each deed as an operation for the commit that stores it.

Texts of people and of the model are told by their SHA-256 and length, so that
a copy of one can be proven, and none can be read out of the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pool.audit.records import canonical, hash_of, told
from pool.caller import SERVER, Caller
from pool.model import ExitStatus
from pool.policy.rules.decision import Decision
from pool.protocol.tool_use import ToolUse
from pool.store.base import AppendAudit, PermissionRecord, TurnRecord

if TYPE_CHECKING:
    from pool.runtime.instance import Instance
    from pool.runtime.session import Session

_AGENT = Caller(actor="@model", channel="cli")
_MAX_NAME = 200


def prompt(session: Session, record: TurnRecord, content: object) -> AppendAudit:
    """A message was accepted; the whole of it is kept if that is configured."""
    keep = session.around.config.audit_prompts == "full"
    text = content if isinstance(content, str) else canonical(content)
    facts: dict[str, Any] = {
        "session": record.key.session_id,
        "turn": record.turn_id,
        "sha256": hash_of(text),
        "length": len(text),
        "content": content if keep else None,
    }
    return _one("prompt", record.created_at, record.key.user_id, None, facts)


def instance_spawned(session: Session, instance: Instance) -> AppendAudit:
    """An instance is about to be started."""
    isolation = session.host.launcher.describe_isolation()[0]
    facts = {"instance": instance.id, "isolation": isolation, "mode": session.record.permission_mode}
    return _of_session(session, "instance.spawned", SERVER, facts)


def instance_ended(session: Session, instance: Instance, status: ExitStatus) -> AppendAudit:
    """Its whole tree is gone; ``why`` is there when it was stopped and did not end by itself."""
    facts = {
        "instance": instance.id,
        "exit_code": status.code,
        "exit_signal": status.signal,
        "why": instance.stop_reason,
        "turns": instance.turns,
    }
    return _of_session(session, "instance.ended", SERVER, facts)


def tool_decided(session: Session, tool: str, given: object, call: object, decision: Decision) -> AppendAudit:
    """The rules were asked about a tool call."""
    facts = {
        "decision": decision.kind.value,
        "rule": decision.rule,
        "call": call if isinstance(call, str) else None,
    }
    return _tool("tool.decided", session, tool, given, facts)


def tools_called(session: Session, uses: list[ToolUse]) -> list[AppendAudit]:
    """The model called tools. Where neither rules nor a person decide on a call, the CLI does by itself."""
    return [_tool("tool", session, use.name, use.input, {"call": use.id}) for use in uses]


def approval_answered(record: PermissionRecord, decision: str, scope: str, at: float) -> AppendAudit:
    """A person decided what the model asked for; who and from where is the caller's."""
    facts = {
        "session": record.key.session_id,
        "request": record.request_id,
        "tool": record.tool[:_MAX_NAME],
        "call": record.request.get("tool_use_id"),
        "input_sha256": _hash_of_input(record.request.get("input")),
        "decision": decision,
        "scope": scope,
    }
    return _one("approval", at, record.key.user_id, None, facts)


def mode_changed(session: Session, mode: str) -> AppendAudit:
    """A person took another permission mode."""
    return _of_session(session, "session.permission_mode", None, {"mode": mode})


def _tool(action: str, session: Session, tool: str, given: object, facts: dict[str, Any]) -> AppendAudit:
    turn = session.turns.open_turn
    about = {
        "tool": tool[:_MAX_NAME],
        "input_sha256": _hash_of_input(given),
        "turn": turn.record.turn_id if turn is not None else None,
    }
    return _of_session(session, action, _AGENT, {**about, **facts})


def _hash_of_input(given: object) -> str | None:
    try:
        return hash_of(canonical(given))
    except (RecursionError, ValueError):
        return None  # nested beyond what can be written


def _of_session(session: Session, action: str, by: Caller | None, facts: dict[str, Any]) -> AppendAudit:
    key = session.key
    return _one(action, session.around.clock.wall(), key.user_id, by, {"session": key.session_id, **facts})


def _one(action: str, at: float, user_id: str, by: Caller | None, facts: dict[str, Any]) -> AppendAudit:
    return AppendAudit([told(action, at, user_id=user_id, by=by, **facts)])
