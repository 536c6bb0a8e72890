"""Who asks for something, and from where: known for as long as the asking lasts.

Set at the edge (a request, a command of a socket, a command line), read where
a fact is written into the audit log. It is no right: nothing is decided by it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

MAX_AGENT_CHARACTERS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """``actor`` is a user's name, or a word that begins with ``@`` and so can be none.

    ``channel`` is how they speak to us: ``rest``, ``websocket``, ``command``
    or ``python``; ``agent`` what their program calls itself, shortened.
    """

    actor: str
    channel: str
    address: str | None = None
    agent: str | None = None


SERVER = Caller(actor="@server", channel="server")
"""What nobody asked for: the server's own deeds."""

_PROGRAM = Caller(actor="@program", channel="python")
_current: ContextVar[Caller] = ContextVar("caller", default=_PROGRAM)


def current_caller() -> Caller:
    """Who asks now; a program that uses the pool directly when nobody was named."""
    return _current.get()


@contextlib.contextmanager
def calling(caller: Caller) -> Iterator[None]:
    """What happens inside is asked for by ``caller``; tasks that are begun inside inherit it."""
    token = _current.set(caller)
    try:
        yield
    finally:
        _current.reset(token)


def shortened(agent: str | None) -> str | None:
    """What a program calls itself, in at most ``MAX_AGENT_CHARACTERS`` of printable ASCII."""
    if not agent:
        return None
    return "".join(c if " " <= c <= "~" else "?" for c in agent[:MAX_AGENT_CHARACTERS])
