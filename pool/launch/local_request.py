"""What the keeper is asked to start: the CLI, its command line and its environment."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pool.config import PoolConfig
from pool.errors import LaunchFailed
from pool.fs_identity import acting_as
from pool.keeper.gateway import socket_directory
from pool.launch import sandbox
from pool.launch.base import LaunchSpec
from pool.launch.cli import find_cli, for_everybody, interpreter_prefixes
from pool.launch.isolation import Isolation
from pool.launch.leftovers import temporary_name
from pool.launch.seccomp import filter_program
from pool.launch.tool_limits import ToolPrograms
from pool.launch.uids import first_blocked, trial_uid
from pool.launch.way_out import find_way_out


class LocalRequests:
    """Builds start requests for one data directory and one isolation."""

    def __init__(self, config: PoolConfig, isolation: Isolation, environment: Mapping[str, str]) -> None:
        self._config = config
        self._isolation = isolation
        self._tool_programs = ToolPrograms(config.data_dir)
        self._path = environment.get("PATH", sandbox.SYSTEM_PATH)

    @property
    def filter_path(self) -> Path:
        """The file that has the filter of system calls."""
        return self._config.data_dir / "sandbox" / "seccomp.bpf"

    def write_files(self) -> None:
        """Write what sandboxes get of ours: a few files for ``/etc``, the filter. Raises ``OSError``."""
        directory = self._config.data_dir / "sandbox"
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        if self._isolation.has_uids:
            directory.chmod(0o755)
            # where the temporary directories are that each instance gets: to be passed through only
            (self._config.data_dir / "tmp").mkdir(exist_ok=True)
            (self._config.data_dir / "tmp").chmod(0o711)
        contents = {directory / name: text.encode() for name, text in sandbox.ETC_TEXTS.items()}
        if self._isolation.filter_calls:
            contents[self.filter_path] = filter_program(platform.machine())
        for path, content in contents.items():
            if not path.exists() or path.read_bytes() != content:
                temporary = directory / f".{path.name}.{os.getpid()}"
                temporary.write_bytes(content)
                temporary.chmod(0o644)
                temporary.replace(path)

    def start(self, spec: LaunchSpec, runtime_dir: Path) -> dict[str, Any]:
        """The request for ``spec`` to the keeper of ``runtime_dir``; makes the config directory.

        Blocking when the CLI has to be copied first, so that ``spec.uid`` can run it. Raises
        ``LaunchFailed``.
        """
        cli = find_cli(self._config.cli_path)
        if spec.uid is not None:
            cli = for_everybody(cli, self._config.data_dir)
        elif self._isolation.mode == "uid":
            raise LaunchFailed("no instance without a uid in isolation mode 'uid'", details={"step": "uid"})
        if not spec.workspace.is_dir():
            raise LaunchFailed(
                f"the workspace {spec.workspace} is not a directory", details={"step": "workspace"}
            )
        try:
            with acting_as(spec.uid or 0, spec.uid or 0):
                (spec.home / ".claude").mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise LaunchFailed(f"cannot make the home: {error}", details={"step": "home"}) from error
        tools = None if spec.tool_limits is None else self._tool_programs.write(spec.tool_limits)
        prefixes = [one for one in interpreter_prefixes(cli) if _can_reach(spec.uid, one)]
        model_dir = socket_directory(runtime_dir, spec.instance_id)
        fill = self._sandboxed if self._isolation.mode == "bwrap" else self._plain
        network = self._isolation.network_for(spec.network)
        return {
            "instance": spec.instance_id,
            "isolation": _labelled(self._isolation.label(network), spec.uid),
            "labels": dict(spec.labels),
            "limits": self._group_limits(spec),
            "rights": None if spec.uid is None else self._rights(spec, spec.uid),
            **fill(spec, cli, prefixes, model_dir, tools),
        }

    def _sandboxed(
        self, spec: LaunchSpec, cli: Path, prefixes: Sequence[Path], model_dir: Path, tools: Path | None
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
            tool_program=tools,
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
        found = isolation.way_out or find_way_out(
            isolation.bwrap or "bwrap", uid=None if spec.uid is None else trial_uid(self._config)
        )
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
            "log": str(self._config.data_dir / "egress" / spec.key.user_id / "connections.jsonl"),
            "egress": {"allow": self._config.egress_allow, "labels": labels},
        }

    def _group_limits(self, spec: LaunchSpec) -> dict[str, int | None]:
        """What the instance's control group is to hold, where there are groups."""
        quota = self._config.quotas.for_user(spec.key.user_id)
        return {"memory_bytes": quota.memory_bytes, "processes": quota.max_processes}

    def _rights(self, spec: LaunchSpec, uid: int) -> dict[str, Any]:
        """As whom it runs; the sandbox sets its own limits and filter."""
        if self._isolation.mode == "bwrap":
            return {"uid": uid}
        held = self._limits(spec)
        limits = {
            "core": 0,
            "nofile": sandbox.OPEN_FILES,
            "nproc": held.processes and max(held.processes, sandbox.LEAST_PROCESSES),
            "data": held.data_bytes and max(held.data_bytes, sandbox.LEAST_DATA_BYTES),
        }
        return {
            "uid": uid,
            "limits": {name: value for name, value in limits.items() if value is not None},
            "filter": str(self.filter_path) if self._isolation.filter_calls else None,
        }

    def _limits(self, spec: LaunchSpec) -> sandbox.Limits:
        quota = self._config.quotas.for_user(spec.key.user_id)
        return sandbox.Limits(
            processes=quota.max_processes if self._can_count(spec) else None,
            data_bytes=quota.memory_bytes,
        )

    def _can_count(self, spec: LaunchSpec) -> bool:
        """The kernel never counts root's processes: one of root's beside others that have uids."""
        return self._isolation.count_processes and (spec.uid is not None or not self._isolation.has_uids)

    def _plain(
        self, spec: LaunchSpec, cli: Path, prefixes: Sequence[Path], model_dir: Path, _tools: Path | None
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


def _can_reach(uid: int | None, directory: Path) -> bool:
    return uid is None or first_blocked(directory / "bin", uid) is None


def _labelled(label: str, uid: int | None) -> str:
    """What people and records see: "bwrap+uid/gateway_only" when the sandbox runs as the user."""
    return label if uid is None else label.replace("bwrap/", "bwrap+uid/", 1)
