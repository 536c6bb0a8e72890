"""A shell text taken apart into every command that would run, also through other programs.

``env``, ``timeout``, ``xargs`` and their like only start the command after
them; ``sh -c``, ``eval`` and ``trap`` run a text; ``find -exec`` runs a part
of its words. What starts a command in a way that is not followed here word by
word (``sudo``, ``ssh``) needs a rule of its own, and anything after it counts
for deny rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pool.policy.rules import programs
from pool.policy.rules.programs import Wrapper
from pool.policy.rules.shell_script import KEYWORDS, Redirection, SimpleCommand, parse_script
from pool.policy.rules.shell_words import MAX_DEPTH, UNKNOWN, Budget, NotUnderstoodError, Word

_MAX_SUSPECTS = 64


@dataclass(frozen=True, slots=True)
class Step:
    """One command. ``needs_rule`` False: it is looked at for deny rules only."""

    command: SimpleCommand
    needs_rule: bool = True


@dataclass(slots=True)
class Parts:
    """Everything that a text would do, as far as its words say.

    ``problems`` is empty only when all of it was understood. ``moves``: the
    working directory changes on the way, so relative paths are not known.
    """

    steps: list[Step] = field(default_factory=list)
    redirections: list[Redirection] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    moves: bool = False
    budget: Budget = field(default_factory=Budget)


def take_apart(text: str) -> Parts:
    """All commands in ``text``. Total: never raises."""
    parts = Parts()
    _script(text, parts, 0, needs_rule=True)
    return parts


def _script(text: str, parts: Parts, depth: int, *, needs_rule: bool) -> None:
    if depth > MAX_DEPTH:
        parts.problems.append("commands too deep in one another")
        return
    script = parse_script(text, depth, parts.budget)
    parts.problems.extend(script.problems)
    for command in script.commands:
        parts.redirections.extend(command.redirections)
        _visit(command, parts, depth, needs_rule=needs_rule)


def _visit(command: SimpleCommand, parts: Parts, depth: int, *, needs_rule: bool) -> None:
    if not command.words:
        if command.assignments:
            parts.steps.append(Step(command, needs_rule))
        return
    if depth > MAX_DEPTH:
        parts.problems.append("commands too deep in one another")
        return
    try:
        parts.budget.spend()
        is_transparent = _look_inside(command, parts, depth, needs_rule=needs_rule)
    except NotUnderstoodError as error:
        parts.problems.append(str(error))
        _suspect(command, parts, depth)
        is_transparent = False
    parts.steps.append(Step(command, needs_rule and not is_transparent))


def _look_inside(command: SimpleCommand, parts: Parts, depth: int, *, needs_rule: bool) -> bool:
    """Visit the commands that ``command`` starts. True: they are all that it does."""
    name = _program(command.words[0])
    if name in programs.REDEFINE:
        raise NotUnderstoodError(f"{name}, which changes what later words mean")
    if name in programs.WRAPPERS:
        return _wrapper(command, programs.WRAPPERS[name], parts, depth, needs_rule=needs_rule)
    if name in programs.SHELLS:
        return _shell(command, parts, depth, needs_rule=needs_rule)
    if name == "eval":
        words = [word for at, word in enumerate(command.words[1:]) if at or word.text != "--"]
        _script(_literal(words, name), parts, depth + 1, needs_rule=needs_rule)
        return "/" not in command.words[0].text and not command.assignments
    if name == "trap":
        _trap(command, parts, depth, needs_rule=needs_rule)
    elif name == "find":
        _find(command, parts, depth, needs_rule=needs_rule)
    elif name in programs.CARRIERS or name in (".", "source"):
        _suspect(command, parts, depth)
    parts.moves = parts.moves or name in programs.MOVE
    _check_program_is_named(command, name)
    return False


def _program(word: Word) -> str:
    if not word.is_known or not word.text:
        raise NotUnderstoodError("a command whose name is not in the text")
    if word.text in KEYWORDS:
        # "time { rm; }" and what else takes a keyword's command for its own.
        raise NotUnderstoodError(f"the keyword {word.text} after a word")
    if not word.text.isascii() or any(character.isspace() for character in word.text):
        raise NotUnderstoodError("a command's name with letters that are not plain ones")
    if "=" in word.text:
        # The shell took the real assignments away: this one stands behind find, xargs or the like.
        raise NotUnderstoodError("an assignment in the place of a command's name")
    return word.text.rsplit("/", 1)[-1]


def _literal(words: Sequence[Word], name: str) -> str:
    if not all(word.is_known for word in words):
        raise NotUnderstoodError(f"{name} of a text that is not literal")
    return " ".join(word.text for word in words)


def _suspect(command: SimpleCommand, parts: Parts, depth: int) -> None:
    """Any of the words may begin a command: look at each for deny rules."""
    words = command.words[1:]
    if len(words) > _MAX_SUSPECTS:
        parts.problems.append("more words than are looked at")
    for at, word in enumerate(words[:_MAX_SUSPECTS]):
        parts.steps.append(Step(SimpleCommand(words[at:]), needs_rule=False))
        if word.is_known and any(character.isspace() for character in word.text):
            _script(word.text, parts, depth + 1, needs_rule=False)


# --- programs that start the command after them ------------------------------------------------


def _wrapper(command: SimpleCommand, wrapper: Wrapper, parts: Parts, depth: int, *, needs_rule: bool) -> bool:
    if wrapper.describes & {word.text for word in command.words[1:2]}:
        return False
    at, given = wrapper.after_options(command.words)
    _literal(command.words[at : at + wrapper.positional], command.words[0].text)
    at += wrapper.positional
    assignments = list(command.assignments)
    while at < len(command.words):
        word = command.words[at]
        # "time" is a keyword: after it an assignment is one.
        if not (word.is_assignment or (wrapper.takes_assignments and "=" in word.text)):
            break
        # Not in quotes, an unknown value may split into words, and the next of them is what runs.
        _literal([word], "env")
        assignments.append(replace(word, is_assignment=True))
        at += 1
    words = list(command.words[at:])
    if not words:
        return False
    if wrapper.moves & given.keys():
        parts.moves = True
    if wrapper.appends_input:
        words = _with_input(words, given)
    inner = replace(command, words=tuple(words), assignments=tuple(assignments), redirections=())
    _visit(inner, parts, depth + 1, needs_rule=needs_rule)
    return _is_of_the_system(command.words[0].text)


def _with_input(words: list[Word], given: dict[str, str]) -> list[Word]:
    """The words that xargs runs: what it reads is not known."""
    mark = given.get("-I") or given.get("--replace")
    if mark is None:
        return [*words, UNKNOWN]
    return [Word(word.text, is_known=False) if mark in word.text else word for word in words]


def _is_of_the_system(name: str) -> bool:
    directory, slash, _ = name.rpartition("/")
    return not slash or directory in ("/bin", "/usr/bin", "/usr/local/bin")


# --- programs that run a text --------------------------------------------------------------------


def _shell(command: SimpleCommand, parts: Parts, depth: int, *, needs_rule: bool) -> bool:
    name = command.words[0].text
    at, runs_text = programs.shell_options(command.words)
    rest = command.words[at:]
    if runs_text:
        if not rest:
            raise NotUnderstoodError(f"{name} without its text")
        _script(_literal(rest[:1], name), parts, depth + 1, needs_rule=needs_rule)
        return _is_of_the_system(name) and not command.assignments
    if rest:
        if not _is_a_file(rest[0]):
            raise NotUnderstoodError(f"{name} of a file that is not named")
        # bash looks for its script along PATH too: "bash rm" may run the rm that a rule denies.
        parts.steps.append(Step(SimpleCommand(tuple(rest)), needs_rule=False))
        return False
    if command.input is None or not command.input.is_known:
        raise NotUnderstoodError(f"{name} of commands that it reads")
    _script(command.input.text, parts, depth + 1, needs_rule=needs_rule)
    return _is_of_the_system(name) and not command.assignments


def _is_a_file(word: Word) -> bool:
    return word.is_known and not word.text.startswith(("/dev/", "/proc/"))


def _trap(command: SimpleCommand, parts: Parts, depth: int, *, needs_rule: bool) -> None:
    words = [word for word in command.words[1:] if word.text != "--"]
    if words and words[0].text not in ("-", "-l", "-p"):
        _script(_literal(words[:1], "trap"), parts, depth + 1, needs_rule=needs_rule)


def _check_program_is_named(command: SimpleCommand, name: str) -> None:
    """Raises ``NotUnderstoodError`` for what runs a text that it reads from somewhere."""
    arguments = command.words[1:]
    if name in (".", "source") and not all(_is_a_file(word) for word in arguments):
        raise NotUnderstoodError(f"{name} of a file that is not named")
    reads = command.reads_pipe or command.input is not None or bool(command.redirections)
    named = any(word.text and not word.text.startswith("-") for word in arguments)
    if name in programs.INTERPRETERS and reads and not named:
        raise NotUnderstoodError(f"{name} of a program that it reads")


# --- find ------------------------------------------------------------------------------------------


def _find(command: SimpleCommand, parts: Parts, depth: int, *, needs_rule: bool) -> None:
    words = command.words
    at = 1
    while at < len(words):
        text = words[at].text
        at += 1
        if text in programs.FIND_RUNS:
            end = at
            while end < len(words) and words[end].text not in (";", "+"):
                end += 1
            if end == at or end == len(words):
                raise NotUnderstoodError("find without the end of its command")
            inner = tuple(
                Word(word.text, is_known=False) if "{}" in word.text else word for word in words[at:end]
            )
            _visit(SimpleCommand(inner), parts, depth + 1, needs_rule=needs_rule)
            parts.moves = parts.moves or text.endswith("dir")
            at = end + 1
        elif text in programs.FIND_WRITES:
            target = words[at] if at < len(words) else UNKNOWN
            parts.redirections.append(Redirection(target, is_write=True))
        elif text == "-delete":
            parts.steps.append(Step(SimpleCommand((Word("rm"), UNKNOWN)), needs_rule))
