"""Shell text to words: quotes, escapes and expansions, strictly.

A word whose value is not in the text itself (a variable, a substitution, a
glob, a brace list) is not known, and whoever decides must treat it as
anything at all. What is not understood raises ``NotUnderstoodError``: a gap here
costs a question to the user, a guess would cost the policy.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

MAX_CHARACTERS = 32768
MAX_WORDS = 1000
MAX_DEPTH = 20

_BLANK = " \t"
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+=,-]+", re.ASCII)
_PLAIN_IN_QUOTES = re.compile(r'[^"\\$`]+')
_META = frozenset(" \t\n;&|<>()")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=", re.ASCII)
_PLAIN_PARAMETER = re.compile(r"#?(?:[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[@*#?$!-])\}", re.ASCII)
_PLAIN_BRACES = re.compile(r"\}[^\s;&|<>(),.{}'\"\\$`]*(?:\.[^\s;&|<>(),.{}'\"\\$`]+)*(?=[\s;&|<>()]|$)")
_SPECIAL_PARAMETERS = "0123456789@*#?$!-"
_ANSI_C = dict(zip("abeEfnrtv\\'\"?", "\a\b\x1b\x1b\f\n\r\t\v\\'\"?", strict=True))
_ANSI_C_NUMBER = re.compile(
    r"x([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{1,4})|U([0-9A-Fa-f]{1,8})|([0-7]{1,3})", re.ASCII
)


class NotUnderstoodError(Exception):
    """The shell text has something that this parser does not take; the text says what."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word after quote removal.

    ``text`` is its value when ``is_known``; else only the parts of it that
    are in the text. ``is_quoted``: some part was quoted or escaped, so it is
    no keyword. ``is_assignment``: it begins with ``NAME=``, unquoted.
    """

    text: str
    is_known: bool = True
    is_quoted: bool = False
    is_assignment: bool = False

    def __str__(self) -> str:
        return self.text if self.is_known else f"{self.text}…"


UNKNOWN = Word("", is_known=False)
"""A word of which nothing is known: a value that only exists when the command runs."""


@dataclass(slots=True)
class Budget:
    """How many words may still be read for one decision, nested texts included.

    Decisions are made on the event loop: one must not hold up the others.
    """

    words: int = MAX_WORDS

    def spend(self) -> None:
        """One word is read. Raises ``NotUnderstoodError`` when it is one too many."""
        self.words -= 1
        if self.words < 0:
            raise NotUnderstoodError("more words than are looked at")


class WordReader:
    """A place in shell text, and the reading of one word from there.

    ``nested`` reads a script that begins at the current place and ends at an
    unmatched ``)``, which is consumed; ``nested_text`` reads a whole one.
    """

    def __init__(
        self, text: str, budget: Budget, nested: Callable[[], None], nested_text: Callable[[str], None]
    ) -> None:
        self.text = text
        self.budget = budget
        self.at = 0
        self._nested = nested
        self._nested_text = nested_text

    # --- places ------------------------------------------------------------------------

    def starts(self, prefix: str) -> bool:
        """Does the rest of the text begin with ``prefix``?"""
        return self.text.startswith(prefix, self.at)

    @property
    def is_at_end(self) -> bool:
        """Is nothing left?"""
        return self.at >= len(self.text)

    def skip_blanks(self) -> None:
        """Go over blanks, continued lines and a comment."""
        while not self.is_at_end:
            if self.text[self.at] in _BLANK:
                self.at += 1
            elif self.starts("\\\n"):
                self.at += 2
            elif self.text[self.at] == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            else:
                return

    # --- words -------------------------------------------------------------------------

    def word(self) -> Word:
        """The word that begins here; at least one character of it is there."""
        self.budget.spend()
        start = self.at
        parts: list[str] = []
        known, quoted = True, False
        is_assignment = _ASSIGNMENT.match(self.text, start) is not None
        while not self.is_at_end:
            character = self.text[self.at]
            if self.starts("<(") or self.starts(">("):
                self.at += 2
                self._nested()
                known = False
            elif character in _META:
                break
            elif self.starts("\\\n"):
                self.at += 2
            else:
                part, is_known, is_quoted = self._part(character, is_first=self.at == start)
                parts.append(part)
                known, quoted = known and is_known, quoted or is_quoted
        if self.starts("(") and self.at > start:
            raise NotUnderstoodError("a function, an array or an extended pattern")
        text = "".join(parts)
        if text.startswith("~") and quoted:
            known = False
        if text == "[" and self.at == start + 1:
            known = True
        return Word(text, known, quoted, is_assignment)

    def _part(self, character: str, *, is_first: bool) -> tuple[str, bool, bool]:
        """One piece of a word: (text, known, quoted)."""
        plain = _PLAIN.match(self.text, self.at)
        if plain is not None:
            self.at = plain.end()
            return plain[0], True, False
        if character == "'":
            return self._single_quoted(), True, True
        if character == '"':
            self.at += 1
            text, known = self.double_quoted('"')
            return text, known, True
        if character == "\\":
            if self.at + 1 >= len(self.text):
                raise NotUnderstoodError("a backslash at the end")
            self.at += 2
            return self.text[self.at - 1], True, True
        if character == "$":
            return self._dollar_unquoted()
        if character == "`":
            self._backquoted(in_quotes=False)
            return "", False, False
        self.at += 1
        known = character not in "*?[" and not (character == "{" and self._may_be_a_list(is_first))
        return character, known, False

    def _may_be_a_list(self, is_first: bool) -> bool:
        """Could the brace before this place begin a list? Not as the word ``{``, nor in a plain ``{}``."""
        following = self.text[self.at : self.at + 1]
        if is_first and (following == "" or following in _META):
            return False
        # The shell takes "r{},m}" for a list.
        return _PLAIN_BRACES.match(self.text, self.at) is None

    def _single_quoted(self) -> str:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            raise NotUnderstoodError("a quote that does not end")
        text = self.text[self.at + 1 : end]
        self.at = end + 1
        return text

    def double_quoted(self, closing: str) -> tuple[str, bool]:
        """Text up to ``closing`` (empty: the end of the text) as in double quotes: (text, known)."""
        parts: list[str] = []
        known = True
        while True:
            if self.is_at_end:
                if closing:
                    raise NotUnderstoodError("a quote that does not end")
                return "".join(parts), known
            character = self.text[self.at]
            if closing and character == closing:
                self.at += 1
                return "".join(parts), known
            if character == "\\":
                parts.append(self._escaped_in_quotes(closing))
            elif character == "$" and (expanded := self._expansion()) is not None:
                parts.append(expanded)
                known = False
            elif character == "`":
                self._backquoted(in_quotes=bool(closing))
                known = False
            else:
                plain = _PLAIN_IN_QUOTES.match(self.text, self.at)
                end = plain.end() if plain is not None else self.at + 1
                parts.append(self.text[self.at : end])
                self.at = end

    def _escaped_in_quotes(self, closing: str) -> str:
        following = self.text[self.at + 1 : self.at + 2]
        self.at += 1 + len(following)
        if following == "\n":
            return ""
        return following if following and following in "$`\\" + closing else "\\" + following

    # --- expansions --------------------------------------------------------------------

    def _dollar_unquoted(self) -> tuple[str, bool, bool]:
        if self.starts("$'"):
            self.at += 2
            return self._ansi_c(), True, True
        if self.starts('$"'):
            self.at += 2
            text, known = self.double_quoted('"')
            return text, known, True
        expanded = self._expansion()
        if expanded is not None:
            return expanded, False, False
        self.at += 1
        return "$", True, False

    def _expansion(self) -> str | None:
        """Go over a ``$`` expansion; None when the ``$`` stands for itself. The value is not known."""
        if self.starts("$((") or self.starts("$["):
            raise NotUnderstoodError("arithmetic")
        if self.starts("$("):
            self.at += 2
            self._nested()
            return ""
        if self.starts("${"):
            match = _PLAIN_PARAMETER.match(self.text, self.at + 2)
            if match is None:
                raise NotUnderstoodError("a parameter expansion that is more than a name")
            self.at = match.end()
            return ""
        name = _NAME.match(self.text, self.at + 1)
        if name is not None:
            self.at = name.end()
            return ""
        following = self.text[self.at + 1 : self.at + 2]
        if following and following in _SPECIAL_PARAMETERS:
            self.at += 2
            return ""
        return None

    def _backquoted(self, *, in_quotes: bool) -> None:
        """Go over a substitution in backquotes and read the script in it."""
        escapable = '`\\$"' if in_quotes else "`\\$"
        inner: list[str] = []
        self.at += 1
        while not self.is_at_end:
            character = self.text[self.at]
            self.at += 1
            if character == "`":
                self._nested_text("".join(inner))
                return
            if character == "\\" and self.text[self.at : self.at + 1] in tuple(escapable):
                character = self.text[self.at]
                self.at += 1
            inner.append(character)
        raise NotUnderstoodError("a backquote that does not end")

    def _ansi_c(self) -> str:
        parts: list[str] = []
        while not self.is_at_end:
            character = self.text[self.at]
            self.at += 1
            if character == "'":
                return "".join(parts)
            if character == "\\":
                character = self._ansi_c_escape()
            parts.append(character)
        raise NotUnderstoodError("a quote that does not end")

    def _ansi_c_escape(self) -> str:
        number = _ANSI_C_NUMBER.match(self.text, self.at)
        if number is not None:
            self.at = number.end()
            hexadecimal = number[1] or number[2] or number[3]
            value = int(hexadecimal, 16) if hexadecimal else int(number[4], 8) & 0xFF
            if value == 0 or value > 0x10FFFF or 0x80 <= value <= 0xFF or 0xD800 <= value <= 0xDFFF:
                raise NotUnderstoodError("an escape that is no character")
            return chr(value)
        character = self.text[self.at : self.at + 1]
        if character not in _ANSI_C:
            raise NotUnderstoodError("an escape that is not known")
        self.at += 1
        return _ANSI_C[character]
