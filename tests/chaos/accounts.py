"""Does everything come out? The accounts come from the operating system and from what clients were sent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections import Counter
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import aiohttp

from tests.chaos.person import OUTCOMES, Message
from tests.chaos.record import Cursor, Entry, Frame, Record, entry_of
from tests.chaos.story import Story
from tests.chaos.viewer import Viewer
from tests.e2e.site import Site
from tests.traces import illegal_steps

_MOST_CONNECTIONS = 5


@dataclass(frozen=True, slots=True)
class Standing:
    """What the server's process holds, as ``/proc`` and its own gauge of tasks say.

    Connections to the database are counted apart, with the thread of each: they
    are opened when they are first needed at once, four to read and one to write.
    """

    descriptors: int
    threads: int
    tasks: int
    connections: int
    resident_mib: int
    links: tuple[str, ...] = ()

    def __str__(self) -> str:
        held = (f"{name} {value}" for name, value in asdict(self).items() if name != "links")
        return ", ".join(held)

    def exceeds(self, start: Standing) -> list[str]:
        """In what it is above ``start``; memory is only told."""
        mine, theirs = asdict(self), asdict(start)
        more = Counter(self.links) - Counter(start.links)
        return [
            f"{name} {theirs[name]} -> {mine[name]} (descriptors: {', '.join(more.elements())})"
            for name in ("descriptors", "threads", "tasks")
            if mine[name] > theirs[name]
        ] + ([f"{self.connections} connections"] if self.connections > _MOST_CONNECTIONS else [])


async def standing(site: Site, admin: str) -> Standing:
    """How the server stands now."""
    process = Path(f"/proc/{site.server_pid}")
    text = await metrics(site, admin)
    rss = re.search(r"VmRSS:\s+(\d+)", (process / "status").read_text())
    assert rss is not None
    links = _links(process / "fd")
    connections = len([link for link in links if link.endswith("/claude-pool.db")])
    return Standing(
        descriptors=len([link for link in links if "/claude-pool.db" not in link]),
        threads=len(os.listdir(process / "task")) - connections,
        connections=connections,
        tasks=int(metric(text, "process_asyncio_tasks")),
        resident_mib=int(rss[1]) // 1024,
        links=tuple(re.sub(r"\d+", "N", link) for link in links),
    )


def _links(directory: Path) -> list[str]:
    links = []
    for name in os.listdir(directory):
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(directory / name))
    return links


async def metrics(site: Site, admin: str) -> str:
    """The page of ``/metrics``; the connection is closed before it was counted as one."""
    headers = {"Authorization": f"Bearer {admin}", "Connection": "close"}
    async with aiohttp.ClientSession(headers=headers) as http, http.get(f"{site.url}/metrics") as response:
        assert response.status == 200, await response.text()
        return await response.text()


async def fill_pools(site: Site, admin: str) -> None:
    """Let every thread and connection that is kept once it was needed be needed now."""

    async def read(http: aiohttp.ClientSession, path: str) -> None:
        async with http.get(f"{site.url}{path}") as response:
            await response.read()

    headers = {"Authorization": f"Bearer {admin}", "Connection": "close"}
    async with aiohttp.ClientSession(headers=headers) as http:
        paths = ("/metrics", "/api/v1/sessions", "/api/v1/usage") * 20
        await asyncio.gather(*(read(http, path) for path in paths))


def metric(text: str, name: str) -> float:
    """The sum of a metric's samples."""
    found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    assert found, f"no metric {name}"
    return sum(map(float, found))


class Accountable(Protocol):
    """A user of whom everything that was sent to them is known."""

    name: str
    viewers: list[Viewer]
    messages: dict[str, Message]
    endings: tuple[Counter[str], ...]


def account_for(person: Accountable, history: list[Frame], story: Story) -> Counter[str]:
    """Compare what all viewers and the history say of one user's session; what was counted."""
    log = {entry.cursor: entry for entry in map(entry_of, history)}
    counted: Counter[str] = Counter(durable=len(log))
    for index, viewer in enumerate(person.viewers):
        counted["sent"] += len(viewer.record.entries)
        counted["gaps"] += len(viewer.record.gaps)
        counted["connections"] += viewer.connections
        for problem in _against_the_log(viewer.record, log):
            story.fail(person.name, f"viewer {index}: {problem}")
    for one, two in pairwise(person.viewers):
        for problem in _of_deltas(one.record, two.record):
            story.fail(person.name, problem)
    for problem in [*_of_turns(person, history, counted), *illegal_steps(history, restarts=True)]:
        story.fail(person.name, problem)
    return counted


def _against_the_log(record: Record, log: dict[Cursor, Entry]) -> list[str]:
    problems = []
    if record.repeats:
        problems.append(f"{record.repeats} frames came twice or late")
    seen = record.durable
    missing = sorted(set(log) - set(seen))
    unknown = sorted(set(seen) - set(log))
    both = set(seen) & set(log)
    other = sorted(cursor for cursor in both if seen[cursor].digest != log[cursor].digest)
    for name, cursors in (("lost", missing), ("not in the history", unknown), ("different", other)):
        if cursors:
            first = cursors[0]
            shown = [f"{where}: {texts[first].text}" for where, texts in _places(seen, log) if first in texts]
            told = "; ".join(shown)
            problems.append(f"{len(cursors)} durable frames {name}, the first at {first}: {told}")
    return problems


def _places(seen: dict[Cursor, Entry], log: dict[Cursor, Entry]) -> list[tuple[str, dict[Cursor, Entry]]]:
    return [("sent", seen), ("in the history", log)]


def _of_deltas(one: Record, two: Record) -> list[str]:
    """What one viewer has, the other has too, or it was told of a gap there."""
    problems = []
    for name, mine, theirs in (("first", one, two), ("second", two, one)):
        own, other = mine.deltas, theirs.deltas
        lost = [cursor for cursor in other if cursor not in own and not mine.is_excused(cursor)]
        if lost:
            problems.append(f"the {name} viewer lost {len(lost)} token deltas, the first at {min(lost)}")
        if any(other[cursor] != own[cursor] for cursor in other if cursor in own):
            problems.append("the two viewers were sent different token deltas")
    return problems


def _of_turns(person: Accountable, history: list[Frame], counted: Counter[str]) -> list[str]:
    problems = []
    turns = [frame for frame in history if frame["type"] == "turn"]
    ends = Counter(frame["turn_id"] for frame in turns if frame["state"] in OUTCOMES)
    begun = {frame["turn_id"]: frame.get("message_id") for frame in turns}
    accepted = {turn for message in person.messages.values() for turn in message.turn_ids}
    for turn in sorted(set(begun) | accepted):
        counted["turns"] += 1
        for place, number in (
            ("history", ends[turn]),
            *((f"viewer {n}", ended[turn]) for n, ended in enumerate(person.endings)),
        ):
            if number != 1:
                problems.append(f"turn {turn} has {number} endings in the {place}")
    by_message: Counter[str] = Counter(m for t, m in begun.items() if m is not None)
    problems += [f"message {m} became {n} turns" for m, n in by_message.items() if n > 1]
    problems += [f"message {m} was never sent" for m in by_message if m not in person.messages]
    for message in person.messages.values():
        if len(message.turn_ids) > 1:
            problems.append(f"message {message.message_id} was accepted as {sorted(message.turn_ids)}")
        if not message.turn_ids and not message.refusals:
            problems.append(f"message {message.message_id} was neither accepted nor refused")
        counted["refused"] += not message.turn_ids
    starts = Counter(
        frame["event"]["command_uuid"]
        for frame in history
        if frame["type"] == "event"
        and frame["event"].get("type") == "command_lifecycle"
        and frame["event"].get("state") == "started"
    )
    problems += [f"turn {turn} was run {n} times" for turn, n in starts.items() if n > 1]
    return problems
