"""``/livez``, ``/readyz`` and ``/metrics``: what supervisors ask, without credentials."""

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
    """Answers about this process and its databases.

    ``has_own_port``: nobody but supervisors comes to the port, so that everybody there may have the
    metrics; elsewhere they go to loopback alone.
    """

    def __init__(self, states: ReloadableState, *, has_own_port: bool) -> None:
        self._states = states
        self._has_own_port = has_own_port

    def add_routes(self, app: web.Application) -> None:
        """Answer on this application's port."""
        for path, handler in zip(PATHS, (self.livez, self.readyz, self.metrics), strict=True):
            app.router.add_get(path, handler)

    async def livez(self, _request: web.Request) -> web.Response:
        """Tell that the process answers."""
        return web.Response(text="ok\n")

    async def readyz(self, request: web.Request) -> web.Response:
        """Tell whether requests may come here. Raises Problem 503."""
        if request.app[LIFECYCLE].is_stopping:
            raise Problem(503, "The service is shutting down.", RETRY_AFTER, reason="stopping")
        reason = await self._states.current.writers.readiness_error()
        if reason is not None:
            raise Problem(503, reason, RETRY_AFTER, reason="database_away")
        return web.Response(text="ok\n")

    async def metrics(self, request: web.Request) -> web.Response:
        """Give Prometheus what it asks for. Raises Problem 403."""
        if not (self._has_own_port or is_loopback(request.remote)):
            raise Problem(
                403,
                "Metrics go to loopback alone here; set server.management_port for others.",
                reason="not_loopback",
            )
        self._states.sample()
        return web.Response(
            body=metrics.render(), headers={hdrs.CONTENT_TYPE: metrics.CONTENT_TYPE}
        )


def is_loopback(address: str | None) -> bool:
    """Tell whether a peer is a process of this machine."""
    try:
        peer = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    return (getattr(peer, "ipv4_mapped", None) or peer).is_loopback
