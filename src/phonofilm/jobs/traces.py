"""OpenTelemetry, for those who have set it up: one trace for a job, from the call that asked for it to its film.

Without the extra `otel`, or without an endpoint in the environment, nothing is recorded, and next to nothing is spent.
The row of a job keeps the trace, since a job outlives its tickets.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

from phonofilm.errors import InputError

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def start(service: str) -> None:
    """Send the spans of this process to where the environment says, if it says so. InputError without the extra."""
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        told = f"${' or $'.join(ENDPOINTS)} is set, and traces need the extra: pip install 'phonofilm[otel]'"
        raise InputError(told) from None
    from opentelemetry import trace

    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def stop() -> None:
    """Send what was recorded and not yet sent."""
    from opentelemetry import trace

    if shutdown := getattr(trace.get_tracer_provider(), "shutdown", None):
        shutdown()


def current() -> str | None:
    """The trace that is being recorded here, as `traceparent` of W3C Trace Context."""
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    if not trace.get_current_span().get_span_context().is_valid:
        return None
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


@contextlib.contextmanager
def span(name: str, parent: str | None = None, **attributes: str | int) -> Iterator[None]:
    """Record what happens within, as part of `parent` (what `current` gave elsewhere) or of what is recorded here."""
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({"traceparent": parent}) if parent else None
    told = {f"phonofilm.{key}": value for key, value in attributes.items()}
    with trace.get_tracer("phonofilm").start_as_current_span(name, context, attributes=told):
        yield
