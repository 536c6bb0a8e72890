"""The control requests that a host may make, by subtype: each takes the process and the request."""

from __future__ import annotations

import json
import os
import threading
from functools import partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .process import Claude

    Frame = dict[str, Any]

MODELS = [{"value": name, "displayName": name.title()} for name in ("default", "opus", "sonnet", "haiku")]
COMMANDS = [{"name": name, "description": name, "argumentHint": ""} for name in ("clear", "compact", "cost")]
MODES = ("acceptEdits", "auto", "default", "dontAsk", "plan")


class Refusal(Exception):
    """A control request is answered with an error: its text and code."""


def initialize(claude: Claude, request: Frame) -> Frame:
    """Register the host's hooks and MCP servers; the second time shows what is open."""
    if request.get("hooks") is not None:
        claude.hooks = request["hooks"]
    if request.get("sdkMcpServers"):
        connect(claude, request["sdkMcpServers"])
    answer: Frame = {"commands": COMMANDS, "agents": [], "output_style": "default", "models": MODELS}
    answer.update(account={"apiProvider": "firstParty"}, pid=os.getpid(), claude_code_version="2.1.329")
    answer.update(current_permission_mode=claude.mode, session_state=claude.state, capabilities=[])
    return {**answer, "hooks_applied": "hooks" in request}


def connect(claude: Claude, names: list[str]) -> None:
    """Shake hands with MCP servers of the host after the answer, beside what goes on; turns wait for it."""
    for name in names:
        claude.servers[name] = threading.Event()
        hands = threading.Thread(target=_shake_hands, args=(claude, name), daemon=True)
        claude.later.append(hands.start)


def _shake_hands(claude: Claude, name: str) -> None:
    greeting = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "claude-code"}}
    steps: list[Frame] = [
        {"method": "initialize", "params": greeting, "jsonrpc": "2.0", "id": 0},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"method": "tools/list", "jsonrpc": "2.0", "id": 1},
    ]
    for message in steps:
        claude.wait(claude.send({"subtype": "mcp_message", "server_name": name, "message": message}))
    claude.servers[name].set()


def interrupt(claude: Claude, request: Frame) -> Frame:
    """End the running turn; with ``cancel_queued`` what waits behind it too."""
    cancelled: list[Frame] = []
    with claude.changed:
        if request.get("cancel_queued"):
            cancelled, claude.queue = claude.queue, []
            claude.lifecycle(cancelled, "cancelled")
        if claude.busy:
            claude.later.append(claude.cut.set)
        elif claude.state != "idle" and not claude.queue:
            claude.later.append(lambda: claude.tell_state("idle"))
    for ask in [ask for ask in claude.open.values() if ask.of_turn]:
        claude.open.pop(ask.request_id, None)
        claude.frame({"type": "control_cancel_request", "request_id": ask.request_id})
        claude.later.append(partial(ask.answers.put, None))
    ids = [[frame.get("uuid") for frame in frames] for frames in (claude.queue, cancelled)]
    answer: Frame = {"still_queued": ids[0]}
    return {**answer, "cancelled": ids[1]} if request.get("cancel_queued") else answer


def set_permission_mode(claude: Claude, request: Frame) -> Frame:
    """Change the mode, but never to the one that asks nobody."""
    if request.get("mode") == "bypassPermissions":
        raise Refusal("Cannot set permission mode to bypassPermissions", "bypass_not_launched")
    if request.get("mode") not in MODES:
        raise Refusal(f"Cannot set permission mode: must be one of {', '.join(MODES)}", "invalid_mode")
    claude.mode = request["mode"]
    status = {"status": None, "permissionMode": claude.mode}
    claude.later.append(partial(claude.emit, "system", "status", **status))
    return {"mode": claude.mode}


def set_model(claude: Claude, request: Frame) -> Frame:
    """Change the model to any name. In a conversation that has begun, a user's line tells of it."""
    model = request.get("model") or "claude-fake"
    if model != claude.model and claude.transcript.texts:
        text = f"<local-command-stdout>Set model to {model}</local-command-stdout>"
        claude.emit("user", message={"role": "user", "content": text}, parent_tool_use_id=None)
    claude.model = model
    return {"model": claude.model}


def cancel_async_message(claude: Claude, request: Frame) -> Frame:
    """Take a message out of the queue."""
    with claude.changed:
        found = [frame for frame in claude.queue if frame.get("uuid") == request.get("message_uuid")]
        claude.queue = [frame for frame in claude.queue if frame not in found]
    claude.lifecycle(found, "cancelled")
    return {"cancelled": bool(found)}


def mcp_set_servers(claude: Claude, request: Frame) -> Frame:
    """Replace the host's MCP servers."""
    names = list(request.get("servers") or {})
    removed = [name for name in claude.servers if name not in names]
    claude.servers = {name: claude.servers[name] for name in names if name in claude.servers}
    added = [name for name in names if name not in claude.servers]
    connect(claude, added)
    return {"added": added, "removed": removed, "errors": {}}


def mcp_status(claude: Claude, request: Frame) -> Frame:
    """The host's MCP servers that have shaken hands."""
    return {
        "mcpServers": [{"name": n, "status": "connected"} for n, e in claude.servers.items() if e.is_set()]
    }


def get_settings(claude: Claude, request: Frame) -> Frame:
    """What the settings of the command line say."""
    return {"effective": json.loads(claude.options.get("--settings") or "{}")}


CONTROLS: dict[str, Callable[[Claude, Frame], Frame | None]] = {
    "initialize": initialize,
    "interrupt": interrupt,
    "set_permission_mode": set_permission_mode,
    "set_model": set_model,
    "cancel_async_message": cancel_async_message,
    "mcp_set_servers": mcp_set_servers,
    "mcp_status": mcp_status,
    "get_session_cost": lambda claude, _: {"text": f"Estimated cost: ${0.001 * claude.results:.4f}"},
    "get_binary_version": lambda *_: {"version": "2.1.329"},
    "get_settings": get_settings,
    "get_context_usage": lambda *_: {"totalTokens": 10, "maxTokens": 200000, "percentage": 0},
    "list_models": lambda *_: {"models": MODELS},
    "set_max_thinking_tokens": lambda *_: None,
    "stop_task": lambda *_: {},
    "rename_session": lambda *_: None,
}
