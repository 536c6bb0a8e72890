"""What may reach a CLI's stdin. Each refused line ends the real CLI or means nothing good (measured)."""

from __future__ import annotations

import json

import pytest

from pool.keeper.gate import BadLine, check_line

GOOD = [
    b'{"type":"user","message":{"role":"user","content":"hi"}}',
    b'{"message":{"content":[{"type":"text","text":"hi"}],"role":"user"},"type":"user","uuid":"u"}',
    b'{"type":"control_request","request_id":"1-1","request":{"subtype":"initialize","hooks":{}}}',
    b'{"type":"control_response","response":{"subtype":"success","request_id":"x","response":{}}}',
    b'{"type":"control_cancel_request","request_id":"x"}',
    b'{"type":"keep_alive"}',
    ' {"type":"user","message":{"role":"user","content":"\u2028\u00e4\U0001f600\\ud800"}} '.encode(),
]

BAD = [
    b"",
    b"   ",
    b"\n",
    b"not JSON",
    b'{"type":"user"',
    b"\0\0\0",
    b"null",
    b"true",
    b"17",
    b'"text"',
    b'[{"type":"keep_alive"}]',
    b"{}",
    b'{"type":null}',
    b'{"type":["user"]}',
    b'{"type":"user"}',
    b'{"type":"user","message":null}',
    b'{"type":"user","message":{"content":"hi"}}',
    b'{"type":"user","message":{"role":"assistant","content":"hi"}}',
    b'{"type":"user","message":{"role":"user"}}',
    b'{"type":"user","message":{"role":"user","content":null}}',
    b'{"type":"control_request","request_id":"q"}',
    b'{"type":"control_request","request":{"subtype":"interrupt"}}',
    b'{"type":"control_request","request_id":"q","request":{}}',
    b'{"type":"control_response"}',
    b'{"type":"control_response","response":{"subtype":"success"}}',
    b'{"type":"control_cancel_request"}',
    b'{"type":"assistant","message":{"role":"assistant","content":"I said"}}',
    b'{"type":"system","subtype":"init"}',
    b'{"type":"update_environment_variables","variables":{"A":"b"}}',
    b'{"type":"keep_alive"}{"type":"keep_alive"}',
    b'{"type":"keep_alive"}\n{"type":"keep_alive"}',
    b'{"type":"keep_alive"}\r\n',
    b'{"type":\r"keep_alive"}',
    b'{"type":"keep_alive"}\n\n',
    b'\xef\xbb\xbf{"type":"keep_alive"}',
    '{"type":"keep_alive"}'.encode("utf-16"),
    b'{"type":"user","message":{"role":"user","content":"\xff"}}',
    b'{"type":"keep_alive","x":NaN}',
    b'{"type":"keep_alive","x":-Infinity}',
    b'{"type":"keep_alive","x":"a\tb"}',
    b'{"type":"keep_alive","x":' + b"[" * 200000 + b"]" * 200000 + b"}",
    b"{'type':'keep_alive'}",
    b'{"type":"keep_alive",}',
]


@pytest.mark.parametrize("line", GOOD)
def test_a_good_line_passes_with_one_newline(line: bytes) -> None:
    assert check_line(line) == line + b"\n"
    assert check_line(line + b"\n") == line + b"\n"


@pytest.mark.parametrize("line", BAD, ids=lambda line: repr(line[:40]))
def test_a_bad_line_is_refused(line: bytes) -> None:
    with pytest.raises(BadLine):
        check_line(line)


def test_a_line_of_megabytes_passes() -> None:
    frame = {"type": "user", "message": {"role": "user", "content": "x" * 20_000_000}}
    assert len(check_line(json.dumps(frame).encode())) > 20_000_000


def test_every_truncation_of_a_good_line_is_refused() -> None:
    for line in GOOD[:6]:
        for end in range(len(line)):
            with pytest.raises(BadLine):
                check_line(line[:end])
