"""The pool's acts, one by one, on the public API, judged by ``/proc``.

    python demo/pool_demo.py            the real CLI with the built-in demo model
    python demo/pool_demo.py --cli PATH another program that speaks its protocol

Prints what each act checked, with figures, and exits 1 when one fails.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from pool import ClaudeInstancePool, PoolConfig, Quota, QuotaBook, errors
from pool.runtime.pooled import PooledInstance

Act = Callable[["Stage"], Awaitable[None]]


class ActFailed(Exception):
    """Something that the act promises is not so."""


class Stage:
    """What the acts share: one pool, and a way to say what was checked."""

    def __init__(self, pool: ClaudeInstancePool) -> None:
        self.pool = pool
        self.seen: set[int] = set()

    def check(self, holds: object, words: str) -> None:
        if not holds:
            raise ActFailed(words)
        say(f"   ok  {words}")

    async def instance(self, user: str, session: str = "default") -> PooledInstance:
        instance = await self.pool.get_or_create_instance(user, session)
        if instance.pid is not None:
            self.seen.add(instance.pid)
        return instance


def say(words: str) -> None:
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


def is_alive(pid: int | None) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def marked(instance_ids: set[str]) -> list[int]:
    """Pids whose environment carries the marker of one of these instances."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            for variable in environment.split(b"\0"):
                name, _, value = variable.partition(b"=")
                if name == b"CLAUDE_POOL_INSTANCE" and value.decode() in instance_ids:
                    found.append(int(entry.name))
    return found


async def answer(instance: PooledInstance, words: str) -> str:
    """One turn: the assistant's text."""
    text = []
    async for frame in instance.ask(words):
        if frame["type"] == "assistant":
            text += [block["text"] for block in frame["message"]["content"] if block["type"] == "text"]
    return "".join(text)


async def users_are_apart(stage: Stage) -> None:
    alice, bob = await stage.instance("alice"), await stage.instance("bob")
    stage.check(
        is_alive(alice.pid) and is_alive(bob.pid), f"two users, two processes: {alice.pid}, {bob.pid}"
    )
    stage.check(alice.workspace != bob.workspace, "two workspaces")
    (bob.workspace / "projects" / "secret.txt").write_text("of bob")
    mode, network, _remedies = stage.pool.isolation()
    say(f"   isolation: mode {mode}, network {network}")
    if mode == "bwrap":
        inside = os.readlink(f"/proc/{alice.pid}/ns/mnt")
        stage.check(inside != os.readlink("/proc/self/ns/mnt"), f"alice's CLI has its own mounts: {inside}")
        outside = Path(f"/proc/{alice.pid}/root{bob.workspace}")
        stage.check(not outside.exists(), "bob's workspace does not exist in alice's sandbox")


async def workspace_has_its_layout(stage: Stage) -> None:
    instance = await stage.instance("alice")
    for name in ("README.md", "CLAUDE.md", "projects", "temp", "uploads", ".claude/settings.json"):
        stage.check((instance.workspace / name).exists(), name)


async def process_is_reused(stage: Stage) -> None:
    instance = await stage.instance("alice")
    pid, spent = instance.pid, []
    for number in range(4):
        begin = time.perf_counter()
        text = await answer(instance, f"say turn number {number}")
        spent.append((time.perf_counter() - begin) * 1000)
        if f"turn number {number}" not in text:
            raise ActFailed(f"turn {number} said {text!r}")
    again = await stage.instance("alice")
    stage.check(again.pid == pid and is_alive(pid), f"4 turns, one process: {pid}")
    say(f"   first turn {spent[0]:.0f} ms, later ones {min(spent[1:]):.0f} to {max(spent[1:]):.0f} ms")


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"])


async def helpers_are_registered(stage: Stage) -> None:
    child = sleeper()
    try:
        stage.pool.register_process("alice", "default", pid=child.pid, kind="terminal")
        stats = stage.pool.get_instance_stats("alice")
        stage.check(stats and stats["process_count"] == 2, f"a helper process is counted: {child.pid}")
        try:
            stage.pool.register_process("alice", "default", pid=1, kind="terminal")
        except errors.BadRequest as error:
            say(f"   ok  a stranger is refused: {error.message}")
        else:
            raise ActFailed("pid 1 was registered")
        stage.pool.unregister_process("alice", "default", pid=child.pid)
        stats = stage.pool.get_instance_stats("alice")
        stage.check(stats and stats["process_count"] == 1, "and forgotten again")
    finally:
        child.kill()
        child.wait()


async def health_and_statistics(stage: Stage) -> None:
    instance = await stage.instance("alice")
    stage.check(await instance.health_check(), "the CLI answers a health check")
    stats = stage.pool.get_instance_stats("alice")
    if stats is None:
        raise ActFailed("alice has no statistics")
    megabytes = stats["rss_bytes"] // 2**20
    stage.check(
        stats["rss_bytes"] > 0, f"{stats['turns']} turns, {megabytes} MiB, {stats['cpu_seconds']:.1f} s CPU"
    )
    await stage.pool.run_checks()
    for name, result in stage.pool.health()["checks"].items():
        say(f"   {'ok ' if result['ok'] else 'no '} {name}: {result['detail']}")
    stage.check(stage.pool.get_instance_stats("nobody") is None, "an unknown user has no statistics")


async def quotas_refuse(stage: Stage) -> None:
    try:
        await stage.pool.get_or_create_instance("poor")
    except errors.QuotaExceeded as error:
        stage.check("quota exceeded" in error.message, error.message)
    else:
        raise ActFailed("a quota of 0 was not enforced")
    stage.check(not stage.pool.instances("poor"), "no process was started for it")


async def idle_sessions_are_parked(stage: Stage) -> None:
    instance = await stage.instance("carol")
    await answer(instance, "say the parking words")
    say(f"   waiting for the idle timeout of {stage.pool.config.idle_timeout_seconds:g} s")
    await until(lambda: not is_alive(instance.pid), f"the idle process {instance.pid} is gone")
    stage.check(True, f"the idle process {instance.pid} is gone")
    again = await stage.instance("carol")
    text = await answer(again, "what did I say")
    stage.check("parking words" in text, f"woken as {again.pid}, it remembers: {text.splitlines()[0][:70]}")


async def crash_is_survived(stage: Stage) -> None:
    instance = await stage.instance("bob")
    await answer(instance, "say the words before the crash")
    if instance.pid is None:
        raise ActFailed("no pid")
    os.kill(instance.pid, signal.SIGKILL)
    await until(lambda: not instance.is_healthy, "the death is noticed")
    stage.check(True, f"the death of {instance.pid} was noticed")
    again = await stage.instance("bob")
    text = await answer(again, "what did I say")
    stage.check("before the crash" in text, f"resumed as {again.pid} with its memory")


ACTS: tuple[tuple[str, Act], ...] = (
    ("Several users, kept apart", users_are_apart),
    ("The layout of a workspace", workspace_has_its_layout),
    ("One process for all turns of a session", process_is_reused),
    ("Registered helper processes", helpers_are_registered),
    ("Health and statistics", health_and_statistics),
    ("Quotas", quotas_refuse),
    ("Idle parking and waking", idle_sessions_are_parked),
    ("Crash and resume", crash_is_survived),
)


async def until(holds: Callable[[], object], words: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise ActFailed(f"not within {seconds:g} s: {words}")
        await asyncio.sleep(0.05)


async def play(config: PoolConfig) -> int:
    pool = ClaudeInstancePool(config)
    await pool.start()
    stage, failed = Stage(pool), 0
    instance_ids: set[str] = set()
    try:
        for number, (title, act) in enumerate(ACTS, 1):
            say(f"\n{number}. {title}")
            try:
                await act(stage)
            except (ActFailed, errors.PoolError, OSError) as error:
                failed += 1
                say(f"   FAILED  {error}")
            instance_ids |= {info.id for info in pool.instances()}
        await stage.instance("dave")
        instance_ids |= {info.id for info in pool.instances()}
    finally:
        say(f"\n{len(ACTS) + 1}. Shutdown leaves nothing")
        begin = time.perf_counter()
        await pool.shutdown()
    left = [pid for pid in stage.seen if is_alive(pid)] + marked(instance_ids)
    spent = time.perf_counter() - begin
    verdict = "FAILED " if left else "ok "
    say(f"   {verdict} {len(instance_ids)} instances, left in /proc: {left or 'none'}; {spent:.1f} s")
    return 1 if failed or left else 0


def settings(arguments: argparse.Namespace, data: Path) -> PoolConfig:
    options: dict[str, Any] = {"cli_path": arguments.cli.absolute()} if arguments.cli else {}
    return PoolConfig(
        data_dir=data,
        runtime_dir=data / "run",
        idle_timeout_seconds=3,
        stop_grace_seconds=2,
        quotas=QuotaBook(default=Quota(max_instances=3), users={"poor": {"max_instances": 0}}),
        **options,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cli", type=Path, help="the CLI to run; by default the one of the SDK's wheel")
    arguments = parser.parse_args()
    data = Path(tempfile.mkdtemp(prefix="cp-demo-"))
    try:
        return asyncio.run(play(settings(arguments, data)))
    finally:
        shutil.rmtree(data, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
