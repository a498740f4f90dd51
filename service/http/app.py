"""Composition root: routes, middleware, startup and cleanup."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from service.config import Settings, Tuning
from service.engine.retrying import DatabaseNotReady, TimedOut, Unavailable
from service.http import docs_page, probes
from service.http.access import RATE_LIMIT
from service.http.app_state import AppState, ReloadableState
from service.http.envelope import REQUEST_RECORD, Problem, make_problem_response
from service.http.expect_continue import Router
from service.http.lifecycle import LIFECYCLE, Lifecycle
from service.http.probes import Probes
from service.telemetry import metrics, tracing
from service.telemetry.logs import ACTIVITY, RequestRecord, parse_trace_id, without_message
from service.wire import ACTIVITY_HEADER, BATCH_PATH, RECORDS_PATH

logger = logging.getLogger(__name__)

RETRY_LATER_STATUSES = {429, 503}
WRITE_METHODS = {hdrs.METH_PUT, hdrs.METH_POST, hdrs.METH_DELETE}


STATE = web.AppKey("state", ReloadableState)
MANAGEMENT = web.AppKey("management", web.Application)
"""The application on ``management_port``, if that is set."""


def build_app(settings: Settings, tuning: Tuning) -> web.Application:
    """Return the application. Raises ConfigurationError for an unusable public key."""
    tracing.start()
    server = settings.server
    states = ReloadableState(settings, tuning)
    lifecycle = Lifecycle()
    app = _with_middleware(lifecycle, tuning)
    app[STATE] = states
    app.cleanup_ctx.append(_watch_and_close)

    _add_api(app, server.base_path, states)
    docs_page.add_routes(app, lambda: states.current.openapi)
    probes_app = app
    if server.management_port is not None:
        probes_app = app[MANAGEMENT] = _with_middleware(lifecycle, tuning)
    Probes(states, has_own_port=probes_app is not app).add_routes(probes_app)
    return app


def _add_api(app: web.Application, base_path: str, states: ReloadableState) -> None:
    def with_state(get_handler: Callable[[AppState], Handler]) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            state = states.current
            with state.in_use():
                return await get_handler(state)(request)

        return handle

    router, records = app.router, base_path + RECORDS_PATH
    router.add_put(base_path + BATCH_PATH, with_state(lambda state: state.batch.handle))
    router.add_get(records, with_state(lambda state: state.records.list_page))
    router.add_post(records, with_state(lambda state: state.records.create))
    router.add_get(records + "/{key}", with_state(lambda state: state.records.get))
    router.add_put(records + "/{key}", with_state(lambda state: state.records.replace))
    router.add_delete(records + "/{key}", with_state(lambda state: state.records.delete))


def _with_middleware(lifecycle: Lifecycle, tuning: Tuning) -> web.Application:
    """Return an application with the middleware and headers that every response needs."""
    app = web.Application(
        middlewares=[RequestMiddleware(tuning.rejected_body_pause_seconds).handle]
    )
    app[LIFECYCLE] = lifecycle
    app.router.__class__ = Router
    app.on_response_prepare.append(_complete_headers)
    return app


async def _watch_and_close(app: web.Application) -> AsyncIterator[None]:
    states = app[STATE]
    task = asyncio.create_task(metrics.watch_event_loop(states.sample))
    states.current.authenticator.fetch_keys()
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await states.close()


class RequestMiddleware:
    """Gives each request an activityID, counts and logs it, and turns failures into envelopes."""

    def __init__(self, rejected_body_pause_seconds: float) -> None:
        self._rejected_body_pause_seconds = rejected_body_pause_seconds

    @web.middleware
    async def handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        traceparent = request.headers.get(hdrs.TRACEPARENT, "")
        record = RequestRecord(
            str(uuid.uuid4()),
            parse_trace_id(traceparent),
            method=request.method,
            path=_get_route_path(request),
            client=request.remote,
            forwarded_for=request.headers.get(hdrs.X_FORWARDED_FOR),
            user_agent=request.headers.get(hdrs.USER_AGENT),
        )
        request[REQUEST_RECORD] = record
        ACTIVITY.set(record.activity_id)
        lifecycle = request.app[LIFECYCLE]
        started_at = time.monotonic()
        status = 0
        with lifecycle.in_use():
            try:
                response = await _respond(request, handler, record)
                status = response.status
            finally:
                if request.path not in probes.PATHS:
                    _log_and_count(record, status, time.monotonic() - started_at)
        if (
            status in RETRY_LATER_STATUSES
            and not request.content.is_eof()
            and not lifecycle.is_stopping
        ):
            await _respond_and_pause(request, response, self._rejected_body_pause_seconds)
        return response


def _get_route_path(request: web.Request) -> str:
    """Return the path for the log: the route's pattern, which contains no record key."""
    resource = request.match_info.route.resource
    return resource.canonical if resource else request.path


async def _respond_and_pause(
    request: web.Request, response: web.StreamResponse, seconds: float
) -> None:
    """Send the response, then wait before the rest of the body is read.

    Reading a large rejected body costs a good part of what applying it would cost. A caller that
    ignores Retry-After must not spend that at the expense of others.
    """
    await response.prepare(request)
    await response.write_eof()
    await asyncio.sleep(seconds)


def _log_and_count(record: RequestRecord, status: int, seconds: float) -> None:
    """Count and log a request; status 0 means that its connection was aborted."""
    database = record.database or ""
    metrics.REQUESTS.labels(str(status), database).inc()
    metrics.REQUEST_SECONDS.labels(database).observe(seconds)
    if record.reason is not None:
        metrics.REFUSALS.labels(record.reason).inc()
    for outcome, count in record.outcomes.items():
        metrics.ITEMS.labels(str(outcome), database).inc(count)
    logger.info("request", extra=record.fields(status, seconds))


async def _respond(
    request: web.Request, handler: Handler, record: RequestRecord
) -> web.StreamResponse:
    try:
        return await _call_handler(request, handler, record.activity_id)
    except Problem as problem:
        record.reason = problem.reason
        return make_problem_response(request, problem, record.activity_id)


async def _call_handler(
    request: web.Request, handler: Handler, activity_id: str
) -> web.StreamResponse:
    """Return the handler's response. Raises Problem for each failure.

    Raises ConnectionError if the connection must be aborted.
    """
    try:
        if request.app[LIFECYCLE].is_stopping and request.method in WRITE_METHODS:
            raise Problem(
                503,
                "The service is shutting down; retry later.",
                {hdrs.RETRY_AFTER: "5"},
                reason="shutting_down",
            )
        return await handler(request)
    except (Problem, ConnectionError):
        raise
    except web.HTTPException as error:
        raise _make_http_problem(error) from None
    except (Unavailable, TimedOut) as error:
        detail = f"{str(error) or 'The database did not respond in time'}; retry later."
        raise Problem(503, detail, {hdrs.RETRY_AFTER: "2"}, reason="database_unavailable") from None
    except Exception as error:
        if not isinstance(error, DatabaseNotReady):  # which is in the log
            logger.exception("unhandled exception", exc_info=without_message(error))
        if request.writer.output_size > 0:
            # Abort, so that half an envelope does not look complete.
            raise ConnectionError("aborted") from None
        detail = f"Internal error, activityID {activity_id}."
        raise Problem(500, detail, reason="internal") from None


def _make_http_problem(error: web.HTTPException) -> Problem:
    reason, detail = "http", error.reason
    if error.status == 404:
        reason, detail = "path", "Nothing is served at this path; check the base path."
    elif isinstance(error, web.HTTPMethodNotAllowed):
        *others, last = sorted(error.allowed_methods - {hdrs.METH_HEAD})
        allowed = f"{', '.join(others)} or {last}" if others else last
        reason, detail = "method", f"{error.method[:20]} is not supported here; use {allowed}."
    headers = {name: value for name, value in error.headers.items() if name == hdrs.ALLOW}
    return Problem(error.status, detail, headers, reason=reason)


def add_headers(response: web.StreamResponse, activity_id: str) -> None:
    """Add the headers that every response has. Only documents can be cached."""
    response.headers[hdrs.X_CONTENT_TYPE_OPTIONS] = "nosniff"
    response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
    response.headers[ACTIVITY_HEADER] = activity_id


async def _complete_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.pop(hdrs.SERVER, None)
    add_headers(response, request[REQUEST_RECORD].activity_id)
    response.headers.update(request.get(RATE_LIMIT, {}))
    if request.app[LIFECYCLE].is_stopping:
        response.force_close()
        response.headers[hdrs.CONNECTION] = "close"
