"""Path rules: patterns of paths, and paths as the tool will take them, both without touching a disk.

Symbolic links are not followed here: what keeps a session out of a directory
for good is its sandbox.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pool.errors import BadRequest
from pool.policy.rules.globs import components_match, may_match_below

HARMLESS_FILES = frozenset({"/dev/null", "/dev/stdout", "/dev/stderr", "/dev/stdin", "/dev/tty"})
"""Files that no rule is needed for."""

_MAX_PATH = 4096

# Other names of files that are elsewhere: nothing can be said of them by name.
_ALIASES = re.compile(r"/proc/[^/]+/(?:task/[^/]+/)?(?:cwd|root|fd|map_files)(?:/.*)?|/dev/fd(?:/.*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where relative paths and ``~`` lead, as the instance sees them; None: not known."""

    cwd: str | None
    workspace: str | None = None
    home: str | None = None


def resolve(path: str, places: Places, *, cwd_is_known: bool = True) -> str | None:
    """The absolute path that ``path`` names, by its text alone; None when that cannot be said."""
    if not path or "\0" in path or len(path) > _MAX_PATH:
        return None
    if path.startswith("~"):
        rest = path[1:]
        if places.home is None or (rest and not rest.startswith("/")):
            return None
        path = places.home + rest
    elif not path.startswith("/"):
        if places.cwd is None or not cwd_is_known:
            return None
        path = f"{places.cwd}/{path}"
    absolute = "/" + "/".join(_components(path))
    return None if _ALIASES.fullmatch(absolute) else absolute


def _components(path: str) -> list[str]:
    result: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del result[-1:]
        elif part not in ("", "."):
            result.append(part)
    return result


@dataclass(frozen=True, slots=True)
class PathRule:
    """One path pattern.

    ``/a/**`` is absolute, ``~/a`` below the home, ``a/b`` below the workspace,
    and a name without a slash (``.env``, ``*.pem``) fits at any depth: below
    the workspace in an allow rule, anywhere in a deny rule.
    """

    source: str
    denies: bool = False

    def fits(self, path: str, places: Places) -> bool:
        """Does the rule name this absolute path, or a directory above it?"""
        components = _components(path)
        return any(components_match(pattern, components) for pattern in self._patterns(places))

    def may_fit_below(self, directory: str, places: Places) -> bool:
        """Could the rule name something below this absolute directory?"""
        components = _components(directory)
        return any(may_match_below(pattern, components) for pattern in self._patterns(places))

    def _patterns(self, places: Places) -> list[list[str]]:
        source = self.source.rstrip("/") or "/"
        if source.startswith("/"):
            return [_components(source)]
        if source == "~" or source.startswith("~/"):
            if places.home is None:
                return [["**", *_components(source[1:])]] if self.denies and source != "~" else []
            return [[*_components(places.home), *_components(source[1:])]]
        if self.denies and ("/" not in source or places.workspace is None):
            return [["**", *_components(source)]]
        if places.workspace is None:
            return []
        anywhere = [] if "/" in source else ["**"]
        return [[*_components(places.workspace), *anywhere, *_components(source)]]


def path_rules(sources: Sequence[str], key: str, *, denies: bool) -> tuple[PathRule, ...]:
    """The rules of a configured list. Raises ``BadRequest`` naming ``key`` and the bad pattern."""
    for source in sources:
        if not source.strip() or "\0" in source or ".." in source.split("/"):
            raise BadRequest(f"{key}: {source!r} is no path pattern", details={"field": key})
    return tuple(PathRule(source, denies) for source in sources)


def first_fit(rules: Sequence[PathRule], path: str, places: Places) -> PathRule | None:
    """The first rule that names ``path``."""
    return next((rule for rule in rules if rule.fits(path, places)), None)
