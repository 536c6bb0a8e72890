"""What was allowed for a session, as it is kept for its next instance: rules and directories, nothing else.

It is a plain object that can be stored: ``{"rules": [{"toolName", "ruleContent"?}], "directories": [path]}``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pool.policy.remembered import Remembered, rule_text

_MOST_CHARACTERS = 65536
_PATH_TOOLS = frozenset({"Read", "Edit", "Write", "MultiEdit", "NotebookEdit", "Glob", "Grep", "LS"})
_SAME_EVERYWHERE = ("//", "~/")


def kept_with(kept: Mapping[str, Any] | None, agreed: Sequence[Remembered]) -> dict[str, Any]:
    """What is kept once the changes of ``agreed`` were agreed to; above a bound the oldest is let go.

    Not kept are rules whose path would mean another place when it is given
    to the CLI in another way. A change of mode is the session's own affair.
    """
    rules = list((kept or {}).get("rules", ()))
    directories = list((kept or {}).get("directories", ()))
    for one in agreed:
        rules += [rule for rule in one.update.get("rules", ()) if rule not in rules and _is_kept(rule)]
        named = one.update.get("directories", ())
        directories += [path for path in named if path not in directories and path.startswith("/")]
    while len(json.dumps([rules, directories])) > _MOST_CHARACTERS:
        (rules or directories).pop(0)
    return {"rules": rules, "directories": directories}


def _is_kept(rule: Mapping[str, Any]) -> bool:
    content = rule.get("ruleContent")
    return not content or rule["toolName"] not in _PATH_TOOLS or content.startswith(_SAME_EVERYWHERE)


def is_kept(value: Mapping[str, Any]) -> bool:
    """Has it the form of what is kept? A database can have been spoilt."""
    rules, directories = value.get("rules", []), value.get("directories", [])
    if not isinstance(rules, list) or not isinstance(directories, list):
        return False
    return all(isinstance(path, str) for path in directories) and all(
        isinstance(rule, dict)
        and isinstance(rule.get("toolName"), str)
        and isinstance(rule.get("ruleContent", ""), str | None)
        for rule in rules
    )


def kept_texts(kept: Mapping[str, Any] | None) -> list[str]:
    """Word for word what matches, for people: as the card of the approval has told it."""
    if kept is None:
        return []
    rules = [str(rule_text(rule)) for rule in kept.get("rules", ())]
    return [*rules, *(f"files in {path}" for path in kept.get("directories", ()))]


def settings_of(kept: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The same as settings of the CLI; None when nothing is kept."""
    if kept is None or not (kept.get("rules") or kept.get("directories")):
        return None
    permissions: dict[str, Any] = {"allow": [_written(rule) for rule in kept.get("rules", ())]}
    if kept.get("directories"):
        permissions["additionalDirectories"] = list(kept["directories"])
    return {"permissions": permissions}


def _written(rule: Mapping[str, Any]) -> str:
    """A rule as the CLI reads it in a settings file: parentheses in it are escaped."""
    content = rule.get("ruleContent")
    if not content:
        return str(rule["toolName"])
    for character in "\\()":
        content = content.replace(character, f"\\{character}")
    return f"{rule['toolName']}({content})"
