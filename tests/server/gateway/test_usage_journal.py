"""The journal of model calls: whole lines, files of one writer, rotation, full disks, kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from server.gateway.spending import Spending, Spent, day_of, next_day, next_month
from server.gateway.usage_journal import Entry, UsageJournal, journal_files, read_entries
from tests.waiting import eventually_sync

NOON = datetime(2026, 3, 15, 12, tzinfo=UTC).timestamp()

WRITER = """
import sys
from pathlib import Path
from server.gateway.usage_journal import Entry, UsageJournal
journal = UsageJournal(Path(sys.argv[1]))
n = 0
while True:
    n += 1
    journal.append(Entry(at=1e9, seconds=1, instance="i", user="alice", session="s", provider="p",
                         model="m", input_tokens=n))
    print(n, flush=True)
"""


def an_entry(at: float = NOON, user: str = "alice", tokens: int = 10, usd: float = 0.5) -> Entry:
    """A call of ``user`` that used ``tokens``."""
    return Entry(
        at=at,
        seconds=1.5,
        instance="i1",
        user=user,
        session="default",
        provider="up",
        model="claude-x",
        input_tokens=tokens,
        usd=usd,
    )


def all_entries(data_dir: Path) -> list[Entry]:
    """Everything in the journal."""
    found = []
    for path in journal_files(data_dir):
        offset = 0
        while True:
            entries, end = read_entries(path, offset)
            found += entries
            if end == offset:
                break
            offset = end
    return found


def test_what_was_appended_is_read_again(tmp_path: Path) -> None:
    journal = UsageJournal(tmp_path, lambda: NOON)
    entries = [an_entry(tokens=n) for n in range(1, 4)]
    for entry in entries:
        journal.append(entry)
    assert all_entries(tmp_path) == entries
    [path] = journal_files(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    journal.close()
    journal.append(an_entry(tokens=9))
    journal.close()
    assert len(journal_files(tmp_path)) == 2


def test_a_line_without_its_end_is_not_there_yet(tmp_path: Path) -> None:
    journal = UsageJournal(tmp_path, lambda: NOON)
    journal.append(an_entry())
    journal.close()
    [path] = journal_files(tmp_path)
    whole = path.stat().st_size
    with path.open("ab") as file:
        file.write(b'{"at": 1, "sec')
    assert read_entries(path, 0) == ([an_entry()], whole)
    assert read_entries(path, whole) == ([], whole)


def test_a_line_that_is_no_entry_is_passed_over(tmp_path: Path) -> None:
    journal = UsageJournal(tmp_path, lambda: NOON)
    journal.append(an_entry())
    [path] = journal_files(tmp_path)
    with path.open("ab") as file:
        file.write(b"nonsense\n")
    journal.append(an_entry(tokens=2))
    journal.close()
    entries, end = read_entries(path, 0)
    assert [entry.tokens for entry in entries] == [10, 2]
    assert end == path.stat().st_size


def test_a_file_ends_with_its_size_and_with_the_month(tmp_path: Path) -> None:
    now = [NOON]
    journal = UsageJournal(tmp_path, lambda: now[0], max_bytes=400)
    for _ in range(6):
        now[0] += 1
        journal.append(an_entry())
    sizes = [path.stat().st_size for path in journal_files(tmp_path)]
    assert len(sizes) == 2
    now[0] = next_month(NOON)
    journal.append(an_entry(now[0]))
    journal.close()
    assert len(journal_files(tmp_path)) == 3
    assert len(all_entries(tmp_path)) == 7


def test_a_removed_file_gets_no_more(tmp_path: Path) -> None:
    journal = UsageJournal(tmp_path, lambda: NOON)
    journal.append(an_entry())
    journal_files(tmp_path)[0].unlink()
    journal.append(an_entry(tokens=2))
    journal.close()
    assert [entry.tokens for entry in all_entries(tmp_path)] == [2]


def test_a_full_disk_keeps_entries_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = UsageJournal(tmp_path, lambda: NOON)
    real, is_full = os.write, [True]

    def half(descriptor: int, data: bytes) -> int:
        return real(descriptor, data[: len(data) // 2] if is_full[0] else data)

    with monkeypatch.context() as patch:
        patch.setattr("server.gateway.usage_journal.os.write", half)
        journal.append(an_entry(tokens=1))
        journal.append(an_entry(tokens=2))
        assert all_entries(tmp_path) == []
        is_full[0] = False
        journal.append(an_entry(tokens=3))
    journal.close()
    assert [entry.tokens for entry in all_entries(tmp_path)] == [1, 2, 3]


def test_a_kill_loses_no_entry_that_was_appended(tmp_path: Path) -> None:
    told = tmp_path / "told"
    for _ in range(3):
        with told.open("ab") as output:
            writer = subprocess.Popen(
                [sys.executable, "-c", WRITER, str(tmp_path)], stdout=output, cwd=Path(__file__).parents[3]
            )
        size = told.stat().st_size
        eventually_sync(lambda size=size: told.stat().st_size > size + 500)  # type: ignore[misc]
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    printed = told.read_text().count("\n")
    found = len(all_entries(tmp_path))
    assert printed <= found <= printed + 3


def test_counters_are_rebuilt_and_follow_other_gateways(tmp_path: Path) -> None:
    clock = [0.0]
    old = UsageJournal(tmp_path, lambda: NOON)
    old.append(an_entry(NOON - 86400, tokens=100, usd=2.0))
    old.append(an_entry(NOON - 3600, tokens=10, usd=1.0))
    new = UsageJournal(tmp_path, lambda: NOON)
    spending = Spending(tmp_path, new, lambda: NOON, lambda: clock[0])
    assert spending.of("alice") == Spent(10, 1.0, 3.0)
    assert spending.of("bob") == Spent()
    entry = an_entry(NOON, tokens=5)
    spending.add(entry)
    new.append(entry)
    old.append(an_entry(NOON, tokens=7))
    clock[0] = 2.0
    assert spending.of("alice") == Spent(22, 2.0, 4.0)
    old.close()
    new.close()


def test_a_new_day_and_a_new_month_begin_at_nought(tmp_path: Path) -> None:
    now = [NOON]
    spending = Spending(tmp_path, UsageJournal(tmp_path), lambda: now[0])
    spending.add(an_entry(NOON))
    now[0] = next_day(NOON) - 0.001
    assert spending.of("alice") == Spent(10, 0.5, 0.5)
    now[0] = next_day(NOON)
    assert spending.of("alice") == Spent(0, 0.0, 0.5)
    now[0] = next_month(NOON)
    assert spending.of("alice") == Spent()
    assert day_of(next_day(NOON)) == day_of(NOON) + 1


def test_entries_out_of_order_count_for_their_day(tmp_path: Path) -> None:
    spending = Spending(tmp_path, UsageJournal(tmp_path), lambda: NOON)
    spending.add(an_entry(NOON))
    spending.add(an_entry(NOON - 86400))
    assert spending.of("alice") == Spent(10, 0.5, 1.0)


def test_months_end_where_they_should() -> None:
    december = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()
    assert next_month(december) == next_day(december) == datetime(2027, 1, 1, tzinfo=UTC).timestamp()
