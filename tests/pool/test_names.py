"""The rule for names that users give."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.errors import InvalidName
from pool.names import check_name


@pytest.mark.parametrize("name", ["a", "7", "alice", "Alice.B-2_x@example.com+tag", "a" * 64, "a.b.c"])
def test_good_names_are_given_back(name: str) -> None:
    assert check_name(name, "user_id") == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".hidden",
        "-flag",
        "--dangerously-skip-permissions",
        "_x",
        "a..b",
        "../../x",
        "a/b",
        "/etc",
        "a\\b",
        "a b",
        "a\n",
        "a\0",
        'a"; id; "',
        "$(id)",
        "a:b",
        "a%2fb",
        "a" * 65,
        "ä",
        "а",  # Cyrillic
        "１",  # a full-width digit
        "a\u202eb",
        None,
        7,
        b"alice",
        ["alice"],
        True,
    ],
    ids=lambda value: repr(value)[:30],
)
def test_bad_names_are_refused_with_the_field(name: Any) -> None:
    with pytest.raises(InvalidName) as caught:
        check_name(name, "session_id")
    assert caught.value.details == {"field": "session_id"}
    assert caught.value.message.startswith("session_id must be")


@given(st.text(max_size=70))
def test_what_passes_is_safe_as_file_name_url_segment_and_argument(text: str) -> None:
    try:
        name = check_name(text, "user_id")
    except InvalidName:
        return
    assert re.fullmatch(r"[A-Za-z0-9_.@+-]+", name, re.ASCII)
    assert name not in (".", "..")
    assert not name.startswith("-")
    assert quote(name, safe="@+") == name
