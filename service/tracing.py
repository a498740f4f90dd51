"""OpenTelemetry, where it is asked for: a span for each batch and for each statement of a chunk.

Configured by OpenTelemetry's own variables; without ``OTEL_EXPORTER_OTLP_ENDPOINT`` nothing
is imported. Statements are recorded without their parameters.
"""

import os

from aiohttp.typedefs import Middleware

from .config import ConfigurationError

SWITCH = "OTEL_EXPORTER_OTLP_ENDPOINT"


def middlewares() -> list[Middleware]:
    """Return what makes a span of each request, and instrument asyncpg; none when it is off.

    Raises ConfigurationError when it is on and the extra ``tracing`` is not installed.
    """
    if not os.environ.get(SWITCH):
        return []
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.aiohttp_server import middleware
        from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise ConfigurationError(
            f"{SWITCH} is set, but the extra is not installed: pip install '.[tracing]'"
        ) from None
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    AsyncPGInstrumentor().instrument()  # type: ignore[no-untyped-call]
    return [middleware]
