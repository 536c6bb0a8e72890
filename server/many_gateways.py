"""The gateways of several machines as one: each user's keys and limits are where the user lives.

Each machine's gateway counts and limits the calls of its own users, exactly
and also while no server is there. Their journals all come into one database:
a file of another host is known there as ``HOST/FILE``, so the name of a host
is for good. A host that cannot be reached is asked later.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pool.errors import HostUnavailable, KeeperUnavailable, NotFound, PoolError
from server.gateway.usage_journal import Entry
from server.gateway_files import AT_ONCE, GatewayFiles, Stretch
from server.host_gateway import NOT_REACHED, HostGatewayFiles

_log = logging.getLogger(__name__)

_BETWEEN = "/"
# an answer that does not come is waited for once in so long
_PAUSE_SECONDS = 15.0
_LONG_SECONDS = 1.0
_RETRY_SECONDS = 10.0


class ManyGateways(GatewayFiles):
    """See ``GatewayFiles``. ``here`` are this machine's, ``others`` those of the hosts over SSH.

    ``where`` tells on which host a user lives: ``local``, one of ``others``, None for who lives nowhere
    yet. ``runs_here``: does this machine run instances too?
    """

    def __init__(
        self,
        here: GatewayFiles,
        others: Iterable[HostGatewayFiles],
        where: Callable[[str], str | None],
        *,
        local: str,
        runs_here: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(Path("/nonexistent"))
        self._here = here
        self._others = {one.name: one for one in others}
        self._where = where
        self._local = local
        self._runs_here = runs_here
        self._lived: dict[str, str] = {}
        self._monotonic = monotonic
        self._silent: set[str] = set()
        self._not_before: dict[str, float] = {}

    def settle(self) -> None:
        """See ``GatewayFiles``."""
        self._here.settle()

    def describe(self) -> dict[str, Any]:
        """See ``GatewayFiles``: of this machine, or of the first host where it runs nothing.

        All are in ``hosts``.
        """
        each = {name: files.describe() for name, files in self._others.items()}
        if self._runs_here or not each:
            each = {self._local: self._here.describe(), **each}
        return {**next(iter(each.values())), "hosts": each}

    def describe_to(self, user_id: str) -> dict[str, Any]:
        """See ``GatewayFiles``. Who lives nowhere yet is told what most probably will."""
        if self._where(user_id) is None:
            return {name: value for name, value in self.describe().items() if name != "hosts"}
        try:
            return self._of(user_id).describe()
        except KeeperUnavailable:
            return dict(NOT_REACHED)

    @property
    def hosts(self) -> list[str]:
        """The names of all machines, this one first."""
        return [self._local, *self._others]

    def home_of(self, user_id: str) -> str | None:
        """On which of them a user lives, None for who lives nowhere yet."""
        return self._where(user_id)

    def put_team_use_on(self, host: str, teams: Mapping[str, Any]) -> bool:
        """See ``put_team_use``, of one machine; False for one that cannot be reached now."""
        files = self._here if host == self._local else self._others[host]
        try:
            files.put_team_use(teams)
        except (PoolError, OSError) as error:
            _log.info("host %s is told later what teams used elsewhere: %s", host, error)
            return False
        return True

    def bear_in_mind(self, user_id: str) -> None:
        """See ``GatewayFiles``."""
        name = self._where(user_id)
        if name is not None:
            self._lived[user_id] = name
            # what it has of them is to be taken in first
            self._not_before.pop(name, None)

    # --- of one user ----------------------------------------------------------------------

    def own_keys_of(self, user_id: str) -> dict[str, bool]:
        """See ``GatewayFiles``. Who lives nowhere yet may get any host's providers, and has no key."""
        if self._where(user_id) is not None:
            with _reaching():
                return self._of(user_id).own_keys_of(user_id)
        offered: dict[str, bool] = {}
        for name, found in self._of_each(lambda files: files.own_keys_of(user_id)):
            # here may be one from before there were other hosts
            new = {provider: name == self._local and has for provider, has in found.items()}
            offered = {**new, **offered}
        return dict(sorted(offered.items()))

    def put_own_key(self, user_id: str, provider: str, key: str) -> None:
        """See ``GatewayFiles``: on the user's host only."""
        with _reaching():
            self._of(user_id).put_own_key(user_id, provider, key)

    def remove_own_key(self, user_id: str, provider: str | None) -> bool:
        """See ``GatewayFiles``; also one from before there were other hosts."""
        was_here = self._here.remove_own_key(user_id, provider)
        with _reaching():
            files = self._of(user_id)
            return was_here if files is self._here else files.remove_own_key(user_id, provider) or was_here

    def forget_user(self, user_id: str, at: float) -> None:
        """See ``GatewayFiles``. No other host than the user's, and this one before, has counted for them.

        Raises ``HostUnavailable`` while the user's host cannot be reached: until it has forgotten,
        nobody else may get the name.
        """
        self._here.forget_user(user_id, at)
        with _reaching():
            files = self._of(user_id)
            if files is not self._here:
                files.forget_user(user_id, at)

    def _of(self, user_id: str) -> GatewayFiles:
        name = self._where(user_id) or self._lived.get(user_id) or self._local
        if name == self._local:
            return self._here
        found = self._others.get(name)
        if found is None:
            raise HostUnavailable(f"the host {name} is not configured any more")
        return found

    # --- the journals ---------------------------------------------------------------------

    def grown(self, offsets: Mapping[str, int], about_bytes: int = AT_ONCE) -> list[Stretch]:
        """See ``GatewayFiles``; of the hosts that can be reached now, of each one."""
        found: list[Stretch] = []
        for name, stretches in self._of_each(lambda files: files.grown(self._of_host(files, offsets))):
            found += [self._named(name, stretch) for stretch in stretches]
        return found

    def finished(self, offsets: Mapping[str, int], before: float) -> list[str]:
        """See ``GatewayFiles``; of the hosts that can be reached now."""
        found: list[str] = []
        for name, files in self._of_each(lambda files: files.finished(self._of_host(files, offsets), before)):
            found += [self._full(name, file) for file in files]
        return found

    def remove_journal(self, file: str) -> None:
        """See ``GatewayFiles``."""
        name, between, rest = file.partition(_BETWEEN)
        if not between:
            self._here.remove_journal(file)
        elif name in self._others:
            self._others[name].remove_journal(rest)
        else:
            raise NotFound(f"there is no host {name}")

    def _of_host(self, files: GatewayFiles, offsets: Mapping[str, int]) -> dict[str, int]:
        if not isinstance(files, HostGatewayFiles):
            return {file: offset for file, offset in offsets.items() if _BETWEEN not in file}
        start = f"{files.name}{_BETWEEN}"
        return {
            file.removeprefix(start): offset for file, offset in offsets.items() if file.startswith(start)
        }

    def _full(self, name: str, file: str) -> str:
        return file if name == self._local else f"{name}{_BETWEEN}{file}"

    def _named(self, name: str, stretch: Stretch) -> Stretch:
        if name == self._local:
            return stretch
        own = [entry for entry in stretch.entries if self._may_tell_of(name, entry)]
        if len(own) < len(stretch.entries):
            _log.error("host %s tells of users that live elsewhere: left out", name)
        return Stretch(self._full(name, stretch.file), stretch.start, stretch.end, own)

    def _may_tell_of(self, name: str, entry: Entry) -> bool:
        # who was deleted a moment ago lives nowhere any more
        return self._where(entry.user) in (name, None)

    def _of_each(self, ask: Callable[[GatewayFiles], Any]) -> Iterator[tuple[str, Any]]:
        """What each host gives that can be reached now; one that lets us wait is let alone for a while."""
        yield self._local, ask(self._here)
        for name, files in self._others.items():
            began = self._monotonic()
            if began < self._not_before.get(name, 0.0):
                continue
            try:
                found = ask(files)
            except (PoolError, OSError) as error:
                if name not in self._silent:
                    self._silent.add(name)
                    _log.warning("the gateway of host %s is asked later: %s", name, error)
                if self._monotonic() - began > _LONG_SECONDS:
                    self._not_before[name] = self._monotonic() + _PAUSE_SECONDS
                continue
            self._silent.discard(name)
            yield name, found


@contextlib.contextmanager
def _reaching() -> Iterator[None]:
    """What is in the way is said in words for the user, who knows of no hosts."""
    try:
        yield
    except KeeperUnavailable as error:
        _log.warning("a user's keys cannot be reached: %s", error.message)
        raise HostUnavailable(
            "the machine that holds these keys cannot be reached at the moment; try again later",
            retry_after_seconds=_RETRY_SECONDS,
        ) from error


class Greeting:
    """What a host is told and asked at the beginning of every connection, before anything is started there.

    ``limits`` are those of ``server.pool_settings.limits_of``.
    """

    def __init__(self, files: Sequence[HostGatewayFiles], limits: Mapping[str, Any]) -> None:
        self._files = {one.name: one for one in files}
        self._limits = limits

    async def __call__(self, name: str, ask: Callable[..., Any]) -> None:
        """``ask(verb, **arguments)`` is awaited. Raises what the host raises: it is not used then."""
        await ask("put_limits", **self._limits)
        self._files[name].put_description(await ask("describe"))
