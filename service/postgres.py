"""DSNs, and descriptions of failed connections."""

import socket
import ssl
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import asyncpg

from service.statements import FUNCTIONS_DIGEST, SCHEMA_IS_CURRENT, UNSAFE_SCHEMAS, in_schema

SEARCH_PATH = ("public",)
"""Default of the setting ``search_path``; the first schema has the record table."""

CANNOT_CONNECT = (
    OSError,
    TimeoutError,
    # A malformed address: a label that is too long or empty, a port out of range.
    ValueError,
    OverflowError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""Errors of a connection attempt."""

MAX_PORT = 65535

_IGNORED = {
    # The service sets its own, see engine/databases.
    *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
    *("tcp_user_timeout", "application_name", "fallback_application_name"),
    # Compression is always off, and the host name is always sent (SNI).
    *("sslcompression", "sslsni"),
}
"""Parameters of libpq that change nothing: the service does or replaces what they ask for."""

_FIXED = {
    "channel_binding": ("disable", "prefer"),
    "gssencmode": ("disable", "prefer"),
    "client_encoding": ("auto", "utf8", "utf-8", "UTF8", "UTF-8"),
    "load_balance_hosts": ("disable",),
}
"""Parameters of libpq that are supported only with these values."""

_UNSUPPORTED = {
    *("hostaddr", "requiressl", "requirepeer", "require_auth", "replication", "sslcrldir"),
    *("sslcertmode", "sslkeylogfile", "gssdelegation", "servicefile", "scram_client_key"),
    *("scram_server_key", "min_protocol_version", "max_protocol_version"),
    *("oauth_issuer", "oauth_client_id", "oauth_client_secret", "oauth_scope"),
}
"""Parameters of libpq that asyncpg would send to the server as settings."""


def check_dsn(dsn: str) -> None:
    """Raise ValueError, with a message to show, for an invalid port or an unsupported parameter.

    Unknown parameters are settings of the server, which checks them when it is connected to.
    """
    parts = urlsplit(dsn)
    for host in parts.netloc.rpartition("@")[2].split(","):
        port = host.rpartition("]")[2].partition(":")[2]
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) <= MAX_PORT):
            raise ValueError(
                f"the port must be a number from 1 to {MAX_PORT}; write / ? # in a password as"
                " %2F %3F %23"
            )
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        allowed = _FIXED.get(name)
        if name in _UNSUPPORTED or (allowed is not None and value not in allowed):
            hint = f"; use {' or '.join(allowed[:2])}" if allowed else ""
            raise ValueError(f"the parameter {name} is not supported{hint}")
        if name == "connect_timeout" and not (value.isascii() and value.isdigit()):
            raise ValueError("the parameter connect_timeout must be a whole number of seconds")


def get_connect_arguments(dsn: str, connect_seconds: float) -> dict[str, Any]:
    """Return asyncpg's arguments ``dsn`` and ``timeout`` (seconds) for a DSN of libpq."""
    parts = urlsplit(dsn)
    parameters = parse_qsl(parts.query, keep_blank_values=True)
    removed = _IGNORED | _FIXED.keys() | {"connect_timeout"}
    kept = [(name, value) for name, value in parameters if name not in removed]
    timeout = int(dict(parameters).get("connect_timeout", "0"))
    return {
        "dsn": parts._replace(query=urlencode(kept)).geturl() if parameters else dsn,
        "timeout": timeout or connect_seconds,
    }


def connect_error(error: BaseException) -> str:
    """Return the SQLSTATE or the type of a connection error, never its message."""
    return getattr(error, "sqlstate", None) or type(error).__name__


def get_address(dsn: str) -> str:
    """Return HOST:PORT/DATABASE of a DSN, without credentials and parameters."""
    parts = urlsplit(dsn)
    hosts = unquote(parts.netloc.rpartition("@")[2]) or dict(parse_qsl(parts.query)).get("host", "")
    return f"{hosts or 'localhost'}{parts.path}"


def describe_error(error: BaseException, dsn: str) -> str:
    """Return the cause of a failed connection for a person, without the password."""
    parts = urlsplit(dsn)
    parameters = dict(parse_qsl(parts.query))
    where, _, database = get_address(dsn).rpartition("/")
    user = unquote(parts.netloc.rpartition("@")[0].partition(":")[0]) or parameters.get("user", "")
    # asyncpg takes what follows the first @ for the host.
    escape = "; if the password contains @, write %40" if parts.netloc.count("@") > 1 else ""
    messages: dict[type[BaseException], str] = {
        socket.gaierror: f"unknown host {where}{escape}",
        ConnectionRefusedError: f"nothing is listening on {where}",
        FileNotFoundError: f"no server socket in {where}",
        TimeoutError: f"{where} does not respond",
        ssl.SSLCertVerificationError: f"the certificate of {where} is not trusted: "
        + getattr(error, "verify_message", ""),
        asyncpg.InvalidPasswordError: f"wrong password for the user {user}",
        asyncpg.InvalidAuthorizationSpecificationError: f"the user {user} cannot log"
        f" in at {where}: the role does not exist, lacks LOGIN, or is rejected by pg_hba.conf",
        asyncpg.InvalidCatalogNameError: f"database {database} does not exist",
        asyncpg.InsufficientPrivilegeError: f"the user {user} lacks a privilege: {error}",
        asyncpg.TooManyConnectionsError: f"all connections of {where} are in use (max_connections)",
        asyncpg.CannotConnectNowError: f"{where} is starting or shutting down",
    }
    for kind in type(error).__mro__:
        if kind in messages:
            return messages[kind]
    for name in parameters:
        if isinstance(error, asyncpg.UndefinedObjectError) and f'"{name}"' in str(error):
            return f"the server does not know the setting {name} ({error.sqlstate})"
    return f"cannot connect to {where} ({connect_error(error)})"


async def schema_is_current(connection: Any, schema: str) -> bool:
    """Return whether ``migrate`` of this or a later release has run; needs no privilege."""
    try:
        statement = in_schema(SCHEMA_IS_CURRENT, schema)
        return bool(await connection.fetchval(statement, FUNCTIONS_DIGEST))
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        return False


async def find_unsafe_schemas(
    connection: Any, search_path: Sequence[str], *, with_functions: bool = True
) -> list[str]:
    """Return the reasons why a search path is unsafe ("Nobody else's code")."""
    return [
        f"search_path: {schema} does not exist"
        if grantee is None
        else f"search_path: {grantee} can create objects in the schema {schema}; run: revoke create"
        f" on schema {schema} from {grantee}"
        for schema, grantee in await connection.fetch(
            UNSAFE_SCHEMAS, list(search_path), with_functions
        )
    ]
