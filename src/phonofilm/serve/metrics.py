"""Prometheus metrics, read off the database at each scrape: the same whichever process is asked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import sqlalchemy as sa
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from phonofilm.jobs import schema

if TYPE_CHECKING:
    from phonofilm.serve.service import Service

CONTENT_TYPE = CONTENT_TYPE_LATEST


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
        yield _gauge("phonofilm_jobs", "jobs by status", "status", store.counts())
        oldest = store.oldest_queued()
        age = time.time() - oldest if oldest is not None else 0.0
        yield GaugeMetricFamily("phonofilm_queue_age_seconds", "age of the job that has waited longest", age)
        workers = store.alive()
        yield GaugeMetricFamily("phonofilm_workers", "workers alive", len(workers))
        loaded: dict[str, int] = {}
        for worker in workers:
            for engine in worker.get("engines", ()):
                loaded[engine] = loaded.get(engine, 0) + 1
        yield _gauge("phonofilm_engines_loaded", "workers that hold an engine's weights", "engine", loaded)
        events, j = schema.events, schema.jobs
        with store.reading() as c:
            ended = c.execute(sa.select(events.c.type, events.c.data).where(events.c.type != "refused")).all()
            receipts = [row[0] for row in c.execute(sa.select(j.c.receipt).where(j.c.status == "completed")) if row[0]]
            refused = c.execute(sa.select(sa.func.count()).where(events.c.type == "refused")).scalar_one()
        failures: dict[str, int] = {}
        for kind, data in ended:
            if kind == "video.failed":
                failures[data.get("error") or "unknown"] = failures.get(data.get("error") or "unknown", 0) + 1
        yield _counter("phonofilm_failures", "jobs that failed, by code", "code", failures)
        films = [data for kind, data in ended if kind == "video.completed"]
        yield CounterMetricFamily("phonofilm_film_seconds", "seconds of film made", sum(d["seconds"] for d in films))
        yield CounterMetricFamily(
            "phonofilm_energy_joules", "joules spent on films", sum(d["energy_j"] or 0 for d in films)
        )
        yield CounterMetricFamily("phonofilm_refusals", "prompts and uploads refused by the policy", refused)
        stages: dict[str, float] = {}
        for receipt in receipts:
            for stage, seconds in receipt.get("seconds", {}).items():
                stages[stage] = stages.get(stage, 0.0) + seconds
        yield _gauge("phonofilm_stage_seconds", "seconds spent in a stage by the films that are kept", "stage", stages)


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
