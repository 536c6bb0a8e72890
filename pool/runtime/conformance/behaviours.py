"""The table of what we rely on: each behaviour, what it is for, and what happens without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pool.runtime.conformance.features import Features

TESTED_VERSION = "2.1.329"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One thing that the CLI does: its name, what is promised, and the ``fallback`` when it does not."""

    name: str
    promise: str
    fallback: str


BEHAVIOURS: tuple[Behaviour, ...] = (
    Behaviour(
        "initialize",
        "initialize is answered by a CLI that has just started",
        f"no instance can be started: install CLI {TESTED_VERSION} or set cli.path",
    ),
    Behaviour(
        "ping",
        "get_binary_version is answered at any time",
        "any answer, also an error, counts as a sign of life; without one the instance is unhealthy",
    ),
    Behaviour(
        "peer_messages_refused",
        "the setting crossSessionInbound=refuse is accepted and in force",
        "only a sandbox keeps other CLIs of this machine from starting turns: use isolation.mode bwrap",
    ),
    Behaviour(
        "live_changes",
        "set_permission_mode and set_model are answered by a running CLI",
        "the change is refused while the instance lives",
    ),
    Behaviour(
        "model_socket",
        "model calls go over ANTHROPIC_UNIX_SOCKET with an http base URL",
        f"no turn can succeed: look at the gateway's log, or install CLI {TESTED_VERSION}",
    ),
    Behaviour(
        "turn_init",
        "system/init begins every turn",
        "turns that the CLI begins by itself are not shown as turns",
    ),
    Behaviour(
        "lifecycle",
        "a message with a uuid is followed by command_lifecycle started and completed",
        "a turn is ended by its result",
    ),
    Behaviour(
        "result_first",
        "the result comes before command_lifecycle completed",
        "a turn is ended by its result",
    ),
    Behaviour(
        "session_state",
        "session_state_changed idle follows when no turn is owed any more",
        "a result counts as idle",
    ),
    Behaviour(
        "todo_tools",
        "the todo list's tools are offered, or can be found by ToolSearch",
        "sessions have no todo list",
    ),
    Behaviour(
        "repeats_ignored",
        "a message that is written again with the same uuid runs nothing",
        "after a restart of the server a message that the CLI may have missed is not written again: "
        "its turn is lost",
    ),
    Behaviour(
        "literal",
        "client_composed makes /commands and @paths be only text",
        "messages that ask to be taken literally are refused",
    ),
    Behaviour(
        "hook_decides",
        "a PreToolUse hook is asked for every tool, and its denial stops the tool",
        "rules cannot be enforced inside the CLI: only the sandbox limits what tools do",
    ),
    Behaviour(
        "hooks_cleared",
        "initialize with empty hooks clears the hooks of an earlier server",
        "hook requests that nobody registered are answered with an error",
    ),
    Behaviour(
        "asks",
        "Write is asked for by can_use_tool over stdio",
        "tools that need an approval are refused, or run unasked: only the sandbox limits what they do",
    ),
    Behaviour(
        "tool_prefix",
        "CLAUDE_CODE_SHELL_PREFIX runs a Bash command, which is its one argument",
        "tools have no limit of file size and processor time",
    ),
    Behaviour(
        "pending_asks",
        "a second initialize lists the open asks",
        "after a restart of the server the approvals that are stored as open are kept",
    ),
    Behaviour(
        "second_answer",
        "a second answer to one ask is ignored",
        "an approval that is answered while the server restarts may end the tool call or the instance",
    ),
    Behaviour(
        "interrupt",
        "interrupt with cancel_queued ends the turn and what waits behind it",
        "an interrupted turn is ended by stopping its instance",
    ),
    Behaviour(
        "unknown_request",
        "an unknown control request gives an error and not an exit",
        "no request is sent that this version does not know",
    ),
)


@dataclass(frozen=True, slots=True)
class Findings:
    """What one trial has shown.

    ``seen`` has every behaviour that could be tried; ``notes`` says more of
    some that were missing. ``problem`` is why the rest could not be tried.
    """

    version: str | None = None
    seen: Mapping[str, bool] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    problem: str | None = None

    @property
    def missing(self) -> list[Behaviour]:
        """What the CLI was seen not to do."""
        return [behaviour for behaviour in BEHAVIOURS if self.seen.get(behaviour.name) is False]

    @property
    def is_complete(self) -> bool:
        """Was everything tried?"""
        return self.problem is None and all(behaviour.name in self.seen for behaviour in BEHAVIOURS)

    @property
    def features(self) -> Features:
        """What follows for the runtime; what was not tried is taken for given."""
        ok = {behaviour.name: self.seen.get(behaviour.name, True) for behaviour in BEHAVIOURS}
        return Features(
            lifecycle=ok["lifecycle"] and ok["result_first"],
            session_state=ok["session_state"],
            pending_asks=ok["pending_asks"],
            repeats_ignored=ok["repeats_ignored"],
            literal=ok["literal"],
            tool_limits=ok["tool_prefix"],
        )

    def merged(self, second: Findings) -> Findings:
        """Both trials together: what was seen once, the CLI can do."""
        names = [*self.seen, *(name for name in second.seen if name not in self.seen)]
        seen = {name: self.seen.get(name, False) or second.seen.get(name, False) for name in names}
        notes = {name: note for name, note in {**self.notes, **second.notes}.items() if not seen.get(name)}
        problem = None if all(behaviour.name in seen for behaviour in BEHAVIOURS) else second.problem
        return Findings(second.version or self.version, seen, notes, problem)

    def summary(self) -> dict[str, object]:
        """For the health page: ``{"ok", "detail", "version", "missing"}``."""
        version = self.version or "unknown"
        parts = [f"version {version}"]
        if self.version is not None and self.version != TESTED_VERSION:
            parts[0] += f" (this release was tested with {TESTED_VERSION})"
        if self.problem is not None:
            parts.append(f"it could not be checked: {self.problem}")
        elif not self.missing:
            parts.append(f"all {len(BEHAVIOURS)} behaviours that are relied on hold")
        parts += [self._told(behaviour) for behaviour in self.missing]
        return {
            "ok": self.problem is None and not self.missing,
            "detail": "; ".join(parts),
            "version": self.version,
            "missing": [behaviour.name for behaviour in self.missing],
        }

    def _told(self, behaviour: Behaviour) -> str:
        note = self.notes.get(behaviour.name)
        seen = f" ({note})" if note else ""
        return f"missing {behaviour.name}: {behaviour.promise}{seen}; instead: {behaviour.fallback}"
