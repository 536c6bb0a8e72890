"""The approvals of one session: durable, answered once, withdrawn when pointless.

An approval is derived from the CLI's ``can_use_tool`` request. The answer is
stored before it is written; after a restart the CLI's own list of open asks
tells which stored answers must be written again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

from pool.clock import Clock
from pool.errors import AlreadyResolved, BadRequest, NotFound
from pool.model import Cursor, InstanceId, PermissionInfo, SessionKey, TurnId
from pool.policy.remembered import Remembered, remembered
from pool.protocol.connection import permission_response
from pool.runtime import auditing
from pool.runtime.log import SessionLog
from pool.store.base import PatchPermission, PermissionRecord, PutPermission

_SHOWN = (
    "display_name",
    "description",
    "permission_suggestions",
    "tool_use_id",
    "decision_reason",
    "blocked_path",
    "agent_id",
    "mcp_server",
    "requires_user_interaction",
)
_REMEMBER = {"session": "session", "always": "localSettings"}


def _presentable(text: str) -> str:
    """Half an emoji is JSON, but no text that a database takes."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "?")


class Approvals:
    """Open and lately answered approvals of one session's live instance."""

    def __init__(
        self, key: SessionKey, log: SessionLog, clock: Clock, permission_modes: Collection[str]
    ) -> None:
        self._key = key
        self._modes = permission_modes
        self._log = log
        self._clock = clock
        self.on_remembered: Callable[[Sequence[Remembered]], None] = lambda _agreed: None
        self._records: dict[str, PermissionRecord] = {}
        self._seen: dict[str, InstanceId] = {}

    def restore(self, records: Iterable[PermissionRecord]) -> None:
        """Take over what an earlier server left open or answered."""
        for record in records:
            self._records[record.request_id] = record
            self._seen[record.request_id] = record.instance_id

    def __len__(self) -> int:
        return sum(record.state == "open" for record in self._records.values())

    def open(self) -> list[PermissionInfo]:
        """Those that wait for an answer, oldest first."""
        return [self._info(record) for record in self._records.values() if record.state == "open"]

    def asked(
        self, instance_id: InstanceId, turn_id: TurnId | None, request_id: str, request: dict[str, Any]
    ) -> bool:
        """The CLI asks. False when this very ask is known already (listed again on a new attach)."""
        if self._seen.get(request_id) == instance_id:
            return False
        self._seen[request_id] = instance_id
        tool = request.get("tool_name")
        at = self._log.position
        record = PermissionRecord(
            request_id=request_id,
            key=self._key,
            instance_id=instance_id,
            turn_id=turn_id,
            tool=_presentable(tool) if isinstance(tool, str) else "unknown",
            request=request,
            cursor=Cursor(at.ordinal, at.offset, at.k + 1),
            state="open",
            asked_at=self._clock.wall(),
        )
        self._records[request_id] = record
        self._log.counters.permission_asks.add()
        self._log.own(self.frame(self._info(record)), [PutPermission(record)])
        return True

    def answer(
        self,
        request_id: str,
        decision: str,
        *,
        message: str | None,
        updated_input: dict[str, Any] | None,
        scope: str,
        answered_by: str,
    ) -> bytes:
        """Decide an approval, once; returns the line to write after it has been stored.

        Raises ``NotFound``, ``AlreadyResolved`` or ``BadRequest``.
        """
        if decision not in ("allow", "deny"):
            raise BadRequest("decision must be 'allow' or 'deny'", details={"field": "decision"})
        if scope not in ("once", "session", "always"):
            raise BadRequest("scope must be 'once', 'session' or 'always'", details={"field": "scope"})
        record = self._unanswered(request_id)
        line = permission_response(
            request_id,
            decision,
            message=message,
            updated_input=updated_input if updated_input is not None else record.request.get("input"),
            updated_permissions=self._rules(record, decision, scope),
        )
        if decision == "allow" and scope == "session":
            self.on_remembered(self._remembered(record))
        changes: dict[str, Any] = {
            "state": "answered",
            "answer": line,
            "decision": decision,
            "answered_by": answered_by,
        }
        self._log.counters.permission_answers.add(decision)
        self._records[request_id] = replace(record, **changes)
        self._log.own(
            {
                "type": "permission_resolved",
                "request_id": request_id,
                "decision": decision,
                "answered_by": answered_by,
            },
            [
                PatchPermission(record.instance_id, request_id, changes),
                auditing.approval_answered(record, decision, scope, self._clock.wall()),
            ],
        )
        return line

    def _unanswered(self, request_id: str) -> PermissionRecord:
        record = self._records.get(request_id)
        if record is None:
            if request_id in self._seen:
                raise AlreadyResolved("this approval was answered or withdrawn before")
            raise NotFound("there is no such approval in this session")
        if record.state != "open":
            raise AlreadyResolved("this approval was answered before")
        return record

    def cancelled(self, request_id: str) -> None:
        """The CLI withdrew an ask."""
        self._close(request_id, "withdrawn")

    def close_all(self) -> None:
        """The turn or the instance has ended: nothing can be answered any more."""
        for request_id in list(self._records):
            self._close(request_id, "withdrawn")

    def reconcile(self, listed: Sequence[str] | None) -> list[bytes]:
        """After a new attach: ``listed`` are the CLI's open asks. Returns the answers to write again.

        None: the CLI does not list them; what is stored is then all that is known.
        """
        again = []
        for request_id, record in list(self._records.items()):
            if listed is not None and request_id not in listed:
                self._close(request_id, "withdrawn")
            elif record.state == "answered" and record.answer is not None:
                again.append(record.answer)
        return again

    @property
    def has_open(self) -> bool:
        """Does any approval wait for an answer?"""
        return any(record.state == "open" for record in self._records.values())

    @staticmethod
    def frame(info: PermissionInfo) -> dict[str, Any]:
        """The ``permission_request`` frame without session and cursor."""
        return {
            "type": "permission_request",
            "request_id": info.request_id,
            "tool": info.tool,
            "input": info.input,
            "asked_at": info.asked_at,
            **info.details,
        }

    def _close(self, request_id: str, decision: str) -> None:
        record = self._records.pop(request_id, None)
        if record is None:
            return
        patch = PatchPermission(record.instance_id, request_id, {"state": "closed"})
        if record.state == "open":
            self._log.counters.permission_answers.add(decision)
            body = {"type": "permission_resolved", "request_id": request_id, "decision": decision}
            self._log.own(body, [patch])
        else:
            self._log.change(patch)

    def _remembered(self, record: PermissionRecord) -> list[Remembered]:
        return remembered(record.request.get("permission_suggestions"), self._modes)

    def _rules(self, record: PermissionRecord, decision: str, scope: str) -> list[dict[str, Any]] | None:
        """What the CLI is to remember: exactly what ``remembers`` of the frame has told."""
        if decision != "allow" or scope == "once":
            return None
        destination = _REMEMBER[scope]
        return [{**one.update, "destination": destination} for one in self._remembered(record)] or None

    def _info(self, record: PermissionRecord) -> PermissionInfo:
        tool_input = record.request.get("input")
        details = {name: record.request[name] for name in _SHOWN if record.request.get(name) is not None}
        texts = [one.text for one in self._remembered(record)]
        if texts:
            details["remembers"] = texts
        return PermissionInfo(
            record.request_id,
            record.tool,
            tool_input if isinstance(tool_input, dict) else {},
            record.cursor,
            record.asked_at,
            details,
        )
