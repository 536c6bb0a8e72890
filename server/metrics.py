"""``GET /metrics``: what the pool and the server count, as Prometheus reads it.

For administrators, and for the addresses of ``server.metrics_addresses``
without a sign-in.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator, Sequence

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from pool import Metric, Spread
from server.auth.addresses import TrustedProxies
from server.routes import Access, Answer, Route
from server.services import Services, services_of


class Scrapers:
    """Who may read the figures without a sign-in: the addresses and networks of the configuration."""

    def __init__(self, networks: Sequence[str], proxies: TrustedProxies) -> None:
        self._allowed = TrustedProxies(networks)
        self._proxies = proxies

    def may_read(self, request: web.Request) -> bool:
        """Does it come from one of them? A request through a proxy that is not ours comes from anywhere."""
        if self._proxies.is_hearsay(request):
            return False
        return self._allowed.is_trusted(self._proxies.client_address(request))


class _Figures(Collector):
    """Metrics of ours, in the library's words."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Family]:
        """See ``Collector``."""
        return map(family, self._metrics)


def family(metric: Metric) -> Family:
    """One metric of ours as the library's."""
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
        for labels, value in metric.samples:
            assert isinstance(value, Spread)
            histogram.add_metric(labels, _buckets(value), value.total)
        return histogram
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    plain = kind(metric.name, metric.meaning, labels=metric.labels)
    for labels, value in metric.samples:
        assert not isinstance(value, Spread)
        plain.add_metric(labels, value)
    return plain


def _buckets(spread: Spread) -> list[tuple[str, float]]:
    names = [*(str(bound) for bound in spread.bounds), "+Inf"]
    total = 0
    buckets: list[tuple[str, float]] = []
    for name, count in zip(names, spread.counts, strict=True):
        total += count
        buckets.append((name, total))
    return buckets


async def all_metrics(services: Services) -> list[Metric]:
    """What the pool counts, then what the server does."""
    version = Metric(
        "claude_pool_info",
        "gauge",
        "Always 1; the version is the label.",
        ("version",),
        [((services.version,), 1)],
    )
    threads = Metric(
        "process_threads",
        "gauge",
        "Threads of the server's process.",
        (),
        [((), len(os.listdir("/proc/self/task")))],
    )
    tasks = Metric(
        "process_asyncio_tasks",
        "gauge",
        "Tasks of the server's event loop.",
        (),
        [((), len(asyncio.all_tasks()))],
    )
    epoch = Metric(
        "claude_pool_replica_epoch",
        "gauge",
        "The number of this server's ownership of the pool, of several replicas; 0 for a server alone.",
        (),
        [((), services.replica["epoch"] if services.replica is not None else 0)],
    )
    return [*await services.pool.metrics(), *services.counts.metrics(), version, threads, tasks, epoch]


def render(metrics: Iterable[Metric], accept: str) -> tuple[bytes, str]:
    """The page and its content type, in the format that the scraper prefers."""
    registry = CollectorRegistry()
    registry.register(_Figures(metrics))
    ProcessCollector(registry=registry)
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type


async def metrics(request: web.Request) -> web.Response:
    """``GET /metrics``"""
    found = await all_metrics(services_of(request))
    body, content_type = await asyncio.to_thread(render, found, request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": content_type})


ROUTES = [
    Route(
        method="GET",
        path="/metrics",
        handler=metrics,
        summary="Counters, gauges and histograms for Prometheus.",
        answers={200: Answer(description="Prometheus text.", media_type="text/plain")},
        access=Access.SCRAPER,
    )
]
