"""The command line and environment of one CLI, sandboxed by bubblewrap or not.

In the sandbox: a read-only system, the user's workspace at ``/workspace``,
their home at ``/home/claude``, a private ``/tmp``, the model socket's
directory at ``/run/model``, and nothing else of the host; no other process is
visible and, unless the network is open, nothing can be reached but the model.
Everything here is a pure function of its arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pool.keeper.network import DNS
from pool.launch.tool_limits import IN_SANDBOX

WORKSPACE = "/workspace"
HOME = "/home/claude"
CONFIG_DIR = "/home/claude/.claude"
CLI = "/opt/claude/claude"
MODEL_DIR = "/run/model"
UID = 1000

# the word in the command line that the keeper replaces by the descriptor of the filter of system calls
FILTER_PLACEHOLDER = "{seccomp_fd}"

SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"

# what the sandbox runs first, as the kernel names it
PRELUDE = "sh"

OPEN_FILES = 1024
# with less the CLI itself does not live (measured)
LEAST_PROCESSES = 64
LEAST_DATA_BYTES = 1024 * 1024 * 1024
TMP_BYTES = 1024 * 1024 * 1024
SHM_BYTES = 64 * 1024 * 1024

# what programs look for in /etc; the accounts, and the hosts without a network, are made up
_ETC_FILES = (
    *("alternatives", "ca-certificates.conf", "gitconfig", "ld.so.cache", "ld.so.conf", "ld.so.conf.d"),
    *("localtime", "mime.types", "nsswitch.conf", "os-release", "pki", "protocols", "services", "ssl"),
    *("terminfo", "timezone"),
)
_ETC_NETWORK_FILES = ("gai.conf", "hosts", "resolv.conf")
ROOT_NAMES = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")

# never taken from spec.env: they would change what runs or where the model is
_RESERVED = frozenset({"LD_PRELOAD", "LD_LIBRARY_PATH", "NODE_OPTIONS", "BUN_OPTIONS", "CLAUDECODE"})

ETC_TEXTS: Mapping[str, str] = {
    "passwd": (
        "root:x:0:0:root:/root:/usr/sbin/nologin\n"
        f"claude:x:{UID}:{UID}:claude:{HOME}:/bin/bash\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    ),
    "group": f"root:x:0:\nclaude:x:{UID}:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost box\n::1 localhost box\n",
    # slirp4netns asks the host's own resolver for it
    "resolv.conf": f"nameserver {DNS}\n",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one sandbox may use; None is no limit.

    ``processes`` are processes and threads together. ``data_bytes`` is the
    private memory of one process.
    """

    processes: int | None
    data_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxPlan:
    """What differs from one sandbox to the next; every path is the host's and exists.

    ``cli`` has no symbolic links in it. ``prefixes`` are directories that the
    CLI's interpreter needs, empty for the real CLI. ``etc_dir`` has the
    files of ``ETC_TEXTS``. ``tool_program`` runs the commands of tools.
    ``root_links`` are the names in ``/`` that are links into ``/usr``,
    ``root_dirs`` those that are directories.
    ``network`` is ``gateway_only``, ``outbound``, ``proxy`` (``outbound`` to
    named hosts only) or ``open``; the middle two are made before bubblewrap starts.
    """

    bwrap: str
    cli: Path
    cli_args: Sequence[str]
    workspace: Path
    home: Path
    model_dir: Path
    etc_dir: Path
    network: str
    disable_nesting: bool
    filter_calls: bool
    limits: Limits
    tool_program: Path | None = None
    prefixes: Sequence[Path] = ()
    root_links: Sequence[str] = ROOT_NAMES
    root_dirs: Sequence[str] = ()


def bwrap_argv(plan: SandboxPlan) -> list[str]:
    """The whole command line. Order counts: a later mount lies over an earlier one."""
    inner_cli = cli_inside(plan.cli)
    argv = [
        plan.bwrap,
        *("--unshare-user", "--uid", str(UID), "--gid", str(UID)),
        *("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--hostname", "box"),
        *("--die-with-parent", "--new-session"),
    ]
    if plan.disable_nesting:
        argv.append("--disable-userns")
    if plan.network == "gateway_only":
        argv.append("--unshare-net")
    if plan.filter_calls:
        argv += ["--seccomp", FILTER_PLACEHOLDER]
    argv += _system(plan)
    argv += ["--proc", "/proc", "--dev", "/dev"]
    argv += ["--perms", "1777", "--size", str(TMP_BYTES), "--tmpfs", "/tmp"]
    argv += ["--dir", "/run", "--dir", "/home"]
    for prefix in plan.prefixes:
        argv += ["--ro-bind", str(prefix), str(prefix)]
    if inner_cli == CLI:
        argv += ["--ro-bind", str(plan.cli), CLI]
    if plan.tool_program is not None:
        argv += ["--ro-bind", str(plan.tool_program), IN_SANDBOX]
    argv += ["--bind", str(plan.workspace), WORKSPACE, "--bind", str(plan.home), HOME]
    # the directory, not the socket: a bound socket is stale once it is made again (measured)
    argv += ["--ro-bind", str(plan.model_dir), MODEL_DIR]
    argv += ["--perms", "1777", "--size", str(SHM_BYTES), "--tmpfs", "/dev/shm"]
    # without these the sandbox's own root and /dev are writable memory of the host, without bound
    argv += ["--remount-ro", "/dev", "--remount-ro", "/"]
    # the host's root stays root to /proc/sys even without a capability: one write to core_pattern
    # and the host runs what it says
    argv += ["--remount-ro", "/proc", "--chdir", WORKSPACE]
    return [*argv, "--", "/bin/sh", "-c", limiting_script(plan.limits), PRELUDE, inner_cli, *plan.cli_args]


def limiting_script(limits: Limits) -> str:
    """A program for sh that sets the limits and becomes its arguments, or fails.

    It runs inside, because the kernel counts processes where the limit is
    set: before bubblewrap it would be one budget for all users of a host uid.
    Limits of file size and processor time are the tools' own: the CLI would die of them.
    """
    steps = ["ulimit -c 0", f"ulimit -n {OPEN_FILES}"]
    if limits.data_bytes is not None:
        steps.append(f"ulimit -d {max(limits.data_bytes, LEAST_DATA_BYTES) // 1024}")
    if limits.processes is not None:
        # shells have different letters for it, and -p is something else where there is -u
        count = max(limits.processes, LEAST_PROCESSES)
        steps.append(f"{{ command ulimit -u {count} 2>/dev/null || ulimit -p {count}; }}")
    return " && ".join([*steps, 'exec "$@"'])


def cli_inside(cli: Path) -> str:
    """Where the CLI is in the sandbox: one below ``/usr`` stays there, beside its own files."""
    return str(cli) if str(cli).startswith("/usr/") else CLI


def sandbox_environment(extra: Mapping[str, str], prefixes: Sequence[Path] = ()) -> dict[str, str]:
    """The environment of a sandboxed CLI: the pool's ``extra`` under what the sandbox fixes."""
    path = ":".join([*(f"{prefix}/bin" for prefix in prefixes), SYSTEM_PATH])
    fixed = {"HOME": HOME, "CLAUDE_CONFIG_DIR": CONFIG_DIR, "TMPDIR": "/tmp", "PATH": path}
    return _environment(extra, fixed, f"{MODEL_DIR}/api.sock") | {"USER": "claude", "PWD": WORKSPACE}


def proxy_environment(port: int) -> dict[str, str]:
    """What tells programs of the proxy at ``port`` of the sandbox's own loopback address."""
    address = f"http://127.0.0.1:{port}"
    names = {
        "http_proxy": address,
        "https_proxy": address,
        "no_proxy": "localhost,127.0.0.1,::1,model-gateway",
    }
    return names | {name.upper(): value for name, value in names.items()}


def plain_environment(
    extra: Mapping[str, str], *, home: Path, tmp_dir: Path, model_dir: Path, path: str
) -> dict[str, str]:
    """The environment of a CLI without a sandbox, with the host's paths."""
    fixed = {
        "HOME": str(home),
        "CLAUDE_CONFIG_DIR": str(home / ".claude"),
        "TMPDIR": str(tmp_dir),
        "CLAUDE_CODE_TMPDIR": str(tmp_dir),
        "PATH": path,
    }
    return _environment(extra, fixed, str(model_dir / "api.sock"))


def _environment(extra: Mapping[str, str], fixed: Mapping[str, str], model_socket: str) -> dict[str, str]:
    usual = {"LANG": "C.UTF-8", "TERM": "dumb"}
    allowed = {key: value for key, value in extra.items() if key not in _RESERVED}
    return {
        **usual,
        **allowed,
        **fixed,
        "ANTHROPIC_UNIX_SOCKET": model_socket,
        # with a socket but without an http address the CLI tries TLS on it and hangs (measured)
        "ANTHROPIC_BASE_URL": "http://model-gateway",
        "ANTHROPIC_API_KEY": "dummy",
    }


def _system(plan: SandboxPlan) -> list[str]:
    argv = ["--ro-bind", "/usr", "/usr"]
    for name in plan.root_links:
        argv += ["--symlink", f"usr/{name}", f"/{name}"]
    for name in plan.root_dirs:
        argv += ["--ro-bind", f"/{name}", f"/{name}"]
    argv += ["--dir", "/etc"]
    is_open = plan.network == "open"
    files = (*_ETC_FILES, *(_ETC_NETWORK_FILES if is_open else ()))
    for name in files:
        argv += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    made_up = ("passwd", "group", *(() if is_open else ("hosts",)))
    for name in (*made_up, *(("resolv.conf",) if plan.network == "outbound" else ())):
        argv += ["--ro-bind", str(plan.etc_dir / name), f"/etc/{name}"]
    return argv
