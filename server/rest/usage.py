"""Usage over REST: tokens and money by session, user, model and day, as JSON and as CSV."""

from __future__ import annotations

import csv
import datetime
import io
from dataclasses import asdict
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel, Field

from pool import UsageFigures
from pool.errors import BadRequest
from server.auth.identity import identity_of
from server.gateway.spending import day_of, month_start
from server.routes import Access, Answer, Route, Schema, json_response, query_of
from server.services import Services, services_of

_EPOCH = datetime.date(1970, 1, 1)
_ALL_DAYS = (0, 10**6)
# A spreadsheet takes what begins so as a formula; models are named by whoever asks for them.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Figures(BaseModel):
    """Sums over model calls. ``tokens`` is all sorts together, ``usd`` by the configured prices;
    ``unpriced_calls`` are those of models without a price."""

    calls: int
    input_tokens: int
    output_tokens: int
    cache_write_tokens: int
    cache_read_tokens: int
    tokens: int
    usd: float
    unpriced_calls: int


class UsageRow(Figures):
    """One group; ``key`` is a user, model, provider, day (YYYY-MM-DD) or user:session."""

    key: str


class TurnUsage(Figures):
    """One turn; ``turn_id`` null: calls between turns, as the CLI makes for titles."""

    turn_id: str | None


class SessionUsage(BaseModel):
    """A session's usage; ``turns`` are the last 100, oldest first."""

    session_id: str
    total: Figures
    models: list[UsageRow]
    turns: list[TurnUsage]


class UsageReport(BaseModel):
    """Usage from one day to another, both included, in UTC."""

    group: str
    first: str
    last: str
    total: Figures
    rows: list[UsageRow]


Group = Literal["user", "session", "model", "provider", "day", "team"]


class UsageQuery(Schema):
    """What to sum up; without days the running month."""

    group: Group = "day"
    first: datetime.date | None = Field(default=None, alias="from")
    last: datetime.date | None = Field(default=None, alias="to")


async def read_session_usage(request: web.Request) -> web.Response:
    """``GET /api/v1/sessions/{sid}/usage``"""
    services, user_id, sid = services_of(request), identity_of(request).user_id, request.match_info["sid"]
    await services.pool.get_session(user_id, sid)
    await services.usage.take_in()
    store = services.usage.store
    models = await store.grouped("model", *_ALL_DAYS, user_id=user_id, session_id=sid)
    turns = await store.by_turn(user_id, sid)
    return json_response(
        {
            "session_id": sid,
            "total": _figures(_total(models)),
            "models": _rows("model", models),
            "turns": [{"turn_id": turn_id, **_figures(figures)} for turn_id, figures in turns],
        }
    )


async def read_own_usage(request: web.Request) -> web.Response:
    """``GET /api/v1/usage``"""
    return json_response(await _report(request, identity_of(request).user_id))


async def read_usage(request: web.Request) -> web.Response:
    """``GET /api/v1/admin/usage``"""
    return json_response(await _report(request, None))


async def export_usage(request: web.Request) -> web.Response:
    """``GET /api/v1/admin/usage.csv``"""
    report = await _report(request, None)
    names = list(Figures.model_fields)
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow([report["group"], *names])
    for row in report["rows"]:
        key = f"'{row['key']}" if row["key"].startswith(_FORMULA) else row["key"]
        table.writerow([key, *(row[name] for name in names)])
    file = f"usage-{report['group']}-{report['first']}-{report['last']}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{file}"'}
    return web.Response(text=text.getvalue(), content_type="text/csv", charset="utf-8", headers=headers)


async def _report(request: web.Request, user_id: str | None) -> dict[str, Any]:
    query = query_of(request, UsageQuery)
    services = services_of(request)
    first, last = _days(query, services)
    await services.usage.take_in()
    found = await _grouped(services, query.group, first, last, user_id)
    return {
        "group": query.group,
        "first": _date(first),
        "last": _date(last),
        "total": _figures(_total(found)),
        "rows": _rows(query.group, found),
    }


async def _grouped(
    services: Services, group: Group, first: int, last: int, user_id: str | None
) -> list[tuple[str, UsageFigures]]:
    """Sums by ``group``. A team has what those have used who are its members today."""
    if group != "team":
        return await services.usage.store.grouped(group, first, last, user_id=user_id)
    users = await services.usage.store.grouped("user", first, last, user_id=user_id)
    teams = services.config.quotas.teams
    return [
        (name, _total([row for row in users if row[0] in set(team.members)]))
        for name, team in sorted(teams.items())
        if user_id is None or user_id in team.members
    ]


def _days(query: UsageQuery, services: Services) -> tuple[int, int]:
    now = services.usage.wall()
    first = (query.first - _EPOCH).days if query.first else day_of(month_start(now))
    last = (query.last - _EPOCH).days if query.last else max(first, day_of(now))
    if first > last:
        raise BadRequest("from is after to")
    return first, last


def _date(day: int) -> str:
    return (_EPOCH + datetime.timedelta(days=day)).isoformat()


def _total(found: list[tuple[str, UsageFigures]]) -> UsageFigures:
    return sum((figures for _key, figures in found), UsageFigures())


def _rows(group: str, found: list[tuple[str, UsageFigures]]) -> list[dict[str, Any]]:
    return [
        {"key": _date(int(key)) if group == "day" else key, **_figures(figures)} for key, figures in found
    ]


def _figures(figures: UsageFigures) -> dict[str, Any]:
    return {**asdict(figures), "tokens": figures.tokens, "usd": round(figures.usd, 9)}


_REPORT = Answer(description="The report.", schema=UsageReport)

ROUTES = [
    Route(
        method="GET",
        path="/api/v1/sessions/{sid}/usage",
        handler=read_session_usage,
        summary="Tokens and money that a session used: in all, by model, by turn.",
        answers={200: Answer(description="What it used.", schema=SessionUsage)},
    ),
    Route(
        method="GET",
        path="/api/v1/usage",
        handler=read_own_usage,
        summary="What the caller used, from day to day.",
        query=UsageQuery,
        answers={200: _REPORT},
    ),
    Route(
        method="GET",
        path="/api/v1/admin/usage",
        handler=read_usage,
        summary="What everybody used, from day to day.",
        query=UsageQuery,
        answers={200: _REPORT},
        access=Access.ADMIN,
    ),
    Route(
        method="GET",
        path="/api/v1/admin/usage.csv",
        handler=export_usage,
        summary="The same as a table.",
        query=UsageQuery,
        answers={200: Answer(description="A table with a line of names.", media_type="text/csv")},
        access=Access.ADMIN,
    ),
]
