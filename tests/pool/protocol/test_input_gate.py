"""The gate before the CLI's stdin, ours and the keeper's: one rule."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.errors import BadRequest
from pool.keeper.gate import BadLine, check_line
from pool.protocol.input_gate import check_input_line
from tests.pool.protocol.input_corpus import INPUT_CORPUS

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
nearly_valid = st.fixed_dictionaries(
    {"type": st.sampled_from(["user", "control_request", "control_response", "keep_alive", "x"])},
    optional={
        "message": st.fixed_dictionaries(
            {}, optional={"role": st.sampled_from(["user", "x"]), "content": json_values}
        ),
        "request_id": json_values,
        "request": st.fixed_dictionaries({}, optional={"subtype": json_values}),
        "response": st.fixed_dictionaries({}, optional={"subtype": json_values, "request_id": json_values}),
    },
)


def accepts(line: bytes) -> bool:
    try:
        check_input_line(line)
    except BadRequest:
        return False
    return True


def keeper_accepts(line: bytes) -> bool:
    try:
        check_line(line)
    except BadLine:
        return False
    return True


@pytest.mark.parametrize(("line", "accepted"), INPUT_CORPUS, ids=lambda value: repr(value)[:60])
def test_the_corpus_is_judged_alike_by_both_gates(line: bytes, accepted: bool) -> None:
    assert accepts(line) is accepted
    assert keeper_accepts(line) is accepted


def test_an_accepted_line_is_given_back_parsed() -> None:
    assert check_input_line(b'{"type":"keep_alive"}\n') == {"type": "keep_alive"}


@given(st.binary(max_size=60))
def test_any_bytes_are_judged_without_surprise(line: bytes) -> None:
    assert accepts(line) is keeper_accepts(line)


@given(nearly_valid)
def test_both_gates_agree_on_what_is_nearly_valid(value: object) -> None:
    line = json.dumps(value).encode()
    assert accepts(line) is keeper_accepts(line)


@given(nearly_valid)
def test_what_passes_cannot_be_read_as_two_lines(value: object) -> None:
    line = json.dumps(value).encode()
    if accepts(line):
        assert line.splitlines() == [line]
