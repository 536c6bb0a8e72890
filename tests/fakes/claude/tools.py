"""The tools of a turn: asked for as the CLI asks, then really done."""

from __future__ import annotations

import json
import os
import signal
from queue import Empty

from .transcript import new_id
from .words import Interrupted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .process import Claude
    from .turn import Turn

    Frame = dict[str, Any]


REJECTED = "The user doesn't want to proceed with this tool use. The tool use was rejected."


class Denied(Exception):
    """The tool does not run; the text goes to the model."""


def use(turn: Turn, verb: str, given: str) -> str:
    """Use the tool that a prompt names; returns the text of its result, good or bad."""
    name, fields, action = _plan(turn.claude, verb, given)
    tool_use_id = f"toolu_{new_id()[:12]}"
    block = {"type": "tool_use", "id": tool_use_id, "name": name, "input": fields}
    turn.say([(None, ["I will use ", f"{name}."]), (block, [json.dumps(fields)])])
    note = {"id": tool_use_id, "permission_decision": {"decision": "accept", "source": "user_temporary"}}
    bad = True
    try:
        text = action(permit(turn, name, fields, tool_use_id))
        bad = False
    except Interrupted:
        _report(turn, tool_use_id, REJECTED, True, {"id": tool_use_id, "non_execution_kind": "user-rejected"})
        turn.denials.append({"tool_name": name, "tool_use_id": tool_use_id, "tool_input": fields})
        raise
    except Denied as denied:
        text = str(denied)
        note = {"id": tool_use_id, "non_execution_kind": "permission-rule"}
    except OSError as error:
        text = f"{error.strerror}: {error.filename}"
    _report(turn, tool_use_id, text, bad, note)
    return text


def _report(turn: Turn, tool_use_id: str, text: str, bad: bool, note: Frame) -> None:
    """The frame of a tool's result."""
    block = {"tool_use_id": tool_use_id, "type": "tool_result", "content": text}
    message = {"role": "user", "content": [{**block, "is_error": True} if bad else block]}
    more = {"tool_use_result": f"Error: {text}" if bad else text, "tool_result_meta": [note]}
    turn.line("user", message, **more)


def _plan(claude: Claude, verb: str, given: str) -> tuple[str, Frame, Callable[[Frame], str]]:
    """Name, input and action of the tool behind a prompt's verb."""
    first, _, rest = given.partition(" ")
    if verb == "write":
        return "Write", {"file_path": os.path.join(os.getcwd(), first), "content": rest}, _write
    if verb == "read":
        return "Read", {"file_path": os.path.join(os.getcwd(), given)}, _read
    if verb == "bash":
        return "Bash", {"command": given, "description": given}, lambda fields: _bash(claude, fields)
    if verb == "question":
        options = [{"label": "yes", "description": "yes"}, {"label": "no", "description": "no"}]
        question = {"question": given, "header": "Fake", "options": options, "multiSelect": False}
        return (
            "AskUserQuestion",
            {"questions": [question]},
            lambda fields: json.dumps(fields.get("answers", {})),
        )
    tool, _, arguments = rest.partition(" ")
    fields = json.loads(arguments or "{}")
    return f"mcp__{first}__{tool}", fields, lambda fields: _call(claude, first, tool, fields)


def _write(fields: Frame) -> str:
    with open(fields["file_path"], "w") as file:
        file.write(fields["content"])
    return f"File created successfully at: {fields['file_path']}"


def _read(fields: Frame) -> str:
    with open(fields["file_path"], errors="replace") as file:
        return file.read()


def _bash(claude: Claude, fields: Frame) -> str:
    import shlex  # slow to import, and few turns need it
    import subprocess

    command = ["/bin/sh", "-c", fields["command"]]
    prefix = _shell_prefix(claude)
    if prefix:
        command = ["/bin/sh", "-c", f"{shlex.quote(prefix)} {shlex.quote(fields['command'])}"]
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    shell = subprocess.Popen(
        command, stdin=null, stdout=pipe, stderr=subprocess.STDOUT, start_new_session=True
    )
    while True:
        try:
            output, _ = shell.communicate(timeout=0.05)
        except subprocess.TimeoutExpired:
            if claude.cut.is_set():
                os.killpg(shell.pid, signal.SIGTERM)
                shell.wait()
                raise Interrupted from None
            continue
        text = output.decode("utf-8", "replace").rstrip("\n")
        return text if shell.returncode == 0 else f"{text}\nExit code {shell.returncode}".lstrip("\n")


def _shell_prefix(claude: Claude) -> str:
    """The program that runs shell commands: the settings on the command line go over the environment."""
    settings: Frame = json.loads(claude.options.get("--settings", "{}"))
    given = settings.get("env", {}).get("CLAUDE_CODE_SHELL_PREFIX")
    prefix: str = os.environ.get("CLAUDE_CODE_SHELL_PREFIX", "") if given is None else given
    return "" if "prefix" in claude.without else prefix


def _call(claude: Claude, server: str, tool: str, fields: Frame) -> str:
    params = {"name": tool, "arguments": fields}
    message = {"method": "tools/call", "params": params, "jsonrpc": "2.0", "id": 2}
    request = {"subtype": "mcp_message", "server_name": server, "message": message}
    answer = claude.wait(claude.send(request))
    if "error" in answer:
        raise Denied(str(answer["error"]))
    reply = answer["response"]["mcp_response"]
    if "error" in reply:
        raise Denied(str(reply["error"].get("message")))
    return "".join(block.get("text", "") for block in reply["result"]["content"])


def permit(turn: Turn, name: str, fields: Frame, tool_use_id: str) -> Frame:
    """The input to use the tool with: hooks, then modes and rules, then the person. Raises ``Denied``."""
    claude = turn.claude
    decision, fields = _ask_hooks(claude, name, fields, tool_use_id)
    edits = claude.mode == "acceptEdits" and name == "Write"
    if decision == "allow" or (decision is None and (name in claude.allowed or edits)):
        return fields
    if claude.mode == "dontAsk" or claude.options.get("--permission-prompt-tool") != "stdio":
        text = f"Permission to use {name} has been denied."
        claude.emit("system", "permission_denied", tool_name=name, tool_use_id=tool_use_id, message=text)
        turn.denials.append({"tool_name": name, "tool_use_id": tool_use_id, "tool_input": fields})
        raise Denied(text)
    body: Frame = {"subtype": "can_use_tool", "tool_name": name, "display_name": name, "input": fields}
    body["description"] = os.path.basename(fields.get("file_path", "")) or name
    body["permission_suggestions"] = [{"type": "setMode", "mode": "acceptEdits", "destination": "session"}]
    body.update({"requires_user_interaction": True} if name == "AskUserQuestion" else {})
    claude.tell_state("requires_action")
    try:
        answer = claude.wait(claude.send({**body, "tool_use_id": tool_use_id}))
    finally:
        claude.tell_state("running")
    return _verdict(turn, answer, name, fields, tool_use_id)


def _verdict(turn: Turn, answer: Frame, name: str, fields: Frame, tool_use_id: str) -> Frame:
    """Read the person's answer. Raises ``Denied`` and ``Interrupted``."""
    if "error" in answer:
        raise Denied(f"Tool permission request failed: Error: {answer['error']}")
    verdict = answer.get("response") or {}
    if verdict.get("behavior") == "allow":
        for update in verdict.get("updatedPermissions") or ():
            _apply(turn.claude, update)
        changed: Frame = verdict.get("updatedInput") or fields
        return changed
    if verdict.get("behavior") != "deny" or "message" not in verdict:
        raise Denied("callback returned an invalid permission result")
    turn.denials.append({"tool_name": name, "tool_use_id": tool_use_id, "tool_input": fields})
    if verdict.get("interrupt"):
        raise Interrupted
    raise Denied(verdict["message"])


def _apply(claude: Claude, update: Frame) -> None:
    if update.get("type") == "setMode":
        claude.mode = update["mode"]
    if update.get("type") == "addRules" and update.get("behavior", "allow") == "allow":
        claude.allowed.update(rule["toolName"] for rule in update["rules"])


def _ask_hooks(claude: Claude, name: str, fields: Frame, tool_use_id: str) -> tuple[str | None, Frame]:
    """Ask the host's PreToolUse hooks: (allow, ask or None; input). Raises ``Denied``, also for silence."""
    decision = None
    for hook in claude.hooks.get("PreToolUse") or ():
        matcher = hook.get("matcher")
        if matcher not in (None, "", "*") and name not in matcher.split("|"):
            continue
        for callback in hook.get("hookCallbackIds", ()):
            given: Frame = {"session_id": claude.transcript.session, "cwd": os.getcwd(), "tool_name": name}
            given.update(transcript_path=claude.transcript.path, permission_mode=claude.mode)
            given.update(hook_event_name="PreToolUse", tool_input=fields, tool_use_id=tool_use_id)
            request = {"subtype": "hook_callback", "callback_id": callback, "input": given}
            ask = claude.send({**request, "tool_use_id": tool_use_id})
            try:
                answer = claude.wait(ask, hook.get("timeout", 60))
            except Empty:
                claude.settle(ask.request_id, None)
                raise Denied(f"PreToolUse:{name} hook timed out") from None
            output = (answer.get("response") or {}).get("hookSpecificOutput") or {}
            fields = output.get("updatedInput") or fields
            if output.get("permissionDecision") == "deny":
                raise Denied(output.get("permissionDecisionReason", "denied by a hook"))
            decision = output.get("permissionDecision") or decision
    return decision, fields
