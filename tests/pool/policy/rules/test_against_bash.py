"""The parser held against bash itself: what the policy allows never runs the denied program."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pool.policy.rules.decision import Kind, ToolCall, compile_rules, decide
from pool.policy.rules.paths import Places

RULES = compile_rules(allowed_commands=["*"], denied_commands=["rm"], allowed_paths=["/"])
PLACES = Places(cwd="/workspace", workspace="/workspace", home="/home/claude")
SYSTEM = ("env", "timeout", "xargs", "nice", "find", "bash", "stdbuf")

PIECES = st.sampled_from(
    [
        *("rm", "r\\m", "'rm'", '"rm"', "$'rm'", "$'\\x72m'", "r", "m", "r{m,n}", "{rm,}", "rm x", "rm;"),
        *(
            "$(rm)",
            "`rm`",
            '"$(rm)"',
            "(rm)",
            "<(rm)",
            ">(rm)",
            "git",
            "log",
            "x",
            "-rf",
            "A=b",
            "$X",
            "${X}",
        ),
        *(
            ";",
            "&&",
            "||",
            "|",
            "|&",
            "\n",
            "(",
            ")",
            "{",
            "}",
            "{ ",
            "; }",
            "$(",
            "`",
            '"',
            "'",
            "\\",
            "\\\n",
        ),
        *(
            "<(",
            ">(",
            "<",
            ">",
            ">f",
            "&>",
            "2>&1",
            "<<EOF",
            "<<'EOF'",
            "<<-E",
            "<<<",
            "EOF",
            "\nEOF\n",
            "\nEOF",
        ),
        *(
            "$((",
            "[[",
            "]]",
            "((",
            "))",
            "if",
            "then",
            "else",
            "fi",
            "for",
            "in",
            "do",
            "done",
        ),
        *(
            "case",
            "esac",
            "select",
            "function",
            "f()",
            "!",
            "#",
            "*",
            "~",
            "=",
            "a=(",
            "{a,b}",
            "{}",
            "+",
            "\\;",
        ),
        *("bash", "-c", "eval", "env", "xargs", "-I{}", "timeout", "5", "time", "command", "exec", "builtin"),
        *("nice", "-n", "trap", "EXIT", "-p", "--", "-i", "find . -maxdepth 0 -exec", "\t", " ", "$", "${"),
    ]
)
SCRIPTS = st.lists(PIECES, min_size=1, max_size=9)


@pytest.fixture
def ran_denied(short_dir: Path) -> Callable[[str], bool]:
    """``ran_denied(text)``: does bash run a program called rm for it? It is a stub that only says so."""
    stubs, work, said = short_dir / "bin", short_dir / "work", short_dir / "said"
    stubs.mkdir()
    work.mkdir()
    for name in ("git", "log", "x", "rm"):
        stub = stubs / name
        stub.write_text(f"#!/bin/bash\nprintf x >> {said}\n" if name == "rm" else "#!/bin/bash\n")
        stub.chmod(0o755)
    for name in SYSTEM:
        (stubs / name).symlink_to(f"/usr/bin/{name}")

    def run(text: str) -> bool:
        said.unlink(missing_ok=True)
        subprocess.run(
            ["/bin/bash", "-c", text],
            cwd=work,
            env={"PATH": str(stubs), "HOME": str(work), "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            # Until every child has closed it: none is left behind.
            capture_output=True,
            timeout=10,
            check=False,
        )
        return said.exists()

    return run


def test_the_stub_is_run(ran_denied: Callable[[str], bool]) -> None:
    assert ran_denied("echo $(rm x)")
    assert not ran_denied("echo rm")


@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.one_of(SCRIPTS.map(" ".join), SCRIPTS.map("".join)))
@example("eval -- r\\m x")
@example("time { rm; }")
@example("bash rm")
@example(". rm")
@example("source rm x")
def test_what_is_allowed_never_runs_what_is_denied(ran_denied: Callable[[str], bool], text: str) -> None:
    call = ToolCall(tool="Bash", given={"command": text}, places=PLACES)
    if decide(RULES, call).kind is Kind.ALLOW:
        assert not ran_denied(text)
