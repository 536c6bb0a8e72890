"""Runs the attempts of ``escape_attempts`` in real sandboxes and writes the table of ``docs/isolation.md``.

``python -m tests.e2e.escapes`` runs them as the user it is; started by root
also as a user that is not. ``--run MODE DIRECTORY`` is one run, as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pool.config import PoolConfig
from pool.keeper.gateway import socket_directory
from pool.keeper.server import SOCKET_NAME
from pool.launch import sandbox
from pool.launch.base import LaunchSpec
from pool.launch.local import LocalLauncher
from pool.model import InstanceId, SessionId, SessionKey, UserId
from tests.e2e import escape_attempts
from tests.pool.launch.rig import SCRIPT, Sink

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "isolation.md"
BEGIN, END = "<!-- attempts: begin -->", "<!-- attempts: end -->"
SOMEBODY = 29100
KEY, TOKEN = "sk-key-of-the-operator", "token-of-bob"
KEEPER = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pool.keeper.__main__ import main; sys.exit(main())"
)
# the columns of the table: the mode, and is the service run by root?
COLUMNS: Mapping[str, tuple[str, bool]] = {
    "auto": ("auto", False),
    "auto, service run as root": ("auto", True),
    "none": ("none", False),
}
Outcomes = Mapping[str, str]


def columns_here() -> list[str]:
    """Those that can be run by who we are: root can be anybody."""
    return [name for name, (_, as_root) in COLUMNS.items() if os.geteuid() == 0 or not as_root]


def run_column(name: str) -> Outcomes:
    """All attempts as one column has them, by a process of its own."""
    mode, as_root = COLUMNS[name]
    somebody = SOMEBODY if os.geteuid() == 0 and not as_root else None
    directory = Path(tempfile.mkdtemp(prefix="cp-"))
    if somebody is not None:
        os.chown(directory, somebody, somebody)
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.e2e.escapes import main; main()"
    try:
        done = _python_as(somebody, "-c", program, "--run", mode, str(directory))
    finally:
        shutil.rmtree(directory)
    assert done.returncode == 0, done.stderr
    result: Outcomes = json.loads(done.stdout)
    return result


def _python_as(uid: int | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an interpreter that ``uid`` may use: ours can lie where only we may go."""
    for interpreter in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(PermissionError):
            return subprocess.run(
                [interpreter, "-I", "-B", *arguments],
                cwd="/",
                capture_output=True,
                text=True,
                timeout=90,
                check=False,
                user=uid,
                group=uid,
                extra_groups=None if uid is None else [],
            )
    raise PermissionError(f"no interpreter that uid {uid} may use")


async def run(mode: str, base: Path) -> Outcomes:
    """All attempts by alice against bob, both on this machine."""
    cli = base / "claude-script"
    cli.write_text(SCRIPT)
    cli.chmod(0o755)
    config = PoolConfig(
        data_dir=base / "data",
        runtime_dir=base / "run",
        cli_path=cli,
        # what matters is that there are model sockets; nobody has to answer
        gateway_command=(sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"),
        keeper_command=(sys.executable, "-I", "-B", "-c", KEEPER),
        isolation_mode=mode,
    )
    launcher = LocalLauncher(config, {**os.environ, "ANTHROPIC_API_KEY": KEY})
    await launcher.open(1)
    try:
        return await _attack(launcher, config, base)
    finally:
        await launcher.aclose(end_instances=True)


async def _attack(launcher: LocalLauncher, config: PoolConfig, base: Path) -> Outcomes:
    bob, alice = _spec(config, "bob", "--bobs"), _spec(config, "alice", "--do", _program())
    planted = _plant(config.data_dir, bob)
    echo = Sink()
    victim = await launcher.start(bob, echo)
    await echo.lines(1)
    assert victim.identity is not None
    with host_services(base) as services:
        facts = {
            **planted,
            **services,
            "pid": victim.identity.pid,
            "keeper": next(iter(launcher.supervisor_pids())),
            "server": os.getpid(),
            "cli": str(config.cli_path) if victim.isolation.startswith("none") else sandbox.CLI,
            "left_out": [],
            "token": TOKEN,
            "key": KEY,
            "keeper_socket": str(base / "run" / SOCKET_NAME),
            "model_socket": str(socket_directory(base / "run", "bob") / "api.sock"),
        }
        assert Path(facts["model_socket"]).is_socket()
        (alice.workspace / "facts.json").write_text(json.dumps(facts))
        sink = Sink()
        await launcher.start(alice, sink)
        (outcomes,) = await sink.lines(1)
        status = await sink.exit()
    assert status.code == 0, sink.exits
    assert isinstance(outcomes, dict)
    return outcomes


def _program() -> str:
    return Path(escape_attempts.__file__).read_text()


def _spec(config: PoolConfig, user: str, *args: str) -> LaunchSpec:
    workspace, home = config.data_dir / "workspaces" / user, config.data_dir / "homes" / user
    for directory in (workspace, home / ".claude"):
        directory.mkdir(parents=True, mode=0o700)
    return LaunchSpec(
        instance_id=InstanceId(user),
        key=SessionKey(UserId(user), SessionId("default")),
        cli_args=args,
        env={"TOKEN": TOKEN} if user == "bob" else {},
        workspace=workspace,
        home=home,
    )


def _plant(data: Path, bob: LaunchSpec) -> dict[str, Any]:
    """What is worth stealing."""
    places = {
        "secret": bob.workspace / "secret",
        "conversation": bob.home / ".claude" / "conversation.jsonl",
        "settings": bob.home / ".claude" / "settings.json",
        "database": data / "pool.db",
        "keys": data / "gateway" / "config.json",
        "jwt": data / "secrets" / "jwt.key",
    }
    for path in places.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("secret")
        path.chmod(0o600)
    directories = {"workspaces": bob.workspace.parent, "spool": data / "spool"}
    return {name: str(path) for name, path in (places | directories).items()}


@contextlib.contextmanager
def host_services(base: Path) -> Iterator[dict[str, Any]]:
    """Sockets, files and memory of other programs of the host, open to all."""
    temporary, shared = base / "open-file", Path(f"/dev/shm/cp-{os.getpid()}")
    name, path, key = f"cp-escape-{os.getpid()}", base / "open.sock", 0x4350_0000 | os.getpid() & 0xFFFF
    libc = ctypes.CDLL(None, use_errno=True)
    segment = libc.shmget(key, 4096, 0o1666)
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("0.0.0.0", 0)))
        for address in ("\0" + name, str(path)):
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(address)
            listener.listen()
        for file in (temporary, shared):
            file.write_text("of another program")
            file.chmod(0o666)
            stack.callback(file.unlink)
        path.chmod(0o666)
        stack.callback(libc.shmctl, segment, 0, None)
        yield {
            "port": tcp.getsockname()[1],
            "abstract": name,
            "path_socket": str(path),
            "temporary": str(temporary),
            "shared": str(shared),
            "shm_key": key,
        }


def table(columns: Mapping[str, Outcomes]) -> str:
    """The table in Markdown; ``columns`` are all of ``COLUMNS``."""
    lines = ["| attempt | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    group = ""
    for one in escape_attempts.ATTEMPTS:
        if one.group != group:
            group = one.group
            lines.append(f"| **{group}** |" + " |" * len(COLUMNS))
        cells = [_cell(one, name, columns[name][one.words]) for name in COLUMNS]
        lines.append(f"| {one.words} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(one: escape_attempts.Attempt, column: str, told: str) -> str:
    if column == "none" and one.depends:
        return "depends"
    return "**open**" if told == "open" else told.partition(":")[0]


def documented() -> dict[str, dict[str, str]]:
    """The table of the page: column to attempt to cell."""
    text = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.strip().splitlines()]
    return {
        name: {row[0]: row[place] for row in rows[2:] if not row[0].startswith("**")}
        for place, name in enumerate(rows[0][1:], 1)
    }


def cells(name: str, outcomes: Outcomes) -> dict[str, str]:
    """One column as the page should have it."""
    return {one.words: _cell(one, name, outcomes[one.words]) for one in escape_attempts.ATTEMPTS}


def main() -> None:
    """See the module."""
    if sys.argv[1:2] == ["--run"]:
        print(json.dumps(asyncio.run(run(sys.argv[2], Path(sys.argv[3])))))
        return
    missing = set(COLUMNS) - set(columns_here())
    if missing:
        sys.exit(f"run it as root, so that it can fill in: {', '.join(missing)}")
    columns = {name: run_column(name) for name in COLUMNS}
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table(columns)}\n{END}{after}")


if __name__ == "__main__":
    main()
