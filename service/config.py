"""The settings (contract section 3): loaded and checked once, then handed to everything else."""

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import msgspec
from msgspec import Meta, Struct, field

from service.postgres import check_dsn
from service.wire import BATCH_ITEMS

PositiveInt = Annotated[int, Meta(ge=1)]
Sha256Hex = Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{64}$")]
BasePath = Annotated[str, Meta(pattern=r"^(/[A-Za-z0-9._~-]+)*$")]


class ConfigurationError(Exception):
    """The configuration cannot be used; the message is one line and names the setting."""


class _Settings(Struct, forbid_unknown_fields=True, frozen=True):
    pass


class Server(_Settings, frozen=True):
    """How the service listens, and what it accepts."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    reuse_port: bool = False
    base_path: BasePath = ""
    max_body_bytes: PositiveInt = 134_217_728
    max_item_bytes: PositiveInt = 4_194_304
    max_batch_items: PositiveInt = BATCH_ITEMS
    max_batches_in_flight: PositiveInt = 256
    max_bytes_in_flight: PositiveInt = 536_870_912
    max_queue_seconds: PositiveInt = 10
    ignore_unknown_fields: bool = False
    shutdown_grace_seconds: Annotated[int, Meta(ge=0)] = 30
    tls_certificate: str | None = None
    tls_key: str | None = None


class ApiKey(_Settings, frozen=True):
    """A caller's key, known only by its SHA-256, and the databases the caller may use."""

    name: Annotated[str, Meta(min_length=1)]
    sha256: Sha256Hex
    databases: list[str]
    rate_limit: str | None = None


class Jwt(_Settings, frozen=True):
    """How tokens are verified; exactly one of secret, public_key_file and jwks_url."""

    algorithms: Annotated[list[str], Meta(min_length=1)]
    secret: Annotated[str, Meta(min_length=1)] | None = None
    public_key_file: str | None = None
    jwks_url: Annotated[str, Meta(pattern="^https?://")] | None = None
    issuer: str | None = None
    audience: str | None = None
    leeway_seconds: Annotated[int, Meta(ge=0)] = 30
    user_claims: list[str] = field(
        default_factory=lambda: ["preferred_username", "cognito:username", "sub"]
    )

    def __repr__(self) -> str:
        return f"Jwt(algorithms={self.algorithms!r}, …)"


class Auth(_Settings, frozen=True):
    """Who may call."""

    api_keys: list[ApiKey]
    jwt: Jwt


class Database(_Settings, frozen=True):
    """One tenant database."""

    dsn: Annotated[str, Meta(pattern=r"^postgres(ql)?://")]
    pool_max_size: Annotated[int, Meta(ge=1, le=10_000)] = 10
    statement_timeout_seconds: PositiveInt = 30
    transaction_pooling: bool = False
    idempotency_days: PositiveInt = 7

    def __repr__(self) -> str:
        return f"Database(pool_max_size={self.pool_max_size}, …)"


class Settings(_Settings, frozen=True):
    """The whole file."""

    auth: Auth
    databases: dict[str, Database]
    server: Server = Server()


class Tuning(Struct, frozen=True):
    """What nobody has had to change, so that it is not in the file; tests make it small.

    Times are in seconds.
    """

    connect_seconds: float = 5
    """How long a new connection to PostgreSQL may take, and what runs on it past its limit."""

    header_seconds: float = 30
    """How long a connection may take for its first request's headers."""

    silence_seconds: float = 30
    """How long a client may pause in the middle of its body."""

    body_bytes_per_second: float = 16_384
    """How fast a body must come on the whole, but for what the longest pause makes up for."""

    write_seconds: float = 60
    """How long a client may keep an outcome waiting before it counts as gone."""

    hold_seconds: float = 2
    """How long the body of a request that was turned away is not taken in."""

    key_set_refresh_seconds: float = 300
    """Age at which the keys behind a JWKS URL are fetched again."""

    key_set_first_seconds: float = 1
    """Least time between two fetches as long as none has succeeded."""

    key_set_retry_seconds: float = 10
    """Least time between two fetches for the sake of tokens that name an unknown key."""


def load(path: Path) -> Settings:
    """Read, expand and check the configuration file.

    Raises ConfigurationError for a file that cannot be read, an unknown or mistyped
    setting, a missing variable or secret file, and settings that contradict each other.
    """
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from None
    try:
        settings = msgspec.convert(_expanded(document, Settings, ""), Settings)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$")
        setting = place.strip("`.") or "the file"
        raise ConfigurationError(f"{path}: {setting}: {_redacted(reason)}") from None
    _check(settings, path)
    return settings


def _redacted(reason: str) -> str:
    return reason.replace("Object contains", "contains").replace("Object missing", "missing")


_REFERENCE = re.compile(r"\$\{(file:)?([^}]+)\}")


def _expanded(node: Any, kind: Any, name: str) -> Any:
    """Return the node of the document with its references replaced, typed by the setting."""
    if isinstance(node, dict):
        return {
            key: _expanded(value, _kind_of_member(kind, key), f"{name}.{key}".lstrip("."))
            for key, value in node.items()
        }
    if isinstance(node, list):
        member = next(iter(get_args(_plain(kind))), str)
        return [_expanded(value, member, f"{name}[{i}]") for i, value in enumerate(node)]
    match = _REFERENCE.fullmatch(node) if isinstance(node, str) else None
    if match is None:
        return node
    is_file, source = match.groups()
    try:
        text = Path(source).read_text().rstrip("\r\n") if is_file else os.environ[source]
    except KeyError:
        raise ConfigurationError(f"{name}: environment variable {source} is not set") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigurationError(f"{name}: cannot read {source}: {reason}") from None
    if _plain(kind) not in (int, bool):
        return text
    try:
        return msgspec.convert(text, _plain(kind), strict=False)
    except msgspec.ValidationError:
        expected = _plain(kind).__name__
        raise ConfigurationError(f"{name}: {node} does not hold an {expected}") from None


def _kind_of_member(kind: Any, name: str) -> Any:
    kind = _plain(kind)
    if get_origin(kind) is dict:
        return get_args(kind)[1]
    if isinstance(kind, type) and issubclass(kind, Struct):
        kinds = {known.name: known.type for known in msgspec.structs.fields(kind)}
        return kinds.get(name, str)
    return str


def _plain(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


_SYMMETRIC = {"HS256", "HS384", "HS512"}
_ASYMMETRIC = {
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
}


def _check(settings: Settings, path: Path) -> None:
    """Check the rules that concern several settings."""
    jwt, server = settings.auth.jwt, settings.server
    sources = [jwt.secret, jwt.public_key_file, jwt.jwks_url]
    if sum(source is not None for source in sources) != 1:
        raise ConfigurationError(
            f"{path}: auth.jwt: set exactly one of secret, public_key_file and jwks_url"
        )
    # A key of one family used with an algorithm of the other is the classic confusion.
    known = _SYMMETRIC if jwt.secret is not None else _ASYMMETRIC
    for algorithm in jwt.algorithms:
        if algorithm not in known:
            raise ConfigurationError(
                f"{path}: auth.jwt.algorithms: {algorithm} does not go with this kind of key;"
                f" expected some of {', '.join(sorted(known))}"
            )
    if (server.tls_certificate is None) != (server.tls_key is None):
        raise ConfigurationError(f"{path}: server.tls_certificate and server.tls_key go together")
    for key in settings.auth.api_keys:
        for name in key.databases:
            if name != "*" and name not in settings.databases:
                raise ConfigurationError(
                    f"{path}: auth.api_keys: {key.name} names the database {name},"
                    " which is not configured under [databases]"
                )
        if key.rate_limit is not None:
            from limits import parse

            try:
                parse(key.rate_limit)
            except ValueError:
                raise ConfigurationError(
                    f"{path}: auth.api_keys: {key.name}: rate_limit is not of the form 600/minute"
                ) from None
    for name, database in settings.databases.items():
        try:
            check_dsn(database.dsn)
        except ValueError as error:
            raise ConfigurationError(f"{path}: databases.{name}.dsn: {error}") from None
    names = [key.name for key in settings.auth.api_keys]
    if len(set(names)) != len(names):
        raise ConfigurationError(f"{path}: auth.api_keys: two keys share a name")
