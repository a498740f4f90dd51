"""Composition root: what answers where, what surrounds it, what starts and ends with it."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from service.config import Settings, Tuning
from service.engine.databases import Databases
from service.engine.writer import Writers
from service.http import openapi, page, probes
from service.http.access import Authenticator
from service.http.admission import Admission, RateLimiter
from service.http.batch import RATE_LIMIT, BatchHandler
from service.http.body import BodyReader
from service.http.envelope import RECORD, Problem, problem_response
from service.http.expectation import Router
from service.http.lifecycle import LIFECYCLE, Lifecycle
from service.telemetry import metrics, tracing
from service.telemetry.logs import RequestRecord, trace_id
from service.wire import ACTIVITY_HEADER, BATCH_PATH

logger = logging.getLogger(__name__)

TURNED_AWAY = {429, 503}


def build_app(settings: Settings, tuning: Tuning) -> web.Application:
    """Return the application. Raises ConfigurationError for a public key without use."""
    tracing.start()
    server = settings.server
    authenticator = Authenticator(settings.auth, tuning)
    databases = Databases(settings.databases, tuning)
    writers = Writers(databases)
    batch = BatchHandler(
        server,
        authenticator,
        RateLimiter(settings.auth.api_keys),
        Admission(server),
        writers,
        BodyReader(server.max_body_bytes, tuning),
        tuning.write_seconds,
    )
    app = web.Application(middlewares=[_Surround(tuning.hold_seconds).handle])
    app[LIFECYCLE] = Lifecycle()

    async def watch_and_close(_app: web.Application) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(metrics.watch_event_loop(databases.sample)),
            asyncio.create_task(databases.report_unsupported()),
            asyncio.create_task(authenticator.fetch_keys()),
        ]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await writers.close()
        await databases.close()
        await authenticator.close()

    app.cleanup_ctx.append(watch_and_close)
    app.on_response_prepare.append(_add_headers)
    app.router.__class__ = Router
    app.router.add_put(server.base_path + BATCH_PATH, batch.handle)
    probes.add_routes(app, databases)
    page.add_routes(app, openapi.document(server))
    return app


class _Surround:
    """Numbers each request, counts it, logs it, and answers every failure with an envelope."""

    def __init__(self, hold_seconds: float) -> None:
        self._hold_seconds = hold_seconds

    @web.middleware
    async def handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        traceparent = request.headers.get(hdrs.TRACEPARENT, "")
        record = RequestRecord(str(uuid.uuid4()), trace_id(traceparent))
        request[RECORD] = record
        lifecycle = request.app[LIFECYCLE]
        lifecycle.in_flight += 1
        started_at = time.monotonic()
        status = 0
        try:
            response = await _answer(request, handler, record.activity_id)
            status = response.status
        finally:
            lifecycle.leave()
            if request.path not in probes.PATHS:
                _report(record, status, time.monotonic() - started_at)
        if status in TURNED_AWAY and not request.content.is_eof() and not lifecycle.is_stopping:
            await _hold(request, response, self._hold_seconds)
        return response


async def _hold(request: web.Request, response: web.StreamResponse, seconds: float) -> None:
    """Send the answer at once, but do not take in the rest of the body for a while.

    To take in a large body that is turned away costs a good part of what it costs to apply it;
    a caller that does not wait for Retry-After shall not take that from the others.
    """
    await response.prepare(request)
    await response.write_eof()
    await asyncio.sleep(seconds)


def _report(record: RequestRecord, status: int, seconds: float) -> None:
    """Count and log a request; the status is 0 where its connection was aborted."""
    database = record.database or ""
    metrics.REQUESTS.labels(str(status), database).inc()
    metrics.REQUEST_SECONDS.labels(database).observe(seconds)
    for outcome, count in record.outcomes.items():
        metrics.ITEMS.labels(str(outcome), database).inc(count)
    logger.info("request", extra=record.fields(status, seconds))


async def _answer(request: web.Request, handler: Handler, activity_id: str) -> web.StreamResponse:
    try:
        if request.app[LIFECYCLE].is_stopping and request.method == "PUT":
            raise Problem(503, "The service is shutting down; try again.", {hdrs.RETRY_AFTER: "5"})
        return await handler(request)
    except Problem as problem:
        return problem_response(request, problem, activity_id)
    except web.HTTPException as error:
        return problem_response(request, _problem_of(error), activity_id)
    except ConnectionError:
        raise
    except Exception as error:
        # A traceback would be of use, but its messages may hold field values.
        logger.exception("unhandled", extra={"activityID": activity_id}, exc_info=_bare(error))
        if request.writer.output_size > 0:
            # Half an envelope cannot be mended: abort, so that it does not look whole.
            raise ConnectionError("aborted") from None
        internal = Problem(500, f"Internal error, activityID {activity_id}.")
        return problem_response(request, internal, activity_id)


def _bare(error: Exception) -> BaseException:
    """Return an error that tells type and place, not the message."""
    return RuntimeError(type(error).__name__).with_traceback(error.__traceback__)


_DETAILS = {
    404: "Nothing is served at this path.",
    405: "This path does not answer this method.",
}


def _problem_of(error: web.HTTPException) -> Problem:
    headers: dict[str, str] = {}
    if hdrs.ALLOW in error.headers:
        headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
    return Problem(error.status, _DETAILS.get(error.status, error.reason), headers)


def _activity_id(request: web.Request) -> str:
    record = request.get(RECORD)
    return record.activity_id if record else ""


def add_headers(response: web.StreamResponse, activity_id: str) -> None:
    """Add the headers that every answer has."""
    response.headers[hdrs.X_CONTENT_TYPE_OPTIONS] = "nosniff"
    response.headers[hdrs.CACHE_CONTROL] = "no-store"
    response.headers[ACTIVITY_HEADER] = activity_id


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.pop(hdrs.SERVER, None)
    add_headers(response, _activity_id(request))
    response.headers.update(request.get(RATE_LIMIT, {}))
    if request.app[LIFECYCLE].is_stopping:
        response.force_close()
        response.headers[hdrs.CONNECTION] = "close"
