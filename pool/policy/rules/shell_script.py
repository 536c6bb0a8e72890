"""Shell text to the simple commands in it, wherever they stand.

The result is flat: which command runs before, beside or inside which does not
matter to a policy under which every one must be allowed. Substitutions,
subshells, groups, loops and conditions are taken apart; ``case``, functions,
arrays, arithmetic and ``[[`` are not understood and say so.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field

from pool.policy.rules.shell_words import (
    MAX_CHARACTERS,
    MAX_DEPTH,
    Budget,
    NotUnderstoodError,
    Word,
    WordReader,
)

_SEPARATORS = ("&&", "||", "|&", ";", "&", "|")
_REDIRECTIONS = ("&>>", "<<<", "<<-", "&>", "<<", "<>", "<&", ">>", ">|", ">&", "<", ">")
_PRINTABLE = re.compile(r"[\n\t -~]*")
_NUMBER = re.compile(r"[0-9]+(?=[<>])", re.ASCII)
_DUPLICATE = re.compile(r"[0-9]+-?|-", re.ASCII)
_LOOP_NAME = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
_TRANSPARENT_WORDS = frozenset(
    {"if", "then", "elif", "else", "fi", "while", "until", "do", "done", "{", "}", "!"}
)
_OPAQUE_WORDS = frozenset({"case", "esac", "function", "[[", "select", "coproc"})
KEYWORDS = _TRANSPARENT_WORDS | _OPAQUE_WORDS | {"for", "in"}
"""Words that are no commands where a command can stand."""


@dataclass(frozen=True, slots=True)
class Redirection:
    """A redirection to or from a file; ``target`` is not known when the text does not say."""

    target: Word
    is_write: bool


@dataclass(frozen=True, slots=True)
class SimpleCommand:
    """A command as the shell runs it: assignments, words, redirections.

    ``input`` is what a here-document or here-string gives it to read (None:
    nothing of the kind); ``reads_pipe`` says that another command's output is.
    """

    words: tuple[Word, ...]
    assignments: tuple[Word, ...] = ()
    redirections: tuple[Redirection, ...] = ()
    input: Word | None = None
    reads_pipe: bool = False

    def __str__(self) -> str:
        return " ".join(str(word) for word in (*self.assignments, *self.words))


@dataclass(frozen=True, slots=True)
class Script:
    """All simple commands of a text. ``problems``: what was not understood, so there may be more."""

    commands: tuple[SimpleCommand, ...]
    problems: tuple[str, ...] = ()


def parse_script(text: str, depth: int = 0, budget: Budget | None = None) -> Script:
    """Read shell text. Total: never raises; what it does not understand is a problem in the result.

    ``depth`` is how deep in another text this one stands, ``budget`` what the
    whole may cost.
    """
    return _Parser(text, depth, budget or Budget()).run()


@dataclass(slots=True)
class _Draft:
    words: list[Word] = field(default_factory=list)
    assignments: list[Word] = field(default_factory=list)
    redirections: list[Redirection] = field(default_factory=list)
    documents: list[Word] = field(default_factory=list)
    reads_pipe: bool = False

    @property
    def is_empty(self) -> bool:
        return not (self.words or self.assignments or self.redirections or self.documents)


@dataclass(slots=True)
class _Document:
    """A here-document whose body has not been reached yet."""

    delimiter: str
    is_literal: bool
    strips_tabs: bool
    owner: _Draft
    index: int


class _Parser:
    """One pass over one text; nested scripts are read by the same pass or a new one."""

    def __init__(self, text: str, depth: int, budget: Budget) -> None:
        self._depth = depth
        self._budget = budget
        self._reader = WordReader(text, budget, self._nested, self._nested_text)
        self._done: list[_Draft] = []
        self._commands: list[SimpleCommand] = []
        self._problems: list[str] = []
        self._waiting: list[_Document] = []

    def run(self) -> Script:
        try:
            _check_characters(self._reader.text)
            self._check_depth()
            self._script(closing=False)
        except NotUnderstoodError as error:
            self._problems.append(str(error))
        own = [_finished(draft) for draft in self._done]
        return Script((*own, *self._commands), tuple(self._problems))

    def _check_depth(self) -> None:
        if self._depth > MAX_DEPTH:
            raise NotUnderstoodError("substitutions too deep in one another")

    # --- nested scripts ------------------------------------------------------------------

    def _nested(self) -> None:
        if self._waiting:
            raise NotUnderstoodError("a substitution on the line of a here-document")
        self._depth += 1
        self._check_depth()
        self._script(closing=True)
        if self._waiting:
            raise NotUnderstoodError("something that does not end")
        self._depth -= 1

    def _nested_text(self, text: str) -> None:
        script = parse_script(text, self._depth + 1, self._budget)
        self._commands.extend(script.commands)
        self._problems.extend(script.problems)

    # --- lists of commands -----------------------------------------------------------------

    def _script(self, *, closing: bool) -> None:
        """Read commands up to the end, or up to the ``)`` that closes this script."""
        reader = self._reader
        draft, open_groups = _Draft(), 0
        while True:
            reader.skip_blanks()
            if reader.is_at_end:
                self._keep(draft)
                if closing or open_groups or self._waiting:
                    raise NotUnderstoodError("something that does not end")
                return
            if reader.starts("("):
                self._open_group(draft)
                open_groups += 1
            elif reader.starts(")"):
                draft = self._keep(draft)
                reader.at += 1
                if not open_groups:
                    if closing:
                        return
                    raise NotUnderstoodError("a bracket too many")
                open_groups -= 1
            elif (after := self._separator(draft)) is not None:
                draft = after
            elif not self._redirection(draft):
                draft = self._word(draft)

    def _open_group(self, draft: _Draft) -> None:
        if not draft.is_empty:
            raise NotUnderstoodError("a function or an array")
        if self._reader.starts("(("):
            raise NotUnderstoodError("arithmetic")
        self._reader.at += 1

    def _keep(self, draft: _Draft) -> _Draft:
        """The command is complete: note it, begin a new one."""
        if not draft.is_empty:
            self._done.append(draft)
        return _Draft()

    def _separator(self, draft: _Draft) -> _Draft | None:
        """Go over a separator: the next command's draft. None: there is none here."""
        reader = self._reader
        if reader.starts("\n"):
            reader.at += 1
            after = self._keep(draft)
            after.reads_pipe = draft.is_empty and draft.reads_pipe
            self._read_documents()
            return after
        if reader.starts("&>"):
            return None
        if reader.starts(";;"):
            raise NotUnderstoodError("a case")
        for separator in _SEPARATORS:
            if reader.starts(separator):
                reader.at += len(separator)
                after = self._keep(draft)
                after.reads_pipe = separator in ("|", "|&")
                return after
        return None

    # --- words of a command ----------------------------------------------------------------

    def _word(self, draft: _Draft) -> _Draft:
        word = self._reader.word()
        at_command = not draft.words and not draft.assignments
        if at_command and not word.is_quoted and word.text in _OPAQUE_WORDS:
            raise NotUnderstoodError(f"the keyword {word.text}")
        if at_command and word.is_known and not word.is_quoted:
            if word.text in _TRANSPARENT_WORDS:
                after = self._keep(draft)
                after.reads_pipe = draft.reads_pipe
                return after
            if word.text == "for":
                self._loop_words()
                return self._keep(draft)
        if not draft.words and word.is_assignment:
            draft.assignments.append(word)
        else:
            draft.words.append(word)
        return draft

    def _loop_words(self) -> None:
        """Go over ``NAME in WORDS`` of a loop; substitutions in it are read."""
        reader = self._reader
        words: list[Word] = []
        while True:
            reader.skip_blanks()
            if reader.is_at_end or reader.starts(";") or reader.starts("\n"):
                break
            if reader.text[reader.at] in "&|<>()":
                raise NotUnderstoodError("a loop of another kind")
            words.append(reader.word())
        # A loop assigns too: over PATH or http_proxy it would change what later commands do.
        if not words or not _LOOP_NAME.fullmatch(words[0].text) or words[0].text.endswith("_proxy"):
            raise NotUnderstoodError("a loop over a variable that may matter")

    # --- redirections ------------------------------------------------------------------------

    def _redirection(self, draft: _Draft) -> bool:
        reader = self._reader
        start = reader.at
        number = _NUMBER.match(reader.text, start)
        if number is not None:
            reader.at = number.end()
        operator = next((text for text in _REDIRECTIONS if reader.starts(text)), None)
        if operator is None or ((reader.starts("<(") or reader.starts(">(")) and number is None):
            reader.at = start
            return False
        reader.at += len(operator)
        reader.skip_blanks()
        if reader.is_at_end or reader.text[reader.at] in "\n;&|)":
            raise NotUnderstoodError("a redirection to nothing")
        self._redirect(draft, operator)
        return True

    def _redirect(self, draft: _Draft, operator: str) -> None:
        reader = self._reader
        start = reader.at
        target = reader.word()
        if reader.at == start:
            raise NotUnderstoodError("a redirection to nothing")
        if operator in ("<<", "<<-"):
            source = reader.text[start : reader.at]
            if not target.is_known or "\\\n" in source or "\n" in target.text:
                raise NotUnderstoodError("a here-document whose end is not literal")
            draft.documents.append(Word("", is_known=False))
            self._waiting.append(
                _Document(target.text, target.is_quoted, operator == "<<-", draft, len(draft.documents) - 1)
            )
        elif operator == "<<<":
            draft.documents.append(target)
        elif operator in (">&", "<&") and target.is_known and _DUPLICATE.fullmatch(target.text):
            pass
        else:
            draft.redirections.append(Redirection(target, is_write=operator != "<" and operator != "<&"))

    def _read_documents(self) -> None:
        """The line has ended: the bodies of its here-documents follow."""
        reader = self._reader
        waiting, self._waiting = self._waiting, []
        for document in waiting:
            lines: list[str] = []
            while True:
                if reader.is_at_end:
                    raise NotUnderstoodError("a here-document that does not end")
                end = reader.text.find("\n", reader.at)
                end = len(reader.text) if end < 0 else end
                line = reader.text[reader.at : end]
                line = line.lstrip("\t") if document.strips_tabs else line
                reader.at = min(end + 1, len(reader.text))
                if line == document.delimiter:
                    reader.at = end
                    break
                if not document.is_literal and line.endswith("\\"):
                    raise NotUnderstoodError("a continued line in a here-document")
                if line.rstrip(")").rstrip() == document.delimiter:
                    raise NotUnderstoodError("a here-document whose end is not alone on its line")
                lines.append(line)
            body = "".join(f"{line}\n" for line in lines)
            document.owner.documents[document.index] = self._body(body, document)
            if reader.starts("\n") and document is not waiting[-1]:
                reader.at += 1

    def _body(self, body: str, document: _Document) -> Word:
        if document.is_literal:
            return Word(body)

        def no_script_here() -> None:
            self._nested_in(inner)

        inner = WordReader(body, self._budget, no_script_here, self._nested_text)
        text, known = inner.double_quoted("")
        return Word(text, known)

    def _nested_in(self, reader: WordReader) -> None:
        """Read the script of a substitution in a here-document's body."""
        outer, self._reader = self._reader, reader
        waiting, self._waiting = self._waiting, []
        try:
            self._nested()
        finally:
            self._reader, self._waiting = outer, waiting


def _finished(draft: _Draft) -> SimpleCommand:
    return SimpleCommand(
        tuple(draft.words),
        tuple(draft.assignments),
        tuple(draft.redirections),
        draft.documents[-1] if draft.documents else None,
        draft.reads_pipe,
    )


def _check_characters(text: str) -> None:
    if len(text) > MAX_CHARACTERS:
        raise NotUnderstoodError("more text than is looked at")
    if _PRINTABLE.fullmatch(text):
        return
    for character in text:
        if character in "\n\t" or " " <= character <= "~":
            continue
        kind = unicodedata.category(character)
        if kind in ("Cc", "Cf", "Cs", "Zs", "Zl", "Zp"):
            raise NotUnderstoodError("a character that is not seen")
