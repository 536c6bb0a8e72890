"""On which host a new user lives."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLoad:
    """A host at the moment of the decision. ``instances``: those that live or are waited for."""

    name: str
    instances: int
    users: int
    capacity: int
    is_reached: bool


def choose_host(hosts: Iterable[HostLoad]) -> str | None:
    """The least loaded host, relative to its capacity, that can be reached; None when there is none.

    A user stays for good and most of them rest at any moment: of hosts with
    equally many instances the one with fewer users is taken, then the first by name.
    """
    able = [host for host in hosts if host.is_reached and host.capacity > 0]
    if not able:
        return None
    return min(
        able, key=lambda host: (host.instances / host.capacity, host.users / host.capacity, host.name)
    ).name
