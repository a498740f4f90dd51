"""OpenTelemetry, switched on by its own variable: spans of a batch and of its statements."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.running import StartProcess
from tests.support.service import KEY

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Collector:
    """Takes spans as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.raw = b""

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.raw += body
        message = ExportTraceServiceRequest.FromString(body)
        for resource in message.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return web.Response(content_type="application/x-protobuf")

    def children_of(self, span_id: str) -> list[Any]:
        """Return the spans so far that name a span as their parent."""
        return [span for span in self.spans if span.parent_span_id.hex() == span_id]


@pytest.fixture
async def collector() -> AsyncIterator[tuple[Collector, str]]:
    """A collector and its address."""
    taking = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", taking.take)
    async with TestServer(app) as server:
        yield taking, str(server.make_url("")).rstrip("/")


async def test_a_batch_and_its_statements_are_spans_of_the_callers_trace(
    start_process: StartProcess,
    collector: tuple[Collector, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taking, address = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    service, _ = await start_process()

    answer = await service.put(
        [{KEY: key, "comment": "planted-marker" * 50} for key in range(1, 2_000)],
        headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"},
    )
    assert set(answer.statuses) == {201}
    async with asyncio.timeout(10):
        # The batch's span is the last to end, and so to be sent.
        while not (batches := taking.children_of("00f067aa0ba902b7")):
            await asyncio.sleep(0.1)

    (batch,) = batches
    statements = taking.children_of(batch.span_id.hex())
    assert batch.trace_id.hex() == TRACE
    assert len(statements) >= 3
    assert b"planted-marker" not in taking.raw


def test_switched_on_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").touch()
    code = "from service.telemetry import tracing; tracing.start()"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "x", "PYTHONPATH": str(tmp_path)},
    )

    assert "pip install '.[tracing]'" in result.stderr
