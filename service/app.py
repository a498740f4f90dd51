"""Composition root: what answers where, what surrounds it, what starts and ends with it."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator

from aiohttp import web
from aiohttp.typedefs import Handler

from .auth import Authenticator
from .batch import ACTIVITY_ID, RATE_LIMIT, BatchHandler
from .config import Settings
from .databases import Databases
from .problems import Problem, encode_problem, negotiate

logger = logging.getLogger(__name__)

BATCH_PATH = "/care-case-clinical-trials-batch"


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
    app = web.Application(middlewares=[_surround])
    authenticator = Authenticator(settings.auth)
    databases = Databases(settings.databases)
    app[LIFECYCLE] = Lifecycle()
    app[DATABASES] = databases

    async def close(_app: web.Application) -> AsyncIterator[None]:
        yield
        await databases.close()
        await authenticator.close()

    app.cleanup_ctx.append(close)
    app.on_response_prepare.append(_add_headers)
    app.router.add_put(
        settings.server.base_path + BATCH_PATH,
        BatchHandler(settings, authenticator, databases).handle,
        expect_handler=_expect_nothing_yet,
    )
    app.router.add_get("/livez", _livez)
    app.router.add_get("/readyz", _readyz)
    return app


async def _livez(_request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def _readyz(request: web.Request) -> web.Response:
    if request.app[LIFECYCLE].is_stopping:
        raise Problem(503, "The service is shutting down.", {"Retry-After": "5"})
    if not await request.app[DATABASES].answers():
        raise Problem(503, "No database answers.", {"Retry-After": "5"})
    return web.Response(text="ok\n")


async def _expect_nothing_yet(_request: web.Request) -> None:
    """Leave "100 Continue" to the handler, which first looks at the credentials."""


@web.middleware
async def _surround(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Number the request, count it, and answer every failure with an envelope."""
    request[ACTIVITY_ID] = activity_id = str(uuid.uuid4())
    lifecycle = request.app[LIFECYCLE]
    lifecycle.in_flight += 1
    try:
        if lifecycle.is_stopping and request.method == "PUT":
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
    finally:
        lifecycle.leave()


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
    logger.info("refused", extra={"activityID": activity_id, "status": problem.status})
    return web.Response(
        status=problem.status,
        body=encode_problem(problem, request.path, activity_id),
        headers={
            **problem.headers,
            "Content-Type": negotiate(request.headers.get("Accept", "")),
        },
    )


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.pop("Server", None)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Activity-ID"] = request.get(ACTIVITY_ID, "")
    response.headers.update(request.get(RATE_LIMIT, {}))
    if request.app[LIFECYCLE].is_stopping:
        response.force_close()
        response.headers["Connection"] = "close"
