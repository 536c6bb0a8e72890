"""A server that somebody has taken over asks its steward, and gets nothing of root's."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pool.config import PoolConfig
from pool.errors import BadRequest, Forbidden, InvalidName, LaunchFailed, PoolError
from pool.launch.local_host import LocalHost
from pool.steward.data_directory import give_data
from pool.steward.verbs import Verbs
from pool.workspace.host_files import HostFiles

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has a steward")

SERVER = 265534
ALICE = 200001


@pytest.fixture
def stand(short_dir: Path) -> SimpleNamespace:
    short_dir.chmod(0o711)
    config = PoolConfig(data_dir=short_dir / "data", check_cli=False, gateway_command=())
    config.data_dir.mkdir()
    give_data(config.data_dir, SERVER)
    files = HostFiles(config.data_dir)
    host = LocalHost(config)
    if not host.isolation.has_uids:
        pytest.skip("users have no uids here")
    return SimpleNamespace(data=config.data_dir, verbs=Verbs(config, files, host, SERVER).by_name())


def spec(**changes: Any) -> dict[str, Any]:
    plain = {
        "instance_id": "f" * 32,
        "user_id": "alice",
        "session_id": "default",
        "scratch": None,
        "cli_args": ["--print"],
        "env": {"A": "b"},
        "labels": {"user": "alice"},
        "network": None,
        "uid": ALICE,
        "tool_limits": None,
    }
    return plain | changes


def ensured(stand: SimpleNamespace) -> None:
    stand.verbs["ensure"](user_id="alice", template="default", uid=ALICE, may_change_owner=False)


def test_what_a_server_asks_is_done(stand: SimpleNamespace, fake_claude: Path) -> None:
    ensured(stand)
    home = stand.data / "homes" / "alice"
    assert home.stat().st_uid == ALICE
    stand.verbs["prepare"]()
    try:
        request = stand.verbs["request"](spec=spec())
    except LaunchFailed as error:
        pytest.skip(error.message)
    assert request["rights"]["uid"] == ALICE
    assert request["instance"] == "f" * 32
    assert stand.verbs["homes"]() == ["alice"]
    assert list(stand.verbs["measure"](user_id="alice"))[-1].complete
    assert b"".join(stand.verbs["archive"](user_id="alice"))
    stand.verbs["remove"](user_id="alice")
    assert not home.exists()


def test_nobody_is_a_user_who_is_none(stand: SimpleNamespace) -> None:
    for uid in (0, None, -1, 1, 1000, 199999, SERVER, SERVER + 1, 2**32 - 1, "200001", 2e5, True):
        with pytest.raises(Forbidden):
            stand.verbs["ensure"](user_id="alice", template="default", uid=uid, may_change_owner=True)
        with pytest.raises(Forbidden):
            stand.verbs["request"](spec=spec(uid=uid))
    assert not (stand.data / "workspaces" / "alice").exists()


MORE: dict[str, dict[str, Any]] = {
    "has_transcript": {"cli_session": "x"},
    "prune_home": {"kept_sessions": [], "changed_before": 0},
}


@pytest.mark.parametrize(
    "verb", ["remove", "keep_aside", "check_user", "measure", "archive", "has_transcript", "prune_home"]
)
def test_no_name_leads_anywhere_else(stand: SimpleNamespace, verb: str) -> None:
    def ask(name: str) -> None:
        list(stand.verbs[verb](user_id=name, **MORE.get(verb, {})))

    for name in ("..", "../keeper", "/etc", "a/b", "", ".", "-x", "a\0b", "a\nb", "x" * 300):
        with pytest.raises((InvalidName, BadRequest)):
            ask(name)


def test_only_directories_of_trials_are_removed(stand: SimpleNamespace) -> None:
    ensured(stand)
    for name in ("..", "../workspaces/alice", "/etc", "", "probe/../.."):
        with pytest.raises(PoolError):
            stand.verbs["remove_scratch"](name=name)
        with pytest.raises(PoolError):
            stand.verbs["request"](spec=spec(scratch=name, uid=200000))
    assert (stand.data / "workspaces" / "alice").is_dir()


def test_a_user_does_not_run_in_a_trial_nor_a_trial_as_a_user(stand: SimpleNamespace) -> None:
    with pytest.raises(Forbidden):
        stand.verbs["request"](spec=spec(scratch="probe-abc"))


def test_the_place_of_an_instance_is_its_users_whatever_is_asked(stand: SimpleNamespace) -> None:
    ensured(stand)
    stand.verbs["prepare"]()
    with pytest.raises(TypeError):
        stand.verbs["request"](spec=spec(), runtime_dir="/etc")
    with pytest.raises(KeyError):
        stand.verbs["request"](spec={name: one for name, one in spec().items() if name != "uid"})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    field=st.sampled_from(sorted(spec())),
    value=st.none()
    | st.integers()
    | st.text()
    | st.lists(st.integers())
    | st.dictionaries(st.text(), st.integers()),
)
def test_whatever_stands_in_a_field_nothing_is_made_but_the_users_own(
    stand: SimpleNamespace, field: str, value: Any
) -> None:
    before = _everything(stand.data)
    with contextlib.suppress(PoolError, TypeError, KeyError, ValueError):
        stand.verbs["request"](spec=spec(**{field: value}))
    made = _everything(stand.data) - before
    assert all(path.startswith(("homes/alice", "tools/", "cli/")) for path in made), made


def _everything(data: Path) -> set[str]:
    return {str(path.relative_to(data)) for path in data.rglob("*")}


def test_no_keeper_is_no_process_to_kill(stand: SimpleNamespace) -> None:
    stand.verbs["kill_keeper"]()
    # a lock that nobody holds, with the pid of somebody else in it
    (stand.data / "keeper" / "lock").write_text(str(os.getpid()))
    stand.verbs["kill_keeper"]()
