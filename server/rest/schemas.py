"""Bodies and answers of the REST interface, as the OpenAPI document shows them."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from pool import check_name
from server.routes import Schema

Limit = Annotated[int, Field(ge=1, le=500)]

# Whatever is no name is ``invalid_name``, not a body that does not fit: the check raises its own error.
_PATTERN = Field(json_schema_extra={"pattern": r"^[A-Za-z0-9][A-Za-z0-9_.@+-]{0,63}$"})
SessionName = Annotated[str, BeforeValidator(partial(check_name, kind="session_id")), _PATTERN]
TemplateName = Annotated[str, BeforeValidator(partial(check_name, kind="template")), _PATTERN]
UserName = Annotated[str, BeforeValidator(partial(check_name, kind="user_id")), _PATTERN]


class Session(BaseModel):
    """A session; times in seconds since 1970. ``remembered``: what was allowed for it, word for word."""

    session_id: str
    title: str
    state: Literal["parked", "waking", "live", "cooling", "faulted", "archived"]
    template: str
    model: str | None
    permission_mode: str
    created_at: float
    last_active_at: float
    cursor: str
    remembered: list[str]


class Sessions(BaseModel):
    """A page of sessions; ``next`` goes into ``after`` for the next page."""

    sessions: list[Session]
    next: str | None


class Instance(BaseModel):
    """A live instance; ``pid`` is the host's pid of ``claude`` itself."""

    id: str
    user_id: str
    session_id: str
    state: str
    pid: int | None
    started_at: float
    turns: int
    rss_bytes: int
    cpu_seconds: float
    isolation: str


class Instances(BaseModel):
    """Live instances."""

    instances: list[Instance]


class PlacedInstance(Instance):
    """A live instance as administrators see it; ``host`` is the machine, ``local`` the server's own."""

    host: str


class PlacedInstances(BaseModel):
    """Live instances of all users."""

    instances: list[PlacedInstance]


class NewSession(Schema):
    """A session to make; without ``session_id`` a new id is chosen."""

    session_id: SessionName | None = None
    template: TemplateName | None = None
    title: Annotated[str, Field(max_length=200)] | None = None
    model: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    permission_mode: Annotated[str, Field(min_length=1, max_length=64)] | None = None


class SessionChanges(Schema):
    """What to change; what is left out stays."""

    title: Annotated[str, Field(max_length=200)] | None = None
    model: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    permission_mode: Annotated[str, Field(min_length=1, max_length=64)] | None = None


class SessionQuery(Schema):
    """Which sessions to list."""

    search: Annotated[str, Field(max_length=200)] = ""
    include_archived: bool = False
    limit: Limit = 100
    after: str | None = None


class Fork(Schema):
    """Where the fork goes; without ``session_id`` a new id is chosen."""

    session_id: SessionName | None = None


class Message(Schema):
    """A message: text, or content blocks as the Messages API has them."""

    content: str | list[dict[str, Any]]
    literal: bool = False


class Place(BaseModel):
    """Where a session stands in the line for an instance; 1 is served next.

    ``limit``: it waits for a slot of the ``pool``, or for one of the user's ``own``.
    """

    position: int
    of: int
    limit: Literal["pool", "own"]
    estimate_seconds: int | None = None


class Queued(BaseModel):
    """The message is stored and queued; position 0 runs next.

    ``queue`` is there when the session waits in line for an instance.
    """

    turn_id: str
    message_id: str
    state: Literal["queued"]
    position: int
    queue: Place | None = None


class HistoryQuery(Schema):
    """Which part of the log; without cursors the newest."""

    after: str | None = None
    before: str | None = None
    limit: Limit = 100


class History(BaseModel):
    """Durable server frames, oldest first, and the cursors for the next and the previous page."""

    frames: list[dict[str, Any]]
    next: str | None
    prev: str | None


class Status(BaseModel):
    """How a session stands; ``queue`` while it waits in line for an instance."""

    state: str
    queue: Place | None = None
    instance: Instance | None
    turn: dict[str, Any] | None
    queued: list[dict[str, Any]]
    todos: list[Any]
    todos_supported: bool
    usage: dict[str, Any]


class Permission(BaseModel):
    """An approval that waits for an answer."""

    request_id: str
    tool: str
    input: dict[str, Any]
    cursor: str
    asked_at: float


class Permissions(BaseModel):
    """Open approvals."""

    permissions: list[Permission]


class Decision(Schema):
    """An answer to an approval."""

    decision: Literal["allow", "deny"]
    message: Annotated[str, Field(max_length=10000)] | None = None
    updated_input: dict[str, Any] | None = None
    scope: Literal["once", "session", "always"] = "once"


class Credentials(Schema):
    """A local account's name and password."""

    username: Annotated[str, Field(max_length=256)]
    password: Annotated[str, Field(max_length=1024)]


class LinkCode(Schema):
    """The code of a one-time sign-in link."""

    code: Annotated[str, Field(min_length=1, max_length=256)]


class AccessToken(BaseModel):
    """A new credential; the browser's cookie is set as well."""

    access_token: str
    token_type: Literal["bearer"]
    expires_in: int


class NewToken(Schema):
    """An API token to make, for the caller."""

    ttl_seconds: Annotated[int, Field(ge=1, le=316_224_000)] | None = None
    scopes: list[Literal["read", "write", "admin"]] = Field(default_factory=list)


class CreatedToken(AccessToken):
    """The token is shown this once."""

    id: str
    scopes: list[str]
    expires_at: float


class TokenObject(BaseModel):
    """What is remembered of a token."""

    id: str
    kind: str
    scopes: list[str]
    created_at: float
    expires_at: float
    current: bool


class Tokens(BaseModel):
    """The caller's tokens that are still good."""

    tokens: list[TokenObject]


class Me(BaseModel):
    """The caller. ``quotas`` has for each limit ``limit`` (null: none) and ``used`` (null: not counted),
    for limits of model use also ``warning`` (four fifths are used) and ``resets_at`` (seconds since 1970).
    ``teams`` have the same of the limits that their members share."""

    user_id: str
    roles: list[str]
    scopes: list[str]
    multi_user: bool
    quotas: dict[str, dict[str, Any]]
    teams: list[dict[str, Any]]
    permission_modes: list[str]


class User(BaseModel):
    """A local account."""

    user_id: str
    roles: list[str]
    disabled: bool
    has_password: bool
    created_at: float


class Users(BaseModel):
    """All local accounts."""

    users: list[User]


class NewUser(Schema):
    """An account to make; without a password it signs in by a one-time link."""

    user_id: UserName
    password: str | None = None
    admin: bool = False


class UserChanges(Schema):
    """What to change; what is left out stays. Another password ends all credentials."""

    disabled: bool | None = None
    admin: bool | None = None
    password: str | None = None


class UserQuery(Schema):
    """How to delete an account."""

    keep_workspace: bool = False


class Link(BaseModel):
    """A one-time sign-in link."""

    url: str
    expires_in: int


class Draining(BaseModel):
    """Is new work refused?"""

    draining: bool


class Stopped(BaseModel):
    """The instance is gone with its whole tree."""

    stopped: bool


class Nothing(Schema):
    """An empty object."""
