"""Optional OpenTelemetry traces: a span for each request and for each statement.

OpenTelemetry's own variables configure it; without ``OTEL_EXPORTER_OTLP_ENDPOINT`` nothing is
imported. Statements are recorded without their parameters.
"""

import os

from service.config import ConfigurationError

SWITCH = "OTEL_EXPORTER_OTLP_ENDPOINT"


def start() -> None:
    """Instrument asyncpg and all later aiohttp applications, if tracing is on.

    Raises ConfigurationError if it is on and the extra ``tracing`` is not installed.
    """
    if not os.environ.get(SWITCH):
        return
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor
        from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise ConfigurationError(
            f"{SWITCH} is set, but the extra tracing is missing; run: pip install '.[tracing]'"
        ) from None
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    AioHttpServerInstrumentor().instrument()
    AsyncPGInstrumentor().instrument()  # type: ignore[no-untyped-call]
