"""Checks everything that a configuration refers to, for ``check-config`` and at startup."""

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

MAX_INSPECTIONS = 8
"""Maximum number of databases inspected at the same time, which bounds the connections."""

SHORT_SECRET_BYTES = 32
EXPIRY_WARNING = timedelta(days=14)


async def check(settings: Settings) -> AsyncIterator[Finding]:
    """Yield the findings of ``check-config``."""
    yield _check_listener(settings.server)
    for name, key in settings.auth.api_keys.items():
        limit = f", {key.rate_limit}" if key.rate_limit else ""
        rotation = f", {len(key.digests)} secrets" if len(key.digests) > 1 else ""
        message = f"{', '.join(key.allow)} on {', '.join(key.databases)}{limit}{rotation}"
        yield Finding("ok", f"API key {name}", message)
    async for finding in check_references(settings):
        yield finding
    for name, database in settings.databases.items():
        if database.migration_dsn is not None:
            yield await inspect_owner(name, database.migration_dsn, Tuning().connect_seconds)
    if settings.auth.jwt.jwks_url is not None:
        yield await _check_key_set(settings.auth.jwt.jwks_url)


async def check_references(settings: Settings) -> AsyncIterator[Finding]:
    """Yield the findings that are logged at startup: certificate, tokens and databases."""
    for finding in (*_check_certificate(settings.server), *_check_tokens(settings)):
        yield finding
    semaphore = asyncio.Semaphore(MAX_INSPECTIONS)

    async def inspect_one(name: str) -> list[Finding]:
        async with semaphore:
            return await inspect(name, settings.databases[name], Tuning().connect_seconds)

    for findings in await asyncio.gather(*map(inspect_one, settings.databases)):
        for finding in findings:
            yield finding


async def log(settings: Settings) -> None:
    """Log the findings of check_references()."""
    async for finding in check_references(settings):
        logger.log(LEVELS[finding.level], f"{finding.subject}: {finding.message}")


def _check_listener(server: Server) -> Finding:
    scheme = "http" if server.tls_certificate is None else "https"
    url = f"{scheme}://{server.host}:{server.port}{server.base_path}"
    for name, port in (("port", server.port), ("management_port", server.management_port)):
        if port is None:
            continue
        try:
            family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
            is_shared = server.reuse_port and name == "port"
            socket.create_server((server.host, port), family=family, reuse_port=is_shared).close()
        except OSError as error:
            if error.errno == errno.EADDRINUSE and liveness_error(server) is None:
                return Finding("ok", "server", f"already serving on {url}")
            subject, _, message = listen_error(error, server, f"server.{name}").partition(": ")
            return Finding("failed", subject, message)
    return Finding("ok", "server", f"can listen on {url}")


def listen_error(error: OSError, server: Server, setting: str) -> str:
    """Return why the service cannot listen, after the setting to change: the given one or host."""
    if isinstance(error, socket.gaierror):
        return f"server.host: unknown host {server.host}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"server.host: this machine has no address {server.host}"
    reasons = {
        errno.EADDRINUSE: "the port is taken by another process",
        errno.EACCES: "this user is not allowed to listen on the port",
        errno.EPERM: "this user is not allowed to listen on the port",
    }
    return f"{setting}: {reasons.get(error.errno or 0, error.strerror or str(error))}"


def _check_certificate(server: Server) -> Iterator[Finding]:
    try:
        certificate.make_tls_context(server)
        expiry = certificate.get_expiry(server)
    except ConfigurationError as error:
        subject, _, message = str(error).partition(": ")
        yield Finding("failed", subject, message)
        return
    if expiry is None:
        return
    subject, left = "server.tls_certificate", expiry - datetime.now(UTC)
    if left < timedelta(0):
        yield Finding("failed", subject, f"expired on {expiry:%Y-%m-%d}")
    else:
        message = f"valid until {expiry:%Y-%m-%d} ({left.days} days)"
        yield Finding("warning" if left < EXPIRY_WARNING else "ok", subject, message)


def _check_tokens(settings: Settings) -> Iterator[Finding]:
    rules = settings.auth.jwt
    try:
        Authenticator(settings.auth, Tuning())
    except ConfigurationError as error:
        subject, _, message = str(error).partition(": ")
        yield Finding("failed", subject, message)
        return
    yield Finding("ok", "auth.jwt", f"tokens are verified with {', '.join(rules.algorithms)}")
    yield from _find_weaknesses(rules)


def _find_weaknesses(rules: Jwt) -> Iterator[Finding]:
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


async def _check_key_set(url: str) -> Finding:
    subject, host = "auth.jwt.jwks_url", urlsplit(url).hostname
    try:
        count = len(await fetch(url))
    except KeySetUnavailable as error:
        return Finding("failed", subject, f"{host} returned no key set: {error}")
    if not count:
        return Finding("failed", subject, f"{host} returned no usable keys")
    return Finding("ok", subject, f"fetched {count} key{'s' * (count > 1)} from {host}")
