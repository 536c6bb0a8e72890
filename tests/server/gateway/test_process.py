"""The gateway as the process that the keeper starts: its orders, its end, its restart, its secrets."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from server.gateway import write_gateway_config
from server.gateway.budgets import write_budgets
from tests.server.gateway.harness import (
    DUMMY,
    KEY,
    GatewayProcess,
    asking,
    caller_session,
    gateway_process,
    listening_socket,
    scripted_upstream,
)
from tests.server.gateway.test_usage_journal import all_entries
from tests.waiting import eventually


async def said(path: Path, text: str) -> str:
    """What the demo model on the socket ``path`` answers, without streaming."""
    async with caller_session(path) as caller, caller.post("/v1/messages", json=asking(text)) as response:
        assert response.status == 200
        words: str = (await response.json())["content"][0]["text"]
        return words


def events(gateway: GatewayProcess, name: str) -> list[str]:
    return [line.get("instance", "") for line in gateway.log() if line["event"] == name]


async def test_each_instance_is_served_on_its_own_socket(tmp_path: Path, short_dir: Path) -> None:
    with listening_socket(short_dir / "a") as a, listening_socket(short_dir / "b") as b:
        async with gateway_process(tmp_path) as gateway:
            gateway.listen("i-a", a, user="alice", session="default")
            gateway.listen("i-b", b, user="bob", session="x")
            assert await said(short_dir / "a", "say one") == "one"
            assert await said(short_dir / "b", "say two") == "two"
            await eventually(lambda: len(events(gateway, "call")) == 2)
            calls = [line for line in gateway.log() if line["event"] == "call"]
            assert [(c["instance"], c["user"], c["session"]) for c in calls] == [
                ("i-a", "alice", "default"),
                ("i-b", "bob", "x"),
            ]


async def test_only_processes_of_the_instances_user_are_answered(tmp_path: Path, short_dir: Path) -> None:
    with listening_socket(short_dir / "a") as a, listening_socket(short_dir / "b") as b:
        async with gateway_process(tmp_path) as gateway:
            gateway.listen("i-a", a, uid=os.geteuid())
            gateway.listen("i-b", b, uid=os.geteuid() + 1)
            assert await said(short_dir / "a", "say one") == "one"
            async with (
                caller_session(short_dir / "b") as caller,
                caller.post("/v1/messages", json=asking("say two")) as response,
            ):
                assert response.status == 403
                assert (await response.json())["error"]["type"] == "permission_error"
            await eventually(lambda: events(gateway, "a stranger called") == ["i-b"])
            assert events(gateway, "call") == ["i-a"]


async def test_end_stops_one_instance_and_cancels_its_calls(tmp_path: Path, short_dir: Path) -> None:
    with listening_socket(short_dir / "a") as a, listening_socket(short_dir / "b") as b:
        async with gateway_process(tmp_path) as gateway, caller_session(short_dir / "a") as caller:
            gateway.listen("i-a", a)
            gateway.listen("i-b", b)
            slow = asking("count to 1000 slowly", stream=True)
            async with caller.post("/v1/messages", json=slow) as response:
                await response.content.readuntil(b"content_block_delta")
                gateway.order({"op": "end", "instance": "i-a"})
                with pytest.raises(aiohttp.ClientPayloadError):
                    await response.read()
            assert await said(short_dir / "b", "say still here") == "still here"
            gateway.order({"op": "end", "instance": "i-a"})
            gateway.order({"op": "end", "instance": "never heard of"})
            assert await said(short_dir / "b", "say still here") == "still here"


async def test_the_end_of_the_channel_lets_open_calls_finish(tmp_path: Path, short_dir: Path) -> None:
    with listening_socket(short_dir / "a") as a:
        async with gateway_process(tmp_path) as gateway, caller_session(short_dir / "a") as caller:
            gateway.listen("i-a", a)
            async with caller.post("/v1/messages", json=asking("count to 5 slowly", stream=True)) as response:
                await response.content.readuntil(b"content_block_delta")
                gateway.channel.close()
                assert b"message_stop" in await response.read()
            assert await gateway.exit_status() == 0


@pytest.mark.parametrize("how", ["eof", "term"])
async def test_draining_is_bounded(how: str, tmp_path: Path, short_dir: Path) -> None:
    with listening_socket(short_dir / "a") as a:
        async with (
            gateway_process(tmp_path, "--drain-seconds", "0.2") as gateway,
            caller_session(short_dir / "a") as caller,
        ):
            gateway.listen("i-a", a)
            slow = asking("count to 1000 slowly", stream=True)
            async with caller.post("/v1/messages", json=slow) as response:
                await response.content.readuntil(b"content_block_delta")
                if how == "eof":
                    gateway.channel.close()
                else:
                    gateway.process.terminate()
                assert await gateway.exit_status() == 0
                with pytest.raises(aiohttp.ClientPayloadError):
                    await response.read()


async def test_a_second_term_ends_it_at_once(tmp_path: Path, short_dir: Path) -> None:
    with listening_socket(short_dir / "a") as a:
        async with gateway_process(tmp_path) as gateway, caller_session(short_dir / "a") as caller:
            gateway.listen("i-a", a)
            slow = asking("count to 1000 slowly", stream=True)
            async with caller.post("/v1/messages", json=slow) as response:
                await response.content.readuntil(b"content_block_delta")
                gateway.process.terminate()
                await eventually(lambda: events(gateway, "draining"))
                gateway.process.terminate()
                assert await gateway.exit_status() == 0


async def test_connects_wait_in_the_backlog_for_the_next_gateway(tmp_path: Path, short_dir: Path) -> None:
    with listening_socket(short_dir / "a") as a:
        async with gateway_process(tmp_path) as first:
            first.listen("i-a", a)
            assert await said(short_dir / "a", "say first") == "first"
            first.process.send_signal(signal.SIGKILL)
            await first.exit_status()
        waiting = asyncio.create_task(said(short_dir / "a", "say second"))
        async with gateway_process(tmp_path) as second:
            second.listen("i-a", a)
            assert await waiting == "second"


async def test_an_overlapping_gateway_takes_over_while_the_old_one_drains(
    tmp_path: Path, short_dir: Path
) -> None:
    with listening_socket(short_dir / "a") as a:
        async with (
            gateway_process(tmp_path) as old,
            gateway_process(tmp_path) as new,
            caller_session(short_dir / "a") as caller,
        ):
            old.listen("i-a", a)
            slow = asking("count to 8 slowly", stream=True)
            async with caller.post("/v1/messages", json=slow) as response:
                await response.content.readuntil(b"content_block_delta")
                old.channel.close()
                new.listen("i-a", a)
                assert await said(short_dir / "a", "say from the new one") == "from the new one"
                assert b"message_stop" in await response.read()
            assert await old.exit_status() == 0


async def test_a_call_on_a_connection_that_was_taken_just_before_the_change_is_answered(
    tmp_path: Path, short_dir: Path
) -> None:
    with listening_socket(short_dir / "a") as a:
        async with gateway_process(tmp_path) as old:
            old.listen("i-a", a)
            await eventually(lambda: events(old, "listening"))
            descriptors = Path(f"/proc/{old.process.pid}/fd")
            before = len(list(descriptors.iterdir()))
            reader, writer = await asyncio.open_unix_connection(str(short_dir / "a"))
            await eventually(lambda: len(list(descriptors.iterdir())) > before)
            old.channel.close()
            await eventually(lambda: events(old, "draining"))
            body = json.dumps(asking("say bye")).encode()
            head = f"POST /v1/messages HTTP/1.1\r\nHost: gateway\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            assert b"200 OK" in await reader.readline()
            writer.close()
            assert await old.exit_status() == 0


async def test_listening_again_replaces_the_earlier_socket(tmp_path: Path, short_dir: Path) -> None:
    with listening_socket(short_dir / "a") as a, listening_socket(short_dir / "b") as b:
        async with gateway_process(tmp_path) as gateway:
            gateway.listen("i", a)
            gateway.listen("i", b)
            assert await said(short_dir / "b", "say hi") == "hi"
            assert len(events(gateway, "ended")) == 1


async def test_senseless_orders_are_left_out(tmp_path: Path, short_dir: Path) -> None:
    with listening_socket(short_dir / "a") as a, socket.socket() as tcp:
        async with gateway_process(tmp_path) as gateway:
            gateway.channel.send(b"no json")
            gateway.order([1])
            gateway.order({"op": "listen", "instance": "i"})
            gateway.order({"op": "sing", "instance": "i"})
            gateway.listen("i", tcp)
            gateway.listen("i", a)
            assert await said(short_dir / "a", "say hi") == "hi"
            refused = [line for line in gateway.log() if line["event"] == "order refused"]
            assert len(refused) == 5


async def test_ended_instances_leave_no_descriptor(tmp_path: Path, short_dir: Path) -> None:
    def open_descriptors(gateway: GatewayProcess) -> int:
        return len(os.listdir(f"/proc/{gateway.process.pid}/fd"))

    async with gateway_process(tmp_path) as gateway:
        await eventually(lambda: events(gateway, "started"))
        before = open_descriptors(gateway)
        for number in range(50):
            with listening_socket(short_dir / str(number)) as listener:
                gateway.listen(str(number), listener)
        assert await said(short_dir / "49", "say hi") == "hi"
        assert open_descriptors(gateway) > before + 49
        for number in range(50):
            gateway.order({"op": "end", "instance": str(number)})
        # The one that stays is the journal of what the call used.
        await eventually(lambda: open_descriptors(gateway) == before + 1)


async def test_the_key_appears_nowhere(tmp_path: Path, short_dir: Path) -> None:
    async def script(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"ok": True})

    async with scripted_upstream(script) as upstream:
        provider = {"kind": "gateway", "base_url": upstream.url, "api_key": KEY}
        write_gateway_config(tmp_path, {"up": provider})
        answers = ""
        with listening_socket(short_dir / "a") as a:
            async with gateway_process(tmp_path) as gateway, caller_session(short_dir / "a") as caller:
                gateway.listen("i-a", a)
                headers = {"x-api-key": DUMMY}
                for path in ("/v1/messages", "/v1/nothing"):
                    async with caller.post(path, json=asking("x"), headers=headers) as response:
                        answers += str(response.headers) + await response.text()
                write_gateway_config(tmp_path, {"up": {**provider, "base_url": "http://127.0.0.1:1"}})
                async with caller.post("/v1/messages", json=asking("x"), headers=headers) as response:
                    assert response.status == 502
                    answers += str(response.headers) + await response.text()
                proc = Path(f"/proc/{gateway.process.pid}")
                shown = (proc / "environ").read_bytes() + (proc / "cmdline").read_bytes()
                log = json.dumps(gateway.log())
    assert upstream.headers[0]["x-api-key"] == KEY
    assert KEY not in answers + log + shown.decode(errors="replace")
    assert DUMMY not in log


async def test_a_killed_gateway_loses_only_the_call_under_way(tmp_path: Path, short_dir: Path) -> None:
    with listening_socket(short_dir / "a") as a:
        async with gateway_process(tmp_path) as first, caller_session(short_dir / "a") as caller:
            first.listen("i-a", a, user="alice", session="default")
            for _ in range(3):
                assert await said(short_dir / "a", "say one") == "one"
            slow = asking("count to 1000 slowly", stream=True)
            async with caller.post("/v1/messages", json=slow) as response:
                await response.content.readuntil(b"content_block_delta")
                first.process.send_signal(signal.SIGKILL)
                with pytest.raises(aiohttp.ClientPayloadError):
                    await response.read()
            await first.exit_status()
        written = all_entries(tmp_path)
        assert [entry.user for entry in written] == ["alice"] * 3
        write_budgets(tmp_path, {}, {"alice": {"tokens_per_day": sum(entry.tokens for entry in written)}})
        async with gateway_process(tmp_path) as second, caller_session(short_dir / "a") as caller:
            second.listen("i-a", a, user="alice", session="default")
            async with caller.post("/v1/messages", json=asking("say two")) as response:
                assert response.status == 429
