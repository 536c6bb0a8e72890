"""Who is near a limit is told, once, on every socket that is or will be open."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from server.config import Quotas
from server.gateway.spending import next_day
from server.gateway.usage_journal import Entry, UsageJournal
from server.notices import Notices
from tests.server.site import Site, running

NOON = datetime(2026, 3, 15, 12, tzinfo=UTC).timestamp()


class Books:
    """What is used, as the test says it."""

    def __init__(self) -> None:
        self.now = NOON
        self.own: dict[str, bool] = {}
        self.team = False
        self.asked: list[str] = []

    def wall(self) -> float:
        return self.now

    async def quota_use(self, user_id: str, _quota: object) -> dict[str, dict[str, Any]]:
        self.asked.append(user_id)
        warns = self.own.get(user_id, False)
        return {"tokens_per_day": {"used": 81, "warning": warns, "resets_at": next_day(self.now)}}

    async def team_use(self, _team: object) -> list[dict[str, Any]]:
        use = {"name": "usd_per_day", "limit": 10.0, "used": 9.0, "resets_at": next_day(self.now)}
        return [{**use, "warning": self.team}]


QUOTAS = Quotas.model_validate(
    {
        "users": {"alice": {"tokens_per_day": 100}},
        "teams": {"lab": {"members": ["alice", "carol"], "usd_per_day": 10}},
    }
)


def notices(books: Books, clock: list[float]) -> tuple[Notices, list[tuple[str, dict[str, Any]]]]:
    told: list[tuple[str, dict[str, Any]]] = []
    made = Notices(
        QUOTAS, books, lambda user, frame: told.append((user, json.loads(frame))), lambda: clock[0]
    )
    return made, told


async def test_four_fifths_are_told_once_and_to_later_sockets_until_the_day_ends() -> None:
    books, clock = Books(), [0.0]
    made, told = notices(books, clock)
    await made.look(["alice", "bob"])
    assert (told, made.of("alice")) == ([], [])
    books.own["alice"] = True
    for _ in range(3):
        clock[0] += 40
        await made.look(["alice"])
    ((user, frame),) = told
    assert (user, frame["type"], frame["code"]) == ("alice", "notice", "quota_warning")
    assert frame["message"] == ("81 % of tokens_per_day are used; it begins anew at 2026-03-16 00:00 UTC")
    assert frame["details"] == {
        "quota": "tokens_per_day",
        "limit": 100,
        "used": 81,
        "resets_at": next_day(NOON),
    }
    assert [json.loads(one) for one in made.of("alice")] == [frame]
    books.now += 86400
    assert made.of("alice") == []
    clock[0] += 40
    await made.look(["alice"])
    assert len(told) == 2


async def test_of_a_team_every_member_is_told() -> None:
    books, clock = Books(), [0.0]
    made, told = notices(books, clock)
    books.team = True
    await made.look(["alice"])
    assert [user for user, _frame in told] == ["alice", "carol"]
    assert "90 % of usd_per_day of the team lab are used" in told[0][1]["message"]
    assert made.of("bob") == []


async def test_nobody_is_looked_at_all_the_time_and_nobody_is_forgotten() -> None:
    books, clock = Books(), [0.0]
    made, told = notices(books, clock)
    for _ in range(10):
        await made.look(["alice"])
        clock[0] += 2
    assert books.asked == ["alice"]
    books.own["alice"] = True
    clock[0] += 30
    await made.look([])
    assert (books.asked, len(told)) == (["alice", "alice"], 1)


async def test_without_limits_nobody_is_looked_at() -> None:
    books, clock = Books(), [0.0]
    made, _told = notices(books, clock)
    await made.look(["bob"])
    assert books.asked == []


def use(directory: Path, site: Site, user: str, tokens: int) -> None:
    journal = UsageJournal(directory)
    entry = Entry(
        at=site.services.usage.wall(),
        seconds=1,
        instance="i",
        user=user,
        session="default",
        provider="p",
        model="m",
        input_tokens=tokens,
    )
    journal.append(entry)
    journal.close()


async def test_from_the_journal_to_the_sockets_and_the_reports(short_dir: Path) -> None:
    quotas = {
        "users": {"alice": {"tokens_per_day": 100}},
        "teams": {"lab": {"members": ["alice", "bob"], "tokens_per_day": 1000}},
    }
    async with running(short_dir, {"quotas": quotas}) as site:
        alice, root = await site.client("alice"), await site.client("root", admin=True)
        async with alice.ws_connect("ws") as socket:
            assert json.loads((await socket.receive()).data)["type"] == "welcome"
            use(short_dir, site, "alice", 90)
            use(short_dir, site, "bob", 500)
            use(short_dir, site, "carol", 7)
            frame = json.loads((await socket.receive(20)).data)
            assert frame["details"]["quota"] == "tokens_per_day"
        async with alice.ws_connect("ws") as socket:
            await socket.receive()
            assert json.loads((await socket.receive(20)).data) == frame
        async with alice.get("api/v1/me") as answer:
            ((team),) = (await answer.json())["teams"]
        assert (team["name"], team["limits"][0]["used"], team["limits"][0]["limit"]) == ("lab", 590, 1000)
        async with root.get("api/v1/admin/usage", params={"group": "team"}) as answer:
            (row,) = (await answer.json())["rows"]
        assert (row["key"], row["tokens"], row["calls"]) == ("lab", 590, 2)
        async with root.get("api/v1/admin/usage.csv", params={"group": "team"}) as answer:
            assert (await answer.text()).splitlines()[0].startswith("team,calls,")
        # One's own report tells of oneself only.
        async with alice.get("api/v1/usage", params={"group": "team"}) as answer:
            (row,) = (await answer.json())["rows"]
        assert row["tokens"] == 90
