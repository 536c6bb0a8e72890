"""The host program does what a server asks, for one server at a time, and goes when that one has gone."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pool.hosts import wire
from pool.hosts.facts import HostFacts, installed_version
from pool.steward.wire import END, FAILURE, ITEM, RESULT, receive, request
from pool.workspace.workspaces import WorkspacePaths
from tests.pool.hosts.forked import KILLED, Programs
from tests.pool.hosts.pipes import Pipes, hello_words


class ProgramPipes(Pipes):
    """To a program that a warm process forks off."""

    def __init__(self, programs: Programs, settings: Path, word: str = "files") -> None:
        pipe = subprocess.PIPE
        command = shlex.split(programs.command(str(settings), word))
        super().__init__(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0))

    def ask(self, verb: str, **arguments: Any) -> tuple[str, Any]:
        kind, value = self.asked(verb, **arguments)
        return kind, wire.typed(verb, value) if kind == RESULT else value

    def hello(self, **changes: Any) -> tuple[str, Any]:
        return self.ask("hello", **hello_words(**changes))

    def close(self) -> int:
        """End of input; the exit code."""
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        code = self.process.wait(20)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


@pytest.fixture
def settings(short_dir: Path) -> Path:
    file = short_dir / "settings.json"
    plain = {"data_dir": str(short_dir / "d"), "runtime_dir": str(short_dir / "r"), "isolation_mode": "none"}
    file.write_text(json.dumps(plain))
    return file


@pytest.fixture
def host(programs: Programs, settings: Path) -> Iterator[ProgramPipes]:
    pipes = ProgramPipes(programs, settings)
    yield pipes
    pipes.close()


def test_it_tells_of_the_host_and_does_what_it_is_asked(host: ProgramPipes, short_dir: Path) -> None:
    kind, facts = host.hello()
    assert kind == RESULT
    assert isinstance(facts, HostFacts)
    assert (facts.data_dir, facts.isolation.mode, facts.uid_range) == (short_dir / "d", "none", None)
    assert facts.capacity >= 4
    asked = {"user_id": "alice", "template": "default", "uid": None, "may_change_owner": False}
    kind, made = host.ask("ensure", **asked)
    assert isinstance(made, WorkspacePaths)
    assert made.workspace.is_dir()
    assert host.ask("ensure", **(asked | {"uid": 200001}))[1]["type"] == "Forbidden"
    kind, iterator = host.ask("archive_sizes")
    assert (kind, iterator["type"]) == (FAILURE, "BadRequest")


def test_what_a_verb_or_its_children_print_does_not_reach_the_server(host: ProgramPipes) -> None:
    assert host.hello()[0] == RESULT
    assert host.ask("shape") == (RESULT, {"a": [1, 2]})
    host.shutdown(0)
    assert receive(host) is None
    assert host.stderr().splitlines()[:2] == ["printed", "printed by another"]


def test_pieces_come_one_by_one(host: ProgramPipes) -> None:
    host.hello()
    host.ask("ensure", user_id="alice", template="default", uid=None, may_change_owner=False)
    host._last += 1
    host.sendall(request(host._last, "archive", {"user_id": "alice"}))
    body = receive(host)
    assert body is not None
    _number, kind, iterator = wire.parse_reply(body)
    assert kind == RESULT
    pieces = []
    while (piece := host.ask("next", iterator=iterator))[0] == ITEM:
        pieces.append(wire.typed("archive", piece[1]))
    assert piece[0] == END
    assert b"workspace/" in b"".join(pieces)


def test_another_version_is_refused_and_both_are_named(host: ProgramPipes) -> None:
    kind, error = host.hello(version="0.0.1")
    assert (kind, error["type"]) == (FAILURE, "Conflict")
    assert "0.0.1" in error["message"]
    assert installed_version() in error["message"]
    assert host.process.wait(20) == 1


def test_a_later_one_takes_the_place_of_one_that_hangs(
    programs: Programs, settings: Path, host: ProgramPipes
) -> None:
    host.hello()
    host._last += 1
    host.sendall(request(host._last, "sleep", {"seconds": 600}))
    later = ProgramPipes(programs, settings)
    try:
        assert later.hello()[0] == RESULT
        assert host.process.wait(20) == KILLED
        assert later.ask("alive") == (RESULT, None)
    finally:
        assert later.close() == 0


def test_a_server_that_was_followed_by_another_ends_nobodys_host_program(
    programs: Programs, settings: Path, host: ProgramPipes, short_dir: Path
) -> None:
    host.hello(epoch=7)
    (short_dir / "d" / "keeper").mkdir()
    (short_dir / "d" / "keeper" / "epoch").write_text('{"epoch": 7}')
    stale = ProgramPipes(programs, settings)
    kind, error = stale.hello(epoch=6, was_attached=True)
    assert (kind, error["type"]) == (FAILURE, "Conflict")
    assert "epoch 7" in error["message"]
    stale.close()
    assert host.ask("alive") == (RESULT, None)


def test_it_ends_when_its_server_says_nothing_any_more(host: ProgramPipes) -> None:
    host.hello(speaks_every_seconds=0.05)
    host._last += 1
    host.sendall(request(host._last, "sleep", {"seconds": 600}))
    # both pipes stay open, as over a link that is half open
    assert host.process.wait(20) != 0
    assert "the server says nothing any more" in host.stderr()


def test_no_keeper_listens_yet(programs: Programs, settings: Path) -> None:
    pump = ProgramPipes(programs, settings, "keeper")
    assert pump.recv(1) == b""
    assert "no keeper of" in pump.stderr()
    assert pump.close() == 4
