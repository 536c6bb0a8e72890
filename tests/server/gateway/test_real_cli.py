"""The real CLI against the demo model: what the demonstrations and the pool's own tests rely on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from server.gateway import write_gateway_config
from server.gateway.budgets import write_budgets
from tests.server.gateway.harness import KEY, GatewayProcess, gateway_process, listening_socket
from tests.server.gateway.test_usage_journal import all_entries

pytestmark = pytest.mark.real_cli

FLAGS = (
    *("--print", "--input-format", "stream-json", "--output-format", "stream-json"),
    *("--verbose", "--include-partial-messages", "--permission-prompt-tool", "stdio"),
)
TURN_SECONDS = 120.0
Frame = dict[str, Any]


@dataclass
class Cli:
    """One CLI with its pipes; every frame that it printed is kept."""

    process: asyncio.subprocess.Process
    frames: list[Frame] = field(default_factory=list)

    def send(self, frame: Frame) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(frame).encode() + b"\n")

    def say(self, text: str) -> None:
        content = {"role": "user", "content": text}
        self.send({"type": "user", "uuid": str(uuid.uuid4()), "message": content})

    def allow(self, ask: Frame) -> None:
        answer = {"behavior": "allow", "updatedInput": ask["request"]["input"]}
        response = {"subtype": "success", "request_id": ask["request_id"], "response": answer}
        self.send({"type": "control_response", "response": response})

    async def until(self, wanted: Callable[[Frame], bool]) -> Frame:
        """Read frames up to the first that is wanted."""
        assert self.process.stdout is not None
        async with asyncio.timeout(TURN_SECONDS):
            async for line in self.process.stdout:
                self.frames.append(json.loads(line))
                if wanted(self.frames[-1]):
                    return self.frames[-1]
        raise AssertionError("the CLI ended")

    async def turn(self, text: str) -> list[Frame]:
        """Say ``text`` and give all frames to the end of the turn; every ask is allowed."""
        start = len(self.frames)
        self.say(text)
        while (frame := await self.until(lambda f: is_ask(f) or is_idle(f))) and is_ask(frame):
            self.allow(frame)
        return self.frames[start:]


def is_ask(frame: Frame) -> bool:
    return bool(frame["type"] == "control_request")


def is_idle(frame: Frame) -> bool:
    return frame.get("subtype") == "session_state_changed" and frame["state"] == "idle"


def is_delta(frame: Frame) -> bool:
    return bool(frame["type"] == "stream_event" and frame["event"]["type"] == "content_block_delta")


def texts(frames: list[Frame]) -> list[str]:
    """The text blocks of the assistant frames: what an answer is built from."""
    return [
        block["text"]
        for frame in frames
        if frame["type"] == "assistant"
        for block in frame["message"]["content"]
        if block["type"] == "text"
    ]


@dataclass
class Place:
    """A home, a workspace and a model socket for CLIs."""

    root: Path
    cli: Path
    listener: socket.socket

    @property
    def workspace(self) -> Path:
        return self.root / "ws"

    @asynccontextmanager
    async def running(self, *flags: str) -> AsyncIterator[Cli]:
        home = self.root / "home"
        for directory in (home / ".claude", self.workspace, self.root / "tmp"):
            directory.mkdir(parents=True, exist_ok=True)
        process = await asyncio.create_subprocess_exec(
            str(self.cli),
            *(*FLAGS, *flags),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 26,
            cwd=self.workspace,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(home),
                "TMPDIR": str(self.root / "tmp"),
                "CLAUDE_CODE_TMPDIR": str(self.root / "tmp"),
                "CLAUDE_CONFIG_DIR": str(home / ".claude"),
                "ANTHROPIC_UNIX_SOCKET": str(self.root / "s"),
                "ANTHROPIC_BASE_URL": "http://model-gateway",
                "ANTHROPIC_API_KEY": "dummy",
                "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS": "1",
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                "DISABLE_AUTOUPDATER": "1",
            },
        )
        assert process.stdin is not None
        try:
            yield Cli(process)
        finally:
            process.stdin.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await process.communicate()
            if process.returncode is None:
                process.kill()
                await process.communicate()

    @asynccontextmanager
    async def gateway(self) -> AsyncIterator[GatewayProcess]:
        async with gateway_process(self.root / "data", "--drain-seconds", "1") as gateway:
            gateway.listen("i1", self.listener, user="alice", session="default")
            yield gateway


@pytest.fixture
def place(short_dir: Path, real_cli: Path) -> Iterator[Place]:
    with listening_socket(short_dir / "s") as listener:
        yield Place(short_dir, real_cli, listener)


@pytest.mark.acceptance
async def test_a_plain_answer_streams(place: Place) -> None:
    async with place.gateway(), place.running() as cli:
        frames = await cli.turn("say it all arrives, word for word: é 漢")
        assert texts(frames) == ["it all arrives, word for word: é 漢"]
        assert len([frame for frame in frames if is_delta(frame)]) > 2
        [result] = [frame for frame in frames if frame["type"] == "result"]
        assert result["is_error"] is False
        assert result["usage"]["output_tokens"] > 0


@pytest.mark.acceptance
async def test_a_file_is_written_after_approval(place: Place) -> None:
    async with place.gateway(), place.running() as cli:
        cli.say("create a file hello.txt with hi there")
        ask = await cli.until(is_ask)
        assert ask["request"]["subtype"] == "can_use_tool"
        assert ask["request"]["input"]["file_path"] == str(place.workspace / "hello.txt")
        assert not (place.workspace / "hello.txt").exists()
        cli.allow(ask)
        await cli.until(is_idle)
        assert (place.workspace / "hello.txt").read_text() == "hi there\n"
        assert texts(cli.frames)[-1].startswith("Done: `hello.txt` is written.")


@pytest.mark.acceptance
async def test_files_are_listed_read_and_commands_run(place: Place) -> None:
    async with place.gateway(), place.running() as cli:
        place.workspace.joinpath("notes.txt").write_text("buy milk\n")
        assert "notes.txt" in texts(await cli.turn("list my files"))[-1]
        assert "buy milk" in texts(await cli.turn("read notes.txt"))[-1]
        assert "```\n42\n```" in texts(await cli.turn("run `echo $((6 * 7))`"))[-1]


async def test_a_gateway_killed_in_mid_stream_costs_a_retry_and_nothing_else(place: Place) -> None:
    numbers = "\n".join(map(str, range(1, 21)))
    async with place.running() as cli:
        async with place.gateway() as first:
            cli.say("count to 20 every 100 ms")
            for _ in range(5):
                await cli.until(is_delta)
            first.process.send_signal(signal.SIGKILL)
            await first.exit_status()
        async with place.gateway():
            await cli.until(is_idle)
    assert texts(cli.frames) == [numbers]
    [result] = [frame for frame in cli.frames if frame["type"] == "result"]
    assert (result["is_error"], result["result"]) == (False, numbers)
    assert [frame for frame in cli.frames if frame.get("subtype") == "api_retry"]


@pytest.mark.acceptance
async def test_a_resumed_conversation_is_remembered(place: Place) -> None:
    session = str(uuid.uuid4())
    async with place.gateway():
        async with place.running("--session-id", session) as cli:
            await cli.turn("my cat is called Tom")
        async with place.running(f"--resume={session}") as cli:
            assert texts(await cli.turn("what was my first message")) == [
                "Your first message was: my cat is called Tom"
            ]


@pytest.mark.acceptance
async def test_a_todo_list_is_kept_by_the_cli(place: Place) -> None:
    async with place.gateway(), place.running("--allowedTools", "TaskCreate,TaskUpdate,TaskList") as cli:
        frames = await cli.turn("make a todo list of tea, cake and music")
        made = [frame["tool_use_result"]["task"]["subject"] for frame in frames if has_task(frame)]
        assert made == ["tea", "cake", "music"]


def has_task(frame: Frame) -> bool:
    result = frame.get("tool_use_result")
    return isinstance(result, dict) and "task" in result


@pytest.mark.acceptance
async def test_thinking_interrupt_failure_and_compaction(place: Place) -> None:
    async with place.gateway(), place.running() as cli:
        frames = await cli.turn("think about tea")
        thoughts = [b for f in frames if f["type"] == "assistant" for b in f["message"]["content"]]
        assert [block["type"] for block in thoughts] == ["thinking", "text"]

        cli.say("count to 1000 slowly")
        await cli.until(is_delta)
        request = {"subtype": "interrupt", "cancel_queued": True}
        cli.send({"type": "control_request", "request_id": "1", "request": request})
        result = await cli.until(lambda frame: frame["type"] == "result")
        assert result["terminal_reason"] == "aborted_streaming"
        await cli.until(is_idle)

        failed = [f for f in await cli.turn("fail with 400") if f["type"] == "result"]
        assert (failed[0]["is_error"], failed[0]["api_error_status"]) == (True, 400)
        assert texts(await cli.turn("say well again")) == ["well again"]

        await cli.turn("/compact")
        assert texts(await cli.turn("what was my first message")) == [
            "Your first message was: think about tea"
        ]


@pytest.mark.acceptance
async def test_a_refused_configuration_fails_the_turn_at_once(place: Place) -> None:
    write_gateway_config(place.root / "data", {"up": {"kind": "anthropic", "api_key": KEY}})
    (place.root / "data" / "gateway" / "config.json").chmod(0o644)
    async with place.gateway(), place.running() as cli:
        frames = await cli.turn("hello")
    [result] = [frame for frame in frames if frame["type"] == "result"]
    assert result["is_error"] is True
    assert "chmod it to 600" in result["result"]
    assert not [frame for frame in frames if frame.get("subtype") == "api_retry"]


async def test_a_used_up_budget_ends_the_turn_at_once_and_says_why(place: Place) -> None:
    data_dir = place.root / "data"
    write_budgets(data_dir, {"tokens_per_day": 1}, {})
    async with place.gateway(), place.running() as cli:
        assert texts(await cli.turn("say first")) == ["first"]
        frames = await cli.turn("say second")
        assert not [frame for frame in frames if frame.get("subtype") == "api_retry"]
        [result] = [frame for frame in frames if frame["type"] == "result"]
        assert (result["is_error"], result["api_error_status"]) == (True, 429)
        assert "tokens_per_day" in result["result"]
        assert "resets at" in result["result"]
        write_budgets(data_dir, {}, {})
        assert texts(await cli.turn("say third")) == ["third"]


async def test_what_the_cli_counts_is_what_the_journal_counts(place: Place) -> None:
    async with place.gateway(), place.running() as cli:
        [result] = [f for f in await cli.turn("say how much was it") if f["type"] == "result"]
    [entry] = all_entries(place.root / "data")
    assert entry.output_tokens == result["usage"]["output_tokens"]
    assert entry.input_tokens == result["usage"]["input_tokens"]
    assert (entry.user, entry.session) == ("alice", "default")


async def test_who_calls_too_fast_is_slowed_and_not_failed(place: Place) -> None:
    """The CLI waits as long as it is told; it would have tried again within a second by itself."""
    data_dir = place.root / "data"
    async with place.gateway(), place.running() as cli:
        assert texts(await cli.turn("say first")) == ["first"]
        write_budgets(data_dir, {"model_calls_per_minute": 1}, {})
        cli.say("say second")
        retry = await cli.until(lambda frame: frame.get("subtype") == "api_retry")
        assert (retry["error_status"], retry["error"]) == (429, "rate_limit")
        # it adds some of its own, so that not all come back at once
        assert 2_000 < retry["retry_delay_ms"] <= 80_000
