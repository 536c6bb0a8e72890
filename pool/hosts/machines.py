"""What a server must know of its pool's machines, beside what the pool does on them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from pool.hosts.conversation import HostClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """``clients`` speak with the other hosts, by name; ``runs_here``: does this machine run instances too?

    ``home_of`` tells on which host a user lives (``local``: this machine), None for who lives nowhere yet.
    ``place`` is awaited and decides it for good, if it is not decided; it raises ``HostUnavailable`` while
    no host can take the user.
    """

    clients: Mapping[str, HostClient]
    runs_here: bool
    home_of: Callable[[str], str | None]
    place: Callable[[str], Awaitable[object]]
