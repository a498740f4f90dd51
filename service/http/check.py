"""What ``check-config`` and the start tell of a configuration: all that it names, tried."""

import asyncio
import errno
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from service.config import ConfigurationError, Jwt, Server, Settings, Tuning
from service.engine.inspection import Finding, inspect, inspect_owner
from service.http import certificate
from service.http.access import Authenticator
from service.http.health import liveness_error
from service.http.jwks import KeySetUnavailable, fetch

logger = logging.getLogger(__name__)

LEVELS = {"ok": logging.INFO, "warning": logging.WARNING, "failed": logging.ERROR}

INSPECTED_AT_ONCE = 8
"""Databases; a server of hundreds shall not be asked for as many connections at once."""

SHORT_SECRET_BYTES = 32
SOON = timedelta(days=14)


async def check(settings: Settings) -> AsyncIterator[Finding]:
    """Yield what is found out about each part of the configuration, before it is served."""
    yield _listening(settings.server)
    for name, key in settings.auth.api_keys.items():
        limit = f", {key.rate_limit}" if key.rate_limit else ""
        rotation = f", {len(key.digests)} secrets" if len(key.digests) > 1 else ""
        message = f"{', '.join(key.allow)} on {', '.join(key.databases)}{limit}{rotation}"
        yield Finding("ok", f"API key {name}", message)
    async for finding in check_surroundings(settings):
        yield finding
    for name, database in settings.databases.items():
        if database.migration_dsn is not None:
            yield await inspect_owner(name, database.migration_dsn, Tuning().connect_seconds)
    if settings.auth.jwt.jwks_url is not None:
        yield await _key_set(settings.auth.jwt.jwks_url)


async def check_surroundings(settings: Settings) -> AsyncIterator[Finding]:
    """Yield what a process that serves tells at its start: its credentials and databases."""
    for finding in (*_certificate(settings.server), *_tokens(settings)):
        yield finding
    few = asyncio.Semaphore(INSPECTED_AT_ONCE)

    async def inspected(name: str) -> list[Finding]:
        async with few:
            return await inspect(name, settings.databases[name], Tuning().connect_seconds)

    for found in await asyncio.gather(*map(inspected, settings.databases)):
        for finding in found:
            yield finding


async def log(settings: Settings) -> None:
    """Tell in the log what was found out."""
    async for finding in check_surroundings(settings):
        logger.log(LEVELS[finding.level], f"{finding.subject}: {finding.message}")


def _listening(server: Server) -> Finding:
    scheme = "http" if server.tls_certificate is None else "https"
    where = f"{scheme}://{server.host}:{server.port}{server.base_path}"
    for name, port in (("port", server.port), ("management_port", server.management_port)):
        if port is None:
            continue
        try:
            family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
            is_shared = server.reuse_port and name == "port"
            socket.create_server((server.host, port), family=family, reuse_port=is_shared).close()
        except OSError as error:
            if error.errno == errno.EADDRINUSE and liveness_error(server) is None:
                return Finding("ok", "server", f"serving already at {where}")
            return Finding("failed", f"server.{name}", listen_error(error, server))
    return Finding("ok", "server", f"free to listen at {where}")


def listen_error(error: OSError, server: Server) -> str:
    """Return in words why the service cannot listen."""
    if isinstance(error, socket.gaierror):
        return f"server.host: the host name {server.host} is not known"
    return {
        errno.EADDRINUSE: "the port is taken by another process",
        errno.EADDRNOTAVAIL: f"server.host: this machine has no address {server.host}",
        errno.EACCES: "this user may not listen on the port",
        errno.EPERM: "this user may not listen on the port",
    }.get(error.errno or 0, error.strerror or str(error))


def _certificate(server: Server) -> Iterator[Finding]:
    try:
        certificate.tls_context(server)
        end = certificate.ends_at(server)
    except ConfigurationError as error:
        subject, _, message = str(error).partition(": ")
        yield Finding("failed", subject, message)
        return
    if end is None:
        return
    subject, left = "server.tls_certificate", end - datetime.now(UTC)
    if left < timedelta(0):
        yield Finding("failed", subject, f"ended on {end:%Y-%m-%d}")
    else:
        message = f"good until {end:%Y-%m-%d} ({left.days} days)"
        yield Finding("warning" if left < SOON else "ok", subject, message)


def _tokens(settings: Settings) -> Iterator[Finding]:
    rules = settings.auth.jwt
    try:
        Authenticator(settings.auth, Tuning())
    except ConfigurationError as error:
        subject, _, message = str(error).partition(": ")
        yield Finding("failed", subject, message)
        return
    yield Finding("ok", "auth.jwt", f"tokens are verified with {', '.join(rules.algorithms)}")
    yield from _weaknesses(rules)


def _weaknesses(rules: Jwt) -> Iterator[Finding]:
    if rules.secret is not None and len(rules.secret.encode()) < SHORT_SECRET_BYTES:
        yield Finding(
            "warning",
            "auth.jwt.secret",
            f"shorter than {SHORT_SECRET_BYTES} bytes (RFC 7518 section 3.2)",
        )
    if rules.issuer is None and rules.audience is None:
        yield Finding(
            "warning",
            "auth.jwt",
            "neither issuer nor audience is set: a token that the same key signed for another"
            " application is accepted",
        )
    if rules.jwks_url is not None and urlsplit(rules.jwks_url).scheme == "http":
        yield Finding(
            "warning",
            "auth.jwt.jwks_url",
            "http:// lets anyone on the network path replace the keys; use https://",
        )


async def _key_set(url: str) -> Finding:
    subject, host = "auth.jwt.jwks_url", urlsplit(url).hostname
    try:
        count = len(await fetch(url))
    except KeySetUnavailable as error:
        return Finding("failed", subject, f"{host} returned no key set: {error}")
    if not count:
        return Finding("failed", subject, f"{host} returned no usable keys")
    return Finding("ok", subject, f"fetched {count} key{'s' * (count > 1)} from {host}")
