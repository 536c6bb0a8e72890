"""Commands and paths held against the rules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from pool.policy.rules.command_rules import CommandRule, Fit
from pool.policy.rules.commands import Parts, take_apart
from pool.policy.rules.paths import HARMLESS_FILES, PathRule, Places, first_fit, resolve
from pool.policy.rules.shell_script import SimpleCommand

_QUOTES = str.maketrans("", "", "'\"\\")
_TOKEN = re.compile(r"[^\s;&|<>(){},`=$]+")
_SHOWN_CHARACTERS = 200
# No program can be given a longer text in one argument (Linux: 128 KiB).
_MAX_SEARCHED = 131072


class CommandAndPathRules(Protocol):
    """The lists of rules that a judgement needs."""

    @property
    def allowed_commands(self) -> tuple[CommandRule, ...]:
        """Commands that run without a question."""

    @property
    def denied_commands(self) -> tuple[CommandRule, ...]:
        """Commands that never run."""

    @property
    def allowed_paths(self) -> tuple[PathRule, ...]:
        """Paths that may be used without a question."""

    @property
    def denied_paths(self) -> tuple[PathRule, ...]:
        """Paths that are never used."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """``kind`` is none, allow, ask or deny; ``is_unlisted``: an ask only because no rule allows it."""

    kind: str
    reason: str = ""
    rule: str | None = None
    is_unlisted: bool = False


_NONE = Verdict("none")


# --- commands -----------------------------------------------------------------------------


def judge_command(rules: CommandAndPathRules, text: str, places: Places) -> Verdict:
    """The verdict on a shell text."""
    parts = take_apart(text)
    denied = _denied_command(rules, parts) or _denied_path(rules, parts, places)
    if denied is not None:
        return denied
    if parts.problems:
        return _hidden(rules, text) or Verdict("ask", f"not understood: {parts.problems[0]}")
    unsure = _possibly_denied(rules, parts)
    if unsure is not None:
        return unsure
    unlisted = _unlisted(rules, parts, places)
    if unlisted is not None:
        return unlisted
    if not rules.allowed_commands or not any(step.needs_rule for step in parts.steps):
        return _NONE
    used = dict.fromkeys(
        rule.source for step in parts.steps if step.needs_rule for rule in _allowing(rules, step.command)
    )
    return Verdict("allow", "every part of the command is allowed", ", ".join(used))


def _denied_command(rules: CommandAndPathRules, parts: Parts) -> Verdict | None:
    for step in parts.steps:
        for rule in rules.denied_commands:
            if rule.denies(step.command) is Fit.YES:
                shown = _shown(str(step.command))
                return Verdict("deny", f"{shown} is denied by the rule {rule.source!r}", rule.source)
    return None


def _denied_path(rules: CommandAndPathRules, parts: Parts, places: Places) -> Verdict | None:
    if not rules.denied_paths:
        return None
    for text in _named_files(parts):
        path = resolve(text, places)
        rule = first_fit(rules.denied_paths, path, places) if path is not None else None
        if rule is not None:
            reason = f"the path {_shown(text)} is denied by the rule {rule.source!r}"
            return Verdict("deny", reason, rule.source)
    return None


def _named_files(parts: Parts) -> Iterator[str]:
    """Every word that may be a file's name; of ``--file=name`` and ``-fname`` the name too."""
    for redirection in parts.redirections:
        yield redirection.target.text
    for step in parts.steps:
        for word in step.command.words:
            if word.text:
                yield word.text
            _, is_valued, value = word.text.partition("=")
            if is_valued and value:
                yield value
            if word.text.startswith("-") and len(word.text) > 2:
                yield word.text[2:]


def _hidden(rules: CommandAndPathRules, text: str) -> Verdict | None:
    """A deny rule whose words stand one after the other in a text that is not understood."""
    if len(text) > _MAX_SEARCHED:
        return None
    tokens = _TOKEN.findall(text.replace("\\\n", "").translate(_QUOTES))
    names = [token.rsplit("/", 1)[-1] for token in tokens]
    for rule in rules.denied_commands:
        wanted = [word for word in rule.words if word != "*"]
        if wanted and _stand_together(wanted, tokens, names):
            reason = f"the command is not understood and has the words of the rule {rule.source!r}"
            return Verdict("deny", reason, rule.source)
    return None


def _stand_together(wanted: Sequence[str], tokens: Sequence[str], names: Sequence[str]) -> bool:
    first = wanted[0]
    return any(
        first in (names[at], tokens[at]) and list(wanted[1:]) == list(tokens[at + 1 : at + len(wanted)])
        for at in range(len(tokens))
    )


def _possibly_denied(rules: CommandAndPathRules, parts: Parts) -> Verdict | None:
    for step in parts.steps:
        for rule in rules.denied_commands:
            if step.needs_rule and rule.denies(step.command) is Fit.MAYBE:
                shown = _shown(str(step.command))
                return Verdict("ask", f"{shown} may be what the rule {rule.source!r} denies", rule.source)
    return None


def _unlisted(rules: CommandAndPathRules, parts: Parts, places: Places) -> Verdict | None:
    """An ask for the first part that no rule allows; None where no rule must."""
    if rules.allowed_commands:
        for step in parts.steps:
            if step.needs_rule and not _allowing(rules, step.command):
                return Verdict("ask", f"no rule allows {_shown(str(step.command))}", is_unlisted=True)
            if rules.denied_paths and not all(word.is_known for word in step.command.words):
                return Verdict("ask", f"{_shown(str(step.command))} may name a denied path")
    if not (rules.allowed_commands or rules.allowed_paths):
        return None
    for redirection in parts.redirections:
        target = redirection.target
        known = target.is_known and target.text not in HARMLESS_FILES
        path = resolve(target.text, places, cwd_is_known=not parts.moves) if known else None
        allowed = path is not None and first_fit(rules.allowed_paths, path, places) is not None
        if not allowed and not (target.is_known and target.text in HARMLESS_FILES):
            does = "writes" if redirection.is_write else "reads"
            return Verdict("ask", f"it {does} {_shown(str(target))}, which no rule allows", is_unlisted=True)
    return None


def _allowing(rules: CommandAndPathRules, command: SimpleCommand) -> list[CommandRule]:
    return [rule for rule in rules.allowed_commands if rule.allows(command)][:1]


# --- paths --------------------------------------------------------------------------------


def judge_path(
    rules: CommandAndPathRules, given: Iterable[object], places: Places, *, searches: bool
) -> Verdict:
    """The verdict on the paths of one call; ``searches``: everything below them is used too."""
    allowed: list[str] = []
    is_listed = True
    for item in given:
        path = resolve(item, places) if isinstance(item, str) else None
        if path is None:
            return Verdict("ask", "where its path leads is not known")
        rule = first_fit(rules.denied_paths, path, places)
        if rule is not None:
            return Verdict("deny", f"{_shown(path)} is denied by the rule {rule.source!r}", rule.source)
        below = [rule for rule in rules.denied_paths if searches and rule.may_fit_below(path, places)]
        if below:
            reason = f"what the rule {below[0].source!r} denies may be below {_shown(path)}"
            return Verdict("ask", reason, below[0].source)
        rule = first_fit(rules.allowed_paths, path, places)
        is_listed = is_listed and rule is not None
        allowed += [rule.source] if rule is not None else []
    if not rules.allowed_paths:
        return _NONE
    if not is_listed:
        return Verdict("ask", "no rule allows its path", is_unlisted=True)
    return Verdict("allow", "its path is allowed", ", ".join(dict.fromkeys(allowed)))


def _shown(text: str) -> str:
    text = " ".join(text[: 2 * _SHOWN_CHARACTERS].split())
    text = text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
    return f"'{text}'"
