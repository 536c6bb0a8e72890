"""``claude-pool host``: another machine's server finds its verbs here, and no key and no word too many."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pool.errors import BadRequest
from server.cli import main
from server.data_lock import DataLock, HeldElsewhere
from server.gateway.budgets import read_budgets
from server.gateway.settings import read_gateway_config
from server.host_command import part_asked_for
from server.pool_settings import limits_of
from server.settings import load_config
from tests.e2e.test_key_nowhere import KEY, holds_key
from tests.interpreters import SOMEBODY, python_for_all
from tests.procfs import Process, processes
from tests.server.host_process import HostProcess, host_process, log_lines


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("files", "files"),
        ("keeper", "keeper"),
        ("claude-pool host files", "files"),
        ("/opt/pool/bin/claude-pool host keeper\n", "keeper"),
    ],
)
def test_a_key_that_may_run_this_command_only_chooses_between_its_two_parts(asked: str, part: str) -> None:
    assert part_asked_for(None, {"SSH_ORIGINAL_COMMAND": asked}) == part
    # the operator's own word is the last one
    assert part_asked_for("check", {"SSH_ORIGINAL_COMMAND": asked}) == "check"


@pytest.mark.parametrize(
    "asked",
    [
        *("", "check", "sh", "files keeper", "files; id", "claude-pool host files --data /", "x files"),
        *(
            "claude-pool host check",
            "claude-pool serve",
            "claude-pool host files\nid",
            "/a b/claude-pool host files",
        ),
    ],
)
def test_and_does_nothing_else(asked: str) -> None:
    with pytest.raises(BadRequest, match="files, keeper or check"):
        part_asked_for(None, {"SSH_ORIGINAL_COMMAND": asked})


def test_a_machine_is_a_server_of_its_own_or_a_host(short_dir: Path) -> None:
    lock = DataLock(short_dir)
    with host_process(short_dir, "files") as host:
        code, output, errors = host.end()
    lock.release()
    assert (code, output) == (1, b"")
    assert errors == f"claude-pool: the data directory {short_dir} is in use by process {os.getpid()}\n"
    with host_process(short_dir, "keeper") as host:
        assert host.end()[:2] == (4, b""), "without a keeper"
    for words in (["sh"], []):
        told = CliRunner().invoke(main, ["host", *words, "--data", str(short_dir)])
        assert (told.exit_code, told.stdout) == (2, "")


def test_it_serves_the_server_that_came_last_by_its_limits_and_with_its_own_keys(short_dir: Path) -> None:
    house = {"kind": "gateway", "base_url": "http://127.0.0.1:1", "api_key": KEY, "own_keys": True}
    config = short_dir / "config.yaml"
    config.write_text(
        f"providers: {{house: {json.dumps(house)}}}\n"
        f"auth: {{jwt: {{secret: {KEY}-of-sign-ins}}}}\n"
        "isolation: {mode: none}\n"
        "quotas: {default: {tokens_per_day: 7, max_processes: 11}}\n"
        f"cli: {{path: /bin/true}}\n"
    )
    config.chmod(0o600)
    environment = {"ANTHROPIC_API_KEY": KEY, "CLAUDE_POOL__AUTH__OIDC__CLIENT_SECRET": KEY}
    login = {"SSH_ORIGINAL_COMMAND": "files", "XDG_RUNTIME_DIR": str(short_dir)}
    with host_process(short_dir, environment=environment | login) as first:
        assert first.hello()["data_dir"] == str(short_dir)
        assert first.ask("describe") == {"provider": "house", "kind": "gateway", "demo": False}
        settings = read_gateway_config(short_dir).providers["house"]
        assert settings.api_key is not None
        assert settings.api_key.get_secret_value() == KEY
        # until a server has told its limits, those of this machine hold
        assert read_budgets(short_dir).for_user("alice").tokens_per_day == 7
        with pytest.raises(HeldElsewhere, match="the host program of a server elsewhere"):
            DataLock(short_dir)

        first.ask("put_limits", **limits_of(load_config(None, {}, QUOTAS).quotas))
        kind, refused = first.asked("put_limits", default={"tokens_per_day": "many"}, users={}, teams={})
        assert (kind, refused["type"]) == ("failure", "BadRequest")
        assert "default.tokens_per_day" in refused["message"]
        check_limits(short_dir)
        assert launch_limits(first)["processes"] == 77
        if os.geteuid() == 0:
            assert holds_key(one_of(first.process.pid)) == []
        left = Path(f"/proc/{first.process.pid}/environ").read_bytes()
        assert not [name for name in (b"SSH_", b"XDG_", b"CLAUDE_POOL__") if name in left]

        with host_process(short_dir, "files", environment=environment) as second:
            second.hello(epoch=2)
            assert first.process.wait(10) < 0
            # the limits that the server told go on to hold
            check_limits(short_dir)
            second.ask("put_own_key", user_id="alice", provider="house", key="sk-of-alices-own")
            assert second.ask("own_keys_of", user_id="alice") == {"house": True}
            code, output, errors = second.end()
            assert (code, output) == (0, b"")
            assert KEY not in errors
            assert log_lines(errors) is not None
        DataLock(short_dir).release()


@pytest.mark.acceptance
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run it as somebody else")
def test_it_works_for_a_user_that_is_not_root(short_dir: Path, fake_claude: Path) -> None:
    """Nothing that it needs later is where the end of a login would remove it."""
    python = python_for_all(short_dir / "python")
    short_dir.chmod(0o711)
    data, login = short_dir / "data", short_dir / "login"
    for place in (data, login):
        place.mkdir()
        os.chown(place, SOMEBODY, SOMEBODY)
    environment = {
        "XDG_RUNTIME_DIR": str(login),
        "HOME": str(login),
        "TMPDIR": str(login),
        "CLAUDE_POOL__CLI__PATH": str(fake_claude),
    }
    with host_process(data, "files", environment=environment, run_as=(SOMEBODY, python)) as host:
        facts = host.hello()
        assert (facts["uid_range"], facts["keeper_uid"], facts["gateway_uid"]) == (None, SOMEBODY, None)
        runtime_dir = Path(host.ask("prepare"))
        assert runtime_dir.parent == Path(f"/tmp/claude-pool-{SOMEBODY}")
        host.ask("ensure", user_id="alice", template="default", uid=None, may_change_owner=False)
        kind, _refused = host.asked(
            "ensure", user_id="bob", template="default", uid=200001, may_change_owner=False
        )
        assert kind == "failure"
        assert (data / "workspaces" / "alice").stat().st_uid == SOMEBODY
        host.ask("put_limits", default={"tokens_per_day": 5}, users={}, teams={})
        host.ask("start_keeper")
        assert (runtime_dir / "keeper.sock").stat().st_uid == SOMEBODY
        host.ask("kill_keeper")
        assert host.ask("keeper_has_ended", seconds=10)
        assert host.end()[:2] == (0, b"")
    assert list(login.iterdir()) == []
    shutil.rmtree(runtime_dir)


QUOTAS = {
    "quotas": {
        "default": {"tokens_per_day": 1000, "max_processes": 77},
        "plans": {"big": {"tokens_per_day": 5000}},
        "users": {"bob": "big"},
        "teams": {"red": {"members": ["alice", "bob"], "usd_per_day": 2.5}},
    }
}


def check_limits(data: Path) -> None:
    book = read_budgets(data)
    assert (book.for_user("alice").tokens_per_day, book.for_user("bob").tokens_per_day) == (1000, 5000)
    assert [(name, team.usd_per_day) for name, team in book.teams_of("bob")] == [("red", 2.5)]


def launch_limits(host: HostProcess) -> dict[str, int]:
    """What an instance of alice's would be held to by its control group."""
    runtime_dir = Path(host.ask("prepare"))
    host.ask("ensure", user_id="alice", template="default", uid=None, may_change_owner=False)
    spec: dict[str, Any] = {
        "instance_id": "i1",
        "user_id": "alice",
        "session_id": "default",
        "scratch": None,
        "cli_args": [],
        "env": {},
        "labels": {},
        "network": None,
        "uid": None,
        "tool_limits": None,
    }
    try:
        return dict(host.ask("request", spec=spec)["limits"])
    finally:
        shutil.rmtree(runtime_dir)


def one_of(pid: int) -> Process:
    (process,) = (process for process in processes() if process.pid == pid)
    return process


def test_people_can_ask_what_is_missing(short_dir: Path) -> None:
    environment = {"ANTHROPIC_API_KEY": None, "CLAUDE_POOL__CLI__PATH": "/bin/true"}
    told = CliRunner().invoke(main, ["host", "check", "--data", str(short_dir)], env=environment)
    lines = told.stdout.splitlines()
    assert told.exit_code == 0, told.output
    assert any(line.startswith("ok   data directory: no server of this machine's own has") for line in lines)
    assert any(line.startswith("warn model: the built-in demo model answers") for line in lines)
    assert not any("database: " in line for line in lines)
