"""Traces: off unless set up; then a call, its job and the job's film are one trace, whoever executes it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from phonofilm.errors import InputError
from phonofilm.jobs import traces

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_nothing_is_recorded_unless_it_is_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    traces.start("test")
    with traces.span("a"):
        assert traces.current() is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(InputError, match=r"pip install 'phonofilm\[otel\]'"):
        traces.start("test")


def test_a_call_its_job_and_its_film_are_one_trace(python: Run) -> None:
    code = """
import pathlib, tempfile
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
seen = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(seen))
trace.set_tracer_provider(provider)
from fastapi.testclient import TestClient
from phonofilm.jobs import worker
from phonofilm.serve.app import create_app
from phonofilm.serve.config import Config
from phonofilm.serve.films import Films
from phonofilm.provenance import Identity
worker.Taker = lambda *_: None
with tempfile.TemporaryDirectory() as name:
    app = create_app(Config(folder=pathlib.Path(name), model="fake", models=("fake",)))
    with TestClient(app, "http://127.0.0.1") as client:
        id = client.post("/v1/videos", json={"prompt": "fail_once", "seconds": "2"}).json()["id"]
        service = app.state.service
        here = worker.Worker(service.store, service.storage, Films(Identity.default()))
        for _ in range(2):
            here.work(id, service.store.get(id).ticket)
        assert service.store.get(id).status == "completed"
spans = [span for span in seen.get_finished_spans() if span.name in ("job", "generate", "store", "publish")]
calls = [span for span in seen.get_finished_spans() if "/v1/videos" in span.name and span.parent is None]
assert len(calls) == 1, [span.name for span in seen.get_finished_spans()]
assert {span.context.trace_id for span in (*spans, *calls)} == {calls[0].context.trace_id}
print(*(span.name for span in spans))
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["generate", "job", "generate", "store", "publish", "job"]
