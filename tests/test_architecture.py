"""The rules of the house that no tool checks: sizes, names, docstrings, imports, the environment."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAM_FOLDERS = ("pool", "server", "demo")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_CLASS_LINES = 250
BANNED_NAMES = {
    "utils",
    "util",
    "helpers",
    "helper",
    "manager",
    "managers",
    "handler",
    "handlers",
    "misc",
    "common",
}

# Where a program begins; everything else gets what it needs as an argument.
READERS_OF_THE_ENVIRONMENT = {
    "pool/keeper/network.py": "a program of its own, which passes on the mark of its instance",
    "pool/keeper/__main__.py": "a program's first file",
    "pool/launch/local_host.py": "what the launcher passes on, unless its constructor is given another",
    "pool/runtime/faults.py": "the pause points, which tests of kills switch on",
    "pool/keeper/program.py": "the keeper hands a few names on to the gateway that it starts",
}

WAYS_TO_THE_ENVIRONMENT = ("os.environ", "os.environb", "os.getenv")

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def none_of(found: Iterable[str]) -> None:
    """Fail with every line that was found."""
    lines = sorted(found)
    assert not lines, "\n  ".join(["", *lines])


def sources(*folders: str) -> list[Path]:
    """Every Python file below folders of the repository."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def definitions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """Every class and function at the top of a module or class, with its dotted name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition):
            yield f"{prefix}{child.name}", child
        if isinstance(child, ast.ClassDef):
            yield from definitions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.If | ast.Try):
            yield from definitions(child, prefix)


def length_without_docstring(node: Definition) -> int:
    """Lines from the ``def`` to the end, the docstring not counted."""
    assert node.end_lineno is not None
    first = node.body[0]
    doc = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) and first.end_lineno else 0
    return node.end_lineno - node.lineno + 1 - doc


def test_no_file_is_long() -> None:
    lengths = {
        name_of(p): len(p.read_text().splitlines()) for p in sources(*PROGRAM_FOLDERS, "tests", "bench")
    }
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES} == {}


def test_no_function_or_class_is_long() -> None:
    long = []
    for path in sources(*PROGRAM_FOLDERS):
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, Definition):
                continue
            limit = MAX_CLASS_LINES if isinstance(node, ast.ClassDef) else MAX_FUNCTION_LINES
            lines = length_without_docstring(node)
            if lines > limit:
                long.append(
                    f"{name_of(path)}:{node.lineno} {node.name} has {lines} lines, the limit is {limit}"
                )
    none_of(long)


def test_every_module_says_what_it_is() -> None:
    silent = [name_of(p) for p in sources(*PROGRAM_FOLDERS, "tests") if not ast.get_docstring(tree_of(p))]
    none_of(name for name in silent if (ROOT / name).read_text())


def test_everything_public_says_what_it_means() -> None:
    silent = [
        f"{name_of(path)}:{node.lineno} {name}"
        for path in sources("pool", "server")
        if "migrations" not in path.parts
        for name, node in definitions(tree_of(path))
        if not any(part.startswith("_") for part in name.split("."))
        and not ast.get_docstring(node)
        and not is_told_elsewhere(node)
    ]
    none_of(silent)


def is_told_elsewhere(node: Definition) -> bool:
    """Is it an overload, an override or a setter, whose meaning stands at the other definition?"""
    names = [ast.unparse(decorator) for decorator in node.decorator_list]
    return any(name.split(".")[-1] in ("overload", "override", "setter") for name in names)


def test_no_module_has_a_name_that_says_nothing() -> None:
    named = [name_of(p) for p in sources(*PROGRAM_FOLDERS, "tests") if {p.stem, p.parent.name} & BANNED_NAMES]
    none_of(named)


def test_every_task_has_a_name() -> None:
    nameless = []
    for path in sources(*PROGRAM_FOLDERS):
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func).split(".")[-1]
            has_name = any(keyword.arg in ("name", None) for keyword in node.keywords)
            if called == "ensure_future" or (called == "create_task" and not has_name):
                nameless.append(f"{name_of(path)}:{node.lineno} {called} without name=")
    none_of(nameless)


def test_the_pool_reads_the_environment_in_named_places_only() -> None:
    readers = [
        f"{name_of(path)}:{node.lineno}"
        for path in sources("pool")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in WAYS_TO_THE_ENVIRONMENT
    ]
    none_of(place for place in readers if place.split(":")[0] not in READERS_OF_THE_ENVIRONMENT)


def test_the_keeper_imports_the_standard_library_only() -> None:
    strangers = [
        f"{name_of(path)} imports {module}"
        for path in sources("pool/keeper")
        for module in imports_of(path)
        if module.split(".")[0] not in sys.stdlib_module_names and not f"{module}.".startswith("pool.keeper.")
    ]
    none_of(strangers)


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file imports, also inside functions and for type checking."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno} relative import"
            assert node.module is not None
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from below if node.module == "pool" else [node.module]


def python(program: str) -> list[str]:
    """The lines that a fresh interpreter prints."""
    command = [sys.executable, "-W", "error", "-c", program]
    # without cached bytecode each import would compile everything anew
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_running_keeper_loads_the_standard_library_only() -> None:
    loaded = python("import sys, pool.keeper.program; print('\\n'.join(sys.modules))")
    strangers = {name for name in loaded if name.split(".")[0] not in sys.stdlib_module_names}
    ours = {name for name in strangers if name in ("pool", "pool.keeper") or name.startswith("pool.keeper.")}
    none_of(name for name in strangers - ours if not name.startswith(("_", "sitecustomize")))


def modules(*folders: str) -> list[str]:
    """The dotted names of the modules that may be imported without beginning to run."""
    paths = [p for p in sources(*folders) if p.stem not in ("__main__", "env")]
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in paths]
    return [name for name in names if name.replace(".", "").isidentifier()]


@pytest.mark.acceptance  # and of every ``make check``
@pytest.mark.parametrize("folder", ["pool", "server"])
def test_every_module_can_be_imported_first(folder: str) -> None:
    """Import each as if it were the first of ours (what others wrote stays loaded, else it takes minutes)."""
    program = f"""
import importlib, sys, traceback
for name in {modules(folder)!r}:
    for loaded in [m for m in sys.modules if m.split(".")[0] in ("pool", "server")]:
        del sys.modules[loaded]
    try:
        importlib.import_module(name)
    except Exception:
        print(name, traceback.format_exc().splitlines()[-1])
"""
    none_of(python(program))


def test_the_layers_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


def test_nothing_but_the_composition_root_names_an_adapter() -> None:
    """``pool.launch`` and ``pool.store`` are chosen in one place."""
    concrete = ("pool.launch.local", "pool.store.sql")
    named = [
        name_of(path)
        for path in sources("pool/runtime", "pool/policy", "pool/lifecycle", "pool/protocol", "server")
        for module in imports_of(path)
        if module.startswith(concrete)
    ]
    none_of(named)
