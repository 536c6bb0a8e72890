"""From inside a real sandbox: what can be reached, and what cannot."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from pool.launch.isolation import probe
from tests.pool.launch.rig import Stand

pytestmark = pytest.mark.skipif(not probe().cuts_network, reason="no bubblewrap that works")

# what each attempt gives: a value, or the error's name
TRY = """
def attempt(what):
    try:
        return what()
    except Exception as error:
        return type(error).__name__
results = {}
"""


async def outcomes(stand: Stand, **attempts: str) -> dict[str, object]:
    program = TRY + "".join(
        f"results[{name!r}] = attempt(lambda: {code})\n" for name, code in attempts.items()
    )
    result = await stand.do(f"import subprocess, socket, pwd\n{program}print(json.dumps(results))")
    assert isinstance(result, dict)
    return result


async def test_the_users_files_are_there_and_can_be_written(stand_of: Callable[..., Stand]) -> None:
    stand = stand_of("bwrap")
    await stand.launcher.open(1)
    (stand.workspace / "given").write_text("hello")
    seen = await outcomes(
        stand,
        cwd="os.getcwd()",
        given="open('given').read()",
        write="open('/workspace/made', 'w').write('x')",
        home="open(os.path.expanduser('~/.made'), 'w').write('x')",
        config="os.path.isdir(os.environ['CLAUDE_CONFIG_DIR'])",
        tmp="open('/tmp/made', 'w').write('x')",
        who="pwd.getpwuid(os.getuid()).pw_name",
        uid="os.getuid()",
        bash="subprocess.run(['bash', '-c', 'echo $((6*7))'], capture_output=True, text=True).stdout",
        shm="open('/dev/shm/made', 'w').write('x')",
        null="open('/dev/null', 'w').write('x')",
        resolve="socket.gethostbyname('localhost')",
    )
    assert seen == {
        "cwd": "/workspace",
        "given": "hello",
        "write": 1,
        "home": 1,
        "config": True,
        "tmp": 1,
        "who": "claude",
        "uid": 1000,
        "bash": "42\n",
        "shm": 1,
        "null": 1,
        "resolve": "127.0.0.1",
    }
    assert (stand.workspace / "made").read_text() == (stand.home / ".made").read_text() == "x"
    assert not Path("/tmp/made").exists()


async def test_nothing_else_of_the_host_can_be_read_or_written(
    stand_of: Callable[..., Stand], short_dir: Path
) -> None:
    stand = stand_of("bwrap")
    await stand.launcher.open(1)
    other = stand.workspace.parent / "bob"
    other.mkdir()
    (other / "secret").write_text("bob's")
    (stand.workspace / "link").symlink_to(other / "secret")
    seen = await outcomes(
        stand,
        other=f"open({str(other / 'secret')!r}).read()",
        dots="open('/workspace/../bob/secret').read()",
        link="open('/workspace/link').read()",
        data=f"os.listdir({str(short_dir)!r})",
        shadow="open('/etc/shadow').read()",
        root="os.listdir('/root') if os.path.exists('/root/.ssh') else 'hidden'",
        usr="open('/usr/made', 'w').write('x')",
        etc="open('/etc/made', 'w').write('x')",
        top="open('/made', 'w').write('x')",
        dev="open('/dev/made', 'w').write('x')",
        opt="open('/opt/claude/made', 'w').write('x')",
        cli="open('/opt/claude/claude', 'a').write('x')",
        model="open('/run/model/made', 'w').write('x')",
        kernel="open('/proc/sys/kernel/hostname', 'w').write('x')",
        core="os.open('/proc/sys/kernel/core_pattern', os.O_WRONLY)",
        sysrq="os.open('/proc/sysrq-trigger', os.O_WRONLY)",
        adjust="os.open('/proc/1/oom_score_adj', os.O_WRONLY)",
        mount="subprocess.run(['mount', '-t', 'tmpfs', 'x', '/tmp'], capture_output=True).returncode != 0",
        nested="subprocess.run(['unshare', '-Ur', 'true'], capture_output=True).returncode != 0",
        setuid="subprocess.run(['su', '-c', 'true'], capture_output=True, stdin=-3).returncode != 0",
        capabilities="[l.split()[1] for l in open('/proc/self/status') if l.startswith('CapEff')][0]",
    )
    denied = {"FileNotFoundError", "PermissionError", "OSError"}
    allowed = {"root", "mount", "nested", "setuid", "capabilities"}
    assert {name: value for name, value in seen.items() if name not in allowed and value not in denied} == {}
    assert seen["root"] == "hidden"
    assert seen["mount"] is seen["nested"] is seen["setuid"] is True
    assert seen["capabilities"] == "0" * 16
    assert (other / "secret").read_text() == "bob's"


async def test_no_process_of_the_host_is_visible(stand_of: Callable[..., Stand]) -> None:
    stand = stand_of("bwrap")
    await stand.launcher.open(1)
    seen = await outcomes(
        stand,
        pids="sorted(int(name) for name in os.listdir('/proc') if name.isdigit())",
        me="os.getpid()",
        keeper=f"os.kill({os.getpid()}, 0)",
        session="os.getsid(0)",
    )
    assert len(seen["pids"]) <= 3 if isinstance(seen["pids"], list) else False
    assert seen["keeper"] == "ProcessLookupError"


async def test_without_a_network_only_the_model_socket_is_there(stand_of: Callable[..., Stand]) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    abstract = socket.socket(socket.AF_UNIX)
    name = f"cp-test-{os.getpid()}"
    abstract.bind("\0" + name)
    abstract.listen()
    try:
        stand = stand_of("bwrap")
        await stand.launcher.open(1)
        port = listener.getsockname()[1]
        seen = await outcomes(
            stand,
            loopback=f"socket.create_connection(('127.0.0.1', {port}), 1) and 'open'",
            outside="socket.create_connection(('192.0.2.1', 80), 1) and 'open'",
            abstract=f"socket.socket(socket.AF_UNIX).connect(chr(0) + {name!r})",
            interfaces="[name for _, name in socket.if_nameindex()]",
            environment="os.environ['ANTHROPIC_UNIX_SOCKET']",
        )
        assert seen["loopback"] == "ConnectionRefusedError"
        assert seen["abstract"] == "ConnectionRefusedError"
        assert seen["outside"] == "OSError"
        assert "lo" in json.dumps(seen["interfaces"])
        assert len(seen["interfaces"]) <= 2 if isinstance(seen["interfaces"], list) else True
        assert seen["environment"] == "/run/model/api.sock"
    finally:
        listener.close()
        abstract.close()


async def test_an_open_network_is_the_hosts(stand_of: Callable[..., Stand]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stand = stand_of("bwrap", isolation_network="open")
        await stand.launcher.open(1)
        port = listener.getsockname()[1]
        seen = await outcomes(
            stand, loopback=f"socket.create_connection(('127.0.0.1', {port}), 1) and 'open'"
        )
        assert seen["loopback"] == "open"


async def test_temporary_space_is_bounded(stand_of: Callable[..., Stand]) -> None:
    stand = stand_of("bwrap")
    await stand.launcher.open(1)
    seen = await outcomes(
        stand,
        shm="os.statvfs('/dev/shm').f_blocks * os.statvfs('/dev/shm').f_frsize",
        tmp="os.statvfs('/tmp').f_blocks * os.statvfs('/tmp').f_frsize",
    )
    assert seen == {"shm": 64 * 2**20, "tmp": 2**30}
