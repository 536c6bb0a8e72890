"""Gateways on several machines: own keys are where the user lives, and every journal comes in once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pool.errors import HostUnavailable, KeeperUnavailable, PoolError
from pool.hosts import wire
from pool.store.database import Database
from pool.store.usage import Usage
from server.config import Team
from server.gateway.budgets import read_budgets
from server.gateway.elsewhere import read_elsewhere
from server.gateway.forgotten import read_forgotten
from server.gateway.own_keys import OwnKeys
from server.gateway.settings import write_gateway_config
from server.gateway.spending import next_month
from server.gateway.usage_journal import journal_files
from server.gateway_files import GatewayFiles
from server.host_gateway import HostGatewayFiles
from server.host_program import ServersQuotas, host_verbs
from server.many_gateways import Greeting, ManyGateways
from server.own_keys import OwnModelKeys
from server.pool_settings import limits_of
from server.settings import load_config
from server.team_use import TeamUse
from server.usage import UsageBooks
from tests.server.test_usage import NOON, an_entry, journal_of

HOUSE = {"house": {"kind": "anthropic", "own_keys": True}}


class Line:
    """The way to a host's verbs: what goes over it is what would go over the wire."""

    def __init__(self, data: Path) -> None:
        self.verbs = host_verbs(data, ServersQuotas(load_config(None, {}).quotas))
        self.is_cut = False
        self.loses_answer = False
        self.waits: Callable[[float], None] | None = None
        self.answers: dict[str, Any] = {}

    def call(self, verb: str, **arguments: Any) -> Any:
        if self.is_cut:
            raise KeeperUnavailable("the link is cut")
        value = self.verbs[verb](**json.loads(json.dumps(arguments)))
        if self.loses_answer:
            raise KeeperUnavailable("the link was cut meanwhile")
        frame = wire.reply(1, "result", self.answers.get(verb, value))
        return wire.parse_reply(frame[wire.HEAD.size :])[2]

    def call_within(self, seconds: float, verb: str, **arguments: Any) -> Any:
        if self.waits is not None:
            self.waits(seconds)
            raise KeeperUnavailable("no answer by then")
        return self.call(verb, **arguments)

    async def ask(self, verb: str, **arguments: Any) -> Any:
        return self.call(verb, **arguments)


class Farm:
    """This machine and two hosts, one, two; alice lives on one, bob on two, carol here, dora nowhere yet."""

    def __init__(self, directory: Path) -> None:
        self.here = directory / "here"
        self.data = {name: directory / name for name in ("one", "two")}
        for place in (self.here, *self.data.values()):
            write_gateway_config(place, HOUSE)
        self.lines = {name: Line(data) for name, data in self.data.items()}
        self.homes = {"alice": "one", "bob": "two", "carol": "local"}
        self.hosts = [HostGatewayFiles(name, line) for name, line in self.lines.items()]
        self.gateways = ManyGateways(GatewayFiles(self.here), self.hosts, self.homes.get, local="local")

    def keys(self) -> dict[str, list[str]]:
        """Who has a key where, as the files have it."""
        return {name: sorted(OwnKeys(data).sealed()) for name, data in self.all.items()}

    @property
    def all(self) -> Mapping[str, Path]:
        return {"local": self.here, **self.data}


@pytest.fixture
def farm(short_dir: Path) -> Farm:
    return Farm(short_dir)


async def test_a_key_goes_to_the_users_host_and_nowhere_else(farm: Farm) -> None:
    async def place(user_id: str) -> None:
        farm.homes.setdefault(user_id, "two")

    keys = OwnModelKeys(farm.gateways, place)
    assert await keys.of("dora") == {"house": False}
    for user in ("alice", "bob", "carol", "dora"):
        await keys.put(user, "house", f"sk-of-{user}")
        assert await keys.of(user) == {"house": True}
    assert farm.keys() == {"local": ["carol"], "one": ["alice"], "two": ["bob", "dora"]}

    farm.lines["one"].is_cut = True
    for work in (keys.put("alice", "house", "sk-another"), keys.remove("alice", "house"), keys.of("alice")):
        with pytest.raises(HostUnavailable, match="these keys cannot be reached"):
            await work
    await keys.remove("bob", "house")
    assert farm.keys() == {"local": ["carol"], "one": ["alice"], "two": ["dora"]}


async def test_a_user_is_forgotten_where_they_lived_or_stays(farm: Farm) -> None:
    for user in ("alice", "bob"):
        farm.gateways.put_own_key(user, "house", f"sk-of-{user}")
    # one from before there were other hosts
    GatewayFiles(farm.here).put_own_key("alice", "house", "sk-of-old")
    farm.gateways.bear_in_mind("alice")
    # their files are gone, and so nobody knows any more where they lived
    del farm.homes["alice"]
    farm.lines["one"].is_cut = True
    with pytest.raises(HostUnavailable):
        farm.gateways.forget_user("alice", NOON)
    farm.lines["one"].is_cut = False
    farm.gateways.forget_user("alice", NOON)
    assert farm.gateways.remove_own_key("alice", None)
    assert farm.keys() == {"local": [], "one": [], "two": ["bob"]}
    forgotten = {name: dict(read_forgotten(data)) for name, data in farm.all.items()}
    assert forgotten == {"local": {"alice": NOON}, "one": {"alice": NOON}, "two": {}}


async def test_every_journal_comes_in_once_whatever_is_cut(farm: Farm, short_dir: Path) -> None:
    database = Database(None, short_dir)
    await database.open()
    usage = Usage(database)

    async def calls() -> dict[str, int]:
        return {name: figures.calls for name, figures in await usage.grouped("user", 0, 10**6)}

    def books() -> UsageBooks:
        return UsageBooks(usage, farm.gateways, lambda: NOON)

    mine = books()
    journal_of(farm.here, an_entry(user="carol"))
    journal_of(farm.data["one"], an_entry(), an_entry())
    journal_of(farm.data["two"], an_entry(user="bob"))
    # files of the same name, as copied machines may have them
    (shared,) = journal_files(farm.data["two"])
    (farm.data["one"] / "gateway" / shared.name).write_bytes(shared.read_bytes().replace(b"bob", b"alice"))
    farm.lines["two"].is_cut = True
    await mine.take_in()
    assert await calls() == {"carol": 1, "alice": 3}
    farm.lines["two"].is_cut, farm.lines["one"].loses_answer = False, True
    journal_of(farm.data["one"], an_entry())
    await mine.take_in()
    await mine.take_in()
    assert await calls() == {"carol": 1, "alice": 3, "bob": 1}
    farm.lines["one"].loses_answer = False
    # the server was killed, and another begins with what the database knows
    await books().take_in()
    await mine.take_in()
    assert await calls() == {"carol": 1, "alice": 4, "bob": 1}
    names = {name.rpartition("/")[0] for name in await usage.read_to()}
    assert names == {"", "one", "two"}
    await database.aclose()


async def test_files_of_a_host_go_once_they_are_taken_in(farm: Farm, short_dir: Path) -> None:
    database = Database(None, short_dir)
    await database.open()
    usage = Usage(database)
    now = [NOON]
    books = UsageBooks(usage, farm.gateways, lambda: now[0])
    for name, user in (("one", "alice"), ("two", "bob")):
        journal_of(farm.data[name], an_entry(user=user))
        for path in journal_files(farm.data[name]):
            os.utime(path, (NOON, NOON))
    await books.take_in()
    now[0] = next_month(NOON) + 3600
    farm.lines["two"].is_cut = True
    await books.tidy()
    assert [len(journal_files(data)) for data in farm.data.values()] == [0, 1]
    farm.lines["two"].is_cut = False
    await books.tidy()
    assert [len(journal_files(data)) for data in farm.data.values()] == [0, 0]
    assert await usage.read_to() == {}
    await database.aclose()


async def test_a_host_that_does_not_answer_is_waited_for_once_in_a_while(farm: Farm) -> None:
    now, waited = [100.0], []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        now[0] += seconds

    gateways = ManyGateways(
        GatewayFiles(farm.here), farm.hosts, farm.homes.get, local="local", monotonic=lambda: now[0]
    )
    journal_of(farm.data["two"], an_entry(user="bob"))
    farm.lines["one"].waits = wait
    for _ in range(3):
        assert [one.file[:4] for one in gateways.grown({})] == ["two/"]
    assert len(waited) == 1
    now[0] += 20
    gateways.grown({})
    assert len(waited) == 2
    gateways.bear_in_mind("alice")
    gateways.grown({})
    assert len(waited) == 3, "who is about to be forgotten is worth another wait"
    # one that is known to be away costs nothing, and is asked again at once
    now[0] += 20
    farm.lines["one"].waits, farm.lines["one"].is_cut = None, True
    gateways.grown({})
    farm.lines["one"].is_cut = False
    journal_of(farm.data["one"], an_entry())
    assert [one.file[:4] for one in gateways.grown({})] == ["one/", "two/"]


@pytest.mark.parametrize(
    "lie",
    [
        {"input_tokens": -5},
        {"usd": float("nan")},
        {"usd": -1.0},
        {"usd": 1e9},
        {"at": float("inf")},
        {"at": 1e300},
        {"model": "<script>"},
        {"provider": ""},
        {"session": "s" * 300},
        {"user": "bob"},
        {"user": "carol"},
    ],
)
async def test_a_host_tells_of_its_own_users_only_and_what_can_be(farm: Farm, lie: dict[str, Any]) -> None:
    good = [an_entry(), an_entry(user="deleted-a-moment-ago")]
    told = msgspec.to_builtins([an_entry(**lie), *good])
    stretch = {"file": "usage-x.jsonl", "start": 0, "end": 10, "entries": told}
    farm.lines["one"].answers["grown"] = [stretch]
    (found,) = farm.gateways.grown({})
    assert (found.file, found.start, found.end) == ("one/usage-x.jsonl", 0, 10)
    assert list(found.entries) == good


@pytest.mark.parametrize(
    "stretch",
    [
        {"file": "two/usage-x.jsonl", "start": 0, "end": 10},
        {"file": "../usage-x.jsonl", "start": 0, "end": 10},
        {"file": "usage-x.jsonl", "start": 5, "end": 10},
        {"file": "usage-x.jsonl", "start": 0, "end": 0},
        {"file": "usage-x.jsonl", "start": 0, "end": 2**63},
        {"file": "usage-x.jsonl", "start": 0},
        {"file": 7, "start": 0, "end": 10},
        "no stretch",
    ],
)
async def test_a_host_whose_journal_is_none_is_passed_over(farm: Farm, stretch: Any) -> None:
    journal_of(farm.data["two"], an_entry(user="bob"))
    plain = {**stretch, "entries": []} if isinstance(stretch, dict) else stretch
    farm.lines["one"].answers["grown"] = [plain]
    assert [one.file[:4] for one in farm.gateways.grown({})] == ["two/"]
    with pytest.raises(PoolError):
        farm.hosts[0].grown({})


async def test_the_limits_are_told_and_the_model_asked_for_at_each_connection(farm: Farm) -> None:
    (farm.data["two"] / "gateway" / "providers.json").unlink()
    quotas = load_config(None, {}, {"quotas": {"default": {"usd_per_day": 3}}}).quotas
    assert farm.gateways.describe()["hosts"]["one"]["provider"] is None
    greeting = Greeting(farm.hosts, limits_of(quotas))
    for name, line in farm.lines.items():
        await greeting(name, line.ask)
        assert read_budgets(farm.data[name]).for_user("anybody").usd_per_day == 3
    house = {"provider": "house", "kind": "anthropic", "demo": False}
    demo = {"provider": "demo", "kind": "demo", "demo": True}
    assert farm.gateways.describe() == {**house, "hosts": {"local": house, "one": house, "two": demo}}
    told = {user: farm.gateways.describe_to(user) for user in ("alice", "bob", "carol", "dora")}
    assert told == {"alice": house, "bob": demo, "carol": house, "dora": house}
    elsewhere = ManyGateways(
        GatewayFiles(farm.here), farm.hosts[::-1], farm.homes.get, local="local", runs_here=False
    )
    assert elsewhere.describe() == {**demo, "hosts": {"two": demo, "one": house}}
    farm.lines["one"].answers["describe"] = {"provider": ["x"]}
    with pytest.raises(PoolError, match="answers what is none"):
        await greeting("one", farm.lines["one"].ask)


async def test_gateways_learn_what_teams_used_on_the_other_machines(farm: Farm, short_dir: Path) -> None:
    database = Database(None, short_dir)
    await database.open()
    books = UsageBooks(Usage(database), farm.gateways, lambda: NOON)
    teams = {
        "red": Team(members=["alice", "bob", "carol", "dora"], usd_per_month=100),
        "fast": Team(members=["alice"], model_calls_per_minute=3),
    }
    use = TeamUse(teams, books, farm.gateways)

    async def told() -> dict[str, Any]:
        await books.take_in()
        await use.tell()
        found = {}
        for name, data in farm.all.items():
            spent = {team: one.at(NOON) for team, one in read_elsewhere(data).items()}
            assert spent.keys() <= {"red"}
            if spent:
                found[name] = (spent["red"].tokens_today, spent["red"].usd_today, spent["red"].usd_this_month)
        return found

    farm.lines["two"].is_cut = True
    assert await told() == {"local": (0, 0, 0), "one": (0, 0, 0)}
    journal_of(farm.data["one"], an_entry(), an_entry(NOON - 86400))
    journal_of(farm.here, an_entry(user="carol"), an_entry(user="nobodys"))
    assert await told() == {"local": (120, 0.5, 1.0), "one": (120, 0.5, 0.5)}
    farm.lines["two"].is_cut = False
    assert await told() == {"local": (120, 0.5, 1.0), "one": (120, 0.5, 0.5), "two": (240, 1.0, 1.5)}
    await database.aclose()
