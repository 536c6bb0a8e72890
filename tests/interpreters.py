"""An interpreter with this project that every Linux user can run, also where ours lies in somebody's home."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pool.launch.uids import first_blocked

ROOT = Path(__file__).parent.parent
SYSTEM = Path("/usr/bin/python3")
SOMEBODY = 29100


def python_for_all(directory: Path) -> str:
    """One in ``directory``, which everybody can pass through; ours if it will do. Skips where there is none.

    It is the system's, with our packages: the same version reads the same compiled code.
    """
    packages = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    if _can_run(Path(sys.executable), packages):
        return sys.executable
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if not _can_run(SYSTEM, packages) or SYSTEM.resolve().name != version:
        message = f"no {version} and packages that every user can reach"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    ours = directory / "lib" / version / "site-packages"
    ours.mkdir(parents=True)
    (ours / "ours.pth").write_text(f"{packages}\n{ROOT}\n")
    (directory / "bin").mkdir()
    (directory / "bin" / "python").symlink_to(SYSTEM)
    (directory / "pyvenv.cfg").write_text(f"home = {SYSTEM.parent}\n")
    directory.chmod(0o755)
    return str(directory / "bin" / "python")


def _can_run(interpreter: Path, packages: Path) -> bool:
    return not any(
        first_blocked(path, SOMEBODY)
        for path in (interpreter, interpreter.resolve(), packages / "x", ROOT / "x")
    )
