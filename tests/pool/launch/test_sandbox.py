"""The command line and environment of a sandbox, as data; ``test_walls`` tries the sandbox itself."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

from pool.launch import sandbox
from pool.launch.sandbox import Limits, SandboxPlan, bwrap_argv, limiting_script

PLAN = SandboxPlan(
    bwrap="/usr/bin/bwrap",
    cli=Path("/srv/cli/claude"),
    cli_args=("--print", "--", "$(id)"),
    workspace=Path("/data/workspaces/alice"),
    home=Path("/data/homes/alice"),
    model_dir=Path("/run/claude-pool/x/i/1"),
    etc_dir=Path("/data/sandbox"),
    network="gateway_only",
    disable_nesting=True,
    filter_calls=True,
    limits=Limits(processes=256, data_bytes=4 * 2**30),
)


def pairs(argv: list[str], option: str) -> list[tuple[str, str]]:
    return [(argv[i + 1], argv[i + 2]) for i, word in enumerate(argv) if word == option]


def test_only_the_workspace_and_the_home_are_writable() -> None:
    argv = bwrap_argv(PLAN)
    assert pairs(argv, "--bind") == [
        ("/data/workspaces/alice", "/workspace"),
        ("/data/homes/alice", "/home/claude"),
    ]
    assert "--dev-bind" not in argv
    remounted = [argv[i + 1] for i, word in enumerate(argv) if word == "--remount-ro"]
    assert remounted == ["/dev", "/", "/proc"]
    assert argv.index("--remount-ro") > max(i for i, word in enumerate(argv) if word in ("--tmpfs", "--bind"))


def test_every_temporary_file_system_has_a_size() -> None:
    argv = bwrap_argv(PLAN)
    sized = [argv[i - 2] for i, word in enumerate(argv) if word == "--tmpfs"]
    assert sized == ["--size", "--size"]


def test_it_dies_with_the_keeper_in_namespaces_of_its_own() -> None:
    argv = bwrap_argv(PLAN)
    for option in ("user", "pid", "ipc", "uts", "net"):
        assert f"--unshare-{option}" in argv
    assert {"--die-with-parent", "--new-session", "--disable-userns"} <= set(argv)
    assert "--unshare-net" not in bwrap_argv(replace(PLAN, network="open"))
    assert "--share-net" not in argv


def test_the_keeper_gives_the_filter_its_descriptor() -> None:
    assert bwrap_argv(PLAN)[bwrap_argv(PLAN).index("--seccomp") + 1] == sandbox.FILTER_PLACEHOLDER
    assert "--seccomp" not in bwrap_argv(replace(PLAN, filter_calls=False))


def test_the_clis_arguments_come_last_and_unchanged() -> None:
    assert bwrap_argv(PLAN)[-4:] == ["/opt/claude/claude", "--print", "--", "$(id)"]


def test_limits_are_set_inside_and_never_below_what_the_cli_needs() -> None:
    argv = bwrap_argv(PLAN)
    assert argv[argv.index("--") + 1 : -5] == ["/bin/sh", "-c", limiting_script(PLAN.limits)]
    for limits, expected in (
        (Limits(256, 2**32), ["0", "1024", "4194304", "256"]),
        (Limits(1, 1), ["0", "1024", "1048576", "64"]),
    ):
        program = limiting_script(limits).replace('exec "$@"', "ulimit -c; ulimit -n; ulimit -d; ulimit -u")
        done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.split() == expected
    assert "ulimit -d" not in limiting_script(Limits(None, None))


def test_a_cli_below_usr_stays_beside_its_own_files() -> None:
    argv = bwrap_argv(replace(PLAN, cli=Path("/usr/lib/node_modules/claude/cli.js")))
    assert argv[-4] == "/usr/lib/node_modules/claude/cli.js"
    assert "/opt/claude/claude" not in argv


def test_the_model_socket_is_bound_as_a_directory() -> None:
    assert ("/run/claude-pool/x/i/1", "/run/model") in pairs(bwrap_argv(PLAN), "--ro-bind")


def test_accounts_are_made_up_and_hosts_too_without_a_network() -> None:
    bound = pairs(bwrap_argv(PLAN), "--ro-bind")
    assert {("/data/sandbox/passwd", "/etc/passwd"), ("/data/sandbox/hosts", "/etc/hosts")} <= set(bound)
    tried = dict(pairs(bwrap_argv(PLAN), "--ro-bind-try"))
    assert not {"/etc/resolv.conf", "/etc/hosts", "/etc/shadow", "/etc/passwd"} & set(tried)
    open_network = bwrap_argv(replace(PLAN, network="open"))
    assert "/etc/resolv.conf" in dict(pairs(open_network, "--ro-bind-try"))
    assert ("/data/sandbox/hosts", "/etc/hosts") not in pairs(open_network, "--ro-bind")


def test_a_network_that_is_made_before_is_neither_cut_nor_the_hosts() -> None:
    for network, has_resolver in (("outbound", True), ("proxy", False)):
        argv = bwrap_argv(replace(PLAN, network=network))
        assert "--unshare-net" not in argv
        bound = pairs(argv, "--ro-bind")
        assert ("/data/sandbox/hosts", "/etc/hosts") in bound
        assert (("/data/sandbox/resolv.conf", "/etc/resolv.conf") in bound) is has_resolver
        assert not {"/etc/resolv.conf", "/etc/hosts"} & set(dict(pairs(argv, "--ro-bind-try")))
    assert sandbox.ETC_TEXTS["resolv.conf"] == "nameserver 10.0.2.3\n"


def test_no_secret_and_nothing_that_redirects_gets_into_the_environment() -> None:
    extra = {
        "CLAUDE_CODE_MAX_RETRIES": "2",
        "HOME": "/root",
        "ANTHROPIC_API_KEY": "sk-real",
        "ANTHROPIC_BASE_URL": "http://elsewhere",
        "LD_PRELOAD": "/tmp/x.so",
        "NODE_OPTIONS": "--require /tmp/x",
        "CLAUDECODE": "1",
    }
    env = sandbox.sandbox_environment(extra)
    assert env["HOME"] == "/home/claude"
    assert env["CLAUDE_CONFIG_DIR"] == "/home/claude/.claude"
    assert env["ANTHROPIC_API_KEY"] == "dummy"
    assert env["ANTHROPIC_BASE_URL"] == "http://model-gateway"
    assert env["ANTHROPIC_UNIX_SOCKET"] == "/run/model/api.sock"
    assert env["CLAUDE_CODE_MAX_RETRIES"] == "2"
    assert not {"LD_PRELOAD", "NODE_OPTIONS", "CLAUDECODE"} & set(env)


def test_without_a_sandbox_the_paths_are_the_hosts() -> None:
    env = sandbox.plain_environment(
        {"A": "b"},
        home=Path("/data/homes/alice"),
        tmp_dir=Path("/data/tmp/1"),
        model_dir=Path("/run/x/i/1"),
        path="/usr/bin",
    )
    assert env["HOME"] == "/data/homes/alice"
    assert env["CLAUDE_CONFIG_DIR"] == "/data/homes/alice/.claude"
    assert env["TMPDIR"] == env["CLAUDE_CODE_TMPDIR"] == "/data/tmp/1"
    assert env["ANTHROPIC_UNIX_SOCKET"] == "/run/x/i/1/api.sock"
    assert env["A"] == "b"


def test_the_program_that_limits_tools_is_read_only_and_in_one_place() -> None:
    argv = bwrap_argv(replace(PLAN, tool_program=Path("/data/tools/1")))
    assert ("/data/tools/1", "/opt/claude/tool-limits") in pairs(argv, "--ro-bind")
    assert not any("tool-limits" in word for word in bwrap_argv(PLAN))
