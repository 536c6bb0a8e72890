"""A server that is not root, and that somebody has taken over, before a keeper of root's.

What it asks is asked by a process of its own uid; what came of it is looked up
in ``/proc`` and in the file system.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pool.keeper.__main__ import main
from pool.keeper.client import KeeperError
from pool.keeper.places import temporary_directory
from pool.keeper.starter import KeeperCommand
from pool.launch.uids import first_blocked
from tests.pool.keeper.rig import Rig, request
from tests.procfs import processes
from tests.waiting import eventually

ROOT = Path(__file__).parents[3]
PYTHON = "/usr/bin/python3"
FIRST, SERVICE, GATEWAY = 200150, 200198, 200199
ALICE = FIRST + 1
SLEEP = ["/bin/sleep", "600"]
KEEPER = ["--service-uid", str(SERVICE), "--uid-range", f"{FIRST}:{GATEWAY}", "--gateway-uid", str(GATEWAY)]
# until its channel ends
GATEWAY_PROGRAM = "import os, sys\nwhile os.read(int(sys.argv[2]), 99999): pass"

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be asked by somebody who is not"),
    pytest.mark.skipif(not Path(PYTHON).exists(), reason="no Python that every user can run"),
]


@pytest.fixture
async def walled(rig: Rig, short_dir: Path) -> Rig:
    """A keeper that keeps a server in bounds, with a gateway that does nothing."""
    short_dir.chmod(0o711)
    if first_blocked(ROOT / "pool", SERVICE) is not None:
        pytest.skip("the project lies where only root can go")
    (rig.data / "sandbox").mkdir(parents=True)
    rig.data.chmod(0o711)
    (rig.data / "sandbox" / "seccomp.bpf").write_text("rules")
    await rig.keeper(gateway=[PYTHON, "-I", "-S", "-c", GATEWAY_PROGRAM], more=KEEPER)
    return rig


async def asked(rig: Rig, *requests: dict[str, Any], uid: int = SERVICE) -> list[Any]:
    """The answers to a server that is ``uid``, None for each when it is hung up on."""
    path = Path(__file__).with_name("hostile.py")
    words = [PYTHON, "-I", str(path), str(ROOT), str(rig.runtime / "keeper.sock")]

    def ask() -> subprocess.CompletedProcess[str]:
        text = json.dumps(requests)
        options: Any = {"user": uid, "group": uid, "extra_groups": []}
        return subprocess.run(words, input=text, capture_output=True, text=True, check=False, **options)

    done = await asyncio.to_thread(ask)
    if "PermissionError" in done.stderr:
        raise PermissionError(done.stderr)
    assert done.returncode == 0, done.stderr
    answers: list[Any] = json.loads(done.stdout)
    return answers


def starting(name: str, command: Sequence[str] = SLEEP, wrapper: str = "shim", **more: Any) -> dict[str, Any]:
    """A start without a sandbox, or with a program in place of one."""
    plain = {**request("shim", name, command), "wrapper": wrapper, "op": "start"}
    return {**plain, "rights": {"uid": ALICE}, **more}


def codes(answers: Sequence[Any]) -> list[str | None]:
    return [answer.get("error") for answer in answers]


def owners_of(name: str) -> set[int]:
    """Whose processes carry the mark of an instance, the keeper's own shim left out."""
    found = [one for one in processes() if one.environ.get("CLAUDE_POOL_INSTANCE") == name]
    return {os.stat(f"/proc/{one.pid}").st_uid for one in found if "shim.py" not in " ".join(one.argv)}


async def output(rig: Rig, name: str) -> str:
    """All that an instance printed, once it has ended."""

    def spooled() -> str:
        return "".join(path.read_text() for path in sorted((rig.data / "spool" / name).glob("*.out")))

    await eventually(lambda: f'"instance_exited", "instance": "{name}"' in rig.log(), what=f"end of {name}")
    return spooled()


async def test_it_runs_what_it_likes_as_a_user_and_nothing_as_anybody_else(walled: Rig) -> None:
    (answer,) = await asked(walled, starting("good"))
    assert "error" not in answer
    assert owners_of("good") == {ALICE}
    others = [None, 0, GATEWAY, SERVICE, FIRST - 1, 65534, True, str(ALICE)]
    attempts = [starting(f"bad-{n}", rights={"uid": uid}) for n, uid in enumerate(others)]
    attempts += [starting("bare", rights=None), starting("wrapped", wrapper="bwrap", rights=None)]
    assert set(codes(await asked(walled, *attempts))) == {"forbidden"}
    assert [one for one in attempts if owners_of(one["instance"])] == []


def run_plainly(program: Path) -> str:
    """What it prints to a user who is started by nobody of ours."""
    who: Any = {"user": ALICE, "group": ALICE, "extra_groups": []}
    printed: str = subprocess.run([program], **who, capture_output=True, text=True, check=True).stdout
    return printed


async def test_a_set_uid_program_of_roots_gives_it_nothing(walled: Rig) -> None:
    set_uid, script = walled.data.parent / "id", walled.data.parent / "in-place-of-a-sandbox"
    set_uid.write_bytes(Path("/usr/bin/id").read_bytes())
    set_uid.chmod(0o4755)
    script.write_text(f"#!/bin/sh\nexec {set_uid} -u\n")
    script.chmod(0o755)
    assert run_plainly(script) == "0\n", "a set-uid program does nothing here: the test could not fail"
    if os.stat("/usr/bin/bwrap").st_mode & stat.S_ISUID:
        pytest.skip("bubblewrap is one itself")
    await asked(walled, starting("shim", [str(script)]), starting("bwrap", [str(script)], "bwrap"))
    assert [await output(walled, name) for name in ("shim", "bwrap")] == [f"{ALICE}\n"] * 2


async def test_root_opens_no_file_for_it_but_the_filter(walled: Rig) -> None:
    secret = walled.data.parent / "secret"
    secret.write_text("of root")
    secret.chmod(0o600)
    filters = walled.data / "sandbox" / "seccomp.bpf"
    reader = [
        PYTHON,
        "-I",
        "-S",
        "-c",
        "import os, sys; os.write(1, os.read(int(sys.argv[1]), 99))",
        "{file}",
    ]

    def reading(name: str, path: object) -> dict[str, Any]:
        return starting(name, reader, open=[{"path": path, "placeholder": "{file}"}])

    assert codes(await asked(walled, reading("rules", str(filters)))) == [None]
    assert await output(walled, "rules") == "rules"
    paths = [secret, "/etc/shadow", f"{walled.data}/sandbox/../keeper/lock", f"{filters}/../seccomp.bpf"]
    attempts = [reading(f"bad-{n}", str(path)) for n, path in enumerate(paths)]
    rights = [{"uid": ALICE, "filter": str(path)} for path in paths]
    attempts += [starting(f"worse-{n}", rights=one) for n, one in enumerate(rights)]
    assert set(codes(await asked(walled, *attempts))) == {"forbidden"}
    # and if it had got a link or another's file to that very place
    filters.unlink()
    for make in (filters.symlink_to, filters.hardlink_to):
        make(secret)
        by_filter = starting("filter", rights={"uid": ALICE, "filter": str(filters)})
        answers = await asked(walled, reading("link", str(filters)), by_filter)
        assert codes(answers) == ["spawn_failed"] * 2
        assert owners_of("link") | owners_of("filter") == set()
        filters.unlink()


async def test_it_makes_removes_and_gives_away_no_directory_but_the_instances_own(walled: Rig) -> None:
    victim = walled.data.parent / "victim"
    (victim / "inside").mkdir(parents=True)
    own = temporary_directory(walled.data, "good")
    assert codes(await asked(walled, starting("good", tmp_dir=str(own)))) == [None]
    assert (own.stat().st_uid, stat.S_IMODE(own.stat().st_mode)) == (ALICE, 0o700)
    paths = [victim, victim / "new", walled.data / "keeper", own, f"{own}/../../keeper/instances", own / "x"]
    attempts = [starting(f"bad-{n}", tmp_dir=str(path)) for n, path in enumerate(paths)]
    assert set(codes(await asked(walled, *attempts))) == {"forbidden"}
    assert sorted(path.name for path in victim.iterdir()) == ["inside"]
    assert {path.stat().st_uid for path in (victim, victim / "inside", walled.data / "keeper")} == {0}
    assert [path.name for path in (walled.data / "tmp").iterdir()] == [own.name]
    # ids are no paths
    ids = ["../x", "a/b", "..", "", "x" * 200, "a\0", 5, None]
    assert set(codes(await asked(walled, *(starting(one) for one in ids)))) == {"forbidden"}  # type: ignore[arg-type]
    # what the user put there is not followed when it is removed
    (own / "link").symlink_to(victim)
    await asked(walled, {"op": "stop", "instance": "good", "graces": [0, 0, 5]})
    await eventually(lambda: not own.exists())
    assert (victim / "inside").exists()


async def test_it_writes_by_no_log_but_a_users(walled: Rig) -> None:
    victim = walled.data.parent / "victim"
    victim.mkdir()
    (victim / "connections.jsonl").write_text("of root")
    egress = walled.data / "egress"

    def logging(name: str, path: object) -> dict[str, Any]:
        network = {"kind": "proxy", "port": 3128, "log": str(path), "egress": {"allow": []}}
        return starting(name, ["/bin/true"], "bwrap", network=network)

    paths = [
        "/etc/cron.d/x",
        victim / "x.jsonl",
        egress / "connections.jsonl",
        egress / "../keeper/connections.jsonl",
    ]
    attempts = [logging(f"bad-{n}", path) for n, path in enumerate(paths)]
    assert set(codes(await asked(walled, *attempts))) == {"forbidden"}
    # and if it had made a user's directory, or the log itself, something else
    (egress / "linked").symlink_to(victim)
    for name in ("soft", "hard", "pipe"):
        (egress / name).mkdir()
    (egress / "soft" / "connections.jsonl").symlink_to(victim / "new")
    (egress / "hard" / "connections.jsonl").hardlink_to(victim / "connections.jsonl")
    os.mkfifo(egress / "pipe" / "connections.jsonl")
    attempts = [
        logging(name, egress / name / "connections.jsonl") for name in ("linked", "soft", "hard", "pipe")
    ]
    answers = await asked(walled, *attempts)
    assert [(answer["error"], answer["step"]) for answer in answers] == [("spawn_failed", "network")] * 4
    assert [path.name for path in victim.iterdir()] == ["connections.jsonl"]
    assert (victim / "connections.jsonl").read_text() == "of root"
    # a user's own is made, and root's
    await asked(walled, logging("alice", egress / "alice" / "connections.jsonl"))
    log = egress / "alice" / "connections.jsonl"
    assert {(path.stat().st_uid, path.stat().st_mode & 0o077) for path in (log, log.parent)} == {(0, 0)}


async def test_what_its_environment_loads_is_loaded_as_the_user_only(walled: Rig) -> None:
    """The loader itself writes down what it was told, in files of whoever runs the program."""
    seen = walled.data.parent / "seen"
    seen.mkdir()
    seen.chmod(0o777)
    env = {
        "PATH": "/usr/bin:/bin",
        "LD_PRELOAD": str(seen / "none.so"),
        "LD_DEBUG": "libs",
        "LD_DEBUG_OUTPUT": str(seen / "loader"),
        "LD_LIBRARY_PATH": str(seen),
        "GCONV_PATH": str(seen),
        "PYTHONPATH": str(seen),
        "PYTHONSTARTUP": str(seen / "x.py"),
        "PYTHONWARNINGS": "error",
        "TZDIR": str(seen),
    }
    network = {
        "kind": "proxy",
        "port": 3128,
        "log": str(walled.data / "egress" / "alice" / "connections.jsonl"),
        "egress": {"allow": []},
    }
    assert codes(await asked(walled, starting("plain", env=env))) == [None]
    (shim,) = [
        one
        for one in processes()
        if "shim.py" in " ".join(one.argv) and one.environ.get("CLAUDE_POOL_INSTANCE") == "plain"
    ]
    assert set(shim.environ) == {"PATH", "LC_ALL", "CLAUDE_POOL_INSTANCE", "CLAUDE_POOL_SITE"}
    await asked(walled, starting("bare", ["/bin/true"], "bwrap", env=env))
    await asked(walled, starting("network", ["/bin/true"], "bwrap", env=env, network=network))
    found = list(seen.iterdir())
    assert {path.stat().st_uid for path in found} == {ALICE}
    # by all three of them
    assert sum(f"search path={seen}" in path.read_text() for path in found) >= 3
    (cli,) = [
        one
        for one in processes()
        if one.environ.get("CLAUDE_POOL_INSTANCE") == "plain" and one.pid != shim.pid
    ]
    assert {name: cli.environ.get(name) for name in env} == env


async def test_it_begins_nowhere_where_the_user_may_not_go(walled: Rig) -> None:
    (answer,) = await asked(walled, starting("there", cwd=str(walled.data / "keeper")))
    assert (answer["error"], answer["step"]) == ("spawn_failed", "exec")
    assert "cannot be entered: Permission denied" in answer["stderr_tail"]
    ways = ["keeper", "../x", 5, ["/"]]
    assert set(codes(await asked(walled, *(starting("x", cwd=way) for way in ways)))) == {"forbidden"}
    # a hard limit of ours is never raised
    raised = [{"uid": ALICE, "limits": {"nofile": -1}}, {"uid": ALICE, "limits": {"rtprio": 99}}]
    assert set(codes(await asked(walled, *(starting("x", rights=one) for one in raised)))) == {"forbidden"}


async def test_the_gateway_and_the_bounds_stay_as_they_were_over_an_upgrade(walled: Rig) -> None:
    def gateway() -> list[tuple[int, int]]:
        found = [one for one in processes() if "--control-fd" in one.argv and str(walled.data) in one.argv]
        return [(one.pid, os.stat(f"/proc/{one.pid}").st_uid) for one in found]

    await eventually(lambda: [uid for _pid, uid in gateway()] == [GATEWAY])
    before = gateway()
    attempts: list[dict[str, Any]] = [
        {"op": "replace_gateway", "gateway_uid": uid} for uid in (None, 0, ALICE, SERVICE)
    ]
    attempts += [{"op": "upgrade", "lease_seconds": -1}, {"op": "shutdown", "graces": [1e99, 0, 0]}]
    assert codes(await asked(walled, *attempts)) == ["forbidden"] * 6
    (answer,) = await asked(walled, {"op": "upgrade", "lease_seconds": 50})
    assert answer.get("pid"), answer
    assert set(codes(await asked(walled, attempts[0], starting("root", rights={"uid": 0})))) == {"forbidden"}
    assert codes(await asked(walled, starting("good"))) == [None]
    assert gateway() == before
    assert stat.S_IMODE((walled.runtime / "keeper.sock").stat().st_mode) == 0o660


async def test_only_it_and_root_are_heard(walled: Rig) -> None:
    socket = walled.runtime / "keeper.sock"
    status = socket.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, SERVICE, 0o660)
    assert (walled.runtime.stat().st_uid, stat.S_IMODE(walled.runtime.stat().st_mode)) == (0, 0o711)
    client = await walled.client()
    assert client.hello is not None
    assert client.hello.service_uid == SERVICE
    for uid in (ALICE, GATEWAY):
        with pytest.raises(PermissionError):
            await asked(walled, {"op": "list"}, uid=uid)
    # not even by a mistake of ours
    socket.chmod(0o666)
    assert await asked(walled, {"op": "list"}, uid=ALICE) == [None]
    assert f'"stranger_refused", "uid": {ALICE}' in walled.log()
    assert (await asked(walled, {"op": "list"}))[0]["instances"] == []
    # root is kept in the same bounds: it may be the server of before
    root = await walled.client(epoch=2)
    with pytest.raises(KeeperError, match="not for a server that is not root"):
        await root.request(**starting("root", rights=None))


@pytest.mark.parametrize(
    "words",
    [
        ["--service-uid", str(SERVICE)],
        ["--service-uid", str(SERVICE), "--uid-range", f"{FIRST}:{GATEWAY}"],
        ["--service-uid", "0", "--uid-range", f"{FIRST}:{GATEWAY}", "--gateway-uid", str(GATEWAY)],
        ["--service-uid", str(GATEWAY), "--uid-range", f"{FIRST}:{GATEWAY}", "--gateway-uid", str(GATEWAY)],
        ["--service-uid", str(SERVICE), "--uid-range", f"{FIRST}:{GATEWAY}", "--gateway-uid", str(SERVICE)],
        ["--service-uid", str(SERVICE), "--uid-range", "all", "--gateway-uid", str(GATEWAY)],
    ],
)
def test_bounds_that_are_none_are_wrong_usage(words: list[str], short_dir: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*usual(short_dir), *words])
    assert ended.value.code == 2
    assert list(short_dir.iterdir()) == []


def usual(base: Path) -> list[str]:
    """What every keeper is told."""
    numbers = ["--lease", "1", "--spool-max", "99999", "--segment", "9999"]
    places = ["--data", str(base / "d"), "--runtime", str(base / "r")]
    return [*places, *numbers, "--gateway-command", '["/bin/true"]']


def test_it_does_not_work_where_somebody_else_could_have_put_something(
    short_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (short_dir / "d").mkdir()
    (short_dir / "elsewhere").mkdir()
    (short_dir / "d" / "keeper").symlink_to(short_dir / "elsewhere")
    assert main([*usual(short_dir), *KEEPER]) == 1
    assert "d/keeper" in capsys.readouterr().err
    assert list((short_dir / "elsewhere").iterdir()) == []


def test_the_command_of_a_keeper_says_its_bounds(short_dir: Path) -> None:
    command = KeeperCommand(
        program=["keeper"],
        data_dir=short_dir,
        runtime_dir=short_dir,
        lease_seconds=1,
        spool_max_bytes=1,
        segment_bytes=1,
        gateway=["gateway"],
        gateway_uid=GATEWAY,
        gateway_shown=[short_dir],
        service_uid=SERVICE,
        uid_range=(FIRST, GATEWAY),
    )
    words = command.argv()
    assert [words[words.index(name) + 1] for name in ("--service-uid", "--uid-range", "--gateway-shown")] == [
        *(str(SERVICE), f"{FIRST}:{GATEWAY}", json.dumps([str(short_dir)]))
    ]
    assert "--service-uid" not in replace(command, service_uid=None, uid_range=None).argv()
