"""What ``doctor`` says of users, the gateway and the network."""

from __future__ import annotations

import os
import pwd
import socket
from pathlib import Path

import pytest

from pool import PoolConfig, SshHost
from pool.launch.isolation import probe
from pool.launch.way_out import find_way_out
from server import doctor
from server.config import ServerConfig
from server.doctor import Finding, accounts_in

RANGE = (200000, 265535)


def an_account(name: str, uid: int) -> pwd.struct_passwd:
    return pwd.struct_passwd((name, "x", uid, uid, "", "/", "/bin/sh"))


ACCOUNTS = [an_account("root", 0), an_account("alice", 1000)]


@pytest.mark.parametrize(("first", "last"), [(1000, 2000), (900, 1000), (999, 1001)])
def test_an_account_in_the_range_is_named(tmp_path: Path, first: int, last: int) -> None:
    assert accounts_in(first, last, ACCOUNTS, tmp_path / "none") == "the account alice"


@pytest.mark.parametrize(("first", "last"), [(1001, 2000), (900, 999), RANGE])
def test_one_beside_it_is_not(tmp_path: Path, first: int, last: int) -> None:
    assert accounts_in(first, last, ACCOUNTS, tmp_path / "none") == ""


@pytest.mark.parametrize(
    ("line", "clashes"),
    [
        ("bob:200000:1", True),
        ("bob:265535:10", True),
        ("bob:165536:65536", True),
        ("bob:100000:400000", True),
        ("bob:134464:65536", False),
        ("bob:265536:65536", False),
        ("bob:200000", False),
    ],
)
def test_a_range_for_somebodys_containers_is_named(tmp_path: Path, line: str, clashes: bool) -> None:
    subuid = tmp_path / "subuid"
    subuid.write_text(f"# a note\n\nalice:70000:1\n{line}\n")
    assert accounts_in(*RANGE, ACCOUNTS, subuid) == (f"the range of bob in {subuid}" if clashes else "")


def test_the_line_says_who_users_are_on_this_machine() -> None:
    # no machine gives these to anybody
    free = (4_000_000_000, 4_000_000_100)
    assert doctor._uid_mapping(free) == Finding(
        "uid mapping",
        True,
        "each user has a uid of 4000000000 to 4000000100",
        "choose another isolation.uid_range",
        is_fatal=False,
    )
    taken = doctor._uid_mapping((1000, 65534))
    assert (taken.ok, taken.is_fatal) == (False, False)
    assert "each user has a uid of 1000 to 65534, where the account " in taken.detail
    assert taken.remedy == "choose another isolation.uid_range"
    alone = doctor._uid_mapping(None)
    who = "root" if os.geteuid() == 0 else f"uid {os.geteuid()}"
    assert (alone.detail, alone.is_fatal) == (f"all users share {who}", False)
    # as root every session would be root
    assert alone.ok is (os.geteuid() != 0)
    assert ("a user that is not root" in alone.remedy) is (os.geteuid() == 0)


def test_the_gateways_user_is_told_or_what_is_in_the_way() -> None:
    assert doctor._gateway(265535, None).ok
    assert "uid 265535, without any rights" in doctor._gateway(265535, None).detail
    found = doctor._gateway(None, "its uid cannot pass through /root: chmod o+x /root")
    assert (found.ok, found.is_fatal, found.detail) == (False, False, "the model gateway runs as root")
    assert found.remedy.endswith("chmod o+x /root")
    assert doctor._gateway(None, None) == Finding(
        "gateway", True, "the model gateway runs as the service's own user"
    )


def test_the_network_in_force_and_the_hosts_on_the_list_are_named(tmp_path: Path) -> None:
    if not probe().works:
        pytest.skip(f"no bubblewrap that works: {probe().detail}")
    found = {
        one.name: one for one in doctor._isolation(PoolConfig(data_dir=tmp_path / "data"), ServerConfig())
    }
    assert (
        found["sandbox"].detail == f"mode bwrap, network {'gateway_only' if probe().cuts_network else 'open'}"
    )
    way_out = find_way_out(probe().path or "", to_named_hosts=True)
    if way_out.remedy is not None:
        pytest.skip(f"no network of its own: {way_out.remedy}")
    config = PoolConfig(data_dir=tmp_path / "data", egress_allow=("example.org", "*.example.net"))
    found = {one.name: one for one in doctor._isolation(config, ServerConfig())}
    assert found["sandbox"].detail == "mode bwrap, network outbound, only to example.org, *.example.net"
    assert {"uid mapping", "gateway"} < set(found)


def test_each_other_machine_has_a_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        hosts = (
            SshHost(name="a", address="127.0.0.1", port=port),
            SshHost(name="b", address="127.0.0.1", port=1),
        )
        found = list(doctor._hosts(PoolConfig(data_dir=tmp_path, hosts=hosts)))
    assert [(one.name, one.ok, one.is_fatal) for one in found] == [
        ("host a", True, True),
        ("host b", False, False),
    ]
    assert "refused" in found[1].detail
