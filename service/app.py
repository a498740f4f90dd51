"""Composition root: what answers where, what surrounds it, what starts and ends with it."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator

from aiohttp import web
from aiohttp.typedefs import Handler

from . import documentation, metrics, tracing
from .auth import Authenticator
from .batch import RATE_LIMIT, RECORD, BatchHandler
from .config import Settings
from .databases import Databases
from .logs import RequestRecord, trace_id
from .openapi import BATCH_PATH
from .problems import Problem, encode_problem, negotiate

logger = logging.getLogger(__name__)

TURNED_AWAY = {429, 503}
HOLD_SECONDS = 2
PROBES = {"/livez", "/readyz", "/metrics"}


class Lifecycle:
    """Whether the process is shutting down, and how many requests it still works on."""

    def __init__(self) -> None:
        self.is_stopping = False
        self.in_flight = 0
        self._idle = asyncio.Event()

    def leave(self) -> None:
        """Count a request as done."""
        self.in_flight -= 1
        if self.in_flight == 0:
            self._idle.set()

    async def drain(self, grace_seconds: float) -> None:
        """Refuse new batches and wait, not for ever, until those in flight are done.

        The listener stays open meanwhile, so that the probes tell.
        """
        self.is_stopping = True
        try:
            async with asyncio.timeout(grace_seconds):
                while self.in_flight:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            logger.error("grace period over", extra={"in_flight": self.in_flight})


LIFECYCLE = web.AppKey("lifecycle", Lifecycle)
DATABASES = web.AppKey("databases", Databases)


def build_app(settings: Settings) -> web.Application:
    """Return the application. Raises ConfigurationError for a public key without use."""
    tracing.start()
    app = web.Application(middlewares=[_surround])
    authenticator = Authenticator(settings.auth)
    databases = Databases(settings.databases)
    app[LIFECYCLE] = Lifecycle()
    app[DATABASES] = databases

    async def watch_and_close(_app: web.Application) -> AsyncIterator[None]:
        watch = asyncio.create_task(metrics.watch_event_loop(databases.sample))
        yield
        watch.cancel()
        await databases.close()
        await authenticator.close()

    app.cleanup_ctx.append(watch_and_close)
    app.on_response_prepare.append(_add_headers)
    app.router.add_put(
        settings.server.base_path + BATCH_PATH,
        BatchHandler(settings, authenticator, databases).handle,
        expect_handler=_expect_nothing_yet,
    )
    app.router.add_get("/livez", _livez)
    app.router.add_get("/readyz", _readyz)
    app.router.add_get("/metrics", _metrics)
    documentation.add_routes(app, settings.server)
    return app


async def _livez(_request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def _readyz(request: web.Request) -> web.Response:
    if request.app[LIFECYCLE].is_stopping:
        raise Problem(503, "The service is shutting down.", {"Retry-After": "5"})
    if not await request.app[DATABASES].answers():
        raise Problem(503, "No database answers.", {"Retry-After": "5"})
    return web.Response(text="ok\n")


async def _metrics(request: web.Request) -> web.Response:
    request.app[DATABASES].sample()
    return web.Response(body=metrics.render(), headers={"Content-Type": metrics.CONTENT_TYPE})


async def _expect_nothing_yet(_request: web.Request) -> None:
    """Leave "100 Continue" to the handler, which first looks at the credentials."""


@web.middleware
async def _surround(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Number the request, count it, log it, and answer every failure with an envelope."""
    traceparent = request.headers.get("traceparent", "")
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
        if request.path not in PROBES:
            _report(record, status, time.monotonic() - started_at)
    if status in TURNED_AWAY and not request.content.is_eof() and not lifecycle.is_stopping:
        await _hold(request, response)
    return response


async def _hold(request: web.Request, response: web.StreamResponse) -> None:
    """Send the answer at once, but do not take in the rest of the body for a while.

    To take in a large body that is turned away costs a good part of what it costs to apply it;
    a caller that does not wait for Retry-After shall not take that from the others.
    """
    await response.prepare(request)
    await response.write_eof()
    await asyncio.sleep(HOLD_SECONDS)


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
            raise Problem(503, "The service is shutting down; try again.", {"Retry-After": "5"})
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
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    return Problem(error.status, _DETAILS.get(error.status, error.reason), headers)


def problem_response(request: web.BaseRequest, problem: Problem, activity_id: str) -> web.Response:
    """Return the envelope of a whole-request error in the type that the client accepts."""
    return web.Response(
        status=problem.status,
        body=encode_problem(problem, request.path, activity_id),
        headers={
            **problem.headers,
            "Content-Type": negotiate(request.headers.get("Accept", "")),
        },
    )


def _activity_id(request: web.Request) -> str:
    record = request.get(RECORD)
    return record.activity_id if record else ""


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.pop("Server", None)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Activity-ID"] = _activity_id(request)
    response.headers.update(request.get(RATE_LIMIT, {}))
    if request.app[LIFECYCLE].is_stopping:
        response.force_close()
        response.headers["Connection"] = "close"
