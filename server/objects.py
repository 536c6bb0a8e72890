"""The JSON objects of CONTRACT section 5. Times are seconds since 1970."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pool import InstanceInfo, PermissionInfo, SessionInfo, TurnInfo


def session_object(info: SessionInfo) -> dict[str, Any]:
    """A session as clients see it."""
    return {
        "session_id": info.session_id,
        "title": info.title,
        "state": info.state.value,
        "template": info.template,
        "model": info.model,
        "permission_mode": info.permission_mode,
        "created_at": info.created_at,
        "last_active_at": info.last_active_at,
        "cursor": str(info.cursor),
        "remembered": list(info.remembered),
    }


def instance_object(info: InstanceInfo) -> dict[str, Any]:
    """A live instance as clients see it."""
    return {
        "id": info.id,
        "user_id": info.user_id,
        "session_id": info.session_id,
        "state": info.state.value,
        "pid": info.pid,
        "started_at": info.started_at,
        "turns": info.turns,
        "rss_bytes": info.rss_bytes,
        "cpu_seconds": info.cpu_seconds,
        "isolation": info.isolation,
    }


def permission_object(info: PermissionInfo) -> dict[str, Any]:
    """An open approval as clients see it; what the CLI told besides comes first and is never over ours."""
    return {
        **info.details,
        "request_id": info.request_id,
        "tool": info.tool,
        "input": info.input,
        "cursor": str(info.cursor),
        "asked_at": info.asked_at,
    }


def turn_object(info: TurnInfo) -> dict[str, Any]:
    """A turn as clients see it; unknown parts are left out."""
    body: dict[str, Any] = {"turn_id": info.turn_id, "state": info.state.value, "origin": info.origin}
    if info.message_id is not None:
        body["message_id"] = info.message_id
    if info.reason is not None:
        body["reason"] = info.reason.as_dict()
    return body


def status_object(status: Mapping[str, Any], instances: Sequence[InstanceInfo]) -> dict[str, Any]:
    """The status object; ``instances`` are the live ones of the session, figures included."""
    turn = status.get("turn")
    return {
        "state": status["state"],
        "queue": status.get("queue"),
        "instance": instance_object(instances[0]) if instances else None,
        "turn": turn_object(turn) if isinstance(turn, TurnInfo) else turn,
        "queued": [turn_object(item) for item in status.get("queued", [])],
        "todos": status.get("todos", []),
        "todos_supported": bool(status.get("todos_supported", False)),
        "usage": msgspec.to_builtins(status.get("usage") or {}),
    }
