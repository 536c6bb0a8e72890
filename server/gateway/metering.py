"""Counts what each call uses while it passes, and says who has used up their limits."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from server.gateway.budgets import Limits, RateLimits, TeamLimits, Use, uses_of
from server.gateway.configuration import LiveBudgets, LiveElsewhere, LiveForgotten
from server.gateway.elsewhere import Elsewhere
from server.gateway.forgotten import Forgotten
from server.gateway.meter import Meter, Reading, meter_for
from server.gateway.prices import cost_of, price_of
from server.gateway.rates import Rates, TooFast
from server.gateway.settings import GatewayConfigError
from server.gateway.spending import Spending, Spent
from server.gateway.usage_journal import Entry, UsageJournal

if TYPE_CHECKING:
    from server.gateway.calls import Caller
    from server.gateway.choosing import Choice

_log = logging.getLogger(__name__)

# What an upstream or a caller names goes into reports: nothing else than a name may.
_ODD = re.compile(r"[^\w.:@/\[\]-]", re.ASCII)
_MAX_NAME = 200


class Call:
    """One model call while it is under way. ``close`` it once its answer has ended, however it did."""

    def __init__(self, metering: Metering, caller: Caller, choice: Choice) -> None:
        self.user = caller.labels.get("user", "")
        self._metering = metering
        self._caller = caller
        # Reports tell apart what the operator pays for; no provider can be named so.
        self._provider_name = f"{choice.name}:own" if choice.is_own else choice.name
        self._is_free = choice.is_own or choice.provider.kind == "demo"
        self._prices = choice.provider.prices
        self._asked = choice.model
        self._reading = Reading()
        self._meter: Meter | None = None
        self._started = metering.monotonic()
        self._is_closed = False
        metering.opened(self)

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """The answer's status line and headers came; only good answers use anything."""
        if status != 200:
            return
        kind, encoding = headers.get("Content-Type", ""), headers.get("Content-Encoding", "")
        self._meter = meter_for(kind, encoding, self._reading)
        if self._meter is None:
            fields = {"provider": self._provider_name, "content_type": kind[:80], "encoding": encoding[:20]}
            _log.warning("an answer that cannot be metered", extra={"fields": fields})

    def feed(self, chunk: bytes) -> None:
        """The next bytes of the answer."""
        if self._meter is not None:
            self._meter.feed(chunk)

    def close(self) -> None:
        """Write down what was told. Calling it again does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._meter is not None:
            self._meter.close()
        if self._reading.is_unreadable:
            fields = {"provider": self._provider_name, "instance": self._caller.instance}
            _log.warning("usage figures that cannot be read", extra={"fields": fields})
        self._metering.closed(self, self._entry() if self._reading.is_told else None)

    @property
    def so_far(self) -> tuple[int, float]:
        """Tokens and dollars that the wire has told by now."""
        return self._reading.tokens.total, self._cost()[0]

    def _cost(self) -> tuple[float, bool]:
        if self._is_free:
            return 0.0, True
        price = price_of(self._prices, self._reading.model, self._asked)
        return (0.0, False) if price is None else (cost_of(self._reading.tokens, price), True)

    def _entry(self) -> Entry:
        tokens = self._reading.tokens
        usd, is_priced = self._cost()
        return Entry(
            at=round(self._metering.wall(), 6),
            seconds=round(self._metering.monotonic() - self._started, 6),
            instance=self._caller.instance,
            user=self.user,
            session=self._caller.labels.get("session", ""),
            provider=self._provider_name,
            model=_ODD.sub("?", (self._reading.model or self._asked or "?"))[:_MAX_NAME],
            input_tokens=tokens.input,
            output_tokens=tokens.output,
            cache_write_tokens=tokens.cache_write,
            cache_read_tokens=tokens.cache_read,
            usd=usd,
            priced=is_priced,
            complete=self._reading.is_final,
        )


class Metering:
    """The journal, the counters and the calls under way of one gateway. ``close`` it at the end.

    ``wall`` gives seconds since 1970 (it decides which day a call counts
    for), ``monotonic`` measures.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.wall = wall
        self.monotonic = monotonic
        self._budgets = LiveBudgets(data_dir)
        self._names = LiveForgotten(data_dir)
        self._known_names: Forgotten = {}
        self._elsewhere = LiveElsewhere(data_dir)
        self._known_elsewhere: Elsewhere = {}
        self._forgotten = self._names_now()
        self._journal = UsageJournal(data_dir, wall)
        self._spending = Spending(data_dir, self._journal, wall, monotonic, self._names_now)
        self._open: dict[str, set[Call]] = {}
        self._warned: set[tuple[str, str, float]] = set()
        self._rates = Rates(monotonic)
        self._unpriced: set[tuple[str, str]] = set()

    def limits_of(self, user: str) -> Limits:
        """The limits in force. Raises ``GatewayConfigError`` while their file cannot be used."""
        return self._budgets.current().for_user(user)

    def reached(self, user: str, limits: Limits, *, is_own: bool = False) -> Use | TooFast | None:
        """What ``user``, or a team of theirs, has used up, open calls included; None when nothing.

        ``is_own``: with a credential of the user's own, so that no money is
        spent. Of several the one that ends last. Raises ``GatewayConfigError``.
        """
        self._heed_names()
        teams = self._budgets.current().teams_of(user)
        if is_own:
            limits, teams = limits.without_money(), [(name, one.without_money()) for name, one in teams]
        uses: list[Use] = []
        if limits.has_budget:
            uses += uses_of(limits, self._spent(user), self.wall())
        for name, team in teams:
            if team.has_budget:
                uses += uses_of(team, self._spent_by(name, team), self.wall(), name)
        for use in uses:
            if use.is_near:
                self._warn(user, use)
        used_up = max((use for use in uses if use.is_reached), key=lambda use: use.resets_at, default=None)
        return used_up or self._too_fast(user, limits, teams)

    def _names_now(self) -> Forgotten:
        """The names of deleted users; while their file cannot be used, those that it had before."""
        # a file that cannot be used is logged; calls go on, at worst held to what the former user has used
        with suppress(GatewayConfigError):
            self._known_names = self._names.current()
        return self._known_names

    def _heed_names(self) -> None:
        """Begin at zero for each name that is forgotten since this was called before."""
        before, self._forgotten = self._forgotten, self._names_now()
        if self._forgotten is before:
            return
        for user in (name for name, at in self._forgotten.items() if before.get(name) != at):
            self._spending.forget(user)
            self._rates.forget(("user", user))
            self._warned = {warned for warned in self._warned if warned[0] != user}

    def _too_fast(self, user: str, limits: Limits, teams: Sequence[tuple[str, TeamLimits]]) -> TooFast | None:
        keys: list[tuple[tuple[str, str], RateLimits]] = [(("user", user), limits)]
        keys += [(("team", name), team) for name, team in teams]
        found = (self._rates.reached(key, one) for key, one in keys)
        return max((one for one in found if one is not None), key=lambda one: one.seconds, default=None)

    def _count(self, user: str, *, calls: int = 0, tokens: int = 0) -> None:
        """For the rates of the user and the teams."""
        self._rates.count(("user", user), calls=calls, tokens=tokens)
        try:
            teams = self._budgets.current().teams_of(user)
        except GatewayConfigError:
            # The next call is refused for it.
            return
        for name, _team in teams:
            self._rates.count(("team", name), calls=calls, tokens=tokens)

    def _spent_by(self, name: str, team: TeamLimits) -> Spent:
        total = self._used_elsewhere(name)
        for user in dict.fromkeys(team.members):
            one = self._spent(user)
            total = Spent(
                total.tokens_today + one.tokens_today,
                total.usd_today + one.usd_today,
                total.usd_this_month + one.usd_this_month,
            )
        return total

    def _used_elsewhere(self, team: str) -> Spent:
        # a file that cannot be used is logged; the limits then hold for this machine alone
        with suppress(GatewayConfigError):
            self._known_elsewhere = self._elsewhere.current()
        use = self._known_elsewhere.get(team)
        return Spent() if use is None else use.at(self.wall())

    def opened(self, call: Call) -> None:
        """A call begins."""
        self._open.setdefault(call.user, set()).add(call)
        self._count(call.user, calls=1)

    def closed(self, call: Call, entry: Entry | None) -> None:
        """A call ended; ``entry`` None: the wire told nothing."""
        calls = self._open[call.user]
        calls.discard(call)
        if not calls:
            del self._open[call.user]
        if entry is None:
            return
        self._count(entry.user, tokens=entry.tokens)
        self._spending.add(entry)
        self._journal.append(entry)
        place = (entry.provider, entry.model)
        if not entry.priced and place not in self._unpriced:
            self._unpriced.add(place)
            fields = {"provider": entry.provider, "model": entry.model}
            _log.warning("no price for a model: its calls count as free", extra={"fields": fields})

    def close(self) -> None:
        """Sync the journal."""
        self._journal.close()

    def _spent(self, user: str) -> Spent:
        spent = self._spending.of(user)
        for call in self._open.get(user, ()):
            spent = spent.plus(*call.so_far)
        return spent

    def _warn(self, user: str, use: Use) -> None:
        key = (use.team or user, use.name, use.resets_at)
        if key in self._warned:
            return
        # Yesterday's warnings are of no use any more.
        self._warned = {old for old in self._warned if old[2] > self.wall()} | {key}
        fields = {"user": user, "team": use.team, "limit": use.name, "used": use.used, "of": use.limit}
        _log.warning("four fifths of a limit are used", extra={"fields": fields})
