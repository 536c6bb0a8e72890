"""The host program as a command of its own: ``python -m tests.pool.hosts.entry SETTINGS [files|keeper]``.

``SETTINGS`` is a JSON file with fields of ``PoolConfig``. Under a forced
command the word comes from ``SSH_ORIGINAL_COMMAND``. Prints, so that a test
would see what reaches the server of that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from pool.config import PoolConfig
from pool.hosts import program, pump
from pool.steward.hosting import Host
from pool.steward.service import Verb


def main() -> int:
    settings = json.loads(Path(sys.argv[1]).read_text())
    paths = {
        name: Path(settings[name]) for name in ("data_dir", "runtime_dir", "cli_path") if name in settings
    }
    config = PoolConfig(**{**settings, **paths, "gateway_command": ()})
    word = (sys.argv[2:] or os.environ.get("SSH_ORIGINAL_COMMAND", "").split())[-1:]
    if word == ["keeper"]:
        return pump.pump_keeper(config)
    return program.serve_files(config, _more_verbs)


def _more_verbs(_host: Host) -> Mapping[str, Verb]:
    print("printed", flush=True)
    subprocess.run(["/bin/echo", "printed by another"], check=True)
    return {"sleep": lambda *, seconds: time.sleep(seconds), "pid": os.getpid, "shape": lambda: {"a": (1, 2)}}


if __name__ == "__main__":
    os._exit(main())
