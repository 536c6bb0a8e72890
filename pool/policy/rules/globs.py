"""Patterns with ``*`` and ``?``, without regular expressions: time is bounded by the two lengths."""

from __future__ import annotations

from collections.abc import Sequence


def glob_matches(pattern: str, text: str) -> bool:
    """Does ``text`` as a whole fit ``pattern``? ``*`` is any characters, ``?`` any one."""
    at, star, mark = 0, -1, 0
    position = 0
    while position < len(text):
        if at < len(pattern) and pattern[at] == "*":
            star, mark = at, position
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", text[position]):
            at += 1
            position += 1
        elif star >= 0:
            mark += 1
            position, at = mark, star + 1
        else:
            return False
    return all(character == "*" for character in pattern[at:])


def components_match(pattern: Sequence[str], components: Sequence[str]) -> bool:
    """Do the pattern's components fit all of ``components``, or a directory above them?

    ``**`` is any number of components. A pattern that fits a directory fits
    everything below it.
    """
    reached = {0}
    for component in components:
        reached = _closed(pattern, reached)
        if len(pattern) in reached:
            return True
        reached = {after for at in reached for after in _after(pattern[at], at, component)}
        if not reached:
            return False
    return len(pattern) in _closed(pattern, reached)


def may_match_below(pattern: Sequence[str], directory: Sequence[str]) -> bool:
    """Could ``pattern`` fit something below ``directory`` (or the directory itself)?"""
    reached = {0}
    for component in directory:
        reached = _closed(pattern, reached)
        if len(pattern) in reached:
            return True
        reached = {after for at in reached for after in _after(pattern[at], at, component)}
    return bool(reached)


def _closed(pattern: Sequence[str], reached: set[int]) -> set[int]:
    """A ``**`` may also stand for nothing."""
    result = set(reached)
    for start in reached:
        at = start
        while at < len(pattern) and pattern[at] == "**":
            at += 1
            result.add(at)
    return result


def _after(part: str, at: int, component: str) -> tuple[int, ...]:
    if part == "**":
        return (at,)
    return (at + 1,) if glob_matches(part, component) else ()
