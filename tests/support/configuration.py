"""Configurations for services under test, with typed settings, as documents and as TOML."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypedDict, Unpack

import pytest

from tests.support.pgbouncer import pgbouncer
from tests.support.service import API_KEY, GUEST_KEY, SECOND_API_KEY, SECRET


class ServerSettings(TypedDict, total=False):
    """The settings of ``service.config.Server``."""

    host: str
    port: int
    management_port: int | None
    reuse_port: bool
    base_path: str
    max_body_bytes: int
    max_item_bytes: int
    max_batch_items: int
    max_batches_in_flight: int
    max_bytes_in_flight: int
    idempotency_wait_seconds: int
    ignore_unknown_fields: bool
    shutdown_grace_seconds: int
    tls_certificate: str | None
    tls_key: str | None


class JwtSettings(TypedDict, total=False):
    """The settings of ``service.config.Jwt``."""

    algorithms: list[str]
    secret: str | None
    public_key_file: str | None
    jwks_url: str | None
    jwks_stale_seconds: int
    issuer: str | None
    audience: str | None
    leeway_seconds: int
    user_claims: list[str]


class DatabaseSettings(TypedDict, total=False):
    """The settings of ``service.config.Database``; the DSN comes from elsewhere."""

    migration_dsn: str | None
    pool_max_size: int
    statement_timeout_seconds: int
    transaction_pooling: bool
    idempotency_days: int
    statement_rows: int
    distributed: bool
    search_path: list[str]


class Configure(Protocol):
    """Makes the document of a configuration."""

    def __call__(
        self,
        databases: Mapping[str, str],
        *,
        jwt: JwtSettings | None = None,
        database: DatabaseSettings | None = None,
        rate_limit: str | None = None,
        allow: list[str] | None = None,
        **server: Unpack[ServerSettings],
    ) -> dict[str, Any]:
        """Return it: ``database`` for each of them, ``rate_limit`` and ``allow`` for the loader."""


def document(
    databases: Mapping[str, str],
    *,
    jwt: JwtSettings | None = None,
    database: DatabaseSettings | None = None,
    rate_limit: str | None = None,
    allow: list[str] | None = None,
    **server: Unpack[ServerSettings],
) -> dict[str, Any]:
    """Return a configuration: the loader may use every database, the guest only globex."""
    return {
        "server": {"port": 0, **server},
        "auth": {
            "api_keys": {
                "loader": {
                    "sha256": [
                        hashlib.sha256(secret.encode()).hexdigest()
                        for secret in (API_KEY, SECOND_API_KEY)
                    ],
                    "databases": ["*"],
                    **({"rate_limit": rate_limit} if rate_limit else {}),
                    **({"allow": allow} if allow else {}),
                },
                "guest": {
                    "sha256": hashlib.sha256(GUEST_KEY.encode()).hexdigest(),
                    "databases": [name for name in databases if name == "globex"],
                },
            },
            "jwt": dict(jwt or {"algorithms": ["HS256"], "secret": SECRET}),
        },
        "databases": {name: {"dsn": dsn, **(database or {})} for name, dsn in databases.items()},
    }


def toml(content: Mapping[str, Any], prefix: str = "") -> str:
    """Return the document as TOML; JSON's scalars and lists of scalars are TOML as well."""
    lines = []
    for name, value in content.items():
        path = prefix + (name if re.fullmatch(r"[\w-]+", name, re.ASCII) else json.dumps(name))
        lines += [f"[{path}]", *_scalars(value), toml(_tables(value), f"{path}.")]
    return "\n".join(lines)


def _scalars(table: Mapping[str, Any]) -> list[str]:
    plain = {name: value for name, value in table.items() if name not in _tables(table)}
    return [f"{name} = {json.dumps(value)}" for name, value in plain.items()]


def _tables(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in table.items() if isinstance(value, dict)}


@pytest.fixture(scope="session")
def configure(server_dsn: str) -> Iterator[Configure]:
    """Makes configurations; with TEST_PGBOUNCER=1 they lead to databases through PgBouncer."""
    if not os.environ.get("TEST_PGBOUNCER"):
        yield document
        return
    with pgbouncer(server_dsn) as port:

        def configure(databases: Mapping[str, str], **settings: Any) -> dict[str, Any]:
            content = document(databases, **settings)
            for settings in content["databases"].values():
                if settings["dsn"].partition("?")[2] == server_dsn.partition("?")[2]:
                    settings["dsn"] = re.sub(
                        r"^(\w+://)([^@]*@)?[^/]*/([^?]*).*",
                        rf"\g<1>\g<2>127.0.0.1:{port}/\g<3>",
                        settings["dsn"],
                    )
                    settings["transaction_pooling"] = True
            return content

        yield configure
