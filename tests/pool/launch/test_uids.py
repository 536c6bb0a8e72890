"""An instance as a Linux user of its own: what it is, has and reaches; and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from pool.config import PoolConfig
from pool.errors import IsolationUnavailable, LaunchFailed
from pool.keeper.gateway import socket_directory
from pool.launch.base import LaunchSpec
from pool.launch.isolation import probe
from pool.launch.local import LocalLauncher
from pool.launch.uids import first_blocked
from pool.launch.way_out import find_way_out
from pool.model import InstanceId, SessionId, SessionKey, UserId
from pool.workspace.workspaces import Workspaces
from tests.pool.launch.rig import QUICK, SCRIPT, Sink
from tests.procfs import is_alive, process_tree
from tests.waiting import eventually

PYTHON = "/usr/bin/python3"
ALICE, BOB = 200151, 200152
# a gateway that only holds the sockets, for as long as there is a keeper
_HOLD = "import os, sys\nwhile os.read(int(sys.argv[sys.argv.index('--control-fd') + 1]), 65536): pass"
SILENT = (PYTHON, "-I", "-S", "-c", _HOLD)

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start something as somebody else"),
    pytest.mark.skipif(not Path(PYTHON).exists(), reason="no Python that every user can run"),
]


class Site:
    """A data directory that every user may pass through, and its launcher."""

    def __init__(self, launcher: LocalLauncher, config: PoolConfig) -> None:
        self.launcher = launcher
        self.config = config
        self.workspaces = Workspaces(config.data_dir)

    def spec(self, user: str, uid: int | None, *args: str, instance: str | None = None) -> LaunchSpec:
        paths = self.workspaces.ensure(user, uid=uid)
        return LaunchSpec(
            instance_id=InstanceId(instance or user),
            key=SessionKey(UserId(user), SessionId("default")),
            cli_args=args,
            workspace=paths.workspace,
            home=paths.home,
            labels={"user": user},
            uid=paths.uid,
        )

    async def do(self, program: str, user: str = "alice", uid: int | None = ALICE) -> Any:
        """Run a program as a user's CLI; what it printed, parsed."""
        sink = Sink()
        await self.launcher.start(self.spec(user, uid, "--do", program, instance=f"do-{user}"), sink)
        status = await sink.exit()
        assert status.code == 0, sink.exits
        await self.launcher.forget(InstanceId(f"do-{user}"))
        return json.loads(sink.data)


@pytest.fixture(params=["bwrap", "uid"])
def mode(request: pytest.FixtureRequest) -> str:
    """Both ways in which users have uids."""
    if request.param == "bwrap" and not probe(ALICE).works:
        pytest.skip("no bubblewrap that works for other users")
    return str(request.param)


@pytest.fixture
async def site_of(short_dir: Path) -> AsyncIterator[Callable[..., Site]]:
    """Makes launchers with a script as the CLI that every user can run."""
    short_dir.chmod(0o711)
    cli = short_dir / "claude-script"
    cli.write_text("\n".join([f"#!{PYTHON}", *SCRIPT.splitlines()[1:]]) + "\n")
    cli.chmod(0o755)
    async with AsyncExitStack() as stack:

        def make(mode: str, **options: Any) -> Site:
            defaults = {
                "data_dir": short_dir / "data",
                "runtime_dir": short_dir / "run",
                "cli_path": cli,
                "gateway_command": SILENT,
                "stop_grace_seconds": 1.0,
                "isolation_mode": mode,
            }
            config = PoolConfig(**{**defaults, **options})
            config.data_dir.mkdir(mode=0o711, exist_ok=True)
            launcher = LocalLauncher(config)
            stack.push_async_callback(launcher.aclose, end_instances=True)
            return Site(launcher, config)

        yield make


WHO = """
import os, resource
fields = dict(line.split(':', 1) for line in open('/proc/self/status').read().splitlines())
print(json.dumps({
    'uids': fields['Uid'].split(), 'gids': fields['Gid'].split(), 'groups': os.getgroups(),
    'capabilities': fields['CapEff'].strip() + fields['CapPrm'].strip(),
    'no_new_privs': fields['NoNewPrivs'].strip(), 'filter': fields['Seccomp'].strip(),
    'umask': os.umask(0o077),
    'processes': resource.getrlimit(resource.RLIMIT_NPROC)[0],
    'files': resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    'core': resource.getrlimit(resource.RLIMIT_CORE)[1],
    'tmp': os.environ['TMPDIR'],
}))
open('made', 'w').close()
open(os.environ['HOME'] + '/made', 'w').close()
open(os.environ['TMPDIR'] + '/made', 'w').close()
"""


async def test_an_instance_is_the_user_in_no_other_group_and_with_no_rights(
    site_of: Callable[..., Site], mode: str
) -> None:
    site = site_of(mode)
    await site.launcher.open(1)
    who = await site.do(WHO)
    inside = {"bwrap": "1000", "uid": str(ALICE)}[mode]
    assert who["uids"] == who["gids"] == [inside] * 4
    assert who["groups"] in ([], [int(inside)])
    assert who["capabilities"] == "0" * 32
    assert (who["no_new_privs"], who["filter"], who["umask"]) == ("1", "2", 0o077)
    assert (who["processes"], who["files"], who["core"]) == (256, 1024, 0)
    made = [site.config.data_dir / place / "alice" / "made" for place in ("workspaces", "homes")]
    assert {(path.stat().st_uid, path.stat().st_gid, path.stat().st_mode & 0o777) for path in made} == {
        (ALICE, ALICE, 0o600)
    }


async def test_the_processes_are_the_users_for_the_host_too(site_of: Callable[..., Site], mode: str) -> None:
    site = site_of(mode)
    await site.launcher.open(1)
    sink = Sink()
    handle = await site.launcher.start(site.spec("alice", ALICE, "x"), sink)
    await sink.lines(1)
    assert handle.identity is not None
    assert os.stat(f"/proc/{handle.identity.pid}").st_uid in (ALICE, 0)
    status = Path(f"/proc/{handle.identity.pid}/status").read_text()
    assert f"Uid:\t{ALICE}\t{ALICE}\t{ALICE}\t{ALICE}" in status
    assert handle.isolation == {"bwrap": "bwrap+uid/gateway_only", "uid": "uid/open"}[mode]
    await handle.stop(QUICK)
    await sink.exit()


async def test_the_temporary_directory_is_the_users_and_goes_with_the_instance(
    site_of: Callable[..., Site],
) -> None:
    site = site_of("uid")
    await site.launcher.open(1)
    tmp = Path((await site.do(WHO))["tmp"])
    assert tmp.parent == site.config.data_dir / "tmp"
    assert tmp.parent.stat().st_mode & 0o777 == 0o711
    await eventually(lambda: not tmp.exists())


async def test_the_model_socket_is_for_its_own_instance_and_goes_with_it(
    site_of: Callable[..., Site], mode: str
) -> None:
    site = site_of(mode)
    await site.launcher.open(1)
    sink = Sink()
    bob = await site.launcher.start(site.spec("bob", BOB, "x"), sink)
    await sink.lines(1)
    path = socket_directory(site.config.runtime_dir or Path(), "bob") / "api.sock"
    connect = "socket.socket(socket.AF_UNIX).connect({path}) or 'reached'"
    reach = f"print(json.dumps(attempt(lambda: {connect})))"
    tries = "import socket\ndef attempt(what):\n  try: return what()\n  except OSError: return 'no'\n"
    own = await site.do(tries + reach.format(path="os.environ['ANTHROPIC_UNIX_SOCKET']"))
    assert own == "reached"
    assert await site.do(tries + reach.format(path=repr(str(path)))) != "reached"
    # a socket of the user's own cannot be taken away and put in its place
    swap = "attempt(lambda: os.unlink(os.environ['ANTHROPIC_UNIX_SOCKET']) or 'gone')"
    assert await site.do(f"{tries}print(json.dumps({swap}))") != "gone"
    await bob.stop(QUICK)
    await sink.exit()
    await eventually(lambda: not path.parent.exists())
    with socket.socket(socket.AF_UNIX) as late, pytest.raises(FileNotFoundError):
        late.connect(str(path))


async def test_what_belongs_to_the_service_is_closed_to_users(site_of: Callable[..., Site]) -> None:
    """Without walls around it, only owners and modes keep a user out: nothing of ours may be open."""
    site = site_of("uid")
    await site.launcher.open(1)
    site.workspaces.ensure("bob", uid=BOB)
    look = """
found = {}
for top in sys.argv[sys.argv.index('--') + 1:]:
    for place, directories, files in os.walk(top):
        for name in directories + files:
            path = os.path.join(place, name)
            try:
                os.close(os.open(path, os.O_RDONLY))
                found[path] = 'read'
            except OSError:
                pass
for top in sys.argv[sys.argv.index('--') + 1:]:
    try:
        found[top] = os.listdir(top)
    except OSError:
        pass
print(json.dumps(found))
"""
    data = site.config.data_dir
    ours = [data, data / "workspaces", data / "homes", data / "keeper", data / "spool", data / "tmp"]
    ours += [site.config.runtime_dir or data, data / "templates-applied", data / "workspaces" / "bob"]
    sink = Sink()
    spec = site.spec("alice", ALICE, "--do", look, "--", *map(str, ours))
    await site.launcher.start(spec, sink)
    (found,) = await sink.lines(1)
    await sink.exit()
    assert found == {}


STAYING = """
import os, signal, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            if os.fork() == 0:
                os.kill(os.getpid(), signal.SIGSTOP)
            os.execve('/bin/sh', ['sh', '-c', 'sleep 600 & sleep 600'], {})
        os._exit(0)
print(json.dumps('up'), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("way", ["stop", "keeper killed"])
async def test_nothing_of_a_tree_that_wants_to_stay_is_left(
    site_of: Callable[..., Site], mode: str, way: str
) -> None:
    site = site_of(mode)
    await site.launcher.open(1)
    keeper = next(iter(site.launcher.supervisor_pids()))
    await eventually(lambda: process_tree(keeper, root=False))
    (gateway,) = [process.pid for process in process_tree(keeper, root=False)]
    sink = Sink()
    handle = await site.launcher.start(site.spec("alice", ALICE, "--do", STAYING), sink)
    await sink.lines(1)
    await eventually(lambda: len(process_tree(keeper, root=False)) >= 7)
    tree = [process.pid for process in process_tree(keeper, root=False) if process.pid != gateway]
    if way == "stop":
        await handle.stop(QUICK)
        await sink.exit()
    else:
        os.kill(keeper, 9)
        await eventually(lambda: not is_alive(gateway), 20)
    await eventually(lambda: not [pid for pid in tree if is_alive(pid)], 20)


async def test_an_instance_outlives_its_server_and_is_taken_over(
    site_of: Callable[..., Site], mode: str
) -> None:
    first = site_of(mode)
    await first.launcher.open(1)
    before = Sink()
    await first.launcher.start(first.spec("alice", ALICE, "x"), before)
    await before.lines(1)
    await first.launcher.aclose(end_instances=False)
    second = site_of(mode)
    await second.launcher.open(2)
    (listed,) = await second.launcher.list()
    assert listed.exit_status is None
    assert listed.labels == {"user": "alice"}
    sink = Sink(len(before.data))
    handle = await second.launcher.attach(InstanceId("alice"), len(before.data), sink)
    await handle.write(b'{"type":"keep_alive"}')
    assert await sink.lines(1) == [{"type": "keep_alive"}]
    await handle.stop(QUICK)
    await sink.exit()


async def test_the_internet_without_the_host_is_the_users_too(site_of: Callable[..., Site]) -> None:
    if probe().path is None or find_way_out(probe().path or "", uid=ALICE).remedy is not None:
        pytest.skip("no network of its own can be made here")
    site = site_of("bwrap", isolation_network="outbound")
    await site.launcher.open(1)
    who = await site.do(
        WHO.replace(
            "'tmp':",
            "'interfaces': sorted(os.listdir('/sys/class/net')) if "
            "os.path.isdir('/sys/class/net') else open('/proc/net/dev').read().split(), 'tmp':",
        )
    )
    assert any("tap0" in word for word in who["interfaces"])
    assert who["uids"] == ["1000"] * 4
    assert who["capabilities"] == "0" * 32
    made = site.config.data_dir / "workspaces" / "alice" / "made"
    assert made.stat().st_uid == ALICE


def test_a_directory_that_is_in_the_way_is_named(short_dir: Path) -> None:
    (short_dir / "a" / "b").mkdir(parents=True)
    assert first_blocked(short_dir / "a" / "b" / "c", ALICE) == short_dir
    short_dir.chmod(0o711)
    assert first_blocked(short_dir / "a" / "b" / "c", ALICE) is None
    (short_dir / "a").chmod(0o700)
    assert first_blocked(short_dir / "a" / "b" / "c", ALICE) == short_dir / "a"
    assert first_blocked(short_dir / "none" / "c", ALICE) is None


def test_what_is_in_the_way_is_a_refusal_by_name_and_a_remedy_else(
    site_of: Callable[..., Site], short_dir: Path
) -> None:
    short_dir.chmod(0o700)
    with pytest.raises(IsolationUnavailable, match=f"chmod o\\+x {short_dir}"):
        site_of("uid")
    for mode in ("auto", "bwrap"):
        launcher = site_of(mode).launcher
        if probe().works:
            assert launcher.describe_isolation()[0] == "bwrap"
        assert launcher.uid_range() is None
        assert any(f"chmod o+x {short_dir}" in remedy for remedy in launcher.describe_isolation()[2])


def test_a_script_needs_an_interpreter_that_users_can_run(
    site_of: Callable[..., Site], short_dir: Path
) -> None:
    (short_dir / "closed" / "bin").mkdir(parents=True)
    (short_dir / "closed").chmod(0o700)
    shutil.copy(PYTHON, short_dir / "closed" / "bin" / "python")
    script = short_dir / "script"
    script.write_text(f"#!{short_dir}/closed/bin/python\n")
    script.chmod(0o755)
    with pytest.raises(IsolationUnavailable, match=f"{short_dir}/closed.*script"):
        site_of("uid", cli_path=script)


async def test_a_program_that_users_cannot_reach_is_copied_once(
    site_of: Callable[..., Site], mode: str, short_dir: Path
) -> None:
    (short_dir / "closed").mkdir(mode=0o700)
    program = short_dir / "closed" / "claude"
    shutil.copy(Path("/bin/sleep").resolve(), program)
    site = site_of(mode, cli_path=program)
    await site.launcher.open(1)
    for number in range(2):
        sink = Sink()
        spec = site.spec("alice", ALICE, "0.01", instance=f"i{number}")
        await site.launcher.start(spec, sink)
        assert (await sink.exit()).code == 0, sink.exits
    (copy,) = (site.config.data_dir / "cli").iterdir()
    assert copy.stat().st_uid == (copy / "claude").stat().st_uid == 0
    assert copy.stat().st_mode & 0o777 == (copy / "claude").stat().st_mode & 0o777 == 0o755
    # another program of the same name is another copy; only the one before it stays
    for seconds in (1, 2, 3):
        os.utime(program, (seconds, seconds))
        sink = Sink()
        await site.launcher.start(site.spec("alice", ALICE, "0.01", instance=f"j{seconds}"), sink)
        await sink.exit()
    assert len(list((site.config.data_dir / "cli").iterdir())) == 2


async def test_nobody_runs_as_root_in_mode_uid(site_of: Callable[..., Site]) -> None:
    site = site_of("uid")
    await site.launcher.open(1)
    with pytest.raises(LaunchFailed, match="without a uid"):
        await site.launcher.start(site.spec("alice", None, "x"), Sink())


async def test_the_limit_of_processes_is_the_users_and_holds_for_what_root_started(
    site_of: Callable[..., Site], mode: str
) -> None:
    site = site_of(mode)
    await site.launcher.open(1)
    bomb = """
import os, signal
count = 0
try:
    while count < 400:
        if os.fork() == 0:
            signal.pause()
        count += 1
except OSError:
    pass
print(json.dumps(count), flush=True)
"""
    assert await site.do(bomb) < 256
    assert await site.do("os.waitpid(os.fork() or os._exit(0), 0); print('true')", "bob", BOB) is True
