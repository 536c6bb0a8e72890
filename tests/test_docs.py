"""The documentation names everything that users can meet: errors, settings, routes, states, commands."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

import pool.errors
import server
import server.errors
from pool.model import InstanceState, SessionState, TurnState
from server.config import ServerConfig
from server.routes import Route
from tests.test_architecture import none_of

DOCS = Path(__file__).parent.parent / "docs"


def page(name: str) -> str:
    """A page's text. Fails by its name when there is none."""
    path = DOCS / name
    assert path.exists(), f"docs/{name} is missing"
    return path.read_text(encoding="utf-8")


def codes_below(error: type[pool.errors.PoolError]) -> set[str]:
    """The codes of an error and of all that derive from it."""
    return {error.code}.union(*(codes_below(kind) for kind in error.__subclasses__()))


def test_every_error_code_is_explained() -> None:
    codes = codes_below(pool.errors.PoolError) | set(server.errors.STATUSES) | {"bad_frame"}
    text = page("errors.md")
    none_of([code for code in sorted(codes) if f"`{code}`" not in text])


def test_every_error_code_has_a_status() -> None:
    none_of(codes_below(pool.errors.PoolError) - set(server.errors.STATUSES))


def settings_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key, dotted; the keys of a list's or map's items as ``providers.*.kind``."""
    for name, field in model.model_fields.items():
        inner = sections_in(field.annotation)
        is_item = not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel))
        if not inner or is_item:
            yield f"{prefix}{name}"
        for section in inner:
            yield from settings_of(section, f"{prefix}{name}.*." if is_item else f"{prefix}{name}.")


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation names, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in sections_in(part)]


def test_every_setting_is_explained() -> None:
    text = page("configuration.md")
    keys = sorted(set(settings_of(ServerConfig)))
    assert len(keys) > 60, "the walk over the settings has lost its way"
    none_of([key for key in keys if f"`{key}`" not in text])


def routes() -> set[tuple[str, str]]:
    """(method, path) of every route that a module of the server declares."""
    found: set[tuple[str, str]] = set()
    for module in pkgutil.walk_packages(server.__path__, "server."):
        if module.name.endswith("__main__"):
            continue
        for value in vars(importlib.import_module(module.name)).values():
            rows = value if isinstance(value, list | tuple) else [value]
            found.update((row.method, row.path) for row in rows if isinstance(row, Route))
    return found


def test_every_route_is_documented() -> None:
    lines = page("api.md").splitlines()
    served = routes()
    assert len(served) > 20, "the walk over the routes has lost its way"
    missing = [
        f"{method} {path}"
        for method, path in sorted(served)
        if not any(re.search(rf"\b{method}\b[^`]*{re.escape(path)}(?![\w/{{-])", line) for line in lines)
    ]
    none_of(missing)


@pytest.mark.parametrize("machine", [InstanceState, SessionState, TurnState])
def test_every_state_has_its_words(machine: Any) -> None:
    text = page("states.md")
    none_of([state.value for state in machine if not re.search(rf"\b{state.value}\b", text)])


def test_every_command_is_explained() -> None:
    cli = importlib.import_module("server.cli")
    text = page("operations.md")
    none_of([name for name in sorted(commands_of(cli.main)) if f"`claude-pool {name}" not in text])


def commands_of(group: Any, prefix: str = "") -> Iterator[str]:
    """The names of a click group's commands, those of its groups with a space."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_of(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}"


# Numbers that are missing were never given.
CASES = {
    *(f"L{n}" for n in (*range(1, 12), 14, 17, *range(19, 28), 29, 30, *range(32, 37), 38, 39, 40)),
    *(str(n) for n in (1, 2, 3, 4, *range(6, 24), *range(25, 34), 35, *range(37, 47))),
}


def test_every_failure_case_is_on_the_page_with_what_shows_it() -> None:
    rows = re.findall(
        r"^\| ([L\d, ]+): [^|]+\| (held|partly|not yet)\b[^|]*\| ([^|]*) ?\|$", page("reliability.md"), re.M
    )
    listed = {name for names, _word, _tests in rows for name in names.split(", ")}
    none_of(CASES ^ listed)
    none_of([names for names, word, tests in rows if word != "not yet" and "`test_" not in tests])


def test_every_test_that_a_page_names_exists() -> None:
    named = set(named_tests(page("reliability.md")))
    assert len(named) > 150, "the walk over the page has lost its way"
    none_of([f"{file}: {test}" for file, test in sorted(named) if not is_defined(file, test)])


def named_tests(text: str) -> Iterator[tuple[str, str]]:
    """(file as the page has it, name of the test) of every test; a name belongs to the file before it."""
    for line in text.splitlines():
        file = ""
        for word in re.findall(r"`([\w/.]+)`", line):
            if word.endswith(".py"):
                file = word
            elif word.startswith("test_"):
                yield file, word


def is_defined(file: str, test: str) -> bool:
    """Is there such a test in the file, given by its path or only by its name?"""
    found = (
        [DOCS.parent / file] if "/" in file else list(DOCS.parent.glob(f"tests/**/{file}")) if file else []
    )
    return any(
        re.search(rf"^ *(async )?def {test}\(", path.read_text(encoding="utf-8"), re.M)
        for path in found
        if path.exists()
    )


def test_links_between_pages_lead_somewhere() -> None:
    broken: list[str] = []
    for path in sorted([*DOCS.rglob("*.md"), *DOCS.parent.glob("*.md")]):
        targets = re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8"))
        inside = [target for target in targets if "://" not in target and not target.startswith("mailto:")]
        gone = [target for target in inside if not (path.parent / target).exists()]
        broken += [f"{path.relative_to(DOCS.parent)} links to {target}" for target in gone]
    none_of(broken)


def test_every_decision_has_a_number_of_its_own_and_a_line_in_the_index() -> None:
    names = sorted(path.name for path in (DOCS / "decisions").glob("*.md"))
    index = page("index.md")
    numbers = [name[:4] for name in names]
    none_of([number for number in sorted(set(numbers)) if numbers.count(number) > 1])
    none_of(
        [name for name in names if f"{int(name[:4])}. [" not in index or f"decisions/{name})" not in index]
    )
    none_of([name for name in names if not page(f"decisions/{name}").startswith(f"# {name[:4]} ")])
