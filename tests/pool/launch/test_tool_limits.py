"""The program that limits tools, run as the CLI runs it: values, words, place, and that it fails closed."""

from __future__ import annotations

import os
import resource
import shlex
import stat
import subprocess
from pathlib import Path

import pytest

from pool.config import Quota, QuotaBook
from pool.errors import LaunchFailed
from pool.launch.tool_limits import ToolLimits, ToolPrograms, check_prefix

MIB = 1 << 20
LIMITS = ToolLimits(file_bytes=2 * MIB, cpu_seconds=1)
SHELLS = ["sh", "bash --posix"]


@pytest.fixture(params=SHELLS)
def program(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """The program, run by each shell that may be the machine's sh."""
    return [*request.param.split(), str(ToolPrograms(tmp_path).write(LIMITS))]


def run(program: list[str], *words: str, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*program, *words], capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload,no-any-return]


def limits_seen(program: list[str], **more: object) -> dict[str, list[str]]:
    output = run(program, "cat /proc/self/limits", **more).stdout
    names = ("Max cpu time", "Max file size")
    return {name: line.split()[3:5] for line in output.splitlines() for name in names if name in line}


def test_the_kernel_says_what_the_quota_says(program: list[str]) -> None:
    assert limits_seen(program) == {"Max cpu time": ["1", "6"], "Max file size": [str(2 * MIB)] * 2}


def test_a_limit_that_was_lower_stays(program: list[str]) -> None:
    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))

    assert limits_seen(program, preexec_fn=lower)["Max file size"] == [str(MIB)] * 2


def test_a_file_ends_at_the_limit_and_a_burner_with_its_time(program: list[str], tmp_path: Path) -> None:
    result = run(program, "head -c 9000000 /dev/zero > big; echo after $?", cwd=tmp_path)
    assert result.stdout == "after 153\n", "128 + SIGXFSZ, and the shell goes on"
    assert (tmp_path / "big").stat().st_size == 2 * MIB
    assert run(program, "exec sh -c 'while :; do :; done'").returncode == -24, "SIGXCPU"


def test_words_place_input_and_variables_are_the_commands_own(program: list[str], tmp_path: Path) -> None:
    text = "a  b \"c\" 'd' $HOME `id` \\ \n* é"
    command = f"pwd; printf %s {shlex.quote(text)}; cat; set | grep -c '^__'; [[ a == a ]] && exit 7"
    variables = {"PATH": os.environ["PATH"], "file": "mine"}
    result = run(program, command, cwd=tmp_path, input="<in>", env=variables)
    assert result.stdout == f"{tmp_path}\n{text}<in>0\n"
    assert (result.returncode, result.stderr) == (7, "")
    assert "file=mine" in run(program, "env", env=variables).stdout


def test_without_its_limit_no_command_runs(program: list[str], tmp_path: Path) -> None:
    script = Path(program[-1])
    text = script.read_text()
    without = script.with_name("without")
    without.write_text(text.replace("ulimit -H -f", "ulimit -H -n"))
    result = run([*program[:-1], str(without)], "echo ran")
    assert (result.returncode, result.stdout) == (126, "")
    assert "did not run this command: its files have no limit" in result.stderr
    result = run(program, "echo", "ran")
    assert (result.returncode, result.stdout) == (126, "")
    assert "gave 2 arguments for one" in result.stderr


@pytest.mark.parametrize("name", ["ulimit", "read", "echo", "__is_at_most"])
def test_a_function_of_the_environment_changes_nothing(tmp_path: Path, name: str) -> None:
    shell = ["bash", "--posix", str(ToolPrograms(tmp_path).write(LIMITS))]
    variables = {"PATH": os.environ["PATH"], f"BASH_FUNC_{name}%%": "() { return 0; }"}
    result = run(shell, "command ulimit -f; command ulimit -t", env=variables)
    assert result.stdout.split() == ["2048", "1"], result


def test_memory_that_runs_out_takes_a_tool_before_the_cli(program: list[str]) -> None:
    before = int(Path("/proc/self/oom_score_adj").read_text())
    assert int(run(program, "cat /proc/self/oom_score_adj").stdout) == before + 100


def test_each_pair_of_limits_is_one_file_that_only_the_service_can_change(tmp_path: Path) -> None:
    programs = ToolPrograms(tmp_path)
    path = programs.write(LIMITS)
    first = path.stat()
    assert (path, path.stat().st_ino) == (programs.write(LIMITS), first.st_ino)
    assert programs.write(ToolLimits(None, 1)) != path
    assert stat.S_IMODE(first.st_mode) == 0o755
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    path.write_text("#!/bin/sh\n")
    assert "ulimit" in programs.write(LIMITS).read_text()
    assert len(list(path.parent.iterdir())) == 2


def test_the_quota_gives_the_limits() -> None:
    book = QuotaBook(
        plans={"big": {"tool_file_bytes": None}},
        users={"al": "big", "bo": {"tool_file_bytes": 0, "tool_cpu_seconds": 0.5}},
    )
    assert ToolLimits.of(book.for_user("eve")) == ToolLimits(5368709120, 14400)
    assert ToolLimits.of(book.for_user("al")) == ToolLimits(None, 14400)
    assert ToolLimits.of(book.for_user("bo")) == ToolLimits(MIB, 1), "a shell needs some"
    assert ToolLimits.of(Quota(tool_file_bytes=None, tool_cpu_seconds=None)) is None


def test_one_limit_alone(tmp_path: Path) -> None:
    programs = ToolPrograms(tmp_path)
    seen = limits_seen([str(programs.write(ToolLimits(None, 9)))])
    assert (seen["Max cpu time"], seen["Max file size"]) == (["9", "14"], ["unlimited"] * 2)
    seen = limits_seen([str(programs.write(ToolLimits(MIB, None)))])
    assert (seen["Max cpu time"], seen["Max file size"]) == (["unlimited"] * 2, [str(MIB)] * 2)


def test_what_cannot_work_is_told(tmp_path: Path) -> None:
    assert check_prefix("/srv/pool-data/tools/1") == "/srv/pool-data/tools/1"
    with pytest.raises(LaunchFailed, match="move the data directory"):
        check_prefix("/srv/my -data/tools/1")
    (tmp_path / "tools").write_text("in the way")
    with pytest.raises(LaunchFailed, match="cannot be written"):
        ToolPrograms(tmp_path).write(LIMITS)
