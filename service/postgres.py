"""How a PostgreSQL is reached by its DSN, and in words why it is not."""

import socket
import ssl
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import asyncpg

from service.statements import FUNCTIONS_DIGEST, SCHEMA_IS_CURRENT, UNSAFE_SCHEMAS, in_schema

SEARCH_PATH = ("public",)
"""Where the record table is, unless a database has a ``search_path`` of its own."""

CANNOT_CONNECT = (
    OSError,
    TimeoutError,
    # An address that is none: a label too long or empty, a port out of range.
    ValueError,
    OverflowError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""All that connecting raises where a server is away, refuses, or is not what the DSN says."""

MAX_PORT = 65535

_IGNORED = {
    # The service sets its own, see engine/databases.
    *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
    *("tcp_user_timeout", "application_name", "fallback_application_name"),
    # Compression is off and names are sent (SNI) whatever they say.
    *("sslcompression", "sslsni"),
}
"""Parameters of libpq that ask for nothing which this service does not do by itself."""

_SETTLED = {
    "channel_binding": ("disable", "prefer"),
    "gssencmode": ("disable", "prefer"),
    "client_encoding": ("auto", "utf8", "utf-8", "UTF8", "UTF-8"),
    "load_balance_hosts": ("disable",),
}
"""Parameters of libpq that can be obeyed only with these values."""

_REFUSED = {
    *("hostaddr", "requiressl", "requirepeer", "require_auth", "replication", "sslcrldir"),
    *("sslcertmode", "sslkeylogfile", "gssdelegation", "servicefile", "scram_client_key"),
    *("scram_server_key", "min_protocol_version", "max_protocol_version"),
    *("oauth_issuer", "oauth_client_id", "oauth_client_secret", "oauth_scope"),
}
"""Parameters of libpq that asyncpg cannot obey; it would send them on as settings of the server."""


def check_dsn(dsn: str) -> None:
    """Raise ValueError, in words, for a DSN that asks for what cannot be done.

    What is no parameter of libpq is a setting of the server, which alone can judge it.
    """
    parts = urlsplit(dsn)
    for host in parts.netloc.rpartition("@")[2].split(","):
        port = host.rpartition("]")[2].partition(":")[2]
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) <= MAX_PORT):
            raise ValueError(f"the port is expected to be a number from 1 to {MAX_PORT}")
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        allowed = _SETTLED.get(name)
        if name in _REFUSED or (allowed is not None and value not in allowed):
            hint = f"; expected {' or '.join(allowed[:2])}" if allowed else ""
            raise ValueError(f"the parameter {name} cannot be obeyed here{hint}")
        if name == "connect_timeout" and not (value.isascii() and value.isdigit()):
            raise ValueError("the parameter connect_timeout is expected in whole seconds")


def connect_arguments(dsn: str, connect_seconds: float) -> dict[str, Any]:
    """Return asyncpg's arguments ``dsn`` and ``timeout`` for a DSN that is written for libpq."""
    parts = urlsplit(dsn)
    parameters = parse_qsl(parts.query, keep_blank_values=True)
    ours = _IGNORED | _SETTLED.keys() | {"connect_timeout"}
    kept = [(name, value) for name, value in parameters if name not in ours]
    asked = int(dict(parameters).get("connect_timeout", "0"))
    return {
        "dsn": parts._replace(query=urlencode(kept)).geturl() if parameters else dsn,
        "timeout": asked or connect_seconds,
    }


def connect_error(error: BaseException) -> str:
    """Return the cause of a failed connection by its SQLSTATE or kind, never with a value."""
    return getattr(error, "sqlstate", None) or type(error).__name__


def address(dsn: str) -> str:
    """Return where a DSN leads to, without its credentials and parameters: HOST:PORT/DATABASE."""
    parts = urlsplit(dsn)
    hosts = unquote(parts.netloc.rpartition("@")[2]) or dict(parse_qsl(parts.query)).get("host", "")
    return f"{hosts or 'localhost'}{parts.path}"


def describe_error(error: BaseException, dsn: str) -> str:
    """Return why there is no connection, for a person; the words hold no password."""
    parts = urlsplit(dsn)
    parameters = dict(parse_qsl(parts.query))
    where, _, database = address(dsn).rpartition("/")
    user = unquote(parts.netloc.rpartition("@")[0].partition(":")[0]) or parameters.get("user", "")
    message: dict[type[BaseException], str] = {
        socket.gaierror: f"the host name of {where} is not known",
        ConnectionRefusedError: f"nothing listens at {where}",
        FileNotFoundError: f"there is no server's socket in {where}",
        TimeoutError: f"{where} does not answer",
        ssl.SSLCertVerificationError: f"the certificate of {where} is not trusted: "
        + getattr(error, "verify_message", ""),
        asyncpg.InvalidPasswordError: f"password refused for user {user}",
        asyncpg.InvalidAuthorizationSpecificationError: f"{where} does not let the user {user} in:"
        " there is no such role, it may not log in, or pg_hba.conf refuses it",
        asyncpg.InvalidCatalogNameError: f"database {database} does not exist",
        asyncpg.InsufficientPrivilegeError: f"the user {user} lacks a privilege: {error}",
        asyncpg.TooManyConnectionsError: f"{where} has no connection left (max_connections)",
        asyncpg.CannotConnectNowError: f"{where} is starting or shutting down",
    }
    for kind in type(error).__mro__:
        if kind in message:
            return message[kind]
    return f"cannot connect to {where} ({connect_error(error)})"


async def schema_is_current(connection: Any, schema: str) -> bool:
    """Return whether ``migrate`` of this release or a later one has run; needs no privilege."""
    try:
        statement = in_schema(SCHEMA_IS_CURRENT, schema)
        return bool(await connection.fetchval(statement, FUNCTIONS_DIGEST))
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        return False


async def unsafe_schemas(
    connection: Any, search_path: Sequence[str], *, with_functions: bool = True
) -> list[str]:
    """Return why a search path is not safe, in words; nothing if it is ("Nobody else's code")."""
    return [
        f"search_path: {schema} does not exist"
        if grantee is None
        else f"search_path: {grantee} can create objects in the schema {schema}; run: revoke create"
        f" on schema {schema} from {grantee}"
        for schema, grantee in await connection.fetch(
            UNSAFE_SCHEMAS, list(search_path), with_functions
        )
    ]
