"""What a server that is not root may ask of a keeper that is, field by field, and what it may not."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pool.keeper.bounds import Bounds
from pool.keeper.entry import HostError
from pool.keeper.places import temporary_directory

DATA = Path("/srv/pool/data")
FIRST, SERVICE, GATEWAY = 200000, 200198, 200199
BOUNDS = Bounds(DATA, SERVICE, FIRST, GATEWAY)
FILTER = f"{DATA}/sandbox/seccomp.bpf"

few = settings(max_examples=10)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
names = st.text("abcXYZ019", min_size=1, max_size=8).map(lambda text: f"{text}-_.@+{text}")
maps = st.dictionaries(names, texts, max_size=4)
wholes = st.one_of(st.none(), st.integers(0, 2**40))
networks = st.one_of(
    st.none(),
    st.just({"kind": "outbound", "slirp4netns": "/usr/bin/slirp4netns", "nft": "/usr/sbin/nft"}),
    st.builds(
        lambda user, allow, labels: {
            "kind": "proxy",
            "port": 3128,
            "log": f"{DATA}/egress/{user}/connections.jsonl",
            "egress": {"allow": allow, "labels": labels},
        },
        names,
        st.lists(texts, max_size=3),
        maps,
    ),
)


@st.composite
def starts(draw: st.DrawFn) -> dict[str, Any]:
    """Requests as a launcher makes them, with and without a sandbox."""
    instance = draw(st.text("abcXYZ019", min_size=1, max_size=8)) + draw(st.sampled_from(["", ".a", "_-"]))
    request: dict[str, Any] = {
        "op": "start",
        "id": 7,
        "instance": instance,
        "isolation": draw(texts),
        "labels": draw(maps),
        "limits": {"memory_bytes": draw(wholes), "processes": draw(wholes)},
        "argv": ["/usr/bin/bwrap", *draw(st.lists(texts, max_size=4))],
        "env": draw(maps),
        "cwd": "/",
        "window": draw(st.integers(0, 2**30)),
    }
    uid = draw(st.integers(FIRST, SERVICE - 1))
    if draw(st.booleans()):
        filters = [{"path": FILTER, "placeholder": "{seccomp_fd}"}]
        rights: dict[str, Any] = {"uid": uid}
        return {
            **request,
            "wrapper": "bwrap",
            "open": draw(st.sampled_from([[], filters])),
            "prelude": "sh",
            "network": draw(networks),
            "rights": rights,
        }
    limits = {"core": 0, "nofile": 1024, "nproc": draw(st.integers(1, 1000))}
    return {
        **request,
        "wrapper": "shim",
        "tmp_dir": str(temporary_directory(DATA, instance)),
        "rights": {"uid": uid, "limits": limits, "filter": draw(st.sampled_from([None, FILTER]))},
    }


def refusal(operation: str, request: Any) -> str | None:
    try:
        BOUNDS.bounded(operation, request)
    except HostError as error:
        return error.code
    return None


@given(starts())
def test_what_a_launcher_asks_for_may_be_done_as_it_is(request: dict[str, Any]) -> None:
    before = copy.deepcopy(request)
    assert BOUNDS.bounded("start", request) is request
    assert request == before


ODD = [0, 1, -1, True, 1.5, "", "x", [], {}, ["x"], {"x": 1}, [[]], "\0", "x" * 200_000, "/etc/shadow"]
# for each field, what it may never be; any of ODD that it may be is left out by the test
HOSTILE: dict[str, list[Any]] = {
    "instance": [None, "..", "../x", "a/b", ".a", "a\n", "x" * 129, 5, ["a"], "é"],
    "wrapper": [None, "SHIM", "sh", "/bin/sh", ["shim"], {}],
    "argv": [None, [], "true", [1], [None], ["a\0b"], {}, ["x" * 200_000], ["x"] * 5000],
    "env": [None, [], {"A": 1}, {"A": None}, {"A=B": "x"}, {"": "x"}, {"A": "\0"}, {"\0": "x"}, "A=B"],
    "cwd": ["", "x", "../x", 5, ["/"], "/\0", {}],
    "isolation": [None, 5, [], "x" * 600],
    "labels": [5, ["a"], {"a": 5}, {"a": {"b": "c"}}, {"a": "x" * 600}, {str(n): "x" for n in range(17)}],
    "limits": [5, [1], {"other": 5}, {"processes": -1}, {"processes": True}, {"memory_bytes": "1"}],
    "window": [-1, 2**63, "1", None, True, 1.5, []],
    "tmp_dir": [
        *("/etc", str(DATA), f"{DATA}/tmp", f"{DATA}/tmp/", f"{DATA}/tmp/../keeper", 5, ["x"], {}, ""),
        str(temporary_directory(DATA, "another")),
        "tmp",
    ],
    "open": [
        *(5, {}, "", [5], [[]], [{}], [{"path": "/etc/shadow", "placeholder": "x"}]),
        [{"path": f"{DATA}/sandbox/../keeper/lock", "placeholder": "x"}],
        [{"path": FILTER, "placeholder": 5}],
        [{"path": FILTER, "placeholder": "x", "mode": "w"}],
        [{"path": FILTER}],
        [{"path": FILTER, "placeholder": "x"}] * 2,
        [{"path": f"{FILTER}/", "placeholder": "x"}],
        [{"path": f"/{FILTER}", "placeholder": "x"}],
        [{"path": [FILTER], "placeholder": "x"}],
    ],
    "prelude": [None, 5, [], "x" * 600],
    "rights": [None, {}, [], 5, "root", {"uid": None}],
    "network": [{}, [], 5, "proxy", {"kind": "none"}, {"kind": "outbound"}, {"kind": "proxy", "port": 1}],
}
UIDS = [
    None,
    0,
    -1,
    1,
    FIRST - 1,
    SERVICE,
    GATEWAY,
    GATEWAY + 1,
    2**32 - 1,
    2**32,
    True,
    2e5,
    "200150",
    [FIRST],
]
RIGHTS: dict[str, list[Any]] = {
    "uid": UIDS,
    "limits": [5, ["core"], {"stack": 5}, {"nofile": -1}, {"nofile": 2**63}, {"nofile": "9"}, {"core": True}],
    "filter": [5, "", "/etc/shadow", [FILTER], f"{DATA}/sandbox/x", f"{DATA}/sandbox/../sandbox/seccomp.bpf"],
    "gid": [0, FIRST],
}
PROXY: dict[str, list[Any]] = {
    "kind": ["outbound", "open", None, 5, []],
    "port": [0, -1, 65536, "3128", True, None],
    "log": [
        *(None, 5, "/etc/cron.d/x", f"{DATA}/egress/connections.jsonl", f"{DATA}/egress//connections.jsonl"),
        *(
            f"{DATA}/egress/{user}/connections.jsonl"
            for user in ("..", ".", "a/b", "a\0", "a\n", "", ".a", "a..b")
        ),
        f"{DATA}/egress/a/other.jsonl",
        f"{DATA}/egress/a/connections.jsonl/x",
        f"{DATA}/egress/../keeper/connections.jsonl",
    ],
    "egress": [
        *(
            None,
            [],
            {},
            {"allow": "x"},
            {"allow": [5]},
            {"allow": [], "more": 1},
            {"allow": [], "labels": []},
        ),
        *({"allow": [], "labels": {"a": 1}}, {"allow": [], "limits": {"x": 1}}, {"allow": [], "limits": []}),
        *({"allow": [], "limits": {"idle_seconds": value}} for value in (-1, float("nan"), "1", True, None)),
    ],
    "uid": [0],
    "env": [0],
}
OUTBOUND: dict[str, list[Any]] = {
    "slirp4netns": [None, 5, "", "slirp4netns", "/x\0", ["/bin/sh"]],
    "nft": [None, 5, "", "nft", "/x\0"],
    "log": ["/etc/passwd"],
}


@few
@given(starts())
def test_one_hostile_field_is_enough(request: dict[str, Any]) -> None:
    for name, values in HOSTILE.items():
        for value in values:
            assert refusal("start", {**request, name: value}) == "forbidden", (name, value)


@few
@given(starts())
def test_nobody_is_run_as_but_a_user_of_the_pool(request: dict[str, Any]) -> None:
    for name, values in RIGHTS.items():
        for value in values:
            rights = {**request["rights"], name: value}
            assert refusal("start", {**request, "rights": rights}) == "forbidden", (name, value)


@few
@given(starts())
def test_a_network_is_one_of_two_and_its_log_the_users(request: dict[str, Any]) -> None:
    log = f"{DATA}/egress/alice/connections.jsonl"
    proxy = {"kind": "proxy", "port": 3128, "log": log, "egress": {"allow": []}}
    outbound = {"kind": "outbound", "slirp4netns": "/usr/bin/slirp4netns", "nft": "/usr/sbin/nft"}
    request = {**request, "wrapper": "bwrap", "tmp_dir": None}
    for network, hostile in ((proxy, PROXY), (outbound, OUTBOUND)):
        assert refusal("start", {**request, "network": network}) is None
        assert refusal("start", {**request, "wrapper": "shim", "network": network}) == "forbidden"
        for name, values in hostile.items():
            for value in values:
                changed = {**request, "network": {**network, name: value}}
                assert refusal("start", changed) == "forbidden", (name, value)


@given(starts(), st.sampled_from(sorted(HOSTILE)), st.sampled_from(ODD))
def test_whatever_is_in_a_field_it_is_done_or_refused_and_nothing_else(
    request: dict[str, Any], name: str, value: Any
) -> None:
    assert refusal("start", {**request, name: value}) in (None, "forbidden")


@pytest.mark.parametrize(
    "uid", [None, 0, 1, FIRST, SERVICE, GATEWAY + 1, -1, True, str(GATEWAY), float(GATEWAY)]
)
def test_the_gateway_stays_who_it_is(uid: object) -> None:
    assert refusal("replace_gateway", {"gateway_uid": uid}) == "forbidden"


def test_what_the_gateway_is_shown_is_not_the_servers_to_say() -> None:
    request = {"op": "replace_gateway", "gateway_uid": GATEWAY, "gateway_shown": ["/root"]}
    assert BOUNDS.bounded("replace_gateway", request) == {"op": "replace_gateway", "gateway_uid": GATEWAY}
    assert BOUNDS.bounded("replace_gateway", {}) == {}


@pytest.mark.parametrize("operation", ["stop", "shutdown"])
def test_graces_are_three_bounded_numbers(operation: str) -> None:
    assert refusal(operation, {}) is None
    assert refusal(operation, {"graces": [0, 2.5, 60]}) is None
    odd: list[Any] = [
        5,
        [],
        [1, 2],
        [1, 2, 3, 4],
        [1, 2, "3"],
        [1, 2, -1],
        [1, 2, float("nan")],
        [1, 2, 1e99],
        {},
    ]
    for graces in odd:
        assert refusal(operation, {"graces": graces}) == "forbidden", graces


def test_an_upgrade_has_bounded_settings() -> None:
    usual = {"lease_seconds": 300.0, "spool_max_bytes": 2**29, "segment_bytes": 2**26}
    assert refusal("upgrade", usual) is None
    assert refusal("upgrade", {}) is None
    hostile: dict[str, list[Any]] = {
        "lease_seconds": [-1, float("nan"), float("inf"), "300", True, [1], 1e12],
        "spool_max_bytes": [-1, 2**63, "5", 1.5, True],
        "segment_bytes": [1, -1, 2**63, "5", 1e9, True],
    }
    for name, values in hostile.items():
        for value in values:
            assert refusal("upgrade", {**usual, name: value}) == "forbidden", (name, value)


def test_what_reaches_no_path_and_no_process_is_not_looked_at() -> None:
    for operation in ("list", "attach", "read", "forget", "no such"):
        assert BOUNDS.bounded(operation, {"x": 1}) == {"x": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"service_uid": GATEWAY},
        {"service_uid": 0},
        {"service_uid": FIRST},
        {"first_uid": 0},
        {"gateway_uid": FIRST},
    ],
)
def test_a_range_without_room_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="uid"):
        dataclasses.replace(BOUNDS, **change)
