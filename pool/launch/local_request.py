"""What the keeper is asked to start: the CLI, its command line and its environment."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pool.config import PoolConfig
from pool.errors import LaunchFailed
from pool.keeper.gateway import socket_directory
from pool.launch import sandbox
from pool.launch.base import LaunchSpec
from pool.launch.isolation import Isolation
from pool.launch.leftovers import temporary_name
from pool.launch.way_out import find_way_out


class LocalRequests:
    """Builds start requests for one data directory and one isolation."""

    def __init__(self, config: PoolConfig, isolation: Isolation, environment: Mapping[str, str]) -> None:
        self._config = config
        self._isolation = isolation
        self._path = environment.get("PATH", sandbox.SYSTEM_PATH)

    @property
    def filter_path(self) -> Path:
        """The file that has the filter of system calls."""
        return self._config.data_dir / "sandbox" / "seccomp.bpf"

    def start(self, spec: LaunchSpec, runtime_dir: Path) -> dict[str, Any]:
        """The request for ``spec`` to the keeper of ``runtime_dir``; makes the config directory.

        Raises ``LaunchFailed``.
        """
        cli = find_cli(self._config.cli_path)
        if not spec.workspace.is_dir():
            raise LaunchFailed(
                f"the workspace {spec.workspace} is not a directory", details={"step": "workspace"}
            )
        try:
            (spec.home / ".claude").mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise LaunchFailed(f"cannot make the home: {error}", details={"step": "home"}) from error
        prefixes = interpreter_prefixes(cli)
        model_dir = socket_directory(runtime_dir, spec.instance_id)
        fill = self._sandboxed if self._isolation.mode == "bwrap" else self._plain
        network = self._isolation.network_for(spec.network)
        return {
            "instance": spec.instance_id,
            "isolation": self._isolation.label(network),
            "labels": dict(spec.labels),
            "limits": self._group_limits(spec),
            **fill(spec, cli, prefixes, model_dir),
        }

    def _sandboxed(
        self, spec: LaunchSpec, cli: Path, prefixes: Sequence[Path], model_dir: Path
    ) -> dict[str, Any]:
        names = [name for name in sandbox.ROOT_NAMES if os.path.lexists(f"/{name}")]
        settings = self._network(spec)
        plan = sandbox.SandboxPlan(
            bwrap=self._isolation.bwrap or "bwrap",
            cli=cli,
            cli_args=spec.cli_args,
            workspace=spec.workspace,
            home=spec.home,
            model_dir=model_dir,
            etc_dir=self._config.data_dir / "sandbox",
            network=self._isolation.network if settings is None else settings["kind"],
            disable_nesting=self._isolation.disable_nesting,
            filter_calls=self._isolation.filter_calls,
            limits=self._limits(spec),
            prefixes=[prefix for prefix in prefixes if not prefix.is_relative_to("/usr")],
            root_links=[name for name in names if os.path.islink(f"/{name}")],
            root_dirs=[name for name in names if not os.path.islink(f"/{name}")],
        )
        env = sandbox.sandbox_environment(spec.env, prefixes)
        if settings is not None and settings["kind"] == "proxy":
            env |= sandbox.proxy_environment(settings["port"])
        opened = [{"path": str(self.filter_path), "placeholder": sandbox.FILTER_PLACEHOLDER}]
        return {
            "wrapper": "bwrap",
            "argv": sandbox.bwrap_argv(plan),
            "env": env,
            "cwd": "/",
            "open": opened if plan.filter_calls else [],
            "prelude": sandbox.PRELUDE,
            "network": settings,
        }

    def _network(self, spec: LaunchSpec) -> Mapping[str, Any] | None:
        """What the keeper is to make before the sandbox, None for nothing. Raises ``LaunchFailed``."""
        isolation = self._isolation
        if isolation.network_for(spec.network) != "outbound":
            return None
        # a template that asks for it may have come after the start
        found = isolation.way_out or find_way_out(isolation.bwrap or "bwrap")
        if found.remedy is not None:
            raise LaunchFailed(
                f"the template asks for network outbound, which is not available: {found.remedy}",
                details={"step": "network"},
            )
        if found.settings["kind"] != "proxy":
            return found.settings
        labels = {"user": spec.key.user_id, "session": spec.key.session_id, "instance": spec.instance_id}
        return {
            **found.settings,
            "log": str(self._config.data_dir / "egress" / f"{spec.key.user_id}.jsonl"),
            "egress": {"allow": self._config.egress_allow, "labels": labels},
        }

    def _group_limits(self, spec: LaunchSpec) -> dict[str, int | None]:
        """What the instance's control group is to hold, where there are groups."""
        quota = self._config.quotas.for_user(spec.key.user_id)
        return {"memory_bytes": quota.memory_bytes, "processes": quota.max_processes}

    def _limits(self, spec: LaunchSpec) -> sandbox.Limits:
        quota = self._config.quotas.for_user(spec.key.user_id)
        return sandbox.Limits(
            processes=quota.max_processes if self._isolation.count_processes else None,
            data_bytes=quota.memory_bytes,
        )

    def _plain(
        self, spec: LaunchSpec, cli: Path, prefixes: Sequence[Path], model_dir: Path
    ) -> dict[str, Any]:
        tmp_dir = self._config.data_dir / "tmp" / temporary_name(spec.instance_id)
        env = sandbox.plain_environment(
            spec.env,
            home=spec.home,
            tmp_dir=tmp_dir,
            model_dir=model_dir,
            path=":".join([*(f"{prefix}/bin" for prefix in prefixes), self._path]),
        )
        return {
            "wrapper": "shim",
            "argv": [str(cli), *spec.cli_args],
            "env": env,
            "cwd": str(spec.workspace),
            "tmp_dir": str(tmp_dir),
        }


def find_cli(configured: Path | None) -> Path:
    """The CLI to run: the configured one, the wheel's, or ``claude`` on PATH. Raises ``LaunchFailed``."""
    found = configured or _bundled_cli()
    if found is None:
        on_path = shutil.which("claude")
        found = None if on_path is None else Path(on_path)
    if found is None:
        raise LaunchFailed("no claude CLI: install claude-agent-sdk or set cli.path", details={"step": "cli"})
    real = found.resolve()
    if not real.is_file() or not os.access(real, os.X_OK):
        raise LaunchFailed(f"the CLI {found} is not an executable file", details={"step": "cli"})
    return real


def _bundled_cli() -> Path | None:
    spec = find_spec("claude_agent_sdk")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "_bundled" / "claude"
    return path if path.exists() else None


def interpreter_prefixes(cli: Path) -> Sequence[Path]:
    """Directories that a CLI which is a script needs to run; none for a real binary."""
    with cli.open("rb") as file:
        first = file.readline(512)
    if not first.startswith(b"#!"):
        return []
    words = os.fsdecode(first[2:]).split()
    prefixes = [Path(sys.prefix), Path(sys.base_prefix)]
    if words and words[0].endswith("/bin/" + Path(words[0]).name):
        named = Path(words[0]).parent.parent
        prefixes += [named, Path(words[0]).resolve().parent.parent]
    unique = dict.fromkeys(prefix for prefix in prefixes if prefix.is_dir() and prefix != Path("/"))
    return [prefix for prefix in unique if str(prefix) != "/usr"]
