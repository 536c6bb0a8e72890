"""What is known of programs that start other programs: their names, options and words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pool.policy.rules.shell_words import NotUnderstoodError, Word


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapper:
    """A program that only starts the command in its words.

    ``flags`` stand alone, ``valued`` have a value, after them or attached;
    any other option is not understood. ``positional`` words come before the
    command. ``moves``: options that change the directory; ``describes``:
    those that only tell what the command is.
    """

    flags: frozenset[str] = frozenset()
    valued: frozenset[str] = frozenset()
    positional: int = 0
    takes_assignments: bool = False
    appends_input: bool = False
    moves: frozenset[str] = frozenset()
    describes: frozenset[str] = frozenset()

    def after_options(self, words: Sequence[Word]) -> tuple[int, dict[str, str]]:
        """(The first word after the options, the options' values). Raises ``NotUnderstoodError``."""
        given: dict[str, str] = {}
        at = 1
        while at < len(words):
            word = words[at]
            if not word.is_known:
                raise NotUnderstoodError(f"{words[0]} with words that are not literal before its command")
            if word.text == "--":
                return at + 1, given
            if not word.text.startswith("-") or word.text == "-":
                return at, given
            at += 1 if self._stands_alone(word.text, given) else self._with_value(words, at, given)
        return at, given

    def _stands_alone(self, text: str, given: dict[str, str]) -> bool:
        if text in self.flags or ("-#" in self.flags and text[1:].isdigit()):
            return True
        name, has_value, value = text.partition("=")
        if text.startswith("--"):
            if has_value and name in self.valued:
                given[name] = value
                return True
            return False
        if text[:2] in self.valued and len(text) > 2:
            given[text[:2]] = text[2:]
            return True
        return len(text) > 2 and all(f"-{letter}" in self.flags for letter in text[1:])

    def _with_value(self, words: Sequence[Word], at: int, given: dict[str, str]) -> int:
        text = words[at].text
        if text not in self.valued or at + 1 >= len(words) or not words[at + 1].is_known:
            raise NotUnderstoodError(f"the option {text} of {words[0]}")
        given[text] = words[at + 1].text
        return 2


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


WRAPPERS = {
    "builtin": Wrapper(),
    "command": Wrapper(flags=_set("-p"), describes=_set("-v -V")),
    "env": Wrapper(
        flags=_set("-i --ignore-environment"),
        valued=_set("-u --unset -C --chdir"),
        takes_assignments=True,
        moves=_set("-C --chdir"),
    ),
    "exec": Wrapper(flags=_set("-c -l"), valued=_set("-a")),
    "ionice": Wrapper(flags=_set("-t"), valued=_set("-c -n")),
    "nice": Wrapper(flags=_set("-#"), valued=_set("-n --adjustment")),
    "noglob": Wrapper(),
    "nohup": Wrapper(),
    "setsid": Wrapper(flags=_set("-c -f -w --ctty --fork --wait")),
    "stdbuf": Wrapper(valued=_set("-i -o -e --input --output --error")),
    "time": Wrapper(flags=_set("-p")),
    "timeout": Wrapper(
        flags=_set("-f -p -v --foreground --preserve-status --verbose"),
        valued=_set("-k -s --kill-after --signal"),
        positional=1,
    ),
    "xargs": Wrapper(
        flags=_set("-0 -r -t -x --null --no-run-if-empty --verbose --exit"),
        valued=_set(
            "-n -P -L -s -d -E -I --max-args --max-procs --max-lines --max-chars --delimiter --replace"
        ),
        appends_input=True,
    ),
}
"""Programs that do nothing but start the command after them."""

SHELLS = _set("sh bash dash ash zsh ksh mksh rbash posh yash")
"""Programs that run shell text."""

CARRIERS = _set(
    "sudo doas su runuser pkexec run0 gosu setpriv capsh "
    "ssh parallel watch script flock chroot unshare nsenter bwrap firejail proot fakeroot "
    "busybox toybox strace ltrace gdb perf valgrind chrt taskset numactl setarch linux32 linux64 "
    "systemd-run cgexec prlimit unbuffer expect tmux screen at batch entr rlwrap xvfb-run "
    "dbus-run-session proxychains proxychains4 torsocks torify choom start-stop-daemon mapfile readarray "
    "complete compgen csh tcsh fish pwsh"
)
"""Programs that start a command somewhere in their words, in ways that are not followed."""

INTERPRETERS = _set(
    "python python2 python3 perl ruby node nodejs deno bun php lua tclsh awk gawk mawk R Rscript"
)
"""Programs that run what they read when no file is named."""

REDEFINE = _set(
    "alias unalias declare typeset export readonly local enable hash shopt setopt unsetopt autoload zmodload "
    "zle bindkey"
)
"""Commands of the shell that change what the words after them mean."""

MOVE = _set("cd pushd popd chdir")
"""Commands of the shell that change the directory."""

FIND_RUNS = _set("-exec -execdir -ok -okdir")
FIND_WRITES = _set("-fprint -fprint0 -fls -fprintf")

_SHELL_FLAGS = re.compile(r"-[aefhiklmnuvxBEHPTc]+", re.ASCII)
_SHELL_LONG_FLAGS = _set("--login --noprofile --norc --posix --restricted --verbose")


def shell_options(words: Sequence[Word]) -> tuple[int, bool]:
    """Of a shell's words: (the first after the options, whether it is a text to run).

    Raises ``NotUnderstoodError`` for options that read files or are not known.
    """
    at, runs_text = 1, False
    while at < len(words):
        word = words[at]
        if not word.is_known:
            raise NotUnderstoodError(f"{words[0]} with words that are not literal")
        if word.text in ("-", "--"):
            return at + 1, runs_text
        if not word.text.startswith(("-", "+")):
            break
        at += 1
        if word.text in ("-o", "+o", "-O", "+O"):
            at += 1
        elif _SHELL_FLAGS.fullmatch(word.text):
            runs_text = runs_text or "c" in word.text
        elif word.text not in _SHELL_LONG_FLAGS:
            raise NotUnderstoodError(f"the option {word.text} of {words[0]}")
    return at, runs_text
