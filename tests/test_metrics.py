"""Metrics and health: what an operator watches, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import Doors, doors

from phonofilm.request import Request


@pytest.fixture(params=["sqlite", "postgresql"])
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Doors]:
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres").database("metrics")
    with doors(tmp_path, lambda text, _: "no" if text == "bad" else None, database=url) as client:
        yield client


def scraped(here: Doors) -> dict[str, float]:
    """Samples by name and labels."""
    page = here.get("/metrics").text
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_metrics_tell_what_waits_what_was_made_and_what_failed(here: Doors) -> None:
    empty = scraped(here)
    for status in ("queued", "in_progress", "completed", "failed"):
        assert empty[f"phonofilm_jobs {status}"] == 0
    assert (
        empty["phonofilm_queue_age_seconds"] == empty["phonofilm_workers"] == empty["phonofilm_film_seconds_total"] == 0
    )
    store = here.service.store
    store.sign_of_life("w", {"engines": ["native"]})
    made = [store.add(Request("a", model="fake", seconds=2)) for _ in range(2)]
    for job, spent in zip(made, (1.0, 3.0), strict=True):
        attempt = store.begin(job.id, job.ticket, "w")
        assert attempt is not None
        receipt = {"seconds": {"denoise": spent}, "total_energy_j": 2.5}
        assert store.publish(attempt, {"video": "v"}, receipt, [])
    gone = [store.add(Request("b", model="fake")) for _ in range(3)]
    for job in gone[:2]:
        store.cancel(job.id)
    store.begin(gone[2].id, gone[2].ticket, "w")
    attempt = store.begin(gone[2].id, gone[2].ticket, "w")
    assert attempt is not None and store.fail(attempt, "timeout", "too long")
    store.add(Request("waits", model="fake"))
    assert here.post("/v1/videos", json={"prompt": "bad"}).status_code == 400
    now = scraped(here)
    assert now["phonofilm_jobs queued"] == 1 and now["phonofilm_jobs completed"] == 2
    assert now["phonofilm_failures_total cancelled"] == 2 and now["phonofilm_failures_total timeout"] == 1
    assert now["phonofilm_films_total"] == 2 and now["phonofilm_film_seconds_total"] == 4
    assert now["phonofilm_energy_joules_total"] == 5
    assert now["phonofilm_stage_seconds denoise"] == 2 and now["phonofilm_executions_total"] == 4
    assert now["phonofilm_refusals_total"] == 1 and now["phonofilm_queue_age_seconds"] > 0
    assert now["phonofilm_workers"] == now["phonofilm_engines_loaded native"] == 1


def test_health_says_whether_calls_are_answered_and_films_are_made(here: Doors) -> None:
    assert here.get("/healthz").status_code == 200
    assert here.get("/readyz").status_code == 503 and here.get("/readyz?workers=0").status_code == 200
    here.service.store.sign_of_life("w", {})
    assert here.get("/readyz").json() == {"status": "ready", "workers": 1}
    assert here.get("/readyz?workers=2").status_code == 503
