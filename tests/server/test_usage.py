"""The gateway's journal comes into the database: every call once, whoever is killed in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pool.config import Quota
from pool.store.database import Database
from pool.store.usage import Usage
from server.gateway.spending import next_month
from server.gateway.usage_journal import Entry, UsageJournal, journal_files
from server.gateway_files import GatewayFiles
from server.usage import UsageBooks
from tests.waiting import eventually

NOON = datetime(2026, 3, 15, 12, tzinfo=UTC).timestamp()
ROOT = Path(__file__).parents[2]

GATEWAY = """
import sys, time
from pathlib import Path
from server.gateway.usage_journal import Entry, UsageJournal
journal = UsageJournal(Path(sys.argv[1]), max_bytes=20_000)
while True:
    journal.append(Entry(at=time.time(), seconds=1, instance="i", user="alice", session="s",
                         provider="p", model="m", input_tokens=1, usd=0.25))
    time.sleep(0.0005)
"""

SERVER = """
import asyncio, sys
from pathlib import Path
from pool.store.database import Database
from pool.store.usage import Usage
from server.gateway_files import GatewayFiles
from server.usage import UsageBooks

async def main():
    data_dir = Path(sys.argv[1])
    database = Database(None, data_dir)
    await database.open()
    books = UsageBooks(Usage(database), GatewayFiles(data_dir))
    while True:
        await books.take_in()
        print(".", end="", flush=True)

asyncio.run(main())
"""


def an_entry(at: float = NOON, **changes: object) -> Entry:
    fields = {
        "at": at,
        "seconds": 2.0,
        "instance": "i1",
        "user": "alice",
        "session": "default",
        "provider": "up",
        "model": "claude-x",
        "input_tokens": 100,
        "output_tokens": 20,
        "usd": 0.5,
        **changes,
    }
    return Entry(**fields)  # type: ignore[arg-type]


def journal_of(data_dir: Path, *entries: Entry, at: float = NOON) -> None:
    """A journal file with ``entries``."""
    journal = UsageJournal(data_dir, lambda: at)
    for entry in entries:
        journal.append(entry)
    journal.close()


@pytest.mark.acceptance
async def test_nothing_is_lost_and_nothing_doubled_over_kills_of_both_sides(short_dir: Path) -> None:
    programs: dict[str, subprocess.Popen[bytes]] = {}

    def start(code: str) -> None:
        output = (short_dir / "told").open("ab")
        with output:
            programs[code] = subprocess.Popen(
                [sys.executable, "-c", code, str(short_dir)], cwd=ROOT, stdout=output
            )

    def kill(code: str) -> None:
        programs[code].send_signal(signal.SIGKILL)
        programs[code].wait()

    async def take_in_more(rounds: int = 5) -> None:
        size = (short_dir / "told").stat().st_size
        await eventually(lambda: (short_dir / "told").stat().st_size > size + rounds, 20)

    start(GATEWAY)
    start(SERVER)
    try:
        for turn in range(6):
            await take_in_more()
            victim = (SERVER, GATEWAY)[turn % 2]
            kill(victim)
            start(victim)
        await take_in_more()
    finally:
        kill(GATEWAY)
        kill(SERVER)
    database = Database(None, short_dir)
    await database.open()
    usage = Usage(database)
    await UsageBooks(usage, GatewayFiles(short_dir)).take_in()
    written = sum(path.read_bytes().count(b"\n") for path in journal_files(short_dir))
    found = await usage.figures("alice", 0, 10**6)
    await database.aclose()
    assert found.calls == found.input_tokens == written > 100
    assert len(journal_files(short_dir)) >= 4


async def test_two_readers_take_a_line_in_once(short_dir: Path) -> None:
    journal_of(short_dir, an_entry())
    database = Database(None, short_dir)
    await database.open()
    usage = Usage(database)
    one, two = UsageBooks(usage, GatewayFiles(short_dir)), UsageBooks(usage, GatewayFiles(short_dir))
    await one.take_in()
    await two.take_in()
    journal_of(short_dir, an_entry(), an_entry())
    await two.take_in()
    await one.take_in()
    assert (await usage.figures("alice", 0, 10**6)).calls == 3
    await database.aclose()


def test_what_is_read_at_once_is_bounded_and_no_file_is_left_behind(short_dir: Path) -> None:
    for number in range(3):
        journal_of(short_dir, *[an_entry()] * 3, at=NOON + number)
    files = GatewayFiles(short_dir)
    (first, *others) = files.grown({})
    assert len(others) == 2
    assert files.grown({}, about_bytes=1) == [first]
    assert files.grown({first.file: first.end}, about_bytes=1) == others[:1]
    size = first.end - first.start
    assert files.grown({}, about_bytes=size + 1) == [first, others[0]]
    # one that grows all the time does not keep another one waiting
    assert len(files.grown({first.file: first.end - size // 3}, about_bytes=size)) == 2


async def test_old_files_go_once_they_are_taken_in(short_dir: Path) -> None:
    now = [NOON]
    database = Database(None, short_dir)
    await database.open()
    usage = Usage(database)
    books = UsageBooks(usage, GatewayFiles(short_dir), lambda: now[0])
    journal_of(short_dir, an_entry())
    [path] = journal_files(short_dir)
    os.utime(path, (NOON, NOON))
    await books.take_in()
    await books.tidy()
    now[0] = next_month(NOON) + 3600
    await books.tidy()
    assert journal_files(short_dir) == []
    assert await usage.read_to() == {}
    assert (await usage.figures("alice", 0, 10**6)).calls == 1
    journal_of(short_dir, an_entry(), at=now[0])
    [path] = journal_files(short_dir)
    os.utime(path, (NOON, NOON))
    await books.tidy()
    assert journal_files(short_dir) == [path], "a file that was not taken in stays"
    await database.aclose()


async def test_limits_show_what_is_used_and_when_it_is_near(short_dir: Path) -> None:
    database = Database(None, short_dir)
    await database.open()
    books = UsageBooks(Usage(database), GatewayFiles(short_dir), lambda: NOON)
    journal_of(short_dir, an_entry(NOON - 86400), an_entry())
    await books.take_in()
    found = await books.quota_use("alice", Quota(tokens_per_day=150, usd_per_month=2.0))
    await database.aclose()
    assert found == {
        "tokens_per_day": {"used": 120, "warning": True, "resets_at": 1773619200.0},
        "usd_per_day": {"used": 0.5},
        "usd_per_month": {"used": 1.0, "warning": False, "resets_at": 1775001600.0},
    }
