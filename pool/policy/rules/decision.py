"""The decision on one tool call: allow, ask, deny, or none at all.

Deny wins over everything. A command is allowed when every part of it is; what
is not understood is asked about. Without a rule that speaks of a call there
is no decision, and the CLI's own rules and the user have the word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pool.policy.rules.command_rules import CommandRule, command_rules
from pool.policy.rules.globs import glob_matches
from pool.policy.rules.judgement import judge_command, judge_path
from pool.policy.rules.paths import PathRule, Places, path_rules

TOOL_PREFIX = "tool:"
"""A rule in a list of commands that begins so names a tool instead."""

_COMMAND_TOOLS = {"Bash": "command", "Monitor": "command", "PowerShell": "command"}
_PATH_TOOLS = {
    "Read": "file_path",
    "Write": "file_path",
    "Edit": "file_path",
    "MultiEdit": "file_path",
    "NotebookEdit": "notebook_path",
    "NotebookRead": "notebook_path",
    "Glob": "path",
    "Grep": "path",
    "LS": "path",
}
_SEARCH_TOOLS = frozenset({"Glob", "Grep", "LS"})


class Kind(Enum):
    """What is to become of a tool call."""

    NONE = "none"
    ALLOW = "allow"
    ASK = "ask"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to become of a call, why, and the rule that said so (its text as configured)."""

    kind: Kind
    reason: str = ""
    rule: str | None = None


NO_DECISION = Decision(Kind.NONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One tool call as the CLI tells it; ``mode`` is the permission mode in force."""

    tool: str
    given: Mapping[str, Any]
    places: Places
    mode: str = "default"


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules, compiled. Empty: no call is ever decided."""

    allowed_commands: tuple[CommandRule, ...] = ()
    denied_commands: tuple[CommandRule, ...] = ()
    allowed_paths: tuple[PathRule, ...] = ()
    denied_paths: tuple[PathRule, ...] = ()
    allowed_tools: tuple[str, ...] = ()
    denied_tools: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Is there no rule at all?"""
        return not (self.speak_of_commands or self.speak_of_paths or self.allowed_tools or self.denied_tools)

    @property
    def speak_of_commands(self) -> bool:
        """Is there a rule about commands?"""
        return bool(self.allowed_commands or self.denied_commands)

    @property
    def speak_of_paths(self) -> bool:
        """Is there a rule about paths?"""
        return bool(self.allowed_paths or self.denied_paths)


RULE_LISTS = ("allowed_commands", "denied_commands", "allowed_paths", "denied_paths")
"""The names of the four lists that rules are configured in."""


def add_rules(*books: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The lists of all ``books`` put together: each may allow more and deny more, and deny wins over all."""
    return {
        name: tuple(dict.fromkeys(rule for book in books for rule in book.get(name, ())))
        for name in RULE_LISTS
    }


def compile_rules(
    *,
    allowed_commands: Sequence[str] = (),
    denied_commands: Sequence[str] = (),
    allowed_paths: Sequence[str] = (),
    denied_paths: Sequence[str] = (),
) -> Rules:
    """The rules of a configuration. Raises ``BadRequest`` naming the key and the rule that is none."""
    return Rules(
        command_rules(_commands(allowed_commands), "allowed_commands"),
        command_rules(_commands(denied_commands), "denied_commands"),
        path_rules(allowed_paths, "allowed_paths", denies=False),
        path_rules(denied_paths, "denied_paths", denies=True),
        _tools(allowed_commands),
        _tools(denied_commands),
    )


def _commands(sources: Sequence[str]) -> list[str]:
    return [source for source in sources if not source.startswith(TOOL_PREFIX)]


def _tools(sources: Sequence[str]) -> tuple[str, ...]:
    return tuple(source for source in sources if source.startswith(TOOL_PREFIX))


def decide(rules: Rules, call: ToolCall) -> Decision:
    """The decision on ``call``. Total: takes any input of a tool, never raises."""
    denied = _named(rules.denied_tools, call.tool)
    if denied is not None:
        return Decision(Kind.DENY, f"the tool {call.tool} is denied by the rule {denied!r}", denied)
    decision, is_unlisted = _by_content(rules, call)
    allowed = _named(rules.allowed_tools, call.tool)
    if allowed is not None and (decision.kind is Kind.NONE or is_unlisted):
        decision = Decision(Kind.ALLOW, f"the tool {call.tool} is allowed by the rule {allowed!r}", allowed)
    if decision.kind is Kind.ALLOW and call.mode == "plan":
        # A rule must not widen what planning may do.
        return NO_DECISION
    return decision


def _named(patterns: Sequence[str], tool: str) -> str | None:
    return next((text for text in patterns if glob_matches(text[len(TOOL_PREFIX) :].strip(), tool)), None)


def _by_content(rules: Rules, call: ToolCall) -> tuple[Decision, bool]:
    """The decision by what the tool is to do, and whether it is an ask only for want of an allow rule."""
    if call.tool in _COMMAND_TOOLS:
        if not (rules.speak_of_commands or rules.speak_of_paths):
            return NO_DECISION, False
        text = call.given.get(_COMMAND_TOOLS[call.tool])
        if not isinstance(text, str) or call.given.get("dangerouslyDisableSandbox"):
            return Decision(Kind.ASK, "the call has no plain command"), False
        verdict = judge_command(rules, text, call.places)
    elif call.tool in _PATH_TOOLS:
        if not rules.speak_of_paths:
            return NO_DECISION, False
        verdict = judge_path(rules, _paths(call), call.places, searches=call.tool in _SEARCH_TOOLS)
    else:
        return NO_DECISION, False
    return Decision(Kind(verdict.kind), verdict.reason, verdict.rule), verdict.is_unlisted


def _paths(call: ToolCall) -> list[object]:
    """The paths that a call names: where it searches, and what a search pattern adds to that."""
    path = call.given.get(_PATH_TOOLS[call.tool])
    if call.tool not in _SEARCH_TOOLS:
        return [path]
    base = "." if path is None or path == "" else path
    pattern = call.given.get("pattern") if call.tool == "Glob" else None
    if not isinstance(base, str) or not isinstance(pattern, str):
        return [base]
    return [_searched(base, pattern)]


def _searched(base: str, pattern: str) -> str | None:
    """The directory that a search pattern is looked for in; None when it may leave that."""
    literal: list[str] = []
    for part in pattern.split("/"):
        if any(character in part for character in "*?[{!"):
            break
        literal.append(part)
    if ".." in pattern.split("/")[len(literal) :]:
        return None
    directory = "/".join(literal)
    return directory or "/" if pattern.startswith(("/", "~")) else f"{base}/{directory}"
