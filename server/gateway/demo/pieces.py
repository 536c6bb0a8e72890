"""Cutting text into deltas: small enough to be seen streaming, few enough to be quick. Pure."""

from __future__ import annotations

import re

MAX_PIECES = 200
_WORDS = re.compile(r"\S*\s*", re.DOTALL)
_WORDS_IN_A_PIECE = 3
_MAX_BY_WORDS = 100_000


def in_pieces(text: str) -> tuple[str, ...]:
    """Cut ``text`` after every third word, or into equal parts when that would be too many.

    The pieces joined are exactly ``text``; there are at most ``MAX_PIECES``.
    """
    words = _WORDS.findall(text) if len(text) <= _MAX_BY_WORDS else []
    pieces = ["".join(words[i : i + _WORDS_IN_A_PIECE]) for i in range(0, len(words), _WORDS_IN_A_PIECE)]
    if len(pieces) > MAX_PIECES or not words:
        size = -(-len(text) // MAX_PIECES)
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
    return tuple(piece for piece in pieces if piece)
