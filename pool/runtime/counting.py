"""Everything that one pool counts, by name. ``docs/metrics.md`` says what each is good for."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from pool.errors import Refused, StoreUnavailable
from pool.model import TurnState
from pool.runtime.counters import (
    LONG_SECONDS,
    SHORT_SECONDS,
    TURN_SECONDS,
    Count,
    Histogram,
    Metric,
)

_OUTCOMES = [state.value for state in TurnState if state.is_terminal]
_REFUSALS = ("draining", "pool_full", "queue_full", "quota_exceeded", "rate_limited", "store_unavailable")


@dataclass
class Counters:
    """One for each pool. Gauges are not kept: they are looked up when somebody asks."""

    spawn: Histogram = field(
        default_factory=lambda: Histogram(
            "claude_pool_spawn_seconds",
            "From having a slot to a CLI that answers (ready) or to a failure (its error code).",
            LONG_SECONDS,
            ("outcome",),
        )
    )
    spawn_step: Histogram = field(
        default_factory=lambda: Histogram(
            "claude_pool_spawn_step_seconds",
            "One step of getting an instance: slot (waiting in line), gate, workspace, process, handshake; "
            "done or failed.",
            LONG_SECONDS,
            ("step", "outcome"),
        )
    )
    rejected: Count = field(
        default_factory=lambda: Count(
            "claude_pool_rejected_total",
            "Requests that the pool refused, by error code.",
            ("reason",),
            known=_REFUSALS,
        )
    )
    turns: Count = field(
        default_factory=lambda: Count(
            "claude_pool_turns_total",
            "Turns that ended, by outcome and by who began them (user or cli).",
            ("outcome", "origin"),
            known=[(outcome, "user") for outcome in _OUTCOMES],
        )
    )
    turn: Histogram = field(
        default_factory=lambda: Histogram(
            "claude_pool_turn_seconds",
            "From handing a turn to the CLI to the turn's end, by outcome.",
            TURN_SECONDS,
            ("outcome",),
        )
    )
    first_token: Histogram = field(
        default_factory=lambda: Histogram(
            "claude_pool_first_token_seconds",
            "From handing a turn to the CLI to its first token delta.",
            (0.025, *LONG_SECONDS),
        )
    )
    stop: Histogram = field(
        default_factory=lambda: Histogram(
            "claude_pool_stop_seconds",
            "From the stop of an instance to the end of its whole tree, by the rung that ended it "
            "(end_of_input, term, kill, or stuck).",
            LONG_SECONDS,
            ("how",),
        )
    )
    kills: Count = field(
        default_factory=lambda: Count(
            "claude_pool_kills_total",
            "Rungs of the ladder that were climbed to end an instance.",
            ("stage",),
            known=("interrupt", "end_of_input", "term", "kill", "stuck"),
        )
    )
    exits: Count = field(
        default_factory=lambda: Count(
            "claude_pool_instance_exits_total",
            "Instances that ended: stopped (on purpose), crashed, or lost with their keeper.",
            ("cause",),
            known=("stopped", "crashed", "keeper_lost"),
        )
    )
    limit_ends: Count = field(
        default_factory=lambda: Count(
            "claude_pool_limit_ends_total",
            "Instances that were ended because they took more than they may, by reason.",
            ("reason",),
            known=("out_of_memory", "too_many_processes", "quota_exceeded"),
        )
    )
    adoptions: Count = field(
        default_factory=lambda: Count(
            "claude_pool_adoptions_total",
            "Instances of an earlier server: taken_over, ended (meanwhile), gone (nobody knows it), "
            "failed (could not be taken over and is stopped).",
            ("result",),
            known=("taken_over", "ended", "gone", "failed"),
        )
    )
    orphans: Count = field(
        default_factory=lambda: Count(
            "claude_pool_orphans_found_total",
            "Live instances that no session knew of, found at the start and ended.",
        )
    )
    reconcile: Histogram = field(
        default_factory=lambda: Histogram(
            "claude_pool_reconcile_seconds",
            "The start's comparison of rows and running instances, until all were taken over or ended.",
            LONG_SECONDS,
        )
    )
    commit: Histogram = field(
        default_factory=lambda: Histogram(
            "claude_pool_commit_seconds",
            "Storing one batch of a session's log, waiting in line included.",
            SHORT_SECONDS,
        )
    )
    commits: Count = field(
        default_factory=lambda: Count(
            "claude_pool_commits_total",
            "Batches of a session's log: stored or failed (tried again).",
            ("result",),
            known=("stored", "failed"),
        )
    )
    events: Count = field(
        default_factory=lambda: Count(
            "claude_pool_events_total",
            "Events: delta (token deltas), frame (the CLI's other frames), own (what the server adds).",
            ("kind",),
            known=("delta", "frame", "own"),
        )
    )
    viewer_lagging: Count = field(
        default_factory=lambda: Count(
            "claude_pool_viewer_lagging_total", "Times that a viewer's backlog went above its budget."
        )
    )
    ring_dropped: Count = field(
        default_factory=lambda: Count(
            "claude_pool_ring_dropped_total",
            "Frames that left memory for newer ones: who has not got them reads them from the log.",
        )
    )
    gaps: Count = field(
        default_factory=lambda: Count("claude_pool_gaps_total", "Gaps that viewers were told of.")
    )
    spoilt_rows: Count = field(
        default_factory=lambda: Count(
            "claude_pool_spoilt_rows_total",
            "Rows of the database that could not be read, each counted once, by table.",
            ("table",),
            known=("sessions", "instances", "turns", "permissions"),
        )
    )
    keeper_restarts: Count = field(
        default_factory=lambda: Count(
            "claude_pool_keeper_restarts_total", "Keepers that were started anew because one had died."
        )
    )
    wedged: Count = field(
        default_factory=lambda: Count(
            "claude_pool_instances_wedged_total", "Instances that lived but did not answer, and were ended."
        )
    )
    unloaded: Count = field(
        default_factory=lambda: Count(
            "claude_pool_sessions_unloaded_total", "Sessions that left memory because nobody needed them."
        )
    )
    permission_asks: Count = field(
        default_factory=lambda: Count(
            "claude_pool_permission_asks_total", "Approvals that the CLI asked for."
        )
    )
    permission_answers: Count = field(
        default_factory=lambda: Count(
            "claude_pool_permission_answers_total",
            "Approvals that were closed: allow, deny, or withdrawn (nobody answered).",
            ("decision",),
            known=("allow", "deny", "withdrawn"),
        )
    )
    tool_calls_denied: Count = field(
        default_factory=lambda: Count(
            "claude_pool_tool_calls_denied_total", "Tool calls that a rule of the configuration forbade."
        )
    )

    def metrics(self) -> list[Metric]:
        """All of them, as they are now."""
        return [one.metric() for one in vars(self).values()]


UNSEEN = Counters()
"""Where a part that belongs to no pool counts: nobody ever looks."""


class FrontDoor(Protocol):
    """Whose refusals are counted."""

    @property
    def counters(self) -> Counters:
        """Where they are counted."""


_Door = TypeVar("_Door", bound=FrontDoor)
_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def counts_refusals(
    verb: Callable[Concatenate[_Door, _Parameters], Coroutine[Any, Any, _Result]],
) -> Callable[Concatenate[_Door, _Parameters], Coroutine[Any, Any, _Result]]:
    """Counts what a verb of the front door refuses, by its code."""

    @wraps(verb)
    async def counted(self: _Door, /, *args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        try:
            return await verb(self, *args, **kwargs)
        except (Refused, StoreUnavailable) as error:
            self.counters.rejected.add(error.code)
            raise

    return counted
