"""Users, tokens and links: what is kept, what is refused, what is forgotten."""

from __future__ import annotations

import asyncio

import pytest

from pool.errors import Conflict, InvalidName, NotFound
from pool.model import SessionId, SessionKey, UserId
from pool.store.accounts import Accounts
from pool.store.base import AppendEvents, PutInstance, PutSession, PutTurn
from pool.store.sql import SqlStore
from pool.store.state import UserState
from tests.pool.store.records import ALICE, BOB, a_session, a_turn, an_instance, entries


class HandClock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def accounts(store: SqlStore, clock: HandClock) -> Accounts:
    return Accounts(store.database, clock)


async def test_a_user_is_made_changed_and_found(accounts: Accounts) -> None:
    made = await accounts.create_user("alice", "hash-1", ["admin"])
    assert await accounts.get_user("alice") == made
    assert made.roles == ("admin",)
    await accounts.set_password("alice", "hash-2")
    await accounts.set_disabled("alice", True)
    await accounts.set_roles("alice", ["user", "auditor"])
    changed = await accounts.get_user("alice")
    assert changed is not None
    assert (changed.password_hash, changed.disabled, changed.roles) == ("hash-2", True, ("user", "auditor"))
    await accounts.create_user("bob", None)
    assert [user.user_id for user in await accounts.list_users()] == ["alice", "bob"]


@pytest.mark.parametrize("again", ["alice", "Alice", "ALICE"])
async def test_ids_that_differ_only_in_case_are_one_user(accounts: Accounts, again: str) -> None:
    await accounts.create_user("alice", None)
    with pytest.raises(Conflict):
        await accounts.create_user(again, None)
    assert await accounts.get_user("ALICE") is None


@pytest.mark.parametrize("bad", ["", "..", "a/b", "é", "a\x00", "x" * 65, "-rf", "a..b"])
async def test_a_bad_user_id_is_refused(accounts: Accounts, bad: str) -> None:
    with pytest.raises(InvalidName):
        await accounts.create_user(bad, None)
    assert await accounts.list_users() == []


async def test_changes_of_nobody_are_refused(accounts: Accounts) -> None:
    for change in (
        accounts.set_password("nobody", "h"),
        accounts.set_disabled("nobody", True),
        accounts.delete_user("nobody"),
        accounts.revoke_token("nothing"),
    ):
        with pytest.raises(NotFound):
            await change


async def test_a_token_is_good_until_revoked_or_expired(accounts: Accounts, clock: HandClock) -> None:
    await accounts.record_token("j-1", "alice", "api", clock.now + 60, ["chat"])
    await accounts.record_token("j-2", "alice", "session", clock.now + 60)
    first = await accounts.get_token("j-1")
    assert first is not None
    assert (first.scopes, first.kind, first.is_good(clock.now)) == (("chat",), "api", True)
    assert not first.is_good(clock.now + 60)
    await accounts.revoke_token("j-1")
    clock.now += 5
    await accounts.revoke_token("j-1")
    revoked = await accounts.get_token("j-1")
    assert revoked is not None
    assert revoked.revoked_at == clock.now - 5
    assert not revoked.is_good(clock.now)
    assert await accounts.revoke_all("alice") == 1
    assert [token.is_good(clock.now) for token in await accounts.list_tokens("alice")] == [False, False]
    with pytest.raises(Conflict):
        await accounts.record_token("j-1", "bob", "api", clock.now + 60)


async def test_long_expired_tokens_are_forgotten(accounts: Accounts, clock: HandClock) -> None:
    await accounts.record_token("old", "alice", "api", clock.now + 60)
    clock.now += 2 * 86400
    await accounts.record_token("new", "alice", "api", clock.now + 60)
    assert [token.jti for token in await accounts.list_tokens("alice")] == ["new"]


async def test_a_link_signs_in_exactly_once(accounts: Accounts, clock: HandClock) -> None:
    await accounts.put_link("h", "local", clock.now + 60)
    answers = await asyncio.gather(*(accounts.redeem_link("h") for _ in range(5)))
    assert sorted(map(str, answers)) == ["None"] * 4 + ["local"]
    assert await accounts.redeem_link("other") is None


async def test_an_expired_link_and_a_disabled_user_do_not_sign_in(
    accounts: Accounts, clock: HandClock
) -> None:
    await accounts.create_user("alice", None)
    await accounts.put_link("h-1", "alice", clock.now + 60)
    clock.now += 60
    assert await accounts.redeem_link("h-1") is None
    await accounts.put_link("h-2", "alice", clock.now + 60)
    await accounts.set_disabled("alice", True)
    assert await accounts.redeem_link("h-2") is None
    await accounts.set_disabled("alice", False)
    await accounts.put_link("h-3", "alice", clock.now + 60)
    assert await accounts.revoke_all("alice") == 0
    assert await accounts.redeem_link("h-3") is None


async def test_a_deleted_user_leaves_nothing_to_a_successor(
    store: SqlStore, accounts: Accounts, clock: HandClock
) -> None:
    state = UserState(store.database, clock)
    for name in ("alice", "bob"):
        await accounts.create_user(name, "h")
        await state.put(name, "theme", '"dark"')
    await accounts.record_token("j", "alice", "api", clock.now + 60)
    await accounts.put_link("l", "alice", clock.now + 60)
    for key in (ALICE, BOB):
        log = entries(*((1, offset, 0) for offset in range(1, 5001)))
        await store.commit(
            [
                PutSession(a_session(key)),
                PutInstance(an_instance(key)),
                PutTurn(a_turn(key)),
                AppendEvents(key, log),
            ]
        )
    await accounts.delete_user("alice")
    await accounts.create_user("alice", "h")
    assert await store.list_sessions(UserId("alice"), include_archived=True) == []
    assert await state.keys("alice") == []
    assert await accounts.redeem_link("l") is None
    assert await accounts.get_token("j") is None
    await store.commit([PutSession(a_session())])
    assert await store.read_events(ALICE) == []
    assert len(await store.read_events(BOB, limit=6000)) == 5000
    assert [work.session.key for work in await store.open_work()] == [BOB]
    assert await state.get("bob", "theme") == '"dark"'


async def test_sessions_may_be_kept_when_a_user_goes(store: SqlStore, accounts: Accounts) -> None:
    await accounts.create_user("alice", None)
    await store.commit([PutSession(a_session(SessionKey(UserId("alice"), SessionId("kept"))))])
    await accounts.delete_user("alice", keep_sessions=True)
    assert await store.count_sessions(UserId("alice")) == 1


@pytest.mark.parametrize("keep", [False, True])
async def test_a_deleted_users_uid_is_never_given_again(
    accounts: Accounts, store: SqlStore, keep: bool
) -> None:
    alice, bob = UserId("alice"), UserId("bob")
    await accounts.create_user("alice", None)
    assert await store.uid_of(alice, 3000, 3999) == 3000
    await accounts.delete_user("alice", keep_sessions=keep)
    await accounts.create_user("alice", None)
    assert await store.uid_of(alice, 3000, 3999) == 3001
    assert await store.uid_of(bob, 3000, 3999) == 3002
