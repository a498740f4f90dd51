"""The server process: listening, TLS, signals, shutdown."""

import asyncio
import errno
import logging
import signal
import termios
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import uvloop
from aiohttp import hdrs, web
from aiohttp.web_protocol import RequestHandler

from service import __version__
from service.config import ConfigurationError, Server, Settings, Tuning
from service.http import certificate, check
from service.http.app import MANAGEMENT, STATE, add_headers, build_app
from service.http.envelope import Problem, make_problem_response
from service.http.lifecycle import LIFECYCLE
from service.http.reload import Reload
from service.telemetry import metrics

logger = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 75
READ_BUFFER_BYTES = 256 * 1024
MAX_HEADER_BYTES = 16 * 1024


def serve(
    settings: Settings,
    read_settings: Callable[[], Settings],
    announce: Callable[[str, int], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests in flight and return.

    ``read_settings`` reloads the settings on SIGHUP. ``announce`` is called with the host and port
    once the service listens; None logs them. Raises OSError if it cannot listen there, and
    ConfigurationError for an unusable public key or certificate.
    """
    uvloop.run(_serve(settings, read_settings, announce or partial(_log_address, settings.server)))


def _log_address(server: Server, host: str, port: int) -> None:
    fields = {
        "version": __version__,
        "host": host,
        "port": port,
        "management_port": server.management_port,
        "tls": server.tls_certificate is not None,
        "base_path": server.base_path,
    }
    logger.info("serving", extra=fields)


async def _serve(
    settings: Settings, read_settings: Callable[[], Settings], announce: Callable[[str, int], None]
) -> None:
    server, tuning = settings.server, Tuning()
    tls = certificate.make_tls_context(server)
    certificate.export_expiry(server)
    runner = make_runner(settings, tuning)
    await runner.setup()
    app = runner.app
    reuse_port = server.reuse_port or None
    site = web.TCPSite(
        runner, server.host, server.port, ssl_context=tls, backlog=1024, reuse_port=reuse_port
    )
    await site.start()
    management: web.AppRunner | None = None
    if server.management_port is not None:
        management = _make_app_runner(app[MANAGEMENT], tuning)
        await management.setup()
        try:
            await web.TCPSite(management, server.host, server.management_port).start()
        except OSError as error:
            reason = check.listen_error(error, server, "server.management_port")
            raise ConfigurationError(reason) from None
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    reload = Reload(app[STATE], tls, read_settings)
    # nohup ignores the signal, so that the process outlives its terminal.
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN

    def handle_hangup_signal() -> None:
        if not is_ignored and _is_terminal_gone():
            # The original meaning of SIGHUP.
            stop.set()
        else:
            reload.run()

    loop.add_signal_handler(signal.SIGHUP, handle_hangup_signal)
    # service/__main__.py blocked the signals; those that arrived during startup are delivered now.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    announce(*runner.addresses[0][:2])
    checking = asyncio.create_task(check.log(settings))
    await stop.wait()
    checking.cancel()
    in_flight = app[LIFECYCLE].in_flight
    logger.info(f"draining: {in_flight} request{'s' * (in_flight != 1)} in flight")
    if server.reuse_port:
        # Other processes share the port; an open listener would still get connections.
        await site.stop()
    await app[LIFECYCLE].drain(app[STATE].current.settings.server.shutdown_grace_seconds)
    await runner.cleanup()
    if management is not None:
        await management.cleanup()
    logger.info("stopped")


def _is_terminal_gone() -> bool:
    """Return whether stdin is a closed terminal, which os.isatty() reports as no terminal."""
    try:
        termios.tcgetattr(0)
    except termios.error as error:
        return bool(error.args[0] == errno.EIO)
    return False


def make_runner(settings: Settings, tuning: Tuning) -> web.AppRunner:
    """Return the runner of a new application, not yet set up."""
    return _make_app_runner(build_app(settings, tuning), tuning)


def _make_app_runner(app: web.Application, tuning: Tuning) -> web.AppRunner:
    return _Runner(
        app,
        header_seconds=tuning.header_seconds,
        access_log=None,
        keepalive_timeout=KEEP_ALIVE_SECONDS,
        read_bufsize=READ_BUFFER_BYTES,
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
        # The handler decompresses within limits, after it has checked the credentials.
        auto_decompress=False,
        # Requests still in flight had their grace period in Lifecycle.drain.
        shutdown_timeout=1,
    )


class _Runner(web.AppRunner):
    """A runner that also responds to malformed HTTP with an envelope."""

    def __init__(self, app: web.Application, *, header_seconds: float, **options: Any) -> None:
        super().__init__(app, **options)
        self._header_seconds = header_seconds

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = _Server
        assert isinstance(server, _Server)
        server.header_seconds = self._header_seconds
        return server


class _Server(web.Server):
    header_seconds: float

    def __call__(self) -> RequestHandler:
        return _RequestHandler(self, loop=self._loop, **self._kwargs)


class _RequestHandler(RequestHandler):
    __slots__ = ("_header_timer",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set a time limit for the first request's headers; aiohttp limits only later requests."""
        super().connection_made(transport)
        loop = asyncio.get_running_loop()
        server = self._manager
        assert isinstance(server, _Server)
        self._header_timer = loop.call_later(server.header_seconds, self._close_if_silent)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Cancel the time limit."""
        self._header_timer.cancel()
        super().connection_lost(exc)

    def _close_if_silent(self) -> None:
        if self._request_count == 0:
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return an envelope, because aiohttp's own message can quote what the client sent."""
        if request.writer.output_size > 0:
            raise ConnectionError("aborted")
        activity_id = str(uuid.uuid4())
        logger.info("malformed HTTP", extra={"activityID": activity_id, "status": status})
        metrics.REFUSALS.labels("http").inc()
        detail = "Internal error." if status == 500 else "The request is not valid HTTP."
        problem = Problem(status, detail, reason="http")
        envelope = make_problem_response(request, problem, activity_id)
        response = _ResponseWithoutServerHeader(
            status=envelope.status, body=envelope.body, headers=envelope.headers
        )
        add_headers(response, activity_id)
        response.force_close()
        return response


class _ResponseWithoutServerHeader(web.Response):
    """A response without aiohttp's ``Server`` header, which contains versions.

    on_response_prepare removes it from other responses, but does not run for malformed HTTP.
    """

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        self.headers.pop(hdrs.SERVER, None)
