"""The arguments, the lines and the frames, held against the CLI itself and its fake."""

from __future__ import annotations

import os
import subprocess
import uuid
from pathlib import Path
from typing import Literal

import pytest

from pool.protocol import frames as f
from pool.protocol.command_line import CliOptions, base_environment, build_args
from pool.protocol.connection import CliConnection, pending_asks
from pool.protocol.framing import LineFramer
from pool.protocol.parsing import parse_line

Kind = Literal["real", "fake"]


@pytest.fixture(params=[pytest.param("real", marks=pytest.mark.real_cli), "fake"])
def cli(request: pytest.FixtureRequest, fake_claude: Path) -> Path:
    kind: Kind = request.param
    path = request.getfixturevalue("real_cli") if kind == "real" else fake_claude
    assert isinstance(path, Path)
    return path


def run(cli: Path, home: Path, options: CliOptions, lines: list[bytes]) -> tuple[int, list[f.Frame], str]:
    """Write ``lines``, end the input, and collect exit code, frames and stderr."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "CLAUDE_CONFIG_DIR": str(home / "config"),
        "TMPDIR": str(home),
        "ANTHROPIC_API_KEY": "none",
        "ANTHROPIC_BASE_URL": "http://127.0.0.1:9",
        **base_environment(),
    }
    done = subprocess.run(
        [cli, *build_args(options)],
        input=b"".join(line + b"\n" for line in lines),
        env=environment,
        cwd=home,
        capture_output=True,
        timeout=45,
        check=False,
    )
    framer = LineFramer()
    parsed = [parse_line(line) for line in [*framer.feed(done.stdout), *framer.feed_eof()]]
    return done.returncode, parsed, done.stderr.decode()


def test_it_starts_with_our_arguments_and_answers_our_requests(cli: Path, short_dir: Path) -> None:
    connection = CliConnection(epoch=7)
    lines = [connection.initialize()[1], connection.ping()[1], connection.request("no_such_thing")[1]]
    options = CliOptions(
        session_uuid=str(uuid.uuid4()),
        permission_mode="plan",
        model="claude-sonnet-4-5",
        append_system_prompt="--be brief\nplease",
        allowed_tools=["Bash(git log:*)"],
    )
    code, frames, stderr = run(cli, short_dir, options, lines)
    answers = {frame.request_id: frame for frame in frames if isinstance(frame, f.ControlResponse)}
    assert code == 0, stderr
    assert not any(isinstance(frame, f.Malformed) for frame in frames)
    assert answers["7-1"].ok
    assert answers["7-1"].response["current_permission_mode"] == "plan"
    assert pending_asks(answers["7-1"]) == ()
    assert answers["7-2"].ok
    assert (answers["7-3"].ok, answers["7-3"].error_code) == (False, "unsupported_request")
    assert all(connection.resolve(answer) for answer in answers.values())
    assert connection.open_requests == {}


def test_a_session_that_is_not_there_cannot_be_resumed(cli: Path, short_dir: Path) -> None:
    options = CliOptions(session_uuid=str(uuid.uuid4()), resume=True)
    code, frames, stderr = run(cli, short_dir, options, [CliConnection(1).initialize()[1]])
    assert code == 1
    assert "No conversation found with session ID" in stderr
    assert [frame.is_error for frame in frames if isinstance(frame, f.Result)] == [True]
