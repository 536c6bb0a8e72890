"""Usage over REST, from the journal's line to the report."""

from __future__ import annotations

import csv
import io
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from server.gateway.spending import day_of
from tests.server.site import Site, error_of, running
from tests.server.test_usage import NOON, an_entry, journal_of


async def got(client: aiohttp.ClientSession, path: str) -> Any:
    async with client.get(path) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def test_me_shows_what_is_used_of_the_limits(short_dir: Path) -> None:
    quotas = {"quotas": {"users": {"alice": {"tokens_per_day": 130, "models": ["claude-*"]}}}}
    async with running(short_dir, quotas) as site:
        alice = await site.client("alice")
        before = (await got(alice, "api/v1/me"))["quotas"]
        assert before["tokens_per_day"]["used"] == 0
        assert before["tokens_per_day"]["warning"] is False
        assert before["models"]["limit"] == ["claude-*"]
        now = time.time()
        journal_of(short_dir, an_entry(now), at=now)
        after = (await got(alice, "api/v1/me"))["quotas"]
        assert after["tokens_per_day"] == {
            "limit": 130,
            "used": 120,
            "warning": True,
            "resets_at": (day_of(now) + 1) * 86400.0,
        }
        assert after["usd_per_day"] == {"limit": None, "used": 0.5}


async def test_a_sessions_usage_is_its_owners(site: Site, short_dir: Path) -> None:
    alice, bob = await site.client("alice"), await site.client("bob")
    async with alice.post("api/v1/sessions", json={"session_id": "default"}) as response:
        assert response.status == 201
    journal_of(short_dir, an_entry(), an_entry(model="claude-y", usd=2.0), an_entry(session="other"))
    usage = await got(alice, "api/v1/sessions/default/usage")
    assert (usage["total"]["calls"], usage["total"]["tokens"], usage["total"]["usd"]) == (2, 240, 2.5)
    assert [row["key"] for row in usage["models"]] == ["claude-y", "claude-x"]
    assert usage["turns"] == []
    async with bob.get("api/v1/sessions/default/usage") as response:
        assert await error_of(response) == (404, "not_found")


async def test_a_report_is_for_administrators_and_ones_own_for_everybody(site: Site, short_dir: Path) -> None:
    root, alice = await site.client("root", admin=True), await site.client("alice")
    journal_of(short_dir, an_entry(), an_entry(NOON + 86400, user="bob", usd=3.0))
    days = "from=2026-03-15&to=2026-03-16"
    report = await got(root, f"api/v1/admin/usage?group=day&{days}")
    assert [(row["key"], row["usd"]) for row in report["rows"]] == [("2026-03-15", 0.5), ("2026-03-16", 3.0)]
    assert (report["first"], report["last"], report["total"]["calls"]) == ("2026-03-15", "2026-03-16", 2)
    report = await got(root, "api/v1/admin/usage?group=user&from=2026-03-15&to=2026-03-15")
    assert [row["key"] for row in report["rows"]] == ["alice"]
    async with alice.get(f"api/v1/admin/usage?{days}") as response:
        assert await error_of(response) == (403, "forbidden")
    async with alice.get(f"api/v1/admin/usage.csv?{days}") as response:
        assert await error_of(response) == (403, "forbidden")
    own = await got(alice, f"api/v1/usage?group=session&{days}")
    assert [row["key"] for row in own["rows"]] == ["alice:default"]


async def test_a_report_without_days_is_of_this_month(site: Site) -> None:
    report = await got(await site.client("alice"), "api/v1/usage")
    today = datetime.now(UTC).date()
    assert (report["group"], report["first"], report["rows"]) == ("day", str(today.replace(day=1)), [])


async def test_the_table_is_safe_for_spreadsheets(site: Site, short_dir: Path) -> None:
    root = await site.client("root", admin=True)
    journal_of(short_dir, an_entry(model="@SUM:1"), an_entry(model="claude-x", usd=0.1))
    path = "api/v1/admin/usage.csv?group=model&from=2026-03-15&to=2026-03-15"
    async with root.get(path) as response:
        assert response.status == 200
        assert response.content_type == "text/csv"
        assert "usage-model-2026-03-15" in response.headers["Content-Disposition"]
        rows = list(csv.DictReader(io.StringIO(await response.text())))
    assert [row["model"] for row in rows] == ["'@SUM:1", "claude-x"]
    assert rows[1]["tokens"] == "120"


@pytest.mark.parametrize("query", ["group=colour", "from=yesterday", "from=2026-03-16&to=2026-03-15", "x=1"])
async def test_a_senseless_question_is_refused(query: str, site: Site) -> None:
    alice = await site.client("alice")
    async with alice.get(f"api/v1/usage?{query}") as response:
        assert await error_of(response) == (400, "bad_request")
