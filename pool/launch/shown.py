"""What a Python program of ours must see, wherever it lies, and whether it runs as a user who is shown that.

See ``pool.keeper.service_user``, which shows it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pool.keeper.service_user import as_service_user

_CODE = Path(__file__).resolve().parents[2]
_TRIAL_SECONDS = 60
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def python_places() -> list[Path]:
    """Our interpreter with its library and packages, and the code of this project."""
    prefixes = (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)
    return _unique([*map(Path, prefixes), Path(sys.executable), _CODE])


def program_places(command: Sequence[str], environment: Mapping[str, str]) -> list[Path]:
    """``python_places``, and what the program of ``command`` and the certificates of ``environment`` need."""
    program = program_of(command, environment)
    prefixes = [one.parent.parent for one in (program, program.resolve()) if _is_python(one.parent.parent)]
    return _unique([*python_places(), program, *prefixes, *certificates(environment).values()])


def program_of(command: Sequence[str], environment: Mapping[str, str]) -> Path:
    """The file that is run."""
    return Path(shutil.which(command[0], path=environment.get("PATH")) or command[0])


def certificates(environment: Mapping[str, str]) -> dict[str, Path]:
    """Where certificates are that a program with ``environment`` trusts, by the variable that says so."""
    return {name: Path(environment[name]) for name in _CERTIFICATES if environment.get(name)}


def problem_of(command: Sequence[str], uid: int, shown: Sequence[Path]) -> str | None:
    """Why ``command`` does not end with 0 as ``uid``, without any rights; None when it does. Blocking."""
    try:
        done = subprocess.run(
            as_service_user(uid, command, shown=shown),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TRIAL_SECONDS,
            check=False,
            env={"PATH": "/usr/bin:/bin"},
            cwd="/",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or [f"it exited with {done.returncode}"])[-1]


def _is_python(prefix: Path) -> bool:
    """Is it where an interpreter is installed, and not a home that has a directory ``bin``?"""
    return (prefix / "pyvenv.cfg").is_file() or any((prefix / "lib").glob("python3.*/os.py"))


def _unique(places: Iterable[Path]) -> list[Path]:
    return [place for place in dict.fromkeys(places) if place.is_absolute() and place != Path("/")]
