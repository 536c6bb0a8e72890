"""Frame heads, read back by the letter of the RFC."""

from __future__ import annotations

import pytest

from server.ws.wire import text_frames


def read(data: bytes) -> list[bytes]:
    """The payloads of unmasked text frames, read by the letter of RFC 6455."""
    payloads = []
    while data:
        assert data[0] == 0x81
        length, start = data[1], 2
        if length == 126:
            length, start = int.from_bytes(data[2:4]), 4
        elif length == 127:
            length, start = int.from_bytes(data[2:10]), 10
        payloads.append(data[start : start + length])
        data = data[start + length :]
    return payloads


@pytest.mark.parametrize("sizes", [[0], [1, 125, 126, 127], [65535, 65536, 3], [1_000_000]])
def test_every_length_has_its_head(sizes: list[int]) -> None:
    payloads = [b"x" * size for size in sizes]
    assert read(text_frames(payloads)) == payloads
