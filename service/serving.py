"""The application as a process, or as several under gunicorn: listening, TLS, shutdown."""

import asyncio
import functools
import logging
import os
import shutil
import signal
import ssl
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from aiohttp.worker import GunicornUVLoopWebWorker
from gunicorn.app.base import BaseApplication
from prometheus_client import multiprocess

from .app import LIFECYCLE, Lifecycle, build_app, problem_response
from .config import Settings
from .problems import Problem

logger = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 75
READ_BUFFER_BYTES = 256 * 1024
HEADER_BYTES = 16 * 1024
HEADER_SECONDS = 30


def serve(settings: Settings, announce: Callable[[str, int], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests in flight and return.

    A single process calls ``announce`` with its address once it listens.
    """
    if settings.server.workers == 1:
        uvloop.run(_serve_alone(settings, announce or _log_address))
    else:
        _log_address(settings.server.host, settings.server.port)
        _Supervisor(settings).run()


def _log_address(host: str, port: int) -> None:
    logger.info("serving", extra={"host": host, "port": port})


async def _serve_alone(settings: Settings, announce: Callable[[str, int], None]) -> None:
    runner = await make_runner(settings)
    await runner.setup()
    server = settings.server
    tls = _tls(settings)
    site = web.TCPSite(runner, server.host, server.port, ssl_context=tls, backlog=1024)
    await site.start()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if tls is not None:
        loop.add_signal_handler(signal.SIGHUP, _load_certificate, tls, settings)
    announce(*runner.addresses[0][:2])
    await stop.wait()
    await runner.app[LIFECYCLE].drain(server.shutdown_grace_seconds)
    await runner.cleanup()


async def make_runner(settings: Settings) -> web.AppRunner:
    """Return the runner of a new application, not yet set up."""
    return _Runner(
        build_app(settings),
        access_log=None,
        keepalive_timeout=KEEP_ALIVE_SECONDS,
        read_bufsize=READ_BUFFER_BYTES,
        max_line_size=HEADER_BYTES,
        max_field_size=HEADER_BYTES,
        # The handler decompresses, after it has checked the credentials and within limits.
        auto_decompress=False,
        # What is still in flight has had its grace period in Lifecycle.drain.
        shutdown_timeout=1,
    )


class _Runner(web.AppRunner):
    """Answers with an envelope also where aiohttp answers by itself: malformed HTTP."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = _Server
        return server


class _Server(web.Server):
    def __call__(self) -> RequestHandler:
        return _RequestHandler(self, loop=self._loop, **self._kwargs)


class _RequestHandler(RequestHandler):
    __slots__ = ("_silence",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give the first request's headers a time limit; aiohttp limits only what follows it."""
        super().connection_made(transport)
        loop = asyncio.get_running_loop()
        self._silence = loop.call_later(HEADER_SECONDS, self._end_silence)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the time limit."""
        self._silence.cancel()
        super().connection_lost(exc)

    def _end_silence(self) -> None:
        if self._request_count == 0:
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the envelope; aiohttp's own message may quote what the client sent."""
        if request.writer.output_size > 0:
            raise ConnectionError("aborted")
        activity_id = str(uuid.uuid4())
        logger.info("malformed HTTP", extra={"activityID": activity_id, "status": status})
        detail = "Internal error." if status == 500 else "The request is not valid HTTP."
        problem = Problem(status, detail)
        response = problem_response(request, problem, activity_id)
        response.force_close()
        return response


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.server.tls_certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _load_certificate(context, settings)
    return context


def _load_certificate(context: ssl.SSLContext, settings: Settings) -> None:
    assert settings.server.tls_certificate is not None
    context.load_cert_chain(settings.server.tls_certificate, settings.server.tls_key)
    logger.info("certificate loaded")


class Worker(GunicornUVLoopWebWorker):
    """One of N processes; it drains before it stops."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Drain on SIGTERM, then stop."""
        self.loop.create_task(self._drain())

    async def _drain(self) -> None:
        await self.app.lifecycle.drain(self.cfg.graceful_timeout)
        self.alive = False
        self._notify_waiter_done()

    handle_quit = handle_exit


def _forget_worker(_arbiter: object, worker: Any) -> None:
    """Take the gauges of a worker that has ended out of the metrics."""
    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def _forget_all_workers(_arbiter: object) -> None:
    shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)


class _Supervisor(BaseApplication):  # type: ignore[misc]
    """gunicorn, which starts the workers, restarts one that dies and passes signals on."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.lifecycle: Lifecycle | None = None
        super().__init__()

    def load_config(self) -> None:
        server = self._settings.server
        options: dict[str, Any] = {
            "bind": f"{server.host}:{server.port}",
            "workers": server.workers,
            "worker_class": Worker,
            "graceful_timeout": server.shutdown_grace_seconds,
            "backlog": 1024,
            "certfile": server.tls_certificate,
            "keyfile": server.tls_key,
            "child_exit": _forget_worker,
            "on_exit": _forget_all_workers,
            "control_socket_disable": True,
            "errorlog": "-",
            "loglevel": "warning",
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Callable[[], Awaitable[web.AppRunner]]:
        return functools.partial(self._make_runner)

    async def _make_runner(self) -> web.AppRunner:
        runner = await make_runner(self._settings)
        self.lifecycle = runner.app[LIFECYCLE]
        return runner
