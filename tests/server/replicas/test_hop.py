"""Who may say for whom a request comes: who has the key, for this request and this ownership only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.auth.hop import Hop, HopKey

KEY = HopKey("a secret of all replicas")
HOP = Hop(3, "10.1.2.3", is_https=True, is_hearsay=True)
TARGET = "/api/v1/sessions?x=%2F"


@pytest.mark.parametrize(
    "hop", [HOP, Hop(1, "2001:db8::1"), Hop(9, "unknown", is_by_proxy=True), Hop(2, "a b")]
)
def test_what_was_said_is_read(hop: Hop) -> None:
    assert KEY.read(KEY.header(hop, "GET", TARGET), "GET", TARGET) == hop


@pytest.mark.parametrize(
    ("method", "target"), [("POST", TARGET), ("GET", "/api/v1/sessions?x=/"), ("GET", "/other")]
)
def test_a_proof_is_of_one_request(method: str, target: str) -> None:
    assert KEY.read(KEY.header(HOP, "GET", TARGET), method, target) is None


def test_another_secret_proves_nothing() -> None:
    assert HopKey("another").read(KEY.header(HOP, "GET", TARGET), "GET", TARGET) is None


def test_the_secret_itself_cannot_be_told_from_the_header() -> None:
    assert "secret" not in KEY.header(HOP, "GET", TARGET)


@given(st.text(max_size=200))
def test_whatever_else_is_sent_is_no_proof(header: str) -> None:
    assert KEY.read(header, "GET", TARGET) is None


@given(st.integers(0, 200), st.characters(min_codepoint=33, max_codepoint=126))
def test_a_header_that_was_changed_is_none(place: int, character: str) -> None:
    header = KEY.header(HOP, "GET", TARGET)
    place %= len(header)
    changed = header[:place] + character + header[place + 1 :]
    assert KEY.read(changed, "GET", TARGET) == (HOP if changed == header else None)
