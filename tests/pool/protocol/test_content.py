"""What clients may send as a message."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.errors import BadRequest
from pool.protocol.connection import user_message
from pool.protocol.content import MAX_BLOCKS, check_content
from pool.protocol.input_gate import check_input_line

DATA = base64.b64encode(b"\x89PNG not really").decode()
TEXT = {"type": "text", "text": "look"}


def image(**source: Any) -> dict[str, Any]:
    return {"type": "image", "source": source}


def document(**source: Any) -> dict[str, Any]:
    return {"type": "document", "source": source}


@pytest.mark.parametrize(
    "value",
    [
        "hello",
        " /compact ",
        [TEXT],
        [TEXT, image(type="base64", media_type="image/png", data=DATA)],
        [image(type="url", url="https://example.com/a.png")],
        [document(type="base64", media_type="application/pdf", data=DATA)],
        [{**document(type="text", media_type="text/plain", data="notes"), "title": "t", "context": "c"}],
        [{**TEXT, "cache_control": {"type": "ephemeral"}}],
        [TEXT] * MAX_BLOCKS,
    ],
    ids=lambda value: repr(value)[:40],
)
def test_good_content_is_given_back_as_it_is(value: Any) -> None:
    assert check_content(value) == value


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (None, "content"),
        (7, "content"),
        ({}, "content"),
        ("", "content"),
        (" \n\t ", "content"),
        ([], "content"),
        ([TEXT] * (MAX_BLOCKS + 1), "content"),
        ([None], "content[0]"),
        (["hi"], "content[0]"),
        ([{"type": "tool_result", "tool_use_id": "x"}], "content[0]"),
        ([{"type": ["text"], "text": "a"}], "content[0]"),
        ([TEXT, {"type": "text"}], "content[1].text"),
        ([{"type": "text", "text": " "}], "content[0].text"),
        ([{"type": "text", "text": "a", "role": "system"}], "content[0]"),
        ([{"type": "text", "text": "a", "cache_control": "yes"}], "content[0].cache_control"),
        ([{"type": "image"}], "content[0].source"),
        ([image(type="file", file_id="f")], "content[0].source"),
        ([image(type=["base64"])], "content[0].source"),
        ([image(type="base64", media_type="image/svg+xml", data=DATA)], "content[0].source.media_type"),
        ([image(type="base64", media_type=["image/png"], data=DATA)], "content[0].source.media_type"),
        ([image(type="base64", media_type="image/png", data="")], "content[0].source.data"),
        ([image(type="base64", media_type="image/png", data="not base64!")], "content[0].source.data"),
        ([image(type="base64", media_type="image/png", data="ünicode")], "content[0].source.data"),
        ([image(type="url", url="file:///etc/passwd")], "content[0].source.url"),
        ([image(type="url", url="http://169.254.169.254/")], "content[0].source.url"),
        ([document(type="base64", media_type="text/html", data=DATA)], "content[0].source.media_type"),
        ([document(type="text", media_type="text/plain", data="")], "content[0].source.data"),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_bad_content_is_refused_by_the_name_of_its_place(value: Any, field: str) -> None:
    with pytest.raises(BadRequest) as caught:
        check_content(value)
    assert caught.value.details["field"] == field
    assert caught.value.message.startswith(field)


def test_half_an_emoji_becomes_a_replacement_character() -> None:
    assert check_content("cut \ud83d") == "cut \ufffd"
    assert check_content("whole \ud83d\ude00") == "whole \U0001f600"
    assert check_content([{"type": "text", "text": "\udc00"}]) == [{"type": "text", "text": "\ufffd"}]


@given(st.text(alphabet=st.characters(), min_size=1) | st.lists(st.dictionaries(st.text(), st.text())))
def test_what_passes_can_be_written_and_stored(value: Any) -> None:
    try:
        content = check_content(value)
    except BadRequest:
        return
    line = user_message("u", content)
    line.decode("utf-8")
    assert check_input_line(line)["message"]["content"] == content
