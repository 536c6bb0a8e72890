"""Runs the attempts of ``escape_attempts`` in real sandboxes and writes the table of ``docs/isolation.md``.

``python -m tests.e2e.escapes``, started by root, runs them in every column.
``--run COLUMN DIRECTORY`` is one run, as JSON.
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pool.config import PoolConfig
from pool.keeper.gateway import socket_directory
from pool.keeper.network import own_addresses
from pool.keeper.server import SOCKET_NAME
from pool.launch import sandbox
from pool.launch.base import LaunchSpec
from pool.launch.local import LocalLauncher
from pool.launch.uids import first_blocked
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
# what matters is that there are model sockets, for as long as there is a keeper; nobody has to answer
GATEWAY = "import os, sys\nwhile os.read(int(sys.argv[sys.argv.index('--control-fd') + 1]), 65536): pass"
Outcomes = Mapping[str, str]


@dataclass(frozen=True)
class Column:
    """How the service is configured and run; ``isolation`` is what it must report of its instances."""

    mode: str
    isolation: str
    as_root: bool = False
    network: str = "auto"

    @property
    def may_send(self) -> bool:
        """Does it have a world of its own, in which everything is real and nothing gets out?"""
        return self.network == "outbound"


COLUMNS: Mapping[str, Column] = {
    "auto": Column("auto", "bwrap/gateway_only"),
    "auto, service run as root": Column("auto", "bwrap+uid/gateway_only", as_root=True),
    "the same with outbound": Column("auto", "bwrap+uid/outbound", as_root=True, network="outbound"),
    "uid": Column("uid", "uid/open", as_root=True),
    "none": Column("none", "none/open"),
}
# what a column is there for
MEANT = {"the same with outbound": {"reach the internet"}}


def columns_missing() -> dict[str, str]:
    """Those that cannot be run here, and why: root can be anybody, but nobody else can."""
    missing = {}
    programs = "/usr/sbin:/usr/bin:/sbin:/bin"
    absent = [name for name in ("slirp4netns", "nft", "ip") if shutil.which(name, path=programs) is None]
    for name, column in COLUMNS.items():
        if column.as_root and os.geteuid() != 0:
            missing[name] = "only root can run a service of root"
        elif column.may_send and absent:
            missing[name] = f"no {', '.join(absent)}"
    return missing


def columns_here() -> list[str]:
    """Those that can be run."""
    return [name for name in COLUMNS if name not in columns_missing()]


def run_column(name: str) -> Outcomes:
    """All attempts as one column has them, by a process of its own.

    Where the service says that it has another isolation than the column's, or
    the kernel does not know its instances by uids of their own where it says
    so, that is an ``AssertionError`` and no result.
    """
    column = COLUMNS[name]
    somebody = SOMEBODY if os.geteuid() == 0 and not column.as_root else None
    python = sys.executable if somebody is None else plain_python()
    assert python is not None, f"no interpreter that uid {somebody} may use"
    directory = Path(tempfile.mkdtemp(prefix="cp-"))
    try:
        uids = _lay_out(directory, column, somebody)
        with contextlib.ExitStack() as stack:
            command = [python, "-I", "-B", "-c", _RUN, "--run", name, str(directory)]
            done = subprocess.run(
                [*_world(column, directory, stack), *command],
                cwd="/",
                capture_output=True,
                text=True,
                timeout=90,
                check=False,
                user=somebody,
                group=somebody,
                extra_groups=None if somebody is None else [],
            )
    finally:
        shutil.rmtree(directory)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["isolation"] == [column.isolation] * 2, seen
    assert seen["uids"] == uids, seen
    result: Outcomes = seen["outcomes"]
    return result


_RUN = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.e2e.escapes import main; main()"


def _lay_out(directory: Path, column: Column, somebody: int | None) -> Sequence[int]:
    """The data directory of a service that ``somebody`` runs, as it makes it; the uids of bob and alice."""
    # has needs that the runs themselves do not have
    from pool.workspace.workspaces import Workspaces

    # as the parents of a data directory are: to be passed through, not listed
    directory.chmod(0o711)
    data = directory / "data"
    first = PoolConfig(data_dir=data).uid_range[0]
    uids = (first + 1, first + 2) if "uid" in column.isolation else (None, None)
    for user, uid in zip(("bob", "alice"), uids, strict=True):
        Workspaces(data).ensure(user, uid=uid)
    if somebody is not None:
        for path in (directory, *directory.rglob("*")):
            os.chown(path, somebody, somebody, follow_symlinks=False)
    service = os.geteuid() if somebody is None else somebody
    return [service if uid is None else uid for uid in uids]


def _world(column: Column, directory: Path, stack: contextlib.ExitStack) -> Sequence[str]:
    """The prefix of a command that runs in a world of its own, where there has to be one."""
    if not column.may_send:
        return []
    from tests.internet import internet

    (directory / "world").mkdir()
    return stack.enter_context(internet(directory / "world")).inside


async def run(column: Column, base: Path) -> Mapping[str, Any]:
    """All attempts by alice against bob, both on this machine."""
    cli = base / "claude-script"
    cli.write_text("\n".join([f"#!{plain_python() or sys.executable}", *SCRIPT.splitlines()[1:]]))
    cli.chmod(0o755)
    config = PoolConfig(
        data_dir=base / "data",
        runtime_dir=base / "run",
        cli_path=cli,
        gateway_command=(sys.executable, "-I", "-S", "-c", GATEWAY),
        keeper_command=(sys.executable, "-I", "-B", "-c", KEEPER),
        isolation_mode=column.mode,
        isolation_network=column.network,
    )
    launcher = LocalLauncher(config, {**os.environ, "ANTHROPIC_API_KEY": KEY})
    await launcher.open(1)
    try:
        return await _attack(launcher, config, base, may_send=column.may_send)
    finally:
        await launcher.aclose(end_instances=True)


async def _attack(
    launcher: LocalLauncher, config: PoolConfig, base: Path, *, may_send: bool
) -> Mapping[str, Any]:
    bob, alice = _spec(config, "bob", "--bobs"), _spec(config, "alice", "--do", _program())
    planted = _plant(config.data_dir, bob)
    echo = Sink()
    victim = await launcher.start(bob, echo)
    await echo.lines(1)
    assert victim.identity is not None
    with host_services(base) as services, _control_socket(config.data_dir) as control:
        facts = {
            **planted,
            **services,
            "pid": victim.identity.pid,
            "keeper": next(iter(launcher.supervisor_pids())),
            "server": os.getpid(),
            "cli": sandbox.CLI if victim.isolation.startswith("bwrap") else str(config.cli_path),
            "word": "--bobs",
            "token": TOKEN,
            "key": KEY,
            "keeper_socket": str(base / "run" / SOCKET_NAME),
            "control_socket": str(control),
            "model_socket": str(socket_directory(base / "run", "bob") / "api.sock"),
            "may_send": may_send,
        }
        assert Path(facts["model_socket"]).is_socket()
        (alice.workspace / "facts.json").write_text(json.dumps(facts))
        sink = Sink()
        attacker = await launcher.start(alice, sink)
        status = await sink.exit()
    assert status.code == 0, sink.exits
    (outcomes,) = await sink.lines(1)
    return {
        "outcomes": outcomes,
        "isolation": [victim.isolation, attacker.isolation],
        # the victim's by its process, the attacker's by what it wrote
        "uids": [uid_of(victim.identity.pid), (alice.workspace / "program").stat().st_uid],
    }


def plain_python() -> str | None:
    """An interpreter that ``SOMEBODY`` may run, if only with the standard library."""
    for path in (sys.executable, "/usr/bin/python3"):
        if os.geteuid() != 0 or (
            os.path.exists(path) and first_blocked(Path(path).resolve(), SOMEBODY) is None
        ):
            return path
    return None


def uid_of(pid: int) -> int:
    """As whom the kernel runs a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Uid:"))


def _program() -> str:
    return Path(escape_attempts.__file__).read_text()


def _spec(config: PoolConfig, user: str, *args: str) -> LaunchSpec:
    workspace = config.data_dir / "workspaces" / user
    owner = workspace.stat().st_uid
    return LaunchSpec(
        instance_id=InstanceId(user),
        key=SessionKey(UserId(user), SessionId("default")),
        cli_args=args,
        env={"TOKEN": TOKEN} if user == "bob" else {},
        workspace=workspace,
        home=config.data_dir / "homes" / user,
        uid=None if owner == os.geteuid() else owner,
    )


def _plant(data: Path, bob: LaunchSpec) -> dict[str, Any]:
    """What is worth stealing, bob's his own."""
    his = {
        "secret": bob.workspace / "secret",
        "conversation": bob.home / ".claude" / "conversation.jsonl",
        "settings": bob.home / ".claude" / "settings.json",
    }
    ours = {
        "database": data / "pool.db",
        "keys": data / "gateway" / "config.json",
        "jwt": data / "secrets" / "jwt.key",
    }
    for path in (*his.values(), *ours.values()):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_text("secret")
        path.chmod(0o600)
    for path in his.values() if bob.uid is not None else ():
        os.chown(path, bob.uid or 0, bob.uid or 0)
    directories = {"workspaces": bob.workspace.parent, "spool": data / "spool"}
    return {name: str(path) for name, path in (his | ours | directories).items()}


@contextlib.contextmanager
def _control_socket(data: Path) -> Iterator[Path]:
    """As a server makes it."""
    path = data / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen()
        yield path


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
            "own": next(iter(own_addresses()), "127.0.0.1"),
            "internet": "93.184.216.34",
            "private": "10.44.0.9",
            "far_port": 8099,
            "may_send": False,
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


def _cell(one: escape_attempts.Attempt, name: str, told: str) -> str:
    if COLUMNS[name].mode in one.depends:
        return "depends"
    if told == "open":
        return "as meant" if one.words in MEANT.get(name, ()) else "**open**"
    return told.partition(":")[0]


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
        print(json.dumps(asyncio.run(run(COLUMNS[sys.argv[2]], Path(sys.argv[3])))))
        return
    missing = columns_missing()
    if missing:
        sys.exit("\n".join(f"cannot fill in {name!r}: {why}" for name, why in missing.items()))
    columns = {name: run_column(name) for name in COLUMNS}
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table(columns)}\n{END}{after}")


if __name__ == "__main__":
    main()
