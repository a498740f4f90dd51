"""OpenTelemetry, where it is asked for: a span for each batch and for each statement of a chunk.

Configured by OpenTelemetry's own variables; without ``OTEL_EXPORTER_OTLP_ENDPOINT`` nothing
is imported. Statements are recorded without their parameters.
"""

import os

from service.config import ConfigurationError

SWITCH = "OTEL_EXPORTER_OTLP_ENDPOINT"


def start() -> None:
    """Instrument aiohttp's applications made from now on, and asyncpg; when it is on.

    Raises ConfigurationError when it is on and the extra ``tracing`` is not installed.
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
            f"{SWITCH} is set, but the extra is not installed: pip install '.[tracing]'"
        ) from None
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    AioHttpServerInstrumentor().instrument()
    AsyncPGInstrumentor().instrument()  # type: ignore[no-untyped-call]
