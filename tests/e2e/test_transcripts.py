"""The real CLI resumes from a transcript that a kill or a full disk left spoilt; sessions share a home."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.site import Client, Site, client, live_pid, serving
from tests.procfs import is_alive
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("forked_servers")


def cut_in_the_last_line(data: bytes) -> bytes:
    return data[: -len(data.splitlines()[-1]) // 2]


def last_two_lines_glued(data: bytes) -> bytes:
    *head, last, end = data.splitlines()
    return b"\n".join([*head, last + end]) + b"\n"


def a_run_of_nul_bytes(data: bytes) -> bytes:
    return data + b"\0" * 4096


def nothing_at_all(_data: bytes) -> bytes:
    return b""


DAMAGES = (cut_in_the_last_line, last_two_lines_glued, a_run_of_nul_bytes, nothing_at_all)


def transcripts(site: Site) -> set[Path]:
    return set((site.data / "homes/alice").rglob("*.jsonl"))


def answered(viewer: Client, words: str) -> bool:
    return words in viewer.answer()


async def spoil(
    site: Site, token: str, session: str, damage: Callable[[bytes], bytes], known: set[Path]
) -> None:
    """Kill the session's CLI and damage what it had written."""
    pid = await live_pid(site, token, session)
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not is_alive(pid))
    (path,) = transcripts(site) - known
    path.write_bytes(damage(path.read_bytes()))


@pytest.mark.real_cli
@pytest.mark.timeout(240)
@pytest.mark.acceptance
async def test_a_spoilt_transcript_is_repaired_or_refused_and_never_locks_its_user_out(
    short_dir: Path, real_cli: Path
) -> None:
    async with serving(short_dir, real_cli, pool__turn_stall_seconds=600) as site:
        token = await site.add_user("alice")
        async with client(site, token) as viewer:
            for damage in DAMAGES:
                session, known = damage.__name__, transcripts(site)
                await viewer.subscribe(session)
                for words in ("say the first words", "say the second words"):
                    await viewer.ended(await viewer.send(words, session), 60)
                shown = list(viewer.frames)
                await spoil(site, token, session, damage, known)
                states = []
                for number in range(2):
                    turn = await viewer.send(f"say it goes on {number}", session)
                    ending = await viewer.ended(turn, 90)
                    states.append(ending["state"])
                    if ending["state"] != "succeeded":
                        # Told in words that a person understands, not by a hang.
                        assert ending["reason"]["message"], ending
                assert states[-1] == "succeeded", (session, states)
                # What was said before is still shown: history is the log's, not the transcript's.
                assert viewer.frames[: len(shown)] == shown
                async with client(site, token) as late:
                    await late.subscribe(session, "0")
                    await eventually(partial(answered, late, "it goes on 1"))
                    assert "the first words" in late.answer()
                    late.check_order()


@pytest.mark.real_cli
@pytest.mark.acceptance
@pytest.mark.timeout(180)
async def test_sessions_of_one_user_share_a_home_and_spoil_nothing(short_dir: Path, real_cli: Path) -> None:
    """Each has one process and its own conversation; what the CLI keeps in the home stays whole."""
    names = ("one", "two", "three")
    async with serving(short_dir, real_cli) as site:
        token = await site.add_user("alice")
        async with client(site, token) as viewer:
            for name in names:
                await viewer.subscribe(name)

            async def converse(viewer: Client, name: str) -> None:
                for number in range(3):
                    turn = await viewer.send(f"say {name} {number}", name)
                    assert (await viewer.ended(turn, 60))["state"] == "succeeded"

            await asyncio.gather(*(converse(viewer, name) for name in names))
            assert len({await live_pid(site, token, name) for name in names}) == 3
        assert len(transcripts(site)) == 3
        for path in transcripts(site):
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            text = json.dumps(lines)
            assert sum(f"say {name} 0" in text for name in names) == 1
        for path in (site.data / "homes/alice").rglob(".claude.json"):
            json.loads(path.read_text())
