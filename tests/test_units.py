"""The systemd units of docs/operations.md are what systemd takes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "operations.md"
ANALYZE = shutil.which("systemd-analyze")


def units() -> dict[str, str]:
    """The units of the page by name, with programs that exist here in place of the installed ones."""
    found = re.findall(
        r"`/etc/systemd/system/([\w-]+\.service)`:\n\n```ini\n(.*?)```", PAGE.read_text(), re.DOTALL
    )
    return {name: text.replace("/srv/claude-pool/.venv/bin/claude-pool", "/bin/true") for name, text in found}


def verify(directory: Path, texts: dict[str, str]) -> str:
    for name, text in texts.items():
        (directory / name).write_text(text)
    command = [ANALYZE or "systemd-analyze", "verify", "--man=no", *(str(directory / name) for name in texts)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    told = [line for line in done.stderr.splitlines() if any(name in line for name in texts)]
    return "\n".join(told)


def test_systemd_takes_every_unit(tmp_path: Path) -> None:
    if ANALYZE is None:
        missing = "systemd-analyze is not installed: apt-get install systemd"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    texts = units()
    assert sorted(texts) == ["claude-pool-keeper.service", "claude-pool.service"]
    assert verify(tmp_path, texts) == ""
    # and the check can fail
    broken = {name: text.replace("KillMode=mixed", "KillMod=mixed") for name, text in texts.items()}
    assert verify(tmp_path, broken).count("KillMod") == 2
