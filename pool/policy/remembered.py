"""What "allow for this session" and "always" would make the CLI remember, in its own words and in ours.

The CLI suggests changes of its permissions with an ask. Only those that can
be told to a person word for word are ever taken up: a rule that nobody could
read would be agreed to unseen.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

_EDITS = "acceptEdits"


@dataclass(frozen=True, slots=True)
class Remembered:
    """One change: ``text`` is what it will match, ``update`` the CLI's own object without a destination."""

    text: str
    update: Mapping[str, Any]


def remembered(suggestions: object, permission_modes: Collection[str]) -> list[Remembered]:
    """The suggestions that may be agreed to; anything that is not understood whole is left out.

    A change of mode is one only where users may choose that mode.
    """
    if not isinstance(suggestions, list):
        return []
    found = [_understood(item, permission_modes) for item in suggestions if isinstance(item, dict)]
    return [item for item in found if item is not None]


def _understood(update: Mapping[str, Any], permission_modes: Collection[str]) -> Remembered | None:
    kind = update.get("type")
    if kind == "setMode":
        mode = update.get("mode")
        if mode == _EDITS and mode in permission_modes:
            return Remembered("all file edits", {"type": kind, "mode": mode})
    elif kind == "addRules" and update.get("behavior") == "allow":
        rules = update.get("rules")
        texts = [rule_text(rule) for rule in rules] if isinstance(rules, list) else []
        if texts and None not in texts:
            text = ", ".join(str(text) for text in texts)
            return Remembered(text, {"type": kind, "behavior": "allow", "rules": rules})
    elif kind == "addDirectories":
        directories = update.get("directories")
        if isinstance(directories, list) and directories and all(isinstance(one, str) for one in directories):
            text = ", ".join(f"files in {one}" for one in directories)
            return Remembered(text, {"type": kind, "directories": directories})
    return None


def rule_text(rule: object) -> str | None:
    """``Bash(ls:*)``, or ``every Bash`` for a rule about all calls of a tool."""
    if not isinstance(rule, dict) or not set(rule) <= {"toolName", "ruleContent"}:
        return None
    tool, content = rule.get("toolName"), rule.get("ruleContent")
    if not isinstance(tool, str) or not tool or not isinstance(content, str | None):
        return None
    return f"{tool}({content})" if content else f"every {tool}"
