"""What the demo model can answer with: blocks at a pace, or a failure. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Text:
    """A text block; ``pieces`` are its deltas, in order."""

    pieces: tuple[str, ...]

    @property
    def text(self) -> str:
        """The whole block."""
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True)
class Thinking:
    """A thinking block; ``pieces`` are its deltas, in order."""

    pieces: tuple[str, ...]

    @property
    def text(self) -> str:
        """The whole block."""
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A wish to use the tool ``name``."""

    name: str
    input: Mapping[str, Any]


Block = Text | Thinking | ToolUse


@dataclass(frozen=True, slots=True)
class Reply:
    """A good answer. ``pause_seconds`` lies before every delta; ``stop_reason`` is the API's word."""

    blocks: tuple[Block, ...]
    stop_reason: str = "end_turn"
    pause_seconds: float = 0.005


@dataclass(frozen=True, slots=True)
class Failure:
    """An HTTP error; ``kind`` is the API's error type, ``retry_after`` in seconds."""

    status: int
    kind: str
    message: str
    retry_after: int | None = None


Answer = Reply | Failure
