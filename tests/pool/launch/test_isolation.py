"""What ``auto`` becomes, and refusals that name the remedy."""

from __future__ import annotations

import pytest

from pool.errors import IsolationUnavailable
from pool.launch import isolation
from pool.launch.isolation import Probe, resolve

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
        ("auto", "outbound", FULL, "outbound"),
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
