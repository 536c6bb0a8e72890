"""What every store must do; run against each kind by ``tests/pool/store/test_conformance.py``.

A subclass gives the fixture ``store``: open, and empty of sessions.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pool.errors import BadRequest, Conflict, NotFound, UidsExhausted
from pool.model import (
    Cursor,
    InstanceId,
    InstanceState,
    SessionId,
    SessionKey,
    SessionState,
    TurnId,
    TurnState,
    UserId,
)
from pool.store.base import (
    AppendEvents,
    LogEntry,
    PatchInstance,
    PatchPermission,
    PatchSession,
    PatchTurn,
    PutInstance,
    PutPermission,
    PutSession,
    PutTurn,
    Store,
)
from tests.pool.store.records import (
    ALICE,
    BOB,
    a_session,
    a_turn,
    an_approval,
    an_instance,
    cursors,
    entries,
)


class StoreConformance:
    """The contract of ``pool.store.base.Store`` as tests."""

    async def test_a_session_comes_back_as_it_was_put(self, store: Store) -> None:
        record = a_session(title="Müller's 'plan' 🚀", model="opus", cli_session="u-u", resume_from="x")
        await store.commit([PutSession(record)])
        assert await store.get_session(ALICE) == record
        assert await store.get_session(BOB) is None

    async def test_a_session_that_differs_only_in_case_is_refused(self, store: Store) -> None:
        await store.commit([PutSession(a_session())])
        for other in ("default", "Default", "DEFAULT"):
            with pytest.raises(Conflict):
                await store.commit([PutSession(a_session(SessionKey(UserId("alice"), SessionId(other))))])
        await store.commit([PutSession(a_session(SessionKey(UserId("bob"), SessionId("Default"))))])

    async def test_a_patch_changes_what_it_names_and_nothing_else(self, store: Store) -> None:
        await store.commit([PutSession(a_session()), PutSession(a_session(BOB))])
        await store.commit(
            [PatchSession(ALICE, {"state": SessionState.LIVE, "position": Cursor(2, 5, 1), "title": "t"})]
        )
        expected = a_session(state=SessionState.LIVE, position=Cursor(2, 5, 1), title="t")
        assert await store.get_session(ALICE) == expected
        assert await store.get_session(BOB) == a_session(BOB)

    @pytest.mark.parametrize(
        "operation",
        [
            PatchSession(ALICE, {"titel": "x"}),
            PatchSession(ALICE, {"key": BOB}),
            PatchSession(ALICE, {"id": 7}),
            PatchSession(ALICE, {}),
            PatchInstance(InstanceId("i-alice-default-1"), {"ordinal": 2, "nope": 1}),
            PatchTurn(TurnId("t-alice-default-1"), {"turn_id": "x"}),
            PatchPermission(InstanceId("i-alice-default-1"), "r-1", {"request_id": "x"}),
        ],
    )
    async def test_a_patch_of_an_unknown_field_is_refused(self, store: Store, operation: Any) -> None:
        await store.commit(
            [
                PutSession(a_session()),
                PutInstance(an_instance()),
                PutTurn(a_turn()),
                PutPermission(an_approval()),
            ]
        )
        with pytest.raises(BadRequest):
            await store.commit([operation])
        assert await store.get_session(ALICE) == a_session()

    @pytest.mark.parametrize(
        "operation",
        [
            PatchSession(BOB, {"title": "x"}),
            PatchInstance(InstanceId("none"), {"pid": 2}),
            PatchTurn(TurnId("none"), {"position": 1}),
            PatchPermission(InstanceId("none"), "r", {"state": "closed"}),
            PutInstance(an_instance(BOB)),
            PutTurn(a_turn(BOB)),
            PutPermission(an_approval(BOB)),
            AppendEvents(BOB, entries((1, 1, 0))),
        ],
    )
    async def test_what_belongs_to_nothing_is_refused(self, store: Store, operation: Any) -> None:
        with pytest.raises(NotFound):
            await store.commit([operation])

    async def test_a_commit_is_stored_whole_or_not_at_all(self, store: Store) -> None:
        await store.commit([PutSession(a_session())])
        with pytest.raises(Conflict):
            await store.commit(
                [
                    PatchSession(ALICE, {"title": "changed"}),
                    PutTurn(a_turn()),
                    AppendEvents(ALICE, entries((1, 10, 0))),
                    PutTurn(a_turn()),
                ]
            )
        assert await store.get_session(ALICE) == a_session()
        assert await store.get_turn(ALICE, TurnId("t-alice-default-1")) is None
        assert await store.read_events(ALICE) == []

    async def test_a_failing_commit_among_good_ones_fails_alone(self, store: Store) -> None:
        await store.commit([PutSession(a_session())])
        good = [store.commit([PutTurn(a_turn(number=number))]) for number in range(1, 9)]
        bad = store.commit([PatchSession(ALICE, {"title": "bad"}), PutTurn(a_turn(number=3))])
        more = [store.commit([PutTurn(a_turn(number=number))]) for number in range(9, 12)]
        results = await asyncio.gather(*good, bad, *more, return_exceptions=True)
        assert [type(result) for result in results if result is not None] == [Conflict]
        assert await store.next_turn_number(ALICE) == 12
        assert await store.get_session(ALICE) == a_session()

    async def test_commits_take_effect_in_call_order(self, store: Store) -> None:
        await store.commit([PutSession(a_session())])
        ended: list[int] = []

        async def rename(number: int) -> None:
            await store.commit([PatchSession(ALICE, {"title": str(number)})])
            ended.append(number)

        await asyncio.gather(*(rename(number) for number in range(50)))
        record = await store.get_session(ALICE)
        assert record is not None
        assert record.title == "49"
        assert ended == list(range(50))

    async def test_turns_are_found_by_message_and_by_id(self, store: Store) -> None:
        key = SessionKey(UserId("alice"), SessionId("other"))
        await store.commit([PutSession(a_session()), PutSession(a_session(key))])
        assert await store.next_turn_number(ALICE) == 1
        turn = a_turn(number=4)
        await store.commit([PutTurn(turn), PutTurn(a_turn(number=5, message_id=None, origin="cli"))])
        assert await store.find_turn(ALICE, "m-4") == turn
        assert await store.find_turn(key, "m-4") is None
        assert await store.get_turn(ALICE, turn.turn_id) == turn
        assert await store.get_turn(key, turn.turn_id) is None
        assert await store.next_turn_number(ALICE) == 6
        assert await store.next_turn_number(key) == 1

    async def test_a_message_makes_one_turn(self, store: Store) -> None:
        await store.commit([PutSession(a_session()), PutTurn(a_turn())])
        with pytest.raises(Conflict):
            await store.commit([PutTurn(a_turn(number=2, message_id="m-1"))])
        # Turns that the CLI began have no message and never clash.
        await store.commit(
            [PutTurn(a_turn(number=3, message_id=None)), PutTurn(a_turn(number=4, message_id=None))]
        )

    async def test_a_turn_runs_to_its_end(self, store: Store) -> None:
        await store.commit([PutSession(a_session()), PutTurn(a_turn())])
        changes: dict[str, Any] = {
            "state": TurnState.FAILED,
            "instance_id": InstanceId("i-1"),
            "ended_at": 5.5,
            "reason": {"code": "x", "message": "Ä"},
            "interrupt": True,
            "line": None,
        }
        await store.commit([PatchTurn(TurnId("t-alice-default-1"), changes)])
        assert await store.find_turn(ALICE, "m-1") == a_turn(**changes)

    async def test_open_work_is_what_a_starting_server_takes_over(self, store: Store) -> None:
        idle = SessionKey(UserId("carol"), SessionId("idle"))
        await store.commit(
            [
                PutSession(a_session()),
                PutSession(a_session(BOB)),
                PutSession(a_session(idle)),
                PutTurn(a_turn(BOB)),
            ]
        )
        gone = an_instance(idle, state=InstanceState.EXITED, exited_at=2.0, exit_signal="SIGKILL")
        live = an_instance(ordinal=2, pid=77, start_ticks=2**40, boot_id="b", turns=3, offset=2**41)
        await store.commit(
            [
                PutInstance(gone),
                PutInstance(an_instance(state=InstanceState.EXITED)),
                PutInstance(live),
                PutTurn(a_turn(number=2)),
                PutTurn(a_turn(number=1, state=TurnState.SUCCEEDED)),
                PutTurn(a_turn(number=3, state=TurnState.AWAITING)),
                PutPermission(an_approval()),
                PutPermission(an_approval(request_id="r-2", state="closed")),
                PutPermission(
                    an_approval(request_id="r-3", state="answered", answer=b"yes\n", decision="allow")
                ),
            ]
        )
        work = {item.session.key: item for item in await store.open_work()}
        assert set(work) == {ALICE, BOB}
        assert list(work[ALICE].instances) == [live]
        assert [turn.number for turn in work[ALICE].turns] == [2, 3]
        assert [approval.request_id for approval in work[ALICE].permissions] == ["r-1", "r-3"]
        assert work[ALICE].permissions[0] == an_approval()
        assert list(work[BOB].turns) == [a_turn(BOB)]
        assert list(work[BOB].instances) == []
        assert await store.exited_instances(idle) == [gone]

    async def test_work_that_ends_is_no_longer_open(self, store: Store) -> None:
        await store.commit(
            [
                PutSession(a_session()),
                PutInstance(an_instance()),
                PutTurn(a_turn()),
                PutPermission(an_approval()),
            ]
        )
        instance = an_instance().instance_id
        await store.commit(
            [
                PatchTurn(TurnId("t-alice-default-1"), {"state": TurnState.LOST}),
                PatchPermission(instance, "r-1", {"state": "closed", "answered_by": "bob"}),
                PatchInstance(instance, {"state": InstanceState.EXITED, "exit_code": 3, "offset": 9}),
            ]
        )
        assert await store.open_work() == []
        [exited] = await store.exited_instances(ALICE)
        assert exited == an_instance(state=InstanceState.EXITED, exit_code=3, offset=9)

    async def test_an_approval_derived_twice_stays_as_it_is(self, store: Store) -> None:
        answered = an_approval(state="answered", answer=b"yes")
        await store.commit([PutSession(a_session()), PutPermission(answered)])
        await store.commit([PutPermission(an_approval())])
        [work] = await store.open_work()
        assert list(work.permissions) == [answered]

    async def test_events_are_read_in_windows(self, store: Store) -> None:
        places = [(1, 10, 0), (1, 10, 1), (1, 300, 0), (2, 5, 0), (2, 5, 1), (2, 5, 2), (10, 1, 0)]
        await store.commit([PutSession(a_session()), PutSession(a_session(BOB))])
        assert await store.oldest_event(ALICE) is None
        await store.commit([AppendEvents(ALICE, entries(*places)), AppendEvents(BOB, entries((1, 1, 0)))])
        assert list(await store.read_events(ALICE)) == entries(*places)
        assert await store.oldest_event(ALICE) == Cursor(1, 10, 0)
        after = await store.read_events(ALICE, after=Cursor(1, 10, 1))
        assert cursors(after) == [Cursor(*place) for place in places[2:]]
        window = await store.read_events(ALICE, after=Cursor(1, 10, 0), before=Cursor(2, 5, 1))
        assert cursors(window) == [Cursor(*place) for place in places[1:4]]
        newest = await store.read_events(ALICE, limit=2, newest_first=True)
        assert cursors(newest) == [Cursor(10, 1, 0), Cursor(2, 5, 2)]
        assert await store.read_events(ALICE, after=Cursor(10, 1, 0)) == []
        assert await store.read_events(ALICE, limit=0) == []

    async def test_the_same_event_again_is_ignored(self, store: Store) -> None:
        await store.commit([PutSession(a_session()), AppendEvents(ALICE, entries((1, 1, 0), (1, 2, 0)))])
        again = LogEntry(Cursor(1, 2, 0), b"derived again")
        await store.commit([AppendEvents(ALICE, [again, *entries((1, 3, 0))])])
        assert list(await store.read_events(ALICE)) == entries((1, 1, 0), (1, 2, 0), (1, 3, 0))

    async def test_the_position_is_the_newest_cursor_and_never_goes_back(self, store: Store) -> None:
        await store.commit([PutSession(a_session()), AppendEvents(ALICE, entries((1, 9, 0), (2, 4, 1)))])
        await store.commit([AppendEvents(ALICE, entries((1, 10, 0))), AppendEvents(ALICE, [])])
        record = await store.get_session(ALICE)
        assert record is not None
        assert record.position == Cursor(2, 4, 1)

    async def test_large_and_odd_bodies_come_back(self, store: Store) -> None:
        bodies = [b"", b"\x00\xff", b"x" * 5_000_000]
        log = [LogEntry(Cursor(1, 2**40 + number, 0), body) for number, body in enumerate(bodies)]
        await store.commit([PutSession(a_session()), AppendEvents(ALICE, log)])
        assert list(await store.read_events(ALICE)) == log

    async def test_sessions_are_listed_last_active_first_in_pages(self, store: Store) -> None:
        keys = [SessionKey(UserId("alice"), SessionId(name)) for name in ("a", "b", "c", "d", "e")]
        for key, active in zip(keys, (5.0, 9.0, 9.0, 1.0, 7.0), strict=True):
            await store.commit(
                [PutSession(a_session(key, last_active_at=active, title=f"Plan {key.session_id}"))]
            )
        await store.commit(
            [PutSession(a_session(BOB)), PatchSession(keys[3], {"state": SessionState.ARCHIVED})]
        )

        async def listed(**options: Any) -> str:
            found = await store.list_sessions(UserId("alice"), **options)
            return "".join(record.key.session_id for record in found)

        assert await listed() == "bcea"
        assert await listed(include_archived=True) == "bcead"
        assert await listed(limit=2) == "bc"
        assert await listed(limit=2, after=SessionId("b")) == "ce"
        assert await listed(after=SessionId("a")) == ""
        assert await listed(search="plan E") == "e"
        assert await listed(search="%") == ""
        assert await store.count_sessions(UserId("alice")) == 4

    async def test_epochs_only_grow(self, store: Store) -> None:
        first = await store.claim_epoch(0)
        assert await store.claim_epoch(0) > first
        assert await store.claim_epoch(first + 100) >= first + 100
        claims = await asyncio.gather(*(store.claim_epoch(0) for _ in range(10)))
        assert sorted(set(claims)) == claims
        assert min(claims) > first + 100

    async def test_a_value_that_cannot_be_stored_is_refused_alone(self, store: Store) -> None:
        await store.commit([PutSession(a_session())])
        with pytest.raises(BadRequest):
            await store.commit([PatchSession(ALICE, {"title": "lone \ud800"})])
        with pytest.raises(BadRequest):
            await store.commit([AppendEvents(ALICE, entries((1, 2**70, 0)))])
        await store.commit([PatchSession(ALICE, {"title": "fine"})])

    async def test_a_working_store_checks_out(self, store: Store) -> None:
        await store.check()
        await store.check()

    async def test_each_user_has_one_uid_for_ever_and_nobody_elses(self, store: Store) -> None:
        names = [UserId(f"user-{number}") for number in range(20)]
        given = await asyncio.gather(*(store.uid_of(name, 3000, 3999) for name in names * 2))
        assert given[:20] == given[20:]
        assert sorted(given[:20]) == list(range(3000, 3020))
        assert await store.uid_of(names[7], 3000, 3999) == given[7]

    async def test_uids_run_out_with_an_error_of_their_own(self, store: Store) -> None:
        assert [await store.uid_of(UserId(name), 3000, 3001) for name in "ab"] == [3000, 3001]
        with pytest.raises(UidsExhausted, match="uid_range") as caught:
            await store.uid_of(UserId("c"), 3000, 3001)
        assert caught.value.details == {"first": 3000, "last": 3001}
        assert await store.uid_of(UserId("a"), 3000, 3001) == 3000
        assert await store.uid_of(UserId("c"), 3000, 3002) == 3002

    async def test_a_user_is_placed_once_and_for_good(self, store: Store) -> None:
        names = [UserId(f"user{number}") for number in range(8)]
        assert dict(await store.placements()) == {}
        placed = await asyncio.gather(*(store.place(name, host) for name in names for host in ("a", "b")))
        assert placed == [host for host in placed[::2] for _ in range(2)]
        assert await store.place(names[0], "c") == placed[0]
        assert dict(await store.placements()) == dict(zip(names, placed[::2], strict=True))

    async def test_a_uid_that_is_seen_in_use_is_given_to_nobody(self, store: Store) -> None:
        """As after a database came back from a backup: files know more uids than it does."""
        assert await store.uid_of(UserId("a"), 3000, 3999, above=3041) == 3042
        assert await store.uid_of(UserId("a"), 3000, 3999, above=3050) == 3042
        assert await store.uid_of(UserId("b"), 3000, 3999, above=0) == 3043
        assert await store.uid_of(UserId("c"), 3000, 3999, above=65534) == 3044

    async def test_another_range_gives_another_uid_and_the_old_one_stays_spent(self, store: Store) -> None:
        assert await store.uid_of(UserId("a"), 3000, 3999) == 3000
        assert await store.uid_of(UserId("a"), 5000, 5999) == 5000
        assert await store.uid_of(UserId("b"), 3000, 3999) == 3001
        assert await store.uid_of(UserId("a"), 3000, 3999) == 3002
