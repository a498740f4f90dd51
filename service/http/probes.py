"""``/livez``, ``/readyz`` and ``/metrics``: endpoints for monitoring, without credentials."""

import ipaddress

from aiohttp import hdrs, web

from service.http.app_state import ReloadableState
from service.http.envelope import Problem
from service.http.lifecycle import LIFECYCLE
from service.telemetry import metrics
from service.wire import LIVE_PATH

PATHS = (LIVE_PATH, "/readyz", "/metrics")

RETRY_AFTER: dict[str, str] = {hdrs.RETRY_AFTER: "5"}


class Probes:
    """Handlers that report the state of this process and its databases.

    ``has_own_port``: the port is for monitoring only, so that every client of it gets the metrics.
    Otherwise only loopback gets them.
    """

    def __init__(self, states: ReloadableState, *, has_own_port: bool) -> None:
        self._states = states
        self._has_own_port = has_own_port

    def add_routes(self, app: web.Application) -> None:
        """Add the endpoints to an application."""
        for path, handler in zip(PATHS, (self.livez, self.readyz, self.metrics), strict=True):
            app.router.add_get(path, handler)

    async def livez(self, _request: web.Request) -> web.Response:
        """Report that the process is up."""
        return web.Response(text="ok\n")

    async def readyz(self, request: web.Request) -> web.Response:
        """Report that the service is ready. Raises Problem 503 if it is not."""
        if request.app[LIFECYCLE].is_stopping:
            raise Problem(503, "The service is shutting down.", RETRY_AFTER, reason="shutting_down")
        reason = await self._states.current.writers.readiness_error()
        if reason is not None:
            raise Problem(503, reason, RETRY_AFTER, reason="database_unavailable")
        return web.Response(text="ok\n")

    async def metrics(self, request: web.Request) -> web.Response:
        """Return the metrics for Prometheus. Raises Problem 403 if the client cannot see them."""
        if not (self._has_own_port or is_loopback(request.remote)):
            raise Problem(
                403,
                "Metrics are only served to this machine;"
                " set server.management_port to expose them.",
                reason="not_loopback",
            )
        self._states.sample()
        return web.Response(
            body=metrics.render(), headers={hdrs.CONTENT_TYPE: metrics.CONTENT_TYPE}
        )


def is_loopback(address: str | None) -> bool:
    """Return whether a peer's address belongs to this machine's loopback interface."""
    try:
        peer = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    return (getattr(peer, "ipv4_mapped", None) or peer).is_loopback
