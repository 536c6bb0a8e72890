"""The heads of unmasked, uncompressed, unfragmented text frames (RFC 6455), made by hand.

aiohttp writes one frame at a time; here all that is ready goes out in one
write. Its own pings, pongs and closes are whole writes too, so nothing can
come to lie inside a frame.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

_TEXT = 0x81
_SHORT = struct.Struct("!BB").pack
_MEDIUM = struct.Struct("!BBH").pack
_LONG = struct.Struct("!BBQ").pack


def text_frames(payloads: Iterable[bytes]) -> bytes:
    """Each payload as a text frame, one after the other."""
    parts: list[bytes] = []
    for payload in payloads:
        length = len(payload)
        if length < 126:
            parts.append(_SHORT(_TEXT, length))
        elif length < 65536:
            parts.append(_MEDIUM(_TEXT, 126, length))
        else:
            parts.append(_LONG(_TEXT, 127, length))
        parts.append(payload)
    return b"".join(parts)
