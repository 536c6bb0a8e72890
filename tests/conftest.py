"""What every test has: the watch for leaks, short directories, the two CLIs, waiters."""

from __future__ import annotations

import gc
import importlib.util
import inspect
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from pool.launch import local_host
from tests import waiting
from tests.fakes.fake_claude import build
from tests.forking import KEEPER, Forker
from tests.forking_keepers import run_keeper
from tests.leaks import Watch

# The suite gives the same verdict each time; ``make fuzz`` looks for what nobody has thought of.
# How fast a machine draws examples is no verdict.
_NO_CLOCK = (HealthCheck.too_slow,)
settings.register_profile("suite", derandomize=True, suppress_health_check=_NO_CLOCK)
settings.register_profile("fuzz", max_examples=2000, suppress_health_check=_NO_CLOCK)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


# What is loaded and collected stays: looking through it meanwhile is a quarter of that time.
gc.disable()


# So that no worker is left alone with one of them in the end.
_LONG = ("tests/e2e/", "tests/browser/", "tests/fuzz/", "tests/server/test_serving.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with long stories come first."""
    items.sort(key=lambda item: not item.nodeid.startswith(_LONG))


def pytest_collection_finish() -> None:
    """Let the collector not look through all modules and tests again and again."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def settled_heap() -> Iterator[None]:
    """Let the collector not look through what a file has loaded and cached in the tests of the next."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def private_temp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A temporary directory of this process alone, so that what is left in it is surely ours."""
    tmp_path_factory.getbasetemp()
    before = tempfile.gettempdir(), os.environ.get("TMPDIR")
    directory = Path(before[0], f"cp-{os.getpid()}")
    directory.mkdir(mode=0o711, exist_ok=True)
    tempfile.tempdir = os.environ["TMPDIR"] = str(directory)
    yield directory
    tempfile.tempdir = None
    os.environ.pop("TMPDIR")
    if before[1] is not None:
        os.environ["TMPDIR"] = before[1]
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest, private_temp: Path) -> Iterator[Watch]:
    """Fail a test that leaves a process, task, thread, descriptor or temporary file."""
    watch = Watch()
    yield watch
    arguments = getattr(request.node, "funcargs", None) or {}
    own = [arguments.get(name) for name in ("tmp_path", "short_dir")]
    leaks = watch.leaks(str(path) for path in own if path is not None)
    if leaks:
        pytest.fail("the test left behind:\n  " + "\n  ".join(leaks), pytrace=False)


@pytest.fixture(autouse=True)
def no_task_leaks(request: pytest.FixtureRequest, no_leaks: Watch) -> None:
    """Look at a test's event loop too; after ``no_leaks``, so that the loop is gone when that looks."""
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("watched_loop")


@pytest.fixture
async def watched_loop(no_leaks: Watch) -> AsyncIterator[None]:
    """The part of ``no_leaks`` that must look while the event loop lives."""
    yield
    await no_leaks.watch_tasks()


@pytest.fixture
def short_dir(no_leaks: Watch) -> Iterator[Path]:
    """A directory with a short path, for sockets and data; removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="cp-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def fake_claude(private_temp: Path) -> Path:
    """The fake CLI as one executable file; ``tests/fakes/fake_claude.py`` says what it does."""
    directory = private_temp / "cli"
    directory.mkdir(mode=0o755, exist_ok=True)
    return Path(build(str(directory / "fake_claude")))


@pytest.fixture(scope="session")
def forker(private_temp: Path) -> Iterator[Forker]:
    """An interpreter that has ``claude-pool`` imported; nothing is forked off it but on request."""
    with Forker() as made:
        yield made


@pytest.fixture
def forked_servers(forker: Forker) -> Iterator[None]:
    """``claude-pool`` is forked off, not started from the file; ``tests/forking.py`` says what that is."""
    with forker.in_use():
        yield


@pytest.fixture(scope="session")
def keeper_forker(private_temp: Path) -> Iterator[Forker]:
    """An interpreter that has the keeper imported; nothing is forked off it but on request."""
    with Forker(KEEPER) as made:
        yield made


@pytest.fixture
def forked_keepers(keeper_forker: Forker, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keepers of the usual program are forked off; ``tests/forking.py`` says what that is."""
    monkeypatch.setattr(local_host, "run_keeper", run_keeper)
    with keeper_forker.in_use():
        yield


@pytest.fixture(scope="session")
def real_cli() -> Path:
    """The real CLI out of the SDK's wheel. Skips where there is none; on CI that is a failure."""
    spec = importlib.util.find_spec("claude_agent_sdk")
    path = (
        Path(spec.origin or "").parent / "_bundled" / "claude" if spec is not None else Path("/nonexistent")
    )
    if not path.exists():
        message = "no real CLI: the wheel of claude-agent-sdk carries none for this machine"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest.fixture
def eventually() -> Callable[..., Awaitable[Any]]:
    """``await eventually(predicate, seconds=30)``; typed when imported from ``tests.waiting``."""
    return waiting.eventually


@pytest.fixture
def eventually_sync() -> Callable[..., Any]:
    """``eventually_sync(predicate, seconds=30)``, for tests without an event loop."""
    return waiting.eventually_sync
