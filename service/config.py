"""The settings (contract section 3): loaded and checked once, then handed to everything else."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from service import sources
from service.postgres import MAX_PORT, SEARCH_PATH, check_dsn
from service.sources import ConfigErrors, Wrong
from service.wire import DEFAULT_MAX_BATCH_ITEMS

OWN_BYTES = 1_048_576
"""Bytes of bodies that each database can have in memory, whatever other databases have."""

PositiveInt = Annotated[int, Meta(ge=1)]
Port = Annotated[int, Meta(ge=0, le=MAX_PORT)]
_HEX_DIGITS = 64
_DIGEST = f"{_HEX_DIGITS} hex digits (run: care-trials new-key)"
BasePath = Annotated[
    str,
    Meta(
        pattern=r"^(/[A-Za-z0-9._~-]+)*\Z",
        description='a path such as "/vbasoftware", which does not end with a slash, or nothing',
    ),
]
Dsn = Annotated[
    str,
    Meta(pattern=r"^postgres(ql)?://", description="a DSN, postgresql://USER@HOST:PORT/DATABASE"),
]
SchemaName = Annotated[
    str,
    Meta(
        # Neither quotes nor a dot, and no name of PostgreSQL's own, which would come first.
        pattern=r"""^(?!pg_)[^\x00-\x1f"'\\{}.$]{1,63}\Z""",
    ),
]
Action = Literal["batch", "read", "write", "delete"]


class ConfigurationError(Exception):
    """The configuration cannot be used; each line of the message names one setting."""


class _Settings(Struct, forbid_unknown_fields=True, frozen=True):
    pass


class Server(_Settings, frozen=True):
    """How the service listens, and what it accepts."""

    host: str = "127.0.0.1"
    port: Port = 8080
    management_port: Port | None = None
    reuse_port: bool = False
    base_path: BasePath = ""
    max_body_bytes: PositiveInt = 134_217_728
    max_item_bytes: PositiveInt = 4_194_304
    max_batch_items: PositiveInt = DEFAULT_MAX_BATCH_ITEMS
    max_batches_in_flight: PositiveInt = 256
    max_bytes_in_flight: PositiveInt = 536_870_912
    idempotency_wait_seconds: PositiveInt = 10
    ignore_unknown_fields: bool = False
    shutdown_grace_seconds: Annotated[int, Meta(ge=0)] = 30
    tls_certificate: str | None = None
    tls_key: str | None = None

    def __post_init__(self) -> None:
        if (self.tls_certificate is None) != (self.tls_key is None):
            missing = "tls_key" if self.tls_key is None else "tls_certificate"
            raise Wrong(missing, "missing; tls_certificate and tls_key go together")
        if self.management_port == self.port != 0:
            raise Wrong("management_port", "is that of server.port; expected another one")

    @property
    def own_bytes(self) -> int:
        """Bytes of bodies that are reserved for each database: no more than one body can have."""
        return min(OWN_BYTES, self.max_body_bytes)

    @property
    def max_page_bytes(self) -> int:
        """What a page of records may have of text: whatever was stored, its cost is bounded."""
        return 4 * self.max_item_bytes


class ApiKey(_Settings, frozen=True):
    """A caller's API key, known only by the SHA-256 of its secrets, and what it opens."""

    sha256: Annotated[str | list[str], Meta(description=_DIGEST)]
    databases: list[str]
    allow: Annotated[
        list[Action], Meta(description='a list of "batch", "read", "write" and "delete"')
    ] = field(default_factory=lambda: ["batch"])
    rate_limit: str | None = None

    def __post_init__(self) -> None:
        if not self._hex_digests:
            raise Wrong("sha256", f"expected {_DIGEST}, got an empty list")
        for text in self._hex_digests:
            if not re.fullmatch(f"[0-9a-fA-F]{{{_HEX_DIGITS}}}", text):
                got = "other" if len(text) == _HEX_DIGITS else len(text)
                raise Wrong("sha256", f"expected {_DIGEST}, got {got} characters")
        if self.rate_limit is None:
            return
        from limits import parse

        try:
            parse(self.rate_limit)
        except ValueError:
            raise Wrong("rate_limit", "expected a number and a time, as in 600/minute") from None

    @property
    def _hex_digests(self) -> list[str]:
        return [self.sha256] if isinstance(self.sha256, str) else self.sha256

    @property
    def digests(self) -> list[bytes]:
        """The SHA-256 digests of all secrets: several while one replaces another."""
        return [bytes.fromhex(text) for text in self._hex_digests]


_SYMMETRIC = {"HS256", "HS384", "HS512"}
_ASYMMETRIC = {
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
}


class Jwt(_Settings, frozen=True):
    """How tokens are verified; exactly one of secret, public_key_file and jwks_url."""

    algorithms: Annotated[list[str], Meta(min_length=1)]
    secret: Annotated[str, Meta(min_length=1)] | None = None
    public_key_file: str | None = None
    jwks_url: Annotated[str, Meta(pattern="^https?://", description="https://…")] | None = None
    issuer: str | None = None
    audience: str | None = None
    leeway_seconds: Annotated[int, Meta(ge=0)] = 30
    jwks_stale_seconds: PositiveInt = 3600
    user_claims: list[str] = field(
        default_factory=lambda: ["preferred_username", "cognito:username", "sub"]
    )

    def __post_init__(self) -> None:
        keys = [self.secret, self.public_key_file, self.jwks_url]
        if sum(key is not None for key in keys) != 1:
            raise Wrong("", "set exactly one of secret, public_key_file and jwks_url")
        # A key of one family used with an algorithm of the other is the classic confusion.
        known = _SYMMETRIC if self.secret is not None else _ASYMMETRIC
        for algorithm in self.algorithms:
            if algorithm not in known:
                expected = ", ".join(sorted(known))
                reason = (
                    f"{algorithm} does not go with this kind of key; expected some of {expected}"
                )
                raise Wrong("algorithms", reason)

    def __repr__(self) -> str:
        return f"Jwt(algorithms={self.algorithms!r}, …)"


class Auth(_Settings, frozen=True):
    """Who may call."""

    api_keys: dict[str, ApiKey]
    """By name, which the log tells as the caller."""

    jwt: Jwt


class Database(_Settings, frozen=True):
    """One tenant database."""

    dsn: Dsn
    migration_dsn: Dsn | None = None
    pool_max_size: Annotated[int, Meta(ge=1, le=10_000)] = 10
    statement_timeout_seconds: PositiveInt = 30
    transaction_pooling: bool = False
    idempotency_days: PositiveInt = 7
    statement_rows: PositiveInt = 500
    distributed: bool = False
    search_path: Annotated[
        list[SchemaName], Meta(min_length=1, description='a list of schemas, as in ["public"]')
    ] = field(default_factory=lambda: [*SEARCH_PATH])

    def __post_init__(self) -> None:
        for setting, dsn in (("dsn", self.dsn), ("migration_dsn", self.migration_dsn)):
            try:
                check_dsn(dsn or "")
            except ValueError as error:
                raise Wrong(setting, str(error)) from None

    def __repr__(self) -> str:
        return f"Database(pool_max_size={self.pool_max_size}, …)"


class Settings(_Settings, frozen=True):
    """The whole file."""

    auth: Auth
    databases: dict[str, Database]
    server: Server = Server()

    def __post_init__(self) -> None:
        server = self.server
        smallest = server.max_body_bytes + (len(self.databases) - 1) * server.own_bytes
        if server.max_bytes_in_flight < smallest:
            raise Wrong(
                "server.max_bytes_in_flight",
                f"expected at least {smallest}, so that the largest body and a body of each other"
                f" database fit, got {server.max_bytes_in_flight}",
            )


class Tuning(Struct, frozen=True):
    """What nobody has had to change, so that it is not in the file; tests make it small.

    Times are in seconds.
    """

    connect_seconds: float = 5
    """How long a new connection to PostgreSQL may take, and what runs on it past its limit."""

    header_seconds: float = 30
    """How long a connection may take for its first request's headers."""

    body_idle_seconds: float = 30
    """How long a client may pause in the middle of its body."""

    body_bytes_per_second: float = 16_384
    """How fast a body must come on the whole, but for what the longest pause makes up for."""

    write_seconds: float = 60
    """How long a client may keep an outcome waiting before it counts as gone."""

    rejected_body_pause_seconds: float = 2
    """How long the body of a request that was turned away is not taken in."""

    key_set_refresh_seconds: float = 300
    """Age at which the keys behind a JWKS URL are fetched again."""

    key_set_first_seconds: float = 1
    """Minimum time between two fetches while no keys are in use."""

    key_set_retry_seconds: float = 10
    """Minimum time between two fetches otherwise: after a failure, or for an unknown key."""


def load(path: Path | None, environment: Mapping[str, str] | None = None) -> Settings:
    """Read the file, where there is one, and the environment, which wins; check the whole.

    Raises ConfigurationError, a line for each problem: a file that cannot be read, an unknown or
    mistyped setting, a missing variable or secret file, settings that contradict each other.
    """
    environment = os.environ if environment is None else environment
    problems = ConfigErrors()
    document = {} if path is None else sources.from_file(path, problems)
    settings = None
    if not problems:
        sources.overlay(document, environment)
        document = sources.expand(document, environment, problems)
    if not problems:
        settings = sources.read(Settings, document, problems)
        _check_api_keys(document, problems)
    if problems:
        raise ConfigurationError("\n".join(problems))
    assert isinstance(settings, Settings)
    return settings


def is_in_environment() -> bool:
    """Tell whether the environment holds any setting, so that there need not be a file."""
    return any(map(sources.is_setting, os.environ))


def _check_api_keys(document: dict[str, Any], problems: ConfigErrors) -> None:
    """Note unprintable names, digests given twice, and unknown databases."""
    auth, databases = document.get("auth"), document.get("databases")
    if not isinstance(auth, dict) or not isinstance(databases, dict):
        return
    keys = sources.read(dict[str, ApiKey], auth.get("api_keys", {}), ConfigErrors()) or {}
    first: dict[bytes, str] = {}
    for key_name, key in keys.items():
        setting = f"auth.api_keys.{key_name}"
        # The name can become the user name of a record, and PostgreSQL cannot store NUL.
        if not key_name.isprintable():
            problems.add(setting, "the name contains a character that cannot be printed")
        for digest in key.digests if key else []:
            if digest in first:
                problems.add(f"{setting}.sha256", f"this digest is already in {first[digest]}")
            first[digest] = f"{setting}.sha256"
        for name in key.databases if key else []:
            if name != "*" and name not in databases:
                problems.add(f"{setting}.databases", f"{name} is not configured under [databases]")
