"""The commands beside no server, in this process: they work on the store itself."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from server.cli import main
from server.control_client import SOCKET_NAME
from server.data_lock import DataLock
from server.gateway.forgotten import read_forgotten
from server.gateway.usage_journal import UsageJournal
from tests.server.test_usage import an_entry

Command = Callable[..., Result]


@pytest.fixture
def command(short_dir: Path) -> Command:
    """Runs ``claude-pool`` on a data directory of the test's own."""

    def run(*words: str, stdin: str = "") -> Result:
        environment = {"ANTHROPIC_API_KEY": None, "MULTI_USER": None}
        return CliRunner().invoke(main, [*words, "--data", str(short_dir)], input=stdin, env=environment)

    return run


def test_users_are_made_listed_disabled_and_deleted(command: Command, short_dir: Path) -> None:
    assert command("user", "add", "root", "--admin").exit_code == 0
    added = command("user", "add", "alice", "--password-stdin", stdin="long enough\n")
    assert (added.exit_code, added.stdout) == (0, "added alice\n")
    again = command("user", "add", "ROOT")
    assert again.exit_code == 1
    assert "already" in again.stderr
    assert command("user", "add", "../x").exit_code == 2
    assert command("user", "add", "bob", "--password-stdin", stdin="short\n").exit_code == 2
    assert command("user", "disable", "alice").exit_code == 0
    shown = [line.split() for line in command("user", "list").stdout.splitlines()]
    assert shown[1:] == [["alice", "disabled", "yes"], ["root", "admin", "active", "no"]]
    assert command("user", "enable", "alice").exit_code == 0
    assert command("user", "password", "alice", stdin="another one\n").exit_code == 0
    (short_dir / "workspaces" / "alice").mkdir(parents=True)
    journal = UsageJournal(short_dir)
    journal.append(an_entry(time.time(), user="alice"))
    journal.close()
    assert command("user", "delete", "alice").exit_code == 0
    assert set(read_forgotten(short_dir)) == {"alice"}
    # what the gateway has said of alice came into the books before her name was taken out of them
    with sqlite3.connect(short_dir / "claude-pool.db") as database:
        [(name, calls)] = database.execute("select user_id, count(*) from usage").fetchall()
    assert (name.startswith("@deleted-"), calls) == (True, 1)
    assert not (short_dir / "workspaces" / "alice").exists()
    missing = command("user", "delete", "alice")
    assert (missing.exit_code, missing.stderr) == (1, "claude-pool: there is no user alice\n")


def test_what_lies_on_another_machine_is_left_to_the_server(command: Command, short_dir: Path) -> None:
    command("user", "add", "alice")
    with contextlib.closing(sqlite3.connect(short_dir / "claude-pool.db")) as database, database:
        database.execute("insert into placements (user_id, host, placed_at) values ('alice', 'h1', 0)")
    target = short_dir / "alice.tar"
    for words in (("user", "delete", "alice"), ("user", "export", "alice", "--to", str(target))):
        told = command(*words)
        assert told.exit_code == 1
        assert "alice lives on the host h1" in told.stderr
    assert not target.exists()
    assert [line.split() for line in command("user", "list").stdout.splitlines()][1:] == [
        ["alice", "active", "no"]
    ]


def test_a_token_is_printed_alone(command: Command) -> None:
    command("user", "add", "root", "--admin")
    token = command("token", "create", "--user", "root", "--ttl", "60", "--scope", "read")
    assert token.exit_code == 0
    assert token.stdout.startswith("eyJ")
    assert token.stdout.count("\n") == 1
    assert command("token", "create", "--user", "root", "--scope", "everything").exit_code == 2
    assert command("token", "create", "--user", "root", "--ttl", "0").exit_code == 2
    assert command("token", "create", "--user", "nobody").exit_code == 1


def test_a_link_is_printed(command: Command) -> None:
    command("user", "add", "alice")
    link = command("user", "link", "alice")
    assert link.stdout.startswith("http://127.0.0.1:8080/#signin=")


@pytest.mark.parametrize("name", ["ps", "drain", "resume", "stop", "reload"])
def test_what_needs_a_server_says_so(command: Command, name: str) -> None:
    result = command(name)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no server is running" in result.stderr


def test_a_bad_configuration_is_2_for_every_command(command: Command, short_dir: Path) -> None:
    (short_dir / "config.yaml").write_text("server: {prot: 1}")
    for words in (("user", "list"), ("ps",), ("doctor",), ("serve", "--check")):
        result = command(*words)
        assert result.exit_code == 2
        assert "server.prot: unknown key" in result.stderr


def test_wrong_usage_is_2(command: Command) -> None:
    assert command("serve", "--port", "x").exit_code == 2
    assert command("dance").exit_code == 2
    assert command("user", "add").exit_code == 2


def test_a_directory_in_use_by_a_server_that_does_not_answer_yet(command: Command, short_dir: Path) -> None:
    lock = DataLock(short_dir)
    result = command("user", "list")
    assert result.exit_code == 1
    assert "in use by process" in result.stderr
    assert not (short_dir / SOCKET_NAME).exists()
    lock.release()
