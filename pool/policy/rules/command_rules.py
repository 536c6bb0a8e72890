"""Command rules: patterns of shell words, held against one simple command.

An allow rule must fit the whole command, word by word; ``*`` at its end is
any further words. A deny rule fits the command with whatever follows, and
looks through what hides it: a path before the program's name, flags in
another order or between the words, abbreviated long flags.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from pool.errors import BadRequest
from pool.policy.rules.globs import glob_matches
from pool.policy.rules.shell_script import SimpleCommand
from pool.policy.rules.shell_words import Budget, NotUnderstoodError, Word, WordReader

_NOT_IN_A_RULE = re.compile(r"[$`;&|<>()\n\0]")
_ASSIGNS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=", re.ASCII)
_MAX_CLUSTER = 4


class Fit(IntEnum):
    """How surely a deny rule fits; ``MAYBE`` when a word is only known once the command runs."""

    NO = 0
    MAYBE = 1
    YES = 2


@dataclass(frozen=True, slots=True)
class CommandRule:
    """One rule: its text as configured, and the patterns of its words."""

    source: str
    words: tuple[str, ...]

    def allows(self, command: SimpleCommand) -> bool:
        """Does the rule name exactly this command? Assignments must be named too."""
        given = (*command.assignments, *command.words)
        is_open = self.words[-1] == "*"
        named = self.words[:-1] if is_open else self.words
        if len(given) < len(named) or (len(given) > len(named) and not is_open):
            return False
        if not command.words or len(command.assignments) > len(named):
            return False
        pairs = zip(named, given, strict=False)
        return all(
            _allows(pattern, word, is_assignment=at < len(command.assignments))
            for at, (pattern, word) in enumerate(pairs)
        )

    def denies(self, command: SimpleCommand) -> Fit:
        """Does the rule name this command or the beginning of it, however it is written?"""
        assigned = [pattern for pattern in self.words if _ASSIGNS.match(pattern)]
        if self.words[: len(assigned)] != tuple(assigned):
            assigned = []
        fit = min((_assigns(pattern, command.assignments) for pattern in assigned), default=Fit.YES)
        patterns = self.words[len(assigned) :]
        if fit is Fit.NO or not patterns or (patterns == ("*",) and assigned):
            return fit
        if not command.words:
            return Fit.NO
        fit = min(fit, _names(patterns[0], command.words[0]))
        return fit if fit is Fit.NO else min(fit, _arguments(patterns[1:], command.words[1:]))


def command_rules(sources: Sequence[str], key: str) -> tuple[CommandRule, ...]:
    """The rules of a configured list. Raises ``BadRequest`` naming ``key`` and the bad rule."""
    return tuple(CommandRule(source, _split(source, key)) for source in sources)


def _split(source: str, key: str) -> tuple[str, ...]:
    if _NOT_IN_A_RULE.search(source):
        raise BadRequest(
            f"{key}: {source!r} is not one simple command of words and *", details={"field": key}
        )
    reader = WordReader(source, Budget(), lambda: None, lambda _text: None)
    words: list[str] = []
    try:
        while True:
            reader.skip_blanks()
            if reader.is_at_end:
                break
            words.append(reader.word().text)
    except NotUnderstoodError as error:
        raise BadRequest(f"{key}: {source!r} has {error}", details={"field": key}) from None
    if not words:
        raise BadRequest(f"{key}: an empty rule", details={"field": key})
    return tuple(words)


# --- allowing -----------------------------------------------------------------------------


def _allows(pattern: str, word: Word, *, is_assignment: bool) -> bool:
    if not word.is_known or (is_assignment and "=" not in pattern):
        return False
    if pattern == word.text or pattern == "*":
        return True
    # "docs/*" must not reach "docs/../../etc".
    return glob_matches(pattern, word.text) and ".." not in word.text.split("/")


# --- denying ------------------------------------------------------------------------------


def _assigns(pattern: str, assignments: Sequence[Word]) -> Fit:
    fit = Fit.NO
    for word in assignments:
        if word.is_known and glob_matches(pattern, word.text):
            return Fit.YES
        if not word.is_known and pattern.split("=", maxsplit=1)[0] == word.text.split("=")[0].rstrip("+"):
            fit = Fit.MAYBE
    return fit


def _names(pattern: str, word: Word) -> Fit:
    if not word.is_known:
        return Fit.MAYBE
    name = word.text if "/" in pattern else word.text.rsplit("/", 1)[-1]
    return Fit.YES if glob_matches(pattern, name) else Fit.NO


def _arguments(patterns: Sequence[str], words: Sequence[Word]) -> Fit:
    if patterns and patterns[-1] == "*":
        patterns = patterns[:-1]
    flags = [pattern for pattern in patterns if _is_flag(pattern)]
    named = [pattern for pattern in patterns if not _is_flag(pattern)]
    fit = _in_order(named, words)
    for flag in flags:
        fit = min(fit, _has_flag(flag, words))
    return fit


def _is_flag(text: str) -> bool:
    return len(text) > 1 and text.startswith("-") and text != "--"


def _has_flag(pattern: str, words: Sequence[Word]) -> Fit:
    unsure = any(not word.is_known for word in words)
    given = [word.text for word in words if word.is_known and _is_flag(word.text)]
    if any(glob_matches(pattern, text) for text in given):
        return Fit.YES
    if pattern.startswith("--"):
        unsure = unsure or any(not text.startswith("--") for text in given)
        if any(_abbreviates(text, pattern) for text in given):
            return Fit.YES
    elif len(pattern) <= _MAX_CLUSTER:
        letters = set("".join(text[1:] for text in given if not text.startswith("--")))
        unsure = unsure or any(text.startswith("--") for text in given)
        if letters.issuperset(pattern[1:]):
            return Fit.YES
    return Fit.MAYBE if unsure else Fit.NO


def _abbreviates(text: str, pattern: str) -> bool:
    """Is ``text`` the long flag ``pattern``, cut short as GNU programs allow, or with its value?"""
    name, _, value = text.partition("=")
    wanted, has_value, wanted_value = pattern.partition("=")
    if len(name) < 3 or not (wanted.startswith(name) or glob_matches(wanted, name)):
        return False
    return not has_value or glob_matches(wanted_value, value)


def _in_order(patterns: Sequence[str], words: Sequence[Word]) -> Fit:
    """Do the words come in the order of the patterns? Flags, and a word after one, may lie between."""
    if not patterns:
        return Fit.YES
    fit = Fit.NO
    reached = {(0, False)}
    for word in words:
        if not word.is_known:
            fit = Fit.MAYBE
        after: set[tuple[int, bool]] = set()
        for count, may_skip in reached:
            if _is_flag(word.text) or not word.is_known:
                after.add((count, True))
                continue
            if glob_matches(patterns[count], word.text):
                if count + 1 == len(patterns):
                    return Fit.YES
                after.add((count + 1, False))
            if may_skip:
                after.add((count, False))
        reached = after
        if not reached:
            break
    return fit
