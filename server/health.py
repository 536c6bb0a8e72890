"""Is it alive, may work come, how does it do: three questions that start and touch nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiohttp import web
from pydantic import BaseModel

from pool import Histogram
from pool.errors import PoolError
from server.routes import Access, Answer, Route, json_response
from server.services import SERVICES, Services, services_of

_log = logging.getLogger(__name__)

LAG_LIMIT_SECONDS = 1.0
_LAG_SAMPLE_SECONDS = 0.25
_LAG_MEMORY = 40
_CHECK_SECONDS = 10.0


class LoopLag:
    """How late the event loop is: the worst of the last ten seconds."""

    def __init__(self, lateness: Histogram, work: Histogram) -> None:
        self._samples: deque[float] = deque(maxlen=_LAG_MEMORY)
        self._lateness, self._work = lateness, work

    @property
    def worst_seconds(self) -> float:
        """The worst delay lately."""
        return max(self._samples, default=0.0)

    async def watch(self) -> None:
        """Measure for ever."""
        while True:
            before, worked = time.monotonic(), time.thread_time()
            await asyncio.sleep(_LAG_SAMPLE_SECONDS)
            late = max(0.0, time.monotonic() - before - _LAG_SAMPLE_SECONDS)
            self._samples.append(late)
            self._lateness.observe(late)
            self._work.observe(min(late, time.thread_time() - worked))


LAG: web.AppKey[LoopLag] = web.AppKey("lag", LoopLag)
STARTED: web.AppKey[float] = web.AppKey("started")


async def background_checks(app: web.Application) -> AsyncIterator[None]:
    """A cleanup context: measure the loop and let the pool look at its surroundings while the server runs."""
    tasks = [
        asyncio.create_task(app[LAG].watch(), name="loop-lag"),
        asyncio.create_task(_check_often(app[SERVICES]), name="health-checks"),
    ]
    yield
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _check_often(services: Services) -> None:
    while True:
        try:
            await services.pool.run_checks()
        except (PoolError, OSError):
            _log.exception("the health checks could not run")
        await asyncio.sleep(_CHECK_SECONDS)


class Alive(BaseModel):
    """The event loop turns."""

    status: str


class Ready(BaseModel):
    """Is new work admitted; if not, why? ``role`` of a replica that stands by."""

    ready: bool
    reasons: list[str]
    role: str | None = None


class Check(BaseModel):
    """One thing that was looked at."""

    ok: bool
    detail: str


class ReplicaState(BaseModel):
    """Which of several servers this is: ``owner`` or ``stand-by``; and who owns the pool."""

    role: str
    url: str
    owner: str | None
    epoch: int | None


class Health(BaseModel):
    """The ops view; ``model`` says which provider answers. A replica has ``replica``.

    One that stands by has ``status``, ``version``, ``uptime_seconds``, ``checks`` and ``replica`` only.
    """

    status: str
    version: str
    uptime_seconds: float
    instances: dict[str, int]
    users: dict[str, int]
    queue: dict[str, float | None]
    checks: dict[str, Check]
    model: dict[str, Any]
    replica: ReplicaState | None = None


async def livez(_request: web.Request) -> web.Response:
    """``GET /livez``"""
    return json_response({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """``GET /readyz``"""
    reasons = services_of(request).pool.unready_reasons()
    body = {"ready": not reasons, "reasons": reasons}
    if not reasons:
        return json_response(body)
    return json_response(body, status=503, headers={"Retry-After": "5"})


async def health(request: web.Request) -> web.Response:
    """``GET /health``"""
    return json_response(health_object(request.app))


def health_object(app: web.Application) -> dict[str, Any]:
    """The ops view: the pool's part, and what the server adds."""
    services = app[SERVICES]
    report = services.pool.health()
    model = services.model()
    checks = {**report["checks"], **services.notes, "model": _model_check(model)}
    trouble = services.pool.audit.trouble
    checks["audit"] = {"ok": trouble is None, "detail": trouble or "the end of the log is noted"}
    lag = app[LAG].worst_seconds
    checks["event_loop"] = {
        "ok": lag < LAG_LIMIT_SECONDS,
        "detail": f"at most {lag * 1000:.0f} ms late in the last ten seconds",
    }
    all_ok = all(check["ok"] for check in checks.values())
    status = "draining" if report["status"] == "draining" else "ok" if all_ok else "degraded"
    return {
        **report,
        "status": status,
        "version": services.version,
        "uptime_seconds": round(time.monotonic() - app[STARTED], 3),
        "checks": checks,
        "model": model,
        **({} if services.replica is None else {"replica": dict(services.replica)}),
    }


def _model_check(model: dict[str, Any]) -> dict[str, Any]:
    hosts = model.get("hosts")
    if not hosts:
        return {"ok": not model.get("error"), "detail": _answers(model)}
    # that a host cannot be reached is a check of its own
    is_good = not any(one.get("error") for one in hosts.values())
    return {"ok": is_good, "detail": "; ".join(f"{name}: {_answers(one)}" for name, one in hosts.items())}


def _answers(model: Mapping[str, Any]) -> str:
    if model.get("error"):
        return str(model["error"])
    if model.get("demo"):
        return "the built-in demo model answers: no model provider is configured"
    if model.get("provider") is None:
        return "not known yet"
    return f"provider {model.get('provider')} ({model.get('kind')})"


ROUTES = [
    Route(
        method="GET",
        path="/livez",
        handler=livez,
        summary="200 while the event loop turns.",
        answers={200: Answer(description="It turns.", schema=Alive)},
        access=Access.OPEN,
    ),
    Route(
        method="GET",
        path="/readyz",
        handler=readyz,
        summary="Is new work admitted?",
        answers={
            200: Answer(description="It is.", schema=Ready),
            503: Answer(description="It is not; the reasons say why.", schema=Ready),
        },
        access=Access.OPEN,
    ),
    Route(
        method="GET",
        path="/health",
        handler=health,
        summary="How the server and its instances do; no secrets.",
        answers={200: Answer(description="The ops view.", schema=Health)},
        access=Access.OPEN,
    ),
]
