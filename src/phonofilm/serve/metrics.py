"""Prometheus metrics, read off the database at each scrape: the same whichever process is asked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, get_args

import sqlalchemy as sa
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from phonofilm.jobs import schema, webhooks
from phonofilm.jobs.job import Status

if TYPE_CHECKING:
    from phonofilm.serve.service import Service

CONTENT_TYPE = CONTENT_TYPE_LATEST
RECENT: Final = 100  # films whose receipts tell how long the stages take


def scrape(service: Service) -> bytes:
    """The page that Prometheus reads."""
    registry = CollectorRegistry()
    registry.register(_Jobs(service))
    return generate_latest(registry)


class _Jobs:
    def __init__(self, service: Service) -> None:
        self.service = service

    def collect(self) -> Iterator[Metric]:
        store = self.service.store
        yield _gauge("phonofilm_jobs", "jobs by status", "status", dict.fromkeys(get_args(Status), 0) | store.counts())
        oldest = store.oldest_queued()
        age = time.time() - oldest if oldest is not None else 0.0
        yield GaugeMetricFamily(
            "phonofilm_queue_age_seconds", "age of the job that has waited longest, held ones left out", age
        )
        workers = store.alive()
        yield GaugeMetricFamily("phonofilm_workers", "workers alive", len(workers))
        loaded: dict[str, int] = {}
        for worker in workers:
            for engine in worker.get("engines", ()):
                loaded[engine] = loaded.get(engine, 0) + 1
        yield _gauge("phonofilm_engines_loaded", "workers that hold an engine's weights", "engine", loaded)
        e, j, total = schema.events.c, schema.jobs.c, sa.func.sum
        code = sa.func.coalesce(e.data["error"].as_string(), "unknown")
        sums = [total(e.data[name].as_float()) for name in ("seconds", "energy_j", "attempts")]
        sums.append(total(sa.case((e.type == "video.completed", 1.0), else_=0.0)))
        last = sa.select(j.receipt).where((j.status == "completed") & j.expires_at.is_not(None))
        with store.reading() as c:
            failed = sa.select(code, sa.func.count()).where(e.type == "video.failed").group_by(code)
            failures = {row[0]: row[1] for row in c.execute(failed)}
            ended = c.execute(sa.select(*sums).where(e.type.like("video.%"))).one()
            refused = c.execute(sa.select(sa.func.count()).where(e.type == "refused")).scalar_one()
            receipts = c.execute(last.order_by(j.expires_at.desc()).limit(RECENT)).scalars().all()
        yield _counter("phonofilm_failures", "jobs that failed, by code", "code", failures)
        seconds, energy, executions, films = (value or 0 for value in ended)
        yield CounterMetricFamily("phonofilm_films", "films made", films)
        yield CounterMetricFamily("phonofilm_film_seconds", "seconds of film made", seconds)
        yield CounterMetricFamily("phonofilm_energy_joules", "joules spent on films", energy)
        yield CounterMetricFamily("phonofilm_executions", "executions of the jobs that have ended", executions)
        yield CounterMetricFamily("phonofilm_refusals", "prompts and uploads refused by the policy", refused)
        yield from _webhooks(webhooks.sums(store))
        stages: dict[str, float] = {}
        for receipt in receipts:
            for stage, spent in (receipt or {}).get("seconds", {}).items():
                stages[stage] = stages.get(stage, 0.0) + spent / len(receipts)
        told = f"seconds that a stage takes, on average over the last {RECENT} films"
        yield _gauge("phonofilm_stage_seconds", told, "stage", stages)


def _webhooks(sums: webhooks.Sums) -> Iterator[Metric]:
    told = "messages to webhooks that have come to an end"
    yield _counter("phonofilm_webhooks", told, "end", {"delivered": sums.delivered, "given_up": sums.given_up})
    yield CounterMetricFamily("phonofilm_webhook_failures", "attempts to deliver a message that failed", sums.failures)
    yield GaugeMetricFamily("phonofilm_webhooks_waiting", "messages to webhooks that wait", sums.waiting)
    age = time.time() - sums.oldest if sums.oldest is not None else 0.0
    yield GaugeMetricFamily("phonofilm_webhooks_age_seconds", "age of the message that has waited longest", age)


def _gauge(name: str, told: str, label: str, values: dict[str, int] | dict[str, float]) -> Metric:
    family = GaugeMetricFamily(name, told, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _counter(name: str, told: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(name, told, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
