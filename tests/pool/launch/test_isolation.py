"""What ``auto`` becomes, and refusals that name the remedy."""

from __future__ import annotations

import pytest

from pool.errors import IsolationUnavailable
from pool.launch import isolation
from pool.launch.isolation import NOT_ROOT, Probe, Uids, resolve
from pool.launch.way_out import WayOut

FULL = Probe(
    "/usr/bin/bwrap",
    works=True,
    cuts_network=True,
    disables_nesting=True,
    filters_calls=True,
    counts_processes=True,
)
NO_NET = Probe("/usr/bin/bwrap", works=True)
BROKEN = Probe("/usr/bin/bwrap", detail="No permissions to create new namespace")
MISSING = Probe(None)


@pytest.mark.parametrize(
    ("mode", "network", "found", "expected"),
    [
        ("auto", "auto", FULL, ("bwrap", "gateway_only")),
        ("bwrap", "open", FULL, ("bwrap", "open")),
        ("auto", "auto", NO_NET, ("bwrap", "open")),
        ("auto", "auto", BROKEN, ("none", "open")),
        ("auto", "auto", MISSING, ("none", "open")),
        ("none", "auto", FULL, ("none", "open")),
        ("none", "open", FULL, ("none", "open")),
    ],
)
def test_the_strongest_that_works(mode: str, network: str, found: Probe, expected: tuple[str, str]) -> None:
    resolved = resolve(mode, network, found)
    assert (resolved.mode, resolved.network) == expected


@pytest.mark.parametrize(
    ("mode", "network", "found", "words"),
    [
        ("bwrap", "auto", MISSING, "apt-get install bubblewrap"),
        ("bwrap", "auto", BROKEN, "No permissions to create new namespace"),
        ("bwrap", "gateway_only", NO_NET, "network namespaces"),
        ("auto", "gateway_only", MISSING, "apt-get install bubblewrap"),
        ("none", "gateway_only", FULL, "needs mode bwrap"),
        ("uid", "auto", FULL, "uid"),
        ("none", "outbound", FULL, "needs mode bwrap"),
        ("auto", "outbound", MISSING, "apt-get install bubblewrap"),
    ],
)
def test_what_was_asked_for_by_name_and_cannot_be_had_is_refused(
    mode: str, network: str, found: Probe, words: str
) -> None:
    with pytest.raises(IsolationUnavailable, match=words):
        resolve(mode, network, found)


def test_the_remedy_is_told_when_auto_makes_do() -> None:
    assert any("apt-get install bubblewrap" in remedy for remedy in resolve("auto", "auto", MISSING).remedies)
    assert not resolve("none", "auto", FULL).remedies


def works(_bwrap: str, *, to_named_hosts: bool, uid: int | None) -> WayOut:
    return WayOut({"kind": "proxy" if to_named_hosts else "outbound"})


def works_not(_bwrap: str, *, to_named_hosts: bool, uid: int | None) -> WayOut:
    return WayOut({}, "apt-get install slirp4netns")


def test_outbound_is_refused_with_the_remedy_where_it_cannot_be_had() -> None:
    resolved = resolve("auto", "outbound", FULL, find=works)
    assert (resolved.label(), resolved.way_out) == ("bwrap/outbound", WayOut({"kind": "outbound"}))
    with pytest.raises(IsolationUnavailable, match="apt-get install slirp4netns"):
        resolve("auto", "outbound", FULL, find=works_not)


def test_a_template_gets_the_network_that_it_asks_for_where_the_configuration_leaves_it_open() -> None:
    left_open = resolve("auto", "auto", FULL, is_wanted=True, find=works)
    assert (left_open.network_for(None), left_open.network_for("outbound")) == ("gateway_only", "outbound")
    for network in ("gateway_only", "open", "outbound"):
        named = resolve("auto", network, FULL, is_wanted=True, find=works)
        assert {named.network_for(wanted) for wanted in (None, "gateway_only", "outbound")} == {network}
    no_namespaces = resolve("auto", "auto", NO_NET, is_wanted=True, find=works)
    assert no_namespaces.network_for("outbound") == "open"


def test_a_template_that_asks_for_what_cannot_be_had_stops_no_other_and_is_told() -> None:
    resolved = resolve("auto", "auto", FULL, is_wanted=True, find=works_not)
    assert resolved.network == "gateway_only"
    assert any("slirp4netns" in remedy for remedy in resolved.remedies)
    assert not resolve("auto", "auto", FULL, find=works_not).remedies


def test_named_hosts_mean_outbound_and_contradict_any_other_network() -> None:
    resolved = resolve("auto", "auto", FULL, to_named_hosts=True, find=works)
    assert (resolved.network, resolved.way_out) == ("outbound", WayOut({"kind": "proxy"}))
    for network in ("gateway_only", "open"):
        with pytest.raises(IsolationUnavailable, match="egress_allow"):
            resolve("auto", network, FULL, to_named_hosts=True, find=works)
    with pytest.raises(IsolationUnavailable, match="egress_allow"):
        resolve("none", "auto", FULL, to_named_hosts=True, find=works)


def test_the_trial_tells_why_it_failed(tmp_path: object) -> None:
    assert isolation._try("/nonexistent/bwrap") == (
        "[Errno 2] No such file or directory: '/nonexistent/bwrap'"
    )
    assert isolation._try("/bin/false") == "it exited with 1"


def test_a_sandbox_without_a_filter_of_calls_says_so() -> None:
    assert not resolve("auto", "auto", FULL).remedies
    remedies = resolve("auto", "auto", NO_NET).remedies
    assert any("system calls" in remedy for remedy in remedies)
    assert any("processes of a sandbox" in remedy for remedy in remedies)


BLOCKED = Uids("other users cannot pass through /root: chmod o+x /root")
AS_ROOT = Probe("/usr/bin/bwrap", works=True, cuts_network=True, filters_calls=True)


@pytest.mark.parametrize(
    ("mode", "found", "uids", "expected"),
    [
        ("auto", AS_ROOT, Uids(None, FULL), ("bwrap", "gateway_only", True)),
        ("bwrap", AS_ROOT, Uids(None, FULL), ("bwrap", "gateway_only", True)),
        ("auto", AS_ROOT, Uids(None, BROKEN), ("bwrap", "gateway_only", False)),
        ("auto", AS_ROOT, BLOCKED, ("bwrap", "gateway_only", False)),
        ("auto", MISSING, Uids(None, MISSING), ("uid", "open", True)),
        ("auto", MISSING, BLOCKED, ("none", "open", False)),
        ("uid", AS_ROOT, Uids(None, FULL), ("uid", "open", True)),
        ("none", AS_ROOT, Uids(None, FULL), ("none", "open", False)),
    ],
)
def test_root_gives_each_user_a_uid_where_that_works(
    mode: str, found: Probe, uids: Uids, expected: tuple[str, str, bool]
) -> None:
    resolved = resolve(mode, "auto", found, uids)
    assert (resolved.mode, resolved.network, resolved.has_uids) == expected
    assert resolved.count_processes is resolved.has_uids


def test_what_keeps_users_from_having_uids_is_told_to_root_only() -> None:
    for found in (AS_ROOT, MISSING):
        assert any("chmod o+x /root" in remedy for remedy in resolve("auto", "auto", found, BLOCKED).remedies)
    remedies = resolve("auto", "auto", AS_ROOT, Uids(None, BROKEN)).remedies
    assert any("runs as root" in one and "No permissions to create new namespace" in one for one in remedies)
    assert not resolve("auto", "auto", FULL, Uids(NOT_ROOT)).remedies
    assert not resolve("auto", "auto", AS_ROOT, Uids(None, FULL)).remedies


@pytest.mark.parametrize("uids", [BLOCKED, Uids(NOT_ROOT)])
def test_mode_uid_that_cannot_be_had_is_refused_with_the_reason(uids: Uids) -> None:
    with pytest.raises(IsolationUnavailable, match=r"'uid' is not available.*(chmod|root)"):
        resolve("uid", "auto", FULL, uids)
    with pytest.raises(IsolationUnavailable, match="needs mode bwrap"):
        resolve("uid", "gateway_only", FULL, Uids(None, FULL))
