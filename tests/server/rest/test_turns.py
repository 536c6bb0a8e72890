"""Messages, history, status, interrupts and approvals over REST."""

from __future__ import annotations

from pathlib import Path

import pytest

from pool.errors import LaunchFailed, PoolFull, QuotaExceeded, StoreTimeout, StoreUnavailable
from tests.server.site import Site, error_of, running


async def test_a_message_is_accepted_and_its_key_gives_the_first_answer_again(site: Site) -> None:
    alice = await site.client("alice")
    headers = {"Idempotency-Key": "k1"}
    async with alice.post("api/v1/sessions/s/messages", json={"content": "hi"}, headers=headers) as response:
        assert response.status == 202
        first = await response.json()
    assert first == {"turn_id": "t0", "message_id": "k1", "state": "queued", "position": 0}
    async with alice.post("api/v1/sessions/s/messages", json={"content": "hi"}, headers=headers) as response:
        assert (response.status, await response.json()) == (202, first)
    async with alice.post("api/v1/sessions/s/messages", json={"content": "ho"}, headers=headers) as response:
        assert await error_of(response) == (409, "key_reused")
    async with alice.post("api/v1/sessions/s/messages", json={"content": "hi"}) as response:
        assert (await response.json())["turn_id"] == "t1"


async def test_content_blocks_are_a_message(site: Site) -> None:
    alice = await site.client("alice")
    blocks = [{"type": "text", "text": "hi"}]
    async with alice.post(
        "api/v1/sessions/s/messages", json={"content": blocks, "literal": True}
    ) as response:
        assert response.status == 202


@pytest.mark.parametrize(
    "body",
    [{}, {"content": 5}, {"content": ""}, {"content": [5]}, {"content": "x", "literal": "yes"}, {"x": 1}],
)
async def test_bad_messages_are_refused(site: Site, body: dict[str, object]) -> None:
    alice = await site.client("alice")
    async with alice.post("api/v1/sessions/s/messages", json=body) as response:
        assert await error_of(response) == (400, "bad_request")


@pytest.mark.parametrize("key", ["", "a b", "ü", "x" * 201])
async def test_a_bad_key_is_refused(site: Site, key: str) -> None:
    alice = await site.client("alice")
    headers = {"Idempotency-Key": key}
    async with alice.post("api/v1/sessions/s/messages", json={"content": "x"}, headers=headers) as response:
        assert await error_of(response) == (400, "bad_request")


async def test_a_message_above_the_bound_is_too_large(short_dir: Path) -> None:
    async with running(short_dir, {"server": {"max_message_bytes": 2048}}) as site:
        alice = await site.client("alice")
        async with alice.post("api/v1/sessions/s/messages", json={"content": "x" * 3000}) as response:
            assert await error_of(response) == (413, "too_large")
        async with alice.post("api/v1/sessions/s/messages", json={"content": "x" * 1000}) as response:
            assert response.status == 202


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (PoolFull("full", retry_after_seconds=3.2), 503, "4"),
        (QuotaExceeded("yours"), 429, "5"),
        (LaunchFailed("no", details={"stderr": "private"}), 502, None),
        (StoreUnavailable("locked"), 503, "5"),
        (RuntimeError("private"), 500, None),
    ],
)
async def test_errors_of_the_pool_have_their_status_and_say_when_to_come_back(
    site: Site, error: Exception, status: int, retry_after: str | None
) -> None:
    site.pool.fails_with = error
    alice = await site.client("alice")
    async with alice.post("api/v1/sessions/s/messages", json={"content": "x"}) as response:
        text = await response.text()
        assert (await error_of(response))[0] == status
        assert response.headers.get("Retry-After") == retry_after
    assert "private" not in text


async def test_who_was_refused_by_a_slow_database_is_told_what_to_send_again(site: Site) -> None:
    site.pool.fails_with = StoreTimeout("late", retry_after_seconds=5, details={"message_id": "key-1"})
    alice = await site.client("alice")
    async with alice.post("api/v1/sessions/s/messages", json={"content": "x"}) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "5")
        error = (await response.json())["error"]
    assert (error["code"], error["details"]) == ("store_unavailable", {"message_id": "key-1"})


async def test_draining_is_503_with_retry_after(site: Site) -> None:
    site.pool.drain()
    alice = await site.client("alice")
    async with alice.post("api/v1/sessions/s/messages", json={"content": "x"}) as response:
        assert await error_of(response) == (503, "draining")
        assert response.headers["Retry-After"] == "3"


async def test_history_is_frames_with_cursors_to_go_on(site: Site) -> None:
    alice = await site.client("alice")
    async with alice.post("api/v1/sessions/s/messages", json={"content": "hi"}):
        pass
    async with alice.get("api/v1/sessions/s/history", params={"limit": "2"}) as response:
        page = await response.json()
    assert [frame["type"] for frame in page["frames"]] == ["turn", "turn"]
    async with alice.get("api/v1/sessions/s/history", params={"after": page["next"]}) as response:
        rest = await response.json()
    assert rest["frames"][0]["event"]["text"] == "hi"
    assert set(rest) == {"frames", "next", "prev"}


@pytest.mark.parametrize("query", ["after=x", "before=1.2", "after=%00", "after="])
async def test_what_is_no_cursor_is_refused(site: Site, query: str) -> None:
    await site.pool.create_session("alice", "s")
    alice = await site.client("alice")
    async with alice.get(f"api/v1/sessions/s/history?{query}") as response:
        assert await error_of(response) == (400, "bad_cursor")


async def test_status_has_every_part(site: Site) -> None:
    alice = await site.client("alice")
    await site.pool.create_session("alice", "s")
    async with alice.get("api/v1/sessions/s/status") as response:
        assert await response.json() == {
            "state": "parked",
            "queue": None,
            "instance": None,
            "turn": None,
            "queued": [],
            "todos": [],
            "todos_supported": False,
            "usage": {},
        }
    instance = site.pool.add_instance("alice", "s")
    async with alice.post("api/v1/sessions/s/messages", json={"content": "hi"}):
        pass
    async with alice.get("api/v1/sessions/s/status") as response:
        status = await response.json()
    assert status["turn"] == {"turn_id": "t0", "state": "running", "origin": "user", "message_id": "m"}
    assert (status["instance"]["id"], status["instance"]["pid"]) == (instance.id, 4242)


async def test_an_interrupt_is_202_even_when_nothing_runs(site: Site) -> None:
    await site.pool.create_session("alice", "s")
    alice = await site.client("alice")
    async with alice.post("api/v1/sessions/s/interrupt") as response:
        assert response.status == 202
    async with alice.post("api/v1/sessions/s/interrupt", json={"force": True}) as response:
        assert await error_of(response) == (400, "bad_request")


async def test_an_approval_is_listed_answered_once_and_then_resolved(site: Site) -> None:
    await site.pool.create_session("alice", "s")
    site.pool.ask("alice", "s", "r1")
    alice = await site.client("alice")
    async with alice.get("api/v1/sessions/s/permissions") as response:
        (asked,) = (await response.json())["permissions"]
    assert (asked["request_id"], asked["tool"], asked["input"]) == ("r1", "Bash", {"command": "ls"})
    answer = {"decision": "allow", "scope": "session", "updated_input": {"command": "ls -l"}}
    async with alice.post("api/v1/sessions/s/permissions/r1", json=answer) as response:
        assert response.status == 204
    assert site.pool.session("alice", "s").resolved["r1"] == "allow session alice"
    async with alice.post("api/v1/sessions/s/permissions/r1", json=answer) as response:
        assert await error_of(response) == (409, "already_resolved")
    async with alice.post("api/v1/sessions/s/permissions/r2", json=answer) as response:
        assert await error_of(response) == (404, "not_found")
    for bad in (
        {},
        {"decision": "maybe"},
        {"decision": "deny", "scope": "ever"},
        {"decision": "deny", "x": 1},
    ):
        async with alice.post("api/v1/sessions/s/permissions/r1", json=bad) as response:
            assert await error_of(response) == (400, "bad_request")
