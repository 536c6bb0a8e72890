"""A stop ends the whole tree, in both wrappings, whatever it does to stay."""

from __future__ import annotations

import os
import signal

import pytest

from pool.keeper.client import KeeperError
from tests.pool.keeper.rig import (
    BWRAP,
    ECHO,
    SLEEPER,
    Collector,
    Rig,
    gone,
    python,
    request,
    start,
)
from tests.procfs import is_alive, marked_processes, process_tree
from tests.waiting import eventually

# each leaves a tree that wants to stay
SETSID = """
import os, time
if os.fork() == 0:
    os.setsid()
print('up', flush=True)
time.sleep(600)
"""

DOUBLE_FORK = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print('up', flush=True)
        time.sleep(600)
    os._exit(0)
time.sleep(600)
"""

NO_ENVIRONMENT = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve('/bin/sh', ['sh', '-c', 'echo up; sleep 600 & sleep 600'], {})
    os._exit(0)
time.sleep(600)
"""

DEAF = """
import os, signal, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
os.fork()
os.fork()
print('up', flush=True)
time.sleep(600)
"""

STOPPED = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    print('up', flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(0.2)
os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(600)
"""

DEEP = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for level in range(12):
    if os.fork():
        break
    os.setsid()
print('up', flush=True)
time.sleep(600)
"""


PROGRAMS = (SETSID, DOUBLE_FORK, NO_ENVIRONMENT, DEAF, STOPPED, DEEP)
IN_STEPS, AT_ONCE = [0.2, 0.2, 10], [0, 0, 10]


@pytest.mark.parametrize(
    ("program", "graces"),
    [
        *((program, IN_STEPS) for program in PROGRAMS),
        # a sample: what KILL has to end is the same tree
        *((program, AT_ONCE) for program in (DOUBLE_FORK, DEEP)),
        *(
            pytest.param(program, AT_ONCE, marks=pytest.mark.acceptance)
            for program in (SETSID, NO_ENVIRONMENT, DEAF, STOPPED)
        ),
    ],
)
async def test_nothing_of_a_tree_is_left(rig: Rig, wrapper: str, program: str, graces: list[float]) -> None:
    await rig.keeper()
    assert rig.process is not None
    before = {process.pid for process in process_tree(rig.process.pid)}
    client = await rig.client()
    attached, collector = await start(client, wrapper, "tree", python(program))
    await collector.line_count(1)
    tree = {process.pid for process in process_tree(rig.process.pid)} - before
    assert attached.facts["identity"]["pid"] in tree
    answer = await client.request("stop", instance="tree", graces=graces)
    assert answer["gone"]
    await collector.exit()
    assert rig.nothing_left("tree")
    assert not [pid for pid in tree if is_alive(pid)]
    assert {process.pid for process in process_tree(rig.process.pid)} == before


async def test_the_end_of_input_is_the_first_rung(rig: Rig, wrapper: str) -> None:
    await rig.keeper()
    client = await rig.client()
    _, collector = await start(client, wrapper, "echo", python(ECHO))
    assert (await client.request("stop", instance="echo", graces=[10, 10, 10]))["gone"]
    assert await collector.exit() == (0, None, "")


async def test_term_goes_to_the_cli_itself_which_may_say_goodbye(rig: Rig, wrapper: str) -> None:
    await rig.keeper()
    client = await rig.client()
    program = """
import os, signal, sys, time
def goodbye(*_):
    os.write(1, b'goodbye' + bytes([10]))
    time.sleep(0.3)
    os._exit(143)
signal.signal(signal.SIGTERM, goodbye)
print('up', flush=True)
time.sleep(600)
"""
    _, collector = await start(client, wrapper, "polite", python(program))
    await collector.line_count(1)
    assert (await client.request("stop", instance="polite", graces=[0, 10, 10]))["gone"]
    assert (await collector.exit())[:2] == (None, "SIGTERM")
    assert collector.data == b"up\ngoodbye\n"


EXITS: dict[str, tuple[int | None, str | None]] = {
    "sys.exit(0)": (0, None),
    "sys.exit(7)": (7, None),
    "os.kill(os.getpid(), signal.SIGKILL)": (None, "SIGKILL"),
    "os.kill(os.getpid(), signal.SIGSEGV)": (None, "SIGSEGV"),
    "os.kill(os.getpid(), signal.SIGTERM)": (None, "SIGTERM"),
    "os._exit(143)": (None, "SIGTERM"),
}


async def test_the_exit_is_told_as_it_was(rig: Rig, wrapper: str) -> None:
    await rig.keeper()
    client = await rig.client()
    for number, (end, expected) in enumerate(EXITS.items()):
        program = f"import os, signal, sys\nsys.stdin.readline()\n{end}"
        attached, collector = await start(client, wrapper, f"ending-{number}", python(program))
        await client.write(attached.handle, b'{"type":"keep_alive"}')
        assert (await collector.exit())[:2] == expected, end


async def test_the_identity_is_of_the_cli_and_not_of_its_wrapper(rig: Rig, wrapper: str) -> None:
    await rig.keeper()
    client = await rig.client()
    attached, collector = await start(client, wrapper, "who", python(SLEEPER, "the CLI itself"))
    await collector.line_count(1)
    identity = attached.facts["identity"]
    [process] = [p for p in marked_processes("who") if p.pid == identity["pid"]]
    assert process.argv[-1] == "the CLI itself"
    assert process.argv[0] != BWRAP
    assert process.start_ticks == identity["start_ticks"]
    assert identity["marker"] == "who"
    await client.request("signal", instance="who", signal="SIGINT")
    assert (await collector.exit())[1] == "SIGINT"
    with pytest.raises(KeeperError) as refusal:
        await client.request("signal", instance="who", signal="SIGINT")
    assert refusal.value.code == "gone"
    with pytest.raises(KeeperError) as refusal:
        await client.request("signal", instance="who", signal="SIGNOTHING")
    assert refusal.value.code == "bad_request"


async def test_a_ladder_goes_on_when_the_server_that_asked_is_gone(rig: Rig, wrapper: str) -> None:
    await rig.keeper()
    client = await rig.client()
    attached, collector = await start(client, wrapper, "deaf", python(DEAF))
    await collector.line_count(1)
    client.tell("stop", instance="deaf", graces=[0.2, 0.5, 5])
    await client.request("list")
    client.close()
    await gone(attached.facts["identity"]["pid"])
    await eventually(lambda: rig.nothing_left("deaf"))
    again = await rig.client(2)
    last = Collector(3)
    await again.attach("deaf", 3, last)
    assert (await last.exit())[:2] == (None, "SIGKILL")


async def test_a_second_stop_hurries_the_first(rig: Rig, wrapper: str) -> None:
    await rig.keeper()
    client = await rig.client()
    _, collector = await start(client, wrapper, "deaf", python(DEAF))
    await collector.line_count(1)
    client.tell("stop", instance="deaf", graces=[100, 100, 5])
    assert (await client.request("stop", instance="deaf", graces=[0, 0, 5]))["gone"]
    assert (await collector.exit())[1] == "SIGKILL"


async def test_the_shim_killed_by_its_own_tree_leaves_nothing(rig: Rig) -> None:
    await rig.keeper()
    client = await rig.client()
    program = """
import os, signal, time
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve('/bin/sleep', ['sleep', '600'], {})
    os._exit(0)
os.wait()
print(os.getpid(), flush=True)
signal.sigwait({signal.SIGUSR1})
os.kill(os.getppid(), signal.SIGKILL)
time.sleep(600)
"""
    assert rig.process is not None
    _, collector = await start(client, "shim", "rebel", python(program))
    await collector.line_count(1)
    tree = [process for process in process_tree(rig.process.pid, root=False) if not process.is_zombie]
    assert len(tree) == 3
    os.kill(int(collector.data), signal.SIGUSR1)
    assert (await collector.exit())[:2] == (None, "SIGKILL")
    assert not [process.pid for process in tree if is_alive(process.pid)]


async def test_a_stopped_wrapper_is_ended_all_the_same(rig: Rig, wrapper: str) -> None:
    await rig.keeper()
    assert rig.process is not None
    client = await rig.client()
    _, collector = await start(client, wrapper, "frozen", python(DEAF))
    await collector.line_count(1)
    [top] = [p for p in process_tree(rig.process.pid, root=False) if p.ppid == rig.process.pid]
    os.kill(top.pid, signal.SIGSTOP)
    assert (await client.request("stop", instance="frozen", graces=[0.1, 0.1, 10]))["gone"]
    await collector.exit()
    assert rig.nothing_left("frozen")


@pytest.mark.parametrize(
    ("wrapper", "argv", "step", "text"),
    [
        ("shim", ["/nonexistent/claude"], "exec", "No such file"),
        ("shim", ["/etc/passwd"], "exec", "Permission denied"),
        (
            "bwrap",
            [BWRAP or "bwrap", "--ro-bind", "/nonexistent", "/x", "--", "/bin/true"],
            "sandbox",
            "source path",
        ),
        ("bwrap", ["/nonexistent/bwrap", "--", "/bin/true"], "exec", "No such file"),
    ],
)
async def test_a_start_that_fails_says_why_and_leaves_nothing(
    rig: Rig, wrapper: str, argv: list[str], step: str, text: str
) -> None:
    await rig.keeper()
    assert rig.process is not None
    descriptors = len(os.listdir(f"/proc/{rig.process.pid}/fd"))
    client = await rig.client()
    for _ in range(3):
        with pytest.raises(KeeperError) as failure:
            await client.start({**request(wrapper, "never", ["x"]), "argv": argv}, collector := Collector())
        assert failure.value.code == "spawn_failed"
        assert failure.value.details["step"] == step
        assert text in str(failure.value) + str(failure.value.details.get("stderr_tail"))
        assert not collector.exits
    assert (await client.request("list"))["instances"] == []
    assert os.listdir(rig.data / "spool") == os.listdir(rig.data / "keeper" / "instances") == []
    assert os.listdir(rig.runtime / "i") == []
    assert process_tree(rig.process.pid, root=False) == []
    client.close()
    pid = rig.process.pid
    await eventually(lambda: len(os.listdir(f"/proc/{pid}/fd")) == descriptors)


@pytest.mark.parametrize(("command", "code"), [(["/bin/echo", "so short"], 0), (["/bin/false"], 1)])
async def test_a_life_too_short_to_be_seen_is_told_all_the_same(
    rig: Rig, wrapper: str, command: list[str], code: int
) -> None:
    await rig.keeper()
    client = await rig.client()
    for index in range(10):
        _, collector = await start(client, wrapper, f"short-{index}", command)
        assert await collector.exit() == (code, None, "")
        assert bytes(collector.data) == (b"so short\n" if code == 0 else b"")


async def test_an_abandoned_start_leaves_nothing(rig: Rig, wrapper: str) -> None:
    await rig.keeper()
    client = await rig.client()
    client.tell("start", **request(wrapper, "unwanted", python(DOUBLE_FORK)))
    await client.request("abandon", instance="unwanted")
    assert (await client.request("list"))["instances"] == []
    assert rig.nothing_left("unwanted")
    await client.request("abandon", instance="unwanted")
    # and the id may be used, because nothing is left of it
    _, collector = await start(client, wrapper, "unwanted", python("print('fresh')"))
    await collector.exit()
    assert collector.data == b"fresh\n"
