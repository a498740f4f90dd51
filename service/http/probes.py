"""``/livez``, ``/readyz`` and ``/metrics``: what supervisors ask, without credentials."""

from aiohttp import hdrs, web

from service.engine.databases import Databases
from service.http.envelope import Problem
from service.http.lifecycle import LIFECYCLE
from service.telemetry import metrics

PATHS = ("/livez", "/readyz", "/metrics")

RETRY_AFTER: dict[str, str] = {hdrs.RETRY_AFTER: "5"}


def add_routes(app: web.Application, databases: Databases) -> None:
    """Answer the probes about this process and its databases."""

    async def livez(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(request: web.Request) -> web.Response:
        if request.app[LIFECYCLE].is_stopping:
            raise Problem(503, "The service is shutting down.", RETRY_AFTER)
        if not await databases.answers():
            raise Problem(503, "No database answers.", RETRY_AFTER)
        return web.Response(text="ok\n")

    async def prometheus(_request: web.Request) -> web.Response:
        databases.sample()
        return web.Response(
            body=metrics.render(), headers={hdrs.CONTENT_TYPE: metrics.CONTENT_TYPE}
        )

    for path, handler in zip(PATHS, (livez, readyz, prometheus), strict=True):
        app.router.add_get(path, handler)
