"""Any order of what users, CLIs, keepers and servers do: DESIGN section 4's invariants after every step."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from pool import errors
from pool.policy.backoff import CrashHistory, CrashRules
from pool.runtime.session import Session
from tests.fakes.fake_cli import FakeCli
from tests.pool.conftest import OUTCOMES, Screen
from tests.pool.runtime.conftest import World, manual
from tests.pool.runtime.invariants import Invariants
from tests.pool.runtime.tape import Paper

T = TypeVar("T")
SESSIONS = st.sampled_from(["a", "b"])
PAUSES = st.integers(0, 12)
QUICK = CrashRules(first_delay_seconds=0.001, largest_delay_seconds=0.002)


def is_delta(frame: dict[str, Any]) -> bool:
    return bool(frame["type"] == "event" and frame["event"]["type"] == "stream_event")


class Machine(Invariants):
    """Two sessions, one slot, one host; the server, its keeper and the CLIs may die at any step."""

    is_far = False

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="cp-"))
        self.world = World(self.directory / "data")
        self.world.is_far = self.is_far
        self.world.host.prepare = manual
        self.accepted: dict[str, dict[str, str]] = {"a": {}, "b": {}}
        self.count = 0
        self.run(self._serve())

    async def _serve(self) -> None:
        self.pool = await self.world.start(max_instances=1, stop_grace_seconds=0.05)
        for name in self.seen:
            frames = self.seen[name]
            screen = self.screens[name] = Screen()
            await self.pool.subscribe("alice", name, frames[-1]["cursor"] if frames else "0", screen)
        for session in self.pool._supervisor.sessions.values():
            session.crashes = CrashHistory(QUICK)

    def session(self, name: str) -> Session:
        return next(s for s in self.pool._supervisor.sessions.values() if s.key.session_id == name)

    def cli(self, name: str) -> FakeCli | None:
        living = [cli for cli in self.world.host.living if cli.spec.key.session_id == name]
        return living[-1] if living else None

    # --- users -------------------------------------------------------------------------------

    @rule(name=SESSIONS, pause=PAUSES)
    def submit(self, name: str, pause: int) -> None:
        self.count += 1
        self._send(name, f"m{self.count}", pause)

    @rule(name=SESSIONS, pause=PAUSES)
    def submit_again(self, name: str, pause: int) -> None:
        if self.accepted[name]:
            message_id = next(iter(self.accepted[name]))
            before = self.accepted[name][message_id]
            self._send(name, message_id, pause)
            assert self.accepted[name][message_id] == before

    def _send(self, name: str, message_id: str, pause: int) -> None:
        text = f"words {message_id}"
        work = self.pool.submit("alice", name, text, message_id=message_id)
        try:
            self.accepted[name][message_id] = self.run(work, pause).turn_id
        except errors.QuotaExceeded:
            return
        except errors.HostUnavailable:
            assert self.is_far

    @rule(name=SESSIONS, pause=PAUSES)
    def interrupt(self, name: str, pause: int) -> None:
        self.run(self.pool.interrupt("alice", name), pause)

    @rule(name=SESSIONS, decision=st.sampled_from(["allow", "deny"]), pause=PAUSES)
    def answer(self, name: str, decision: str, pause: int) -> None:
        for info in self.run(self.pool.permissions("alice", name)):
            work = self.pool.answer_permission("alice", name, info.request_id, decision, answered_by="a")
            self.run(work, pause)

    @rule(name=SESSIONS, pause=PAUSES, and_submit=st.booleans())
    def archive(self, name: str, pause: int, and_submit: bool) -> None:
        self.run(self.pool.archive_session("alice", name), 0 if and_submit else pause)
        if and_submit:
            self.submit(name=name, pause=pause)

    @rule(name=SESSIONS, pause=PAUSES)
    def destroy(self, name: str, pause: int) -> None:
        self.run(self.pool.destroy_instance("alice", name), pause)

    @rule(name=SESSIONS, place=st.integers(0, 1000))
    def follow_from_an_old_cursor(self, name: str, place: int) -> None:
        self.collect()
        if self.seen[name]:
            start = place % len(self.seen[name])
            got = self.run(self._read(name, start))
            expected = self.seen[name][start + 1 :]
            if any(frame["type"] == "gap" for frame in got):
                assert self.world.host.losses, "only a lost keeper costs token deltas"
                got = [frame for frame in got if frame["type"] != "gap"]
                expected = [frame for frame in expected if frame in got or not is_delta(frame)]
            assert got == expected

    async def _read(self, name: str, start: int) -> list[dict[str, Any]]:
        paper = Paper()
        cursor = self.seen[name][start]["cursor"]
        subscription = await self.pool.subscribe("alice", name, cursor, paper)
        while subscription._task is not None:
            await asyncio.sleep(0.001)
        subscription.close()
        self.collect()
        return paper.frames[1:]

    # --- CLIs --------------------------------------------------------------------------------

    @rule(
        name=SESSIONS, kind=st.sampled_from(["delta", "ask", "result", "finish", "own", "die"]), pause=PAUSES
    )
    def the_cli_goes_on(self, name: str, kind: str, pause: int) -> None:
        cli = self.cli(name)
        if cli is not None:
            self.run(self._go_on(cli, kind), pause)

    async def _go_on(self, cli: FakeCli, kind: str) -> None:
        is_busy = cli.current is not None or cli.own_turn
        if kind == "own" and not is_busy:
            cli.begin_own()
        elif kind == "die":
            cli.die(signal="SIGKILL")
        elif is_busy and kind == "ask":
            self.count += 1
            cli.ask(f"r{self.count}")
        elif is_busy and kind == "finish":
            cli.finish()
        elif is_busy and kind == "delta":
            cli.delta("x")
        elif is_busy and kind == "result":
            cli.result(is_error=True, result="no")

    # --- the machine room ----------------------------------------------------------------------

    @rule(call=st.sampled_from(["start", "started", "write"]))
    def a_launch_will_fail(self, call: str) -> None:
        self.world.host.fail(call, errors.LaunchFailed("no"))

    @rule(name=SESSIONS, pause=PAUSES)
    def the_idle_time_is_over(self, name: str, pause: int) -> None:
        async def over() -> None:
            self.session(name).idleness._over()

        self.run(over(), pause)

    @rule(pause=PAUSES)
    def the_keeper_dies(self, pause: int) -> None:
        async def lose() -> None:
            self.world.host.lose_keeper()

        self.run(lose(), pause)

    @rule(meanwhile=st.lists(st.sampled_from(["delta", "ask", "finish", "own", "die"]), max_size=3))
    def the_server_dies(self, meanwhile: list[str]) -> None:
        resting = [s.key for s in self.pool._supervisor.sessions.values() if s.is_idle and s.log.is_settled]
        crashed_at = time.monotonic()
        self.run(self.world.crash(self.pool))
        self.collect()
        for kind in meanwhile:
            for cli in self.world.host.living:
                self.run(self._go_on(cli, kind))
        self.run(self._serve())
        for key in resting if not meanwhile else ():
            session = self.pool._supervisor.sessions[key]
            assert session.idleness.since <= crashed_at, "a restart is no sign of life"

    @rule(name=SESSIONS, pause=PAUSES)
    def nobody_looks_on_and_memory_is_wanted(self, name: str, pause: int) -> None:
        self.collect()
        before = self.session(name)
        for subscription in tuple(before.channel.subscriptions):
            subscription.close()
        self.screens[name].frames.clear()

        async def drop() -> None:
            for session in list(self.pool._supervisor.sessions.values()):
                self.pool._watches.unloading.drop(session)

        self.run(drop(), pause)
        cursor = self.seen[name][-1]["cursor"] if self.seen[name] else "0"
        self.run(self.pool.subscribe("alice", name, cursor, self.screens[name]), pause)
        if self.session(name) is not before:
            self.session(name).crashes = CrashHistory(QUICK)

    @rule(seconds=st.sampled_from([0.0, 0.02]))
    def ending_a_process_takes(self, seconds: float) -> None:
        self.world.host.stop_seconds = seconds

    @rule(seconds=st.sampled_from([0.001, 0.01, 0.03]))
    def time_passes(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    # --- the end ----------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            self.run(self._play_to_the_end())
            self.collect()
            for name, turns in self.accepted.items():
                ended = {
                    f["turn_id"] for f in self.seen[name] if f["type"] == "turn" and f["state"] in OUTCOMES
                }
                assert set(turns.values()) <= ended, "every accepted turn has ended"
                assert {f["turn_id"] for f in self.seen[name] if f["type"] == "turn"} == ended
        finally:
            self.run(self.world.aclose())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            shutil.rmtree(self.directory)

    async def _play_to_the_end(self) -> None:
        self.world.host.mend()
        self.world.host.prepare = lambda _cli: None
        async with asyncio.timeout(30):
            while any(s.turns.open_turn or s.turns.queued for s in self.pool._supervisor.sessions.values()):
                for cli in self.world.host.living:
                    cli.is_manual = False
                    if cli.current is not None or cli.own_turn:
                        cli.finish()
                await asyncio.sleep(0.002)
        for session in self.pool._supervisor.sessions.values():
            await session.log.settled()
            while any(item._task is not None for item in session.channel.subscriptions):
                await asyncio.sleep(0.001)


class FarMachine(Machine):
    """The host is another machine: the way to it may be lost at any step, and found at any later one."""

    is_far = True

    @rule(pause=PAUSES)
    def the_way_is_lost(self, pause: int) -> None:
        async def cut() -> None:
            self.world.host.losses += 1
            self.world.host.cut()

        if not self.world.host.is_cut:
            self.run(cut(), pause)

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.05]))
    def the_way_is_found(self, seconds: float) -> None:
        self.world.host.mend()
        self.run(asyncio.sleep(seconds))


@pytest.mark.parametrize("machine", [Machine, FarMachine])
def test_no_order_of_events_breaks_the_pool(machine: type[Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    # how long an unreachable host is waited for, and when it is looked for again
    monkeypatch.setattr("pool.runtime.instance._LOST_SECONDS", 0.02)
    monkeypatch.setattr("pool.runtime.taking_over._OTHERS_SECONDS", 0.02)
    monkeypatch.setattr("pool.runtime.reopening._BACKOFF_SECONDS", (0.0, 0.005))
    # a sample, and all of them in ``make fuzz``
    examples = settings().max_examples
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=4 if examples <= 100 else examples // 10,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
