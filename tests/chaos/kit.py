"""One CLI that is the fake one for most users and the real one for those whose workspace says so."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.fakes.fake_claude import build

REAL_MARK = ".real-claude"
_CHOICE = """#!/bin/sh
cli=$1; shift
kit=$(dirname "$0")
if [ -e "$PWD/{mark}" ]; then exec "$kit/claude" "$@"; fi
exec "$kit/fake_claude" "$@"
"""


def build_kit(directory: Path, real_cli: Path | None) -> Path:
    """Make the CLI below ``directory``; its path. A sandbox shows ``kit`` as it shows an interpreter."""
    programs = directory / "kit" / "bin"
    programs.mkdir(parents=True)
    build(str(programs / "fake_claude"))
    if real_cli is not None:
        try:
            os.link(real_cli, programs / "claude")
        except OSError:
            shutil.copy2(real_cli, programs / "claude")
    choice = programs / "choose"
    choice.write_text(_CHOICE.format(mark=REAL_MARK))
    cli = directory / "either_claude"
    cli.write_text(f"#!{choice}\n")
    for program in (choice, cli):
        program.chmod(0o755)
    return cli


def make_real(workspace: Path) -> None:
    """Let the CLI of this workspace be the real one."""
    workspace.mkdir(parents=True, exist_ok=True)
    (workspace / REAL_MARK).touch()
