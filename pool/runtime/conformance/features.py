"""What the runtime may count on with the CLI in use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Features:
    """Undocumented abilities of the CLI that the runtime can do without, one by one.

    All are taken for given until the check has shown otherwise: so they were
    found in the CLI that this version was made with. Every fallback is safe,
    only coarser, with a CLI that has the ability after all.

    ``lifecycle``: ``command_lifecycle`` tells a turn's start and, after its
    result, its end; else the turn ends with its ``result``.
    ``session_state``: ``session_state_changed`` tells when the CLI is idle;
    else a result says so.
    ``pending_asks``: a second ``initialize`` lists the open asks; else those
    that are stored as open are trusted.
    ``repeats_ignored``: a message's uuid runs once, however often it is
    written; else nothing is written again and such a turn is lost.
    ``literal``: ``client_composed`` makes text be only text; else a message
    that asks for it is refused.
    ``tool_limits``: the CLI runs its tools' commands by the program that it is
    told; else they have no limits of file size and processor time.
    """

    lifecycle: bool = True
    session_state: bool = True
    pending_asks: bool = True
    repeats_ignored: bool = True
    literal: bool = True
    tool_limits: bool = True
