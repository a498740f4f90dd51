"""Settings (contract section 3), loaded and checked once, then passed to everything else."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from msgspec import Meta, Struct, field

from service import sources
from service.postgres import MAX_PORT, SEARCH_PATH, check_dsn
from service.sources import ConfigErrors, InvalidSetting
from service.wire import DEFAULT_MAX_BATCH_ITEMS

OWN_BYTES = 1_048_576
"""Bytes of bodies in memory that are reserved for each database."""

PositiveInt = Annotated[int, Meta(ge=1)]
Port = Annotated[int, Meta(ge=0, le=MAX_PORT)]
_HEX_DIGITS = 64
_DIGEST = f"{_HEX_DIGITS} hex digits (run: care-trials new-key)"
BasePath = Annotated[
    str,
    Meta(
        pattern=r"^(/[A-Za-z0-9._~-]+)*\Z",
        description='a path such as "/vbasoftware", without a slash at its end, or an empty string',
    ),
]
Dsn = Annotated[
    str,
    Meta(pattern=r"^postgres(ql)?://", description="a DSN, postgresql://USER@HOST:PORT/DATABASE"),
]
SchemaName = Annotated[
    str,
    Meta(
        # No quotes or dots, and no schema of PostgreSQL's own, which would be searched first.
        pattern=r"""^(?!pg_)[^\x00-\x1f"'\\{}.$]{1,63}\Z""",
    ),
]
Action = Literal["batch", "read", "write", "delete"]


class ConfigurationError(Exception):
    """The configuration is not usable; each line of the message names one setting."""


class _Settings(Struct, forbid_unknown_fields=True, frozen=True):
    pass


class Server(_Settings, frozen=True):
    """Listening addresses and limits."""

    RENAMED: ClassVar[dict[str, str]] = {"max_queue_seconds": "idempotency_wait_seconds"}

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
            raise InvalidSetting(missing, "missing; set both tls_certificate and tls_key")
        if self.management_port == self.port != 0:
            raise InvalidSetting("management_port", "must differ from server.port")

    @property
    def own_bytes(self) -> int:
        """Bytes of bodies that are reserved for each database: at most one body's."""
        return min(OWN_BYTES, self.max_body_bytes)

    @property
    def max_page_bytes(self) -> int:
        """Maximum bytes of text in a page, which bounds its cost whatever is stored."""
        return 4 * self.max_item_bytes


class ApiKey(_Settings, frozen=True):
    """An API key, known only by the SHA-256 of its secrets, and what it allows."""

    sha256: Annotated[str | list[str], Meta(description=_DIGEST)]
    databases: list[str]
    allow: list[str] = field(default_factory=lambda: ["batch"])
    rate_limit: str | None = None

    def __post_init__(self) -> None:
        if not self._hex_digests:
            raise InvalidSetting("sha256", f"expected {_DIGEST}, got an empty list")
        for digest in self._hex_digests:
            if not re.fullmatch(f"[0-9a-fA-F]{{{_HEX_DIGITS}}}", digest):
                got = "other" if len(digest) == _HEX_DIGITS else len(digest)
                raise InvalidSetting("sha256", f"expected {_DIGEST}, got {got} characters")
        for action in self.allow:
            if action not in get_args(Action):
                supported = ", ".join(get_args(Action))
                reason = f"unknown action {action!r}; supported: {supported}"
                raise InvalidSetting("allow", reason)
        if self.rate_limit is None:
            return
        from limits import parse

        try:
            parse(self.rate_limit)
        except ValueError:
            raise InvalidSetting("rate_limit", 'expected a rate such as "600/minute"') from None

    @property
    def _hex_digests(self) -> list[str]:
        return [self.sha256] if isinstance(self.sha256, str) else self.sha256

    @property
    def digests(self) -> list[bytes]:
        """The SHA-256 digests of all secrets; more than one during a rotation."""
        return [bytes.fromhex(digest) for digest in self._hex_digests]


_SYMMETRIC = ("HS256", "HS384", "HS512")
_ASYMMETRIC = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)


class Jwt(_Settings, frozen=True):
    """Rules that tokens are verified with; exactly one source of keys."""

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
        sources_of_keys = ("secret", "public_key_file", "jwks_url")
        given = [name for name in sources_of_keys if getattr(self, name) is not None]
        if len(given) != 1:
            raise InvalidSetting("", "set exactly one of secret, public_key_file and jwks_url")
        # Prevents the algorithm confusion attack: a public key used as an HMAC secret.
        *supported, last = _SYMMETRIC if self.secret is not None else _ASYMMETRIC
        for algorithm in self.algorithms:
            if algorithm not in (*supported, last):
                use = f"{', '.join(supported)} or {last}"
                reason = f"{algorithm} is not valid with auth.jwt.{given[0]}; use {use}"
                raise InvalidSetting("algorithms", reason)

    def __repr__(self) -> str:
        return f"Jwt(algorithms={self.algorithms!r}, …)"


class Auth(_Settings, frozen=True):
    """Credentials that the service accepts."""

    api_keys: dict[str, ApiKey]
    """By name, which is the ``caller`` in the log."""

    jwt: Jwt


class Database(_Settings, frozen=True):
    """One tenant database."""

    RENAMED: ClassVar[dict[str, str]] = {"run_items": "statement_rows"}

    dsn: Dsn
    migration_dsn: Dsn | None = None
    pool_max_size: Annotated[int, Meta(ge=1, le=10_000)] = 10
    statement_timeout_seconds: PositiveInt = 30
    transaction_pooling: bool = False
    idempotency_days: PositiveInt = 7
    statement_rows: PositiveInt = 500
    distributed: bool = False
    search_path: Annotated[
        list[SchemaName], Meta(min_length=1, description='a list of schemas, such as ["public"]')
    ] = field(default_factory=lambda: [*SEARCH_PATH])

    def __post_init__(self) -> None:
        for setting, dsn in (("dsn", self.dsn), ("migration_dsn", self.migration_dsn)):
            try:
                check_dsn(dsn or "")
            except ValueError as error:
                raise InvalidSetting(setting, str(error)) from None

    def __repr__(self) -> str:
        return f"Database(pool_max_size={self.pool_max_size}, …)"


class Settings(_Settings, frozen=True):
    """The whole configuration."""

    auth: Auth
    databases: dict[str, Database]
    server: Server = Server()

    def __post_init__(self) -> None:
        server = self.server
        others = max(0, len(self.databases) - 1)
        minimum = server.max_body_bytes + others * server.own_bytes
        if server.max_bytes_in_flight < minimum:
            raise InvalidSetting(
                "server.max_bytes_in_flight",
                f"must be at least {minimum} (max_body_bytes, and {server.own_bytes} for each"
                f" database except one), got {server.max_bytes_in_flight}",
            )


class Tuning(Struct, frozen=True):
    """Internal limits that are not settings; tests override them. Times are in seconds."""

    connect_seconds: float = 5
    """Maximum time to connect to PostgreSQL, and of a statement beyond its own limit."""

    header_seconds: float = 30
    """Maximum time for the headers of a connection's first request."""

    body_idle_seconds: float = 30
    """Maximum pause in the middle of a body."""

    body_bytes_per_second: float = 16_384
    """Minimum average rate of a body, after its first ``body_idle_seconds``."""

    write_seconds: float = 60
    """Time after which a client that does not read outcomes counts as disconnected."""

    rejected_body_pause_seconds: float = 2
    """Time for which the body of a rejected request is not read."""

    key_set_refresh_seconds: float = 300
    """Age at which the keys behind a JWKS URL are fetched again."""

    key_set_first_seconds: float = 1
    """Minimum time between two fetches while no keys are in use."""

    key_set_retry_seconds: float = 10
    """Minimum time between two fetches otherwise: after a failure, or for an unknown key."""


def load(path: Path | None, environment: Mapping[str, str] | None = None) -> Settings:
    """Return the settings of the file, if any, and the environment, which takes precedence.

    Raises ConfigurationError with a line for each problem: an unreadable file, a setting that is
    unknown, renamed or mistyped, a missing variable or secret file, or contradictory settings.
    """
    environment = os.environ if environment is None else environment
    problems = ConfigErrors()
    document = {} if path is None else sources.read_file(path, problems)
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
    """Return whether the environment has any setting, so that no file is needed."""
    return any(map(sources.is_setting, os.environ))


def _check_api_keys(document: dict[str, Any], problems: ConfigErrors) -> None:
    """Report unprintable names, repeated digests and unknown databases."""
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
