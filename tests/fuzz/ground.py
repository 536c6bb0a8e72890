"""What is fuzzed: a real server with a fake CLI, a user who attacks, and another with things to be found.

``FUZZ_SECONDS`` tells how long (a short sample without it), ``FUZZ_SEED`` where to begin; the seed of each
round is printed, and the same seed makes the same requests.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.e2e.site import Site, client, serving

CANARY = "canary-5d20b9e1"
"""In everything of the other user's that is content; never in what the attacker sends."""

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
_BROKEN = ("Traceback", "failed on our side", '"level": "critical"')

SETTINGS: dict[str, Any] = {
    "quotas__default": {"turns_per_minute": None, "max_sessions": None, "max_queued_turns": 5},
    "pool__max_instances": 2,
    "pool__check_cli": None,
    "server__max_message_bytes": 65536,
    "logging__format": "json",
}


@dataclass
class Ground:
    """The server under fire; ``tokens`` by role, of which the attacker has ``alice`` and ``nobody``."""

    site: Site
    tokens: dict[str, str | None]
    document: dict[str, Any]
    counts: Counter[str] = field(default_factory=Counter)
    findings: dict[tuple[str, str], str] = field(default_factory=dict)

    def check_answer(self, body: bytes, headers: object, *, of: str) -> None:
        """Nothing of the other user, and nothing of our inside."""
        text = body.decode("utf-8", "replace") + repr(headers)
        assert "Traceback" not in text, of
        if of != "admin":
            assert CANARY not in text, f"{of} was told of the other user: {text[:2000]}"

    async def check_alive(self) -> None:
        """The same process, serving, with a log that tells of no mishap."""
        assert Path(f"/proc/{self.site.pid}").exists()
        async with aiohttp.ClientSession() as http, http.get(f"{self.site.url}/livez") as answer:
            assert answer.status == 200
        broken = [line for line in self.site.log().splitlines() if any(word in line for word in _BROKEN)]
        assert not broken, "\n".join(broken[:5])[:8000]


def rounds(share: float = 1.0) -> Iterator[int]:
    """Seeds: one for a sample, else until this share of ``FUZZ_SECONDS`` is over."""
    deadline = time.monotonic() + SECONDS * share
    seed = SEED
    yield seed
    while time.monotonic() < deadline:
        seed += 1
        yield seed


@asynccontextmanager
async def ground(directory: Path, cli: Path) -> AsyncIterator[Ground]:
    """A server with both users; at the end it must be well."""
    settings = {name: value for name, value in SETTINGS.items() if value is not None}
    async with serving(directory, cli, **settings) as site:
        tokens: dict[str, str | None] = {"alice": await site.add_user("alice"), "nobody": None}
        tokens["admin"] = site._admin
        bob = await site.add_user("bob", password=f"{CANARY} password")
        async with client(site, bob) as viewer:
            await viewer.subscribe()
            assert (await viewer.ended(await viewer.send(f"my secret is {CANARY}")))["state"] == "succeeded"
        headers = {"Authorization": f"Bearer {bob}"}
        async with aiohttp.ClientSession(site.url, headers=headers) as http:
            async with http.patch("/api/v1/sessions/default", json={"title": f"the {CANARY}"}) as answer:
                assert answer.status == 200
            async with http.get("/api/v1/openapi.json") as answer:
                document = await answer.json()
        (site.data / "workspaces/bob" / f"{CANARY}.txt").write_text(CANARY)
        assert CANARY not in json.dumps(document)
        made = Ground(site, tokens, document)
        yield made
        await made.check_alive()
