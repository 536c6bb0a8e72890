"""A host that somebody has taken over answers in its keeper's place, and the server takes it for trouble."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from pool.errors import KeeperUnavailable
from pool.model import InstanceId
from tests.pool.hosts.sshd import Sshd
from tests.pool.hosts.stand import Stand
from tests.pool.launch.rig import Sink

HELLO = {"version": 3, "epoch": 1, "pid": 1, "boot_id": "b", "gateway_pid": None, "instances": []}
ONE = {
    "instance": "one",
    "identity": {"pid": 1, "start_ticks": 1, "boot_id": "b", "marker": "one"},
    "end_offset": 0,
    "exit": None,
    "exited_at": None,
    "stderr_tail": "",
    "labels": {},
}


async def test_whatever_it_says_is_no_more_than_a_host_that_cannot_be_used(
    sshd: Sshd, settings: dict[str, Any]
) -> None:
    program = (sys.executable, "-I", "-S", str(Path(__file__).with_name("hostile_keeper.py")))
    sshd.let_in(settings | {"keeper_command": program})
    stand = Stand.at(sshd.host(), settings)
    stand.data.mkdir()

    def let_answer(**answers: Any) -> None:
        (stand.data / "answers.json").write_text(json.dumps(answers))

    try:
        for hello in (
            HELLO | {"epoch": "1"},
            # there would be no number left for the next server
            HELLO | {"epoch": 2**63},
            {"error": "stale_epoch", "epoch": "high"},
        ):
            let_answer(hello=hello)
            with pytest.raises(KeeperUnavailable):
                await stand.launcher.open(1)
        let_answer(hello=HELLO)
        assert await stand.launcher.open(1) == 1
        answers: tuple[dict[str, Any], ...] = (
            {},
            {"instances": 1},
            {"instances": [{}]},
            {"instances": [ONE | {"identity": {"pid": "x"}}]},
            {"instances": [ONE | {"end_offset": None}]},
            {"instances": [ONE | {"labels": ["a"]}]},
        )
        for answer in answers:
            let_answer(list=answer)
            with pytest.raises(KeeperUnavailable, match="host h1: its keeper answers what is none"):
                await stand.launcher.list()
        let_answer(list={"instances": [ONE | {"exit": {"code": "x", "signal": 9}}]})
        (listed,) = await stand.launcher.list()
        assert listed.exit_status is not None
        assert (listed.exit_status.code, listed.exit_status.signal) == (None, None)
        let_answer(attach={})
        with pytest.raises(KeeperUnavailable):
            await stand.launcher.attach(InstanceId("one"), 0, Sink())
        # nothing of that has ended the link
        assert stand.lost == 0
    finally:
        (stand.data / "answers.json").write_text("{}")
        await stand.launcher.aclose(end_instances=False)
        end_keeper(stand.data)


def end_keeper(data: Path) -> None:
    os.killpg(int((data / "keeper" / "lock").read_text()), signal.SIGKILL)
