"""Runs one program in a real sandbox, as the CLI of a service that may be another user's.

``python sandboxed.py DIRECTORY PROGRAM OPTIONS``, OPTIONS being a JSON object for ``PoolConfig``,
``wanted`` the network that the template asks for, and ``read`` a file below
DIRECTORY to be told too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
SOMEBODY = 29100
_SETUP = f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
_MAIN = f"{_SETUP}from tests.pool.launch.sandboxed import main; main()"
_KEEPER = f"{_SETUP}from pool.keeper.__main__ import main; sys.exit(main())"


def sandboxed(program: str, *, prefix: Sequence[str] = (), uid: int | None = None, **options: Any) -> Any:
    """What ``program`` printed as JSON, as the CLI of a service that ``uid`` runs behind ``prefix``."""
    directory = Path(tempfile.mkdtemp(prefix="cp-"))
    become: list[str] = []
    if uid is not None:
        os.chown(directory, uid, uid)
        become = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    arguments = ["-I", "-B", "-c", _MAIN, str(directory), program, json.dumps(options)]
    try:
        done = subprocess.run(
            [*prefix, *become, _interpreter(uid), *arguments],
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=55,
            check=False,
        )
    finally:
        shutil.rmtree(directory)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _interpreter(uid: int | None) -> str:
    """One that ``uid`` may use: ours can lie where only we may go."""
    for path in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(PermissionError):
            subprocess.run([path, "-I", "-c", ""], check=True, user=uid, cwd="/")
            return path
    raise PermissionError(f"no interpreter that uid {uid} may use")


def main() -> None:
    """See the module."""
    print(json.dumps(asyncio.run(_run(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])))))


async def _run(base: Path, program: str, options: dict[str, Any]) -> Any:
    from pool.config import PoolConfig
    from pool.launch.local import LocalLauncher
    from tests.pool.launch.rig import SCRIPT, Stand

    wanted, read = options.pop("wanted", None), options.pop("read", None)
    cli = base / "claude-script"
    cli.write_text(SCRIPT)
    cli.chmod(0o755)
    config = PoolConfig(
        data_dir=base / "data",
        runtime_dir=base / "run",
        cli_path=cli,
        gateway_command=(),
        keeper_command=(sys.executable, "-I", "-B", "-c", _KEEPER),
        stop_grace_seconds=1.0,
        **options,
    )
    stand = Stand(LocalLauncher(config), base)
    await stand.launcher.open(1)
    try:
        seen = await stand.do(program, network=wanted)
    finally:
        await stand.aclose()
    return seen if read is None else {"seen": seen, "read": (base / read).read_text()}
