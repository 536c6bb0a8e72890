"""The machines that a pool's instances run on, as the runtime sees them.

A host that cannot be reached is unknown, not dead: its sessions stay as they
are, nothing of them is started elsewhere, and what runs there goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pool.errors import HostUnavailable, PoolError
from pool.launch.base import InstanceListing, Launcher
from pool.model import InstanceId, UserId
from pool.runtime.launches import Launches
from pool.runtime.placements import Placements
from pool.runtime.slots import Slots
from pool.workspace.host_files import HostFiles

_log = logging.getLogger(__name__)
_RETRY_SECONDS = 10.0


@dataclass(slots=True, eq=False)
class Host:
    """One machine. ``is_here``: it is this one, so that its pids mean something here.

    ``is_back`` is set while its keeper is attached, ``listings`` are what that
    knew when it was reached last; ``was_found``: what an earlier server left
    there was taken over. ``trouble`` is why it is not reached, ``highest_uid``
    owned something there at the first start. Not ``has_given_capacity``: it
    has as many slots as its memory carries, which is known once it is reached.
    """

    name: str
    launcher: Launcher
    files: HostFiles
    slots: Slots
    launches: Launches
    spawn_gate: asyncio.Semaphore
    is_here: bool = True
    is_back: asyncio.Event = field(default_factory=asyncio.Event)
    listings: Mapping[InstanceId, InstanceListing] = field(default_factory=dict)
    was_found: bool = False
    trouble: str = "not reached yet"
    highest_uid: int | None = None
    has_given_capacity: bool = True

    @property
    def is_reached(self) -> bool:
        """Is its keeper attached now?"""
        return self.is_back.is_set()

    def check(self) -> None:
        """Raise ``HostUnavailable`` while it cannot be reached; a keeper of this machine is waited for."""
        if not self.is_here and not self.is_reached:
            raise self.unavailable()

    @staticmethod
    def unavailable() -> HostUnavailable:
        """What its users are told while it cannot be reached; its name is for operators."""
        return HostUnavailable(
            "the machine that holds your files and conversations cannot be reached at the moment; "
            "nothing of them is lost, try again later",
            retry_after_seconds=_RETRY_SECONDS,
        )


class Hosts:
    """All machines of one pool. ``absent`` makes one for a name that is not (or no more) configured."""

    def __init__(self, hosts: Sequence[Host], placements: Placements, absent: Callable[[str], Host]) -> None:
        self._hosts = {host.name: host for host in hosts}
        self._absent: dict[str, Host] = {}
        self._make_absent = absent
        self._placements = placements
        self.first = hosts[0]
        """This machine where it runs instances, else the first of the others."""

    def __iter__(self) -> Iterator[Host]:
        """Those that are configured."""
        return iter(self._hosts.values())

    def __len__(self) -> int:
        return len(self._hosts)

    @property
    def here(self) -> Host | None:
        """This machine, where it runs instances."""
        return next((host for host in self if host.is_here), None)

    @property
    def reached(self) -> list[Host]:
        """Those that are attached now."""
        return [host for host in self if host.is_reached]

    def named(self, name: str) -> Host:
        """The host of this name; one that never is reached when nobody has configured it."""
        found = self._hosts.get(name) or self._absent.get(name)
        if found is None:
            _log.warning("users live on the host %s, which is not configured: they have to wait", name)
            found = self._absent[name] = self._make_absent(name)
        return found

    # --- placement ------------------------------------------------------------------------

    async def load(self) -> None:
        """Learn where users live."""
        await self._placements.load()

    def of(self, user_id: UserId) -> Host:
        """Where the user lives; ``placed`` was asked before."""
        return self.named(self._placements.name_of(user_id) or self.first.name)

    async def placed(self, user_id: UserId, wanted: str | None = None) -> Host:
        """Where the user lives, from now on for good: ``wanted``, where that is known and was not noted.

        Raises ``HostUnavailable``, ``StoreUnavailable``.
        """
        return self.named(await self._placements.placed(user_id, self._hosts.values(), wanted))

    def forget(self, user_id: UserId) -> None:
        """The user is no more."""
        self._placements.forget(user_id)

    def users_on(self, name: str) -> int:
        """How many users live there."""
        return self._placements.count(name)

    def isolation(self) -> tuple[str, str, Sequence[str]]:
        """See ``Launcher``: of this machine; where it runs nothing, of the first host that is reached."""
        host = self.here or next(iter(self.reached), None)
        return host.launcher.describe_isolation() if host is not None else ("unknown", "unknown", ())

    # --- all of them ----------------------------------------------------------------------

    def supervisor_pids(self) -> set[int]:
        """See ``Launcher``: of this machine only."""
        return self.here.launcher.supervisor_pids() if self.here is not None else set()

    async def upgrade(self, *, force: bool) -> Mapping[str, str]:
        """See ``Launcher.upgrade``; of another host the names begin with its own, ``HOST/keeper``.

        One that cannot be reached is ``unreached``, one that refuses has the error's code.
        """
        done: dict[str, str] = {}
        for host in self:
            prefix = "" if host.is_here else f"{host.name}/"
            if host.is_here or host.is_reached:
                told = await _upgraded(host, force=force)
                done |= {f"{prefix}{part}": what for part, what in told.items()}
            else:
                done[f"{prefix}keeper"] = "unreached"
        return done

    async def aclose(self, *, end_instances: bool) -> None:
        """See ``Launcher.aclose``, of every one; what cannot be reached ends by its own lease."""
        work = (host.launcher.aclose(end_instances=end_instances) for host in self)
        for host, outcome in zip(self, await asyncio.gather(*work, return_exceptions=True), strict=True):
            if isinstance(outcome, PoolError):
                _log.warning("the host %s could not be left in order: %s", host.name, outcome.message)
            elif isinstance(outcome, BaseException):
                raise outcome


async def _upgraded(host: Host, *, force: bool) -> Mapping[str, str]:
    try:
        return await host.launcher.upgrade(force=force)
    except PoolError as error:
        if host.is_here:
            raise
        # its operator may not have installed anything yet, and it serves as it is
        _log.warning("the host %s did not go over to the installed code: %s", host.name, error.message)
        return {"keeper": error.code}
