"""All of a user's data as an archive: everything of theirs, nothing of others, no secret."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from pool import UsageRecord
from pool.model import SessionId, SessionKey, UserId
from pool.store.base import AppendEvents, Operation, PutSession, PutTurn
from pool.store.operations import perform
from server.cli import main
from server.gateway.forgotten import read_forgotten
from server.rest.export import UNDER_WAY
from tests.pool.store.records import a_session, a_turn, entries
from tests.server.site import Site, error_of
from tests.waiting import eventually


def a_call(user_id: str) -> UsageRecord:
    return UsageRecord(
        at=2_000_000_000.0,
        seconds=1.0,
        user_id=user_id,
        session_id="default",
        instance_id="i1",
        provider="main",
        model="m",
        input_tokens=5,
        output_tokens=6,
        cache_write_tokens=0,
        cache_read_tokens=0,
        usd=0.5,
        priced=True,
        complete=True,
    )


async def furnished(site: Site, user_id: str) -> None:
    """A user with a bit of everything."""
    key = SessionKey(UserId(user_id), SessionId("default"))
    log = [*entries((1, 10, 0))]
    log[0] = type(log[0])(log[0].cursor, json.dumps({"said": f"words of {user_id}"}).encode())
    operations: list[Operation] = [
        PutSession(a_session(key)),
        PutTurn(a_turn(key, line=f'{{"x":"words of {user_id}"}}\n'.encode())),
        AppendEvents(key, log),
    ]
    database = site.pool.database
    await database.submit(lambda connection: perform(connection, operations, database.audit))
    read_to = (await site.pool.usage.read_to()).get("journal", 0)
    assert await site.pool.usage.take_in("journal", read_to, read_to + 1, [a_call(user_id)])
    workspace = site.pool.data_dir / "workspaces" / user_id
    workspace.mkdir(parents=True)
    (workspace / "file.txt").write_text(f"file of {user_id}")
    (workspace / "link").symlink_to("/etc/passwd")
    project = site.pool.data_dir / "homes" / user_id / ".claude/projects/-w"
    project.mkdir(parents=True)
    (project / "t.jsonl").write_text(f"transcript of {user_id}")
    (project.parents[1] / ".credentials.json").write_text("credential")
    egress = site.pool.data_dir / "egress" / user_id
    egress.mkdir(parents=True)
    for name in ("connections.jsonl", "connections.jsonl.1"):
        (egress / name).write_text(f'{{"user":"{user_id}","host":"example.org","port":443,"allowed":true}}\n')


def read(data: bytes) -> tuple[dict[str, bytes], dict[str, str]]:
    """(files by name, links by name)"""
    files, links = {}, {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for info in tar:
            if info.issym():
                links[info.name] = info.linkname
            elif (file := tar.extractfile(info)) is not None:
                files[info.name] = file.read()
    return files, links


def rows(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.splitlines()]


async def test_it_has_all_that_is_the_callers_and_nothing_else(site: Site) -> None:
    alice = await site.client("alice")
    await site.services.users.set_password("alice", "a good password")
    alice = await site.client("alice")
    await site.token("bob")
    for name in ("alice", "bob"):
        await furnished(site, name)
    async with alice.get("api/v1/me/export") as response:
        assert response.status == 200
        assert response.content_type == "application/x-tar"
        data = await response.read()
    files, links = read(data)
    assert rows(files["account.json"])[0]["user_id"] == "alice"
    assert rows(files["sessions-00001.jsonl"])[0]["session_id"] == "default"
    assert rows(files["sessions/default/events-00001.jsonl"]) == [
        {"cursor": "1.10.0", "event": {"said": "words of alice"}}
    ]
    assert rows(files["sessions/default/turns-00001.jsonl"])[0]["line"].strip() == '{"x":"words of alice"}'
    assert rows(files["usage-00001.jsonl"])[0]["usd"] == 0.5
    assert rows(files["audit-00001.jsonl"])[-1]["action"] == "user.exported"
    assert files["workspace/file.txt"] == b"file of alice"
    assert files["transcripts/-w/t.jsonl"] == b"transcript of alice"
    for name in ("connections.jsonl", "connections.jsonl.1"):
        assert rows(files[f"egress/{name}"]) == [
            {"user": "alice", "host": "example.org", "port": 443, "allowed": True}
        ]
    assert links == {"workspace/link": "/etc/passwd"}
    assert "bob" not in str(files.keys())
    for private in (b"bob", b"root:", b"argon2", b"credential", alice.headers["Authorization"][7:].encode()):
        assert private not in data


async def test_two_at_once_of_one_user_are_too_many(site: Site) -> None:
    alice = await site.client("alice")

    site.app[UNDER_WAY].add("alice")
    async with alice.get("api/v1/me/export") as response:
        assert await error_of(response) == (429, "rate_limited")
    site.app[UNDER_WAY].clear()
    async with alice.get("api/v1/me/export") as response:
        assert response.status == 200
        await response.read()
    await eventually(lambda: not site.app[UNDER_WAY])


async def test_a_client_that_leaves_in_the_middle_leaves_nothing(site: Site) -> None:
    alice = await site.client("alice")
    await furnished(site, "alice")
    with (site.pool.data_dir / "workspaces/alice/large").open("wb") as file:
        file.truncate(1 << 30)
    async with alice.get("api/v1/me/export") as response:
        await response.content.read(1 << 20)
        assert site.app[UNDER_WAY] == {"alice"}
        response.close()
    await eventually(lambda: not site.app[UNDER_WAY])


async def test_the_next_user_of_a_name_finds_nothing_of_the_last_one(site: Site) -> None:
    root = await site.client("root", admin=True)
    old = await site.client("alice")
    await furnished(site, "alice")
    async with root.delete("api/v1/admin/users/alice", params={"keep_workspace": "true"}) as response:
        assert response.status == 204
    async with old.get("api/v1/me") as response:
        assert response.status == 401
    data_dir = site.pool.data_dir
    [kept] = (data_dir / "kept").iterdir()
    assert (kept / "file.txt").read_text() == "file of alice"
    assert kept.parent.stat().st_mode & 0o077 == 0
    # and the gateway counts nothing of what the last one used
    assert set(read_forgotten(data_dir)) == {"alice"}
    for place in ("workspaces", "homes", "templates-applied", "egress"):
        assert not (data_dir / place / "alice").exists()
    new = await site.client("alice")
    async with new.get("api/v1/me/export") as response:
        files, _links = read(await response.read())
    assert not [
        name for name in files if name.startswith(("sessions", "usage", "workspace", "transcripts", "egress"))
    ]
    assert rows(files["audit-00001.jsonl"])[0]["action"] == "user.added"
    figures = await site.pool.usage.grouped("user", 0, 1 << 30)
    assert [(name.startswith("@deleted-"), used.usd) for name, used in figures] == [(True, 0.5)]


def test_a_command_exports_with_no_server_running(tmp_path: Path) -> None:
    data, target = tmp_path / "data", tmp_path / "alice.tar"

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, [*arguments, "--data", str(data)])
        return result.exit_code, result.output

    assert run("user", "add", "alice")[0] == 0
    workspace = data / "workspaces/alice"
    workspace.mkdir(parents=True)
    (workspace / "file.txt").write_text("mine")
    code, output = run("user", "export", "alice", "--to", str(target))
    assert code == 0, output
    assert target.stat().st_mode & 0o777 == 0o600
    files, _links = read(target.read_bytes())
    assert files["workspace/file.txt"] == b"mine"
    assert [row["action"] for row in rows(files["audit-00001.jsonl"])] == ["user.added", "user.exported"]
    code, output = run("user", "export", "alice", "--to", str(target))
    assert (code, "exists" in output.lower()) == (1, True)
    assert run("user", "export", "nobody", "--to", str(tmp_path / "n.tar"))[0] == 1
    assert not (tmp_path / "n.tar").exists()
