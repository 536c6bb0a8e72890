"""``/metrics``: who may read it, what is on the page, and that the documentation has all of it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pool import Histogram, Metric, find_orphans
from pool.keeper import procfs
from server.metrics import render
from tests.server.server_process import run, serving
from tests.server.site import Site, error_of, running
from tests.server.test_serving import fake, instances, say, signed_in
from tests.waiting import eventually

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
SECRET = "sk-ant-api03-AAAAAAAAAAAAAAAAAAAAAAAA"


async def page(client: aiohttp.ClientSession) -> str:
    async with client.get("metrics") as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/plain"
        return await response.text()


# --- who ---------------------------------------------------------------------------------------


async def test_an_administrator_may_read_it_and_nobody_else(site: Site) -> None:
    async with site.http.get("metrics") as response:
        assert await error_of(response) == (401, "unauthorized")
    alice = await site.client("alice")
    async with alice.get("metrics") as response:
        assert await error_of(response) == (403, "forbidden")
    root = await site.client("root", admin=True)
    assert "claude_pool_sessions 0.0" in await page(root)
    async with root.head("metrics") as response:
        assert response.status == 200


async def test_an_allowed_address_needs_no_sign_in(short_dir: Path) -> None:
    config = {"server": {"metrics_addresses": ["10.0.0.0/8", "127.0.0.1"]}}
    async with running(short_dir, config) as site:
        assert "claude_pool_info" in await page(site.http)
        for header in ("X-Forwarded-For", "Forwarded", "Via"):
            async with site.http.get("metrics", headers={header: "10.1.1.1"}) as response:
                assert await error_of(response) == (401, "unauthorized")
        alice = await site.client("alice")
        assert "claude_pool_info" in await page(alice)
        async with site.http.get("api/v1/admin/instances") as response:
            assert response.status == 401


async def test_behind_an_own_proxy_the_address_of_the_client_counts(short_dir: Path) -> None:
    config = {"server": {"metrics_addresses": ["10.0.0.0/8"], "trusted_proxies": ["127.0.0.1"]}}
    async with running(short_dir, config) as site:
        for client, status in (("10.1.1.1", 200), ("192.0.2.1", 401), ("10.1.1.1, 192.0.2.1", 401)):
            async with site.http.get("metrics", headers={"X-Forwarded-For": client}) as response:
                assert response.status == status, client
        async with site.http.get("metrics") as response:
            assert response.status == 401


# --- what --------------------------------------------------------------------------------------


def test_a_histogram_is_rendered_with_growing_buckets() -> None:
    histogram = Histogram("t_seconds", "Time.", (0.5, 1.0), ("how",))
    for seconds in (0.1, 0.7, 0.8, 5.0):
        histogram.observe(seconds, "slow")
    counter = Metric("n_total", "counter", "Number.", (), [((), 7)])
    body, content_type = render([histogram.metric(), counter], "")
    text = body.decode()
    assert content_type.startswith("text/plain")
    for line in (
        't_seconds_bucket{how="slow",le="0.5"} 1.0',
        't_seconds_bucket{how="slow",le="1.0"} 3.0',
        't_seconds_bucket{how="slow",le="+Inf"} 4.0',
        't_seconds_count{how="slow"} 4.0',
        "n_total 7.0",
    ):
        assert line in text.splitlines()
    body, content_type = render([counter], "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


async def test_connections_bytes_and_errors_of_clients_are_counted(site: Site) -> None:
    root = await site.client("root", admin=True)
    alice = await site.client("alice")
    async with alice.ws_connect("ws") as socket:
        assert (await socket.receive_json())["type"] == "welcome"
        await socket.send_str("no frame")
        assert (await socket.receive_json())["code"] == "bad_frame"
        text = await page(root)
        assert 'claude_pool_connections{view="ws"} 1.0' in text
        assert 'claude_pool_error_answers_total{code="bad_frame",view="ws"} 1.0' in text
        assert 'claude_pool_bytes_sent_total{view="ws"} 0.0' not in text
    async with alice.get("api/v1/sessions/none") as response:
        assert response.status == 404
    assert 'claude_pool_error_answers_total{code="not_found",view="http"} 1.0' in await page(root)
    await eventually(lambda: dict(site.services.counts.connections.metric().samples)["ws",] == 0)


# --- as a process ------------------------------------------------------------------------------


def documented() -> dict[str, tuple[str, set[str]]]:
    """name: (kind, labels) of every row of the page."""
    found = {}
    for line in DOCS.read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 6 and cells[2] in ("counter", "gauge", "histogram"):
            for name in re.findall(r"`(\w+)`", cells[1]):
                found[name] = (cells[2], set(re.findall(r"`(\w+)`", cells[3])))
    return found


def served(text: str) -> dict[str, tuple[str, set[str] | None]]:
    """The same of a scraped page; labels None: no sample yet."""
    found: dict[str, tuple[str, set[str] | None]] = {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {key for sample in family.samples for key in sample.labels} - {"le"}
        found[name] = (family.type, labels if family.samples else None)
    return found


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("forked_servers")
async def test_the_page_and_the_log_of_a_server_that_worked(short_dir: Path, fake_claude: Path) -> None:
    data = short_dir / "data"
    settings = fake(fake_claude) | {"CLAUDE_POOL__SECURITY__DENIED_COMMANDS": '["touch *"]'}
    async with serving(data, **settings, PRIVATE_SETTING="environment-words") as server:
        async with signed_in(server) as browser:
            frames = await say(browser, f"remember {SECRET} private-words", "m1")
            assert frames[-1]["state"] == "succeeded", frames[-1]
            await say(browser, "bash touch private-file", "m2")
            text = await page(browser)
        assert await server.end() == 0
    shown, told = served(text), documented()
    assert set(shown) == set(told)
    for name, (kind, labels) in shown.items():
        assert kind == told[name][0], name
        assert labels is None or labels == told[name][1], name
    for line in (
        'claude_pool_turns_total{origin="user",outcome="succeeded"} 2.0',
        "claude_pool_tool_calls_denied_total 1.0",
        'claude_pool_instances{state="ready"} 1.0',
        'claude_pool_spawn_seconds_count{outcome="ready"} 1.0',
        "claude_pool_keeper_up 1.0",
    ):
        assert line in text, line
    log = (short_dir / "data.log").read_text()
    for edge in ("instance started", "instance ready", "tool call denied", "turn ended", "instance exited"):
        assert f'"event": "{edge}"' in log
    for words in (SECRET, SECRET[10:], "private-words", "private-file", "environment-words"):
        assert words not in log


@contextmanager
def left_over(data: Path) -> Iterator[int]:
    """A process that bears the mark of an instance of this data directory, and of no living one."""
    mark = procfs.Mark("gone", procfs.site_of(data))
    process = subprocess.Popen(["sleep", "60"], env=dict(os.environ) | mark.environment())
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("forked_servers")
async def test_ps_and_doctor_tell_what_proc_has(short_dir: Path, fake_claude: Path) -> None:
    data = short_dir / "data"
    async with serving(data, **fake(fake_claude)) as server, signed_in(server) as browser:
        await say(browser, "hello", "m1")
        ((listed),) = await instances(browser)
        assert find_orphans(data) == []
        assert "orphans" not in (await run(data, "ps")).stdout
        with left_over(data) as pid:
            lines = (await run(data, "ps")).stdout.splitlines()
            (row,) = [line.split() for line in lines if str(listed["pid"]) in line.split()]
            processes, threads = map(int, row[-2:])
            assert 1 <= processes <= threads
            (orphan,) = [line.split() for line in lines if str(pid) in line.split()]
            assert orphan[1:4] == [str(os.getpid()), "sleep", "gone"]
            examined = (await run(data, "doctor", **fake(fake_claude))).stdout
            assert f"warn orphans: nobody looks after process {pid} ->" in examined
        assert await server.end() == 0
    with left_over(data) as pid:
        assert [stray.pid for stray in find_orphans(data)] == [pid]
    assert find_orphans(data) == []
