"""The audit log, for administrators to read; that they read it is written down too."""

from __future__ import annotations

from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, Field

from server.routes import Access, Answer, Route, Schema, json_response, query_of
from server.services import services_of

_Seq = Annotated[int, Field(ge=0, le=(1 << 53))]


class AuditQuery(Schema):
    """A page of the log: ``after`` and ``before`` are numbers of records, both left out themselves.

    ``user`` finds what was done to a user or by them.
    """

    after: _Seq = 0
    before: _Seq | None = None
    user: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    action: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    newest_first: bool = False
    limit: Annotated[int, Field(ge=1, le=500)] = 100


class AuditLine(BaseModel):
    """A record. ``at`` is in milliseconds since 1970; ``previous`` and ``hash`` are SHA-256 in hex."""

    seq: int
    at: int
    action: str
    actor: str
    user_id: str | None
    facts: dict[str, Any]
    previous: str
    hash: str


class AuditPage(BaseModel):
    """Records as asked for; ``next`` goes into ``after`` (newest first: ``before``) for the next page."""

    records: list[AuditLine]
    next: int | None


async def read_audit(request: web.Request) -> web.Response:
    """``GET /api/v1/admin/audit``"""
    query = query_of(request, AuditQuery)
    audit = services_of(request).pool.audit
    await audit.tell("audit.read", asked=query.model_dump(exclude_defaults=True))
    records = await audit.page(
        after=query.after,
        before=query.before,
        user_id=query.user,
        action=query.action,
        newest_first=query.newest_first,
        limit=query.limit,
    )
    is_full = len(records) == query.limit
    body = {
        "records": [record.as_line() for record in records],
        "next": records[-1].seq if is_full else None,
    }
    return json_response(body)


ROUTES = [
    Route(
        method="GET",
        path="/api/v1/admin/audit",
        handler=read_audit,
        summary="Who did what, when and from where: the audit log.",
        query=AuditQuery,
        answers={200: Answer(description="A page of the log.", schema=AuditPage)},
        access=Access.ADMIN,
    ),
]
