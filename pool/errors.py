"""Every exception that the pool raises on purpose.

The tree::

    PoolError                      code, message, retry_after_seconds, details
    ├── Refused                    the caller may mend it or come back later
    │   ├── InvalidName            invalid_name
    │   ├── BadRequest             bad_request
    │   ├── BadCursor              bad_cursor
    │   ├── Forbidden              forbidden
    │   ├── NotFound               not_found
    │   ├── Conflict               conflict
    │   ├── AlreadyResolved        already_resolved
    │   ├── KeyReused              key_reused
    │   ├── TooLarge               too_large
    │   ├── QuotaExceeded          quota_exceeded
    │   ├── RateLimited            rate_limited
    │   ├── QueueFull              queue_full
    │   ├── PoolFull               pool_full
    │   ├── LaunchesPaused         launches_paused
    │   └── Draining               draining
    ├── LaunchFailed               launch_failed: the CLI did not become ready
    ├── InstanceGone               instance_gone: the process ended under the caller
    ├── InputBlocked               input_blocked: the CLI does not read its stdin
    ├── IsolationUnavailable       isolation_unavailable
    │   └── UidsExhausted          uids_exhausted: every uid of the range was given out
    ├── KeeperUnavailable          keeper_unavailable
    │   ├── HostRefused            host_refused: somebody has to mend something first
    │   └── HostUnavailable        host_unavailable: the user's machine cannot be reached
    ├── StoreUnavailable           store_unavailable: the database is locked, full, gone or too new
    │   ├── StoreTimeout           store_unavailable: it did not answer in time
    │   └── NotOwner               store_unavailable: another replica owns the pool
    └── InvalidTransition          internal: a state machine met an event without a row

Branch on the type or on ``code``, never on the text. HTTP statuses live in
``server.errors`` only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class PoolError(Exception):
    """Base of all: has a stable ``code`` and a message that says what to do."""

    code: ClassVar[str] = "internal"

    def __init__(
        self,
        message: str,
        *,
        retry_after_seconds: float | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_seconds = retry_after_seconds
        self.details = dict(details or {})


class Refused(PoolError):
    """The request was understood and refused; nothing has changed."""


class InvalidName(Refused):
    """A user, session or template name breaks the rules of ``pool.names``."""

    code = "invalid_name"


class BadRequest(Refused):
    """The request has a missing or malformed part."""

    code = "bad_request"


class BadCursor(Refused):
    """The given text is not a cursor at all."""

    code = "bad_cursor"


class Forbidden(Refused):
    """The caller may see the thing but not do this to it."""

    code = "forbidden"


class NotFound(Refused):
    """There is no such thing, or it belongs to somebody else."""

    code = "not_found"


class Conflict(Refused):
    """The thing exists already in a form that does not fit the request."""

    code = "conflict"


class AlreadyResolved(Refused):
    """An approval was answered, withdrawn or timed out before."""

    code = "already_resolved"


class KeyReused(Refused):
    """The idempotency key was used before with other content."""

    code = "key_reused"


class TooLarge(Refused):
    """The content is above the configured bound."""

    code = "too_large"


class QuotaExceeded(Refused):
    """The user is at a limit of their own."""

    code = "quota_exceeded"


class RateLimited(Refused):
    """The user sends faster than their plan allows."""

    code = "rate_limited"


class QueueFull(Refused):
    """The queue before the session or the pool is full."""

    code = "queue_full"


class PoolFull(Refused):
    """No slot is free and no idle instance can be evicted."""

    code = "pool_full"


class LaunchesPaused(Refused):
    """Launches of several users failed: none is tried for a while."""

    code = "launches_paused"


class Draining(Refused):
    """The pool admits nothing new: it is draining or stopping."""

    code = "draining"


class LaunchFailed(PoolError):
    """The CLI did not become ready.

    ``details`` has ``step`` (which step failed), ``exit_code``, ``signal``
    and ``stderr`` (the last lines), as far as they are known.
    """

    code = "launch_failed"


class InstanceGone(PoolError):
    """The instance ended while the caller was using it."""

    code = "instance_gone"


class InputBlocked(PoolError):
    """The CLI did not read its standard input within the deadline."""

    code = "input_blocked"


class IsolationUnavailable(PoolError):
    """The configured isolation cannot be had on this machine."""

    code = "isolation_unavailable"


class UidsExhausted(IsolationUnavailable):
    """Every Linux uid of the configured range was given to a user; ``details`` has ``first`` and ``last``."""

    code = "uids_exhausted"


class KeeperUnavailable(PoolError):
    """The keeper cannot be reached or refuses this server's epoch."""

    code = "keeper_unavailable"


class HostRefused(KeeperUnavailable):
    """A machine over SSH cannot be used as it is: a key is unknown or refused, or versions differ.

    ``details`` has ``host`` and ``reason``: ``host_key_unknown``, ``host_key_changed``, ``key_refused``,
    ``program`` (the host program said no, or is not there).
    """

    code = "host_refused"


class HostUnavailable(KeeperUnavailable):
    """The machine that the user lives on cannot be reached now; nothing of theirs is started elsewhere."""

    code = "host_unavailable"


class StoreUnavailable(PoolError):
    """The database is locked, full, gone or of a newer version.

    Nothing was stored, unless ``details["outcome"]`` is ``"unknown"``.
    """

    code = "store_unavailable"


class StoreTimeout(StoreUnavailable):
    """The database did not answer in time; what was asked may be stored later.

    ``details`` has the ``message_id`` of a message: the same one again finds
    what was stored, or is taken as the first one.
    """


class NotOwner(StoreUnavailable):
    """Another replica owns the pool, or may: nothing was written, and this server stands by again."""


class InvalidTransition(PoolError):
    """A state machine was fed an event without a row: a defect of ours.

    ``story`` is the machine's whole history, oldest first.
    """

    code = "internal"

    def __init__(self, message: str, *, story: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.story = tuple(story)
