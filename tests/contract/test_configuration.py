"""Contract section 3, "Configuration"."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import pytest

from service.config import ConfigurationError, Database, Jwt, Server, Settings, load
from tests.support.configuration import (
    DatabaseSettings,
    JwtSettings,
    ServerSettings,
    document,
    toml,
)
from tests.support.running import MakeService
from tests.support.service import KEY

SECRET_MARKER = "marker-of-a-secret"


@pytest.fixture
def load_document(tmp_path: Path) -> Callable[[dict[str, Any] | str], Settings]:
    """Load a configuration given as a document or as TOML."""

    def load_it(content: dict[str, Any] | str) -> Settings:
        path = tmp_path / "service.toml"
        path.write_text(content if isinstance(content, str) else toml(content))
        return load(path)

    return load_it


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return a good configuration with one setting changed."""
    result = copy.deepcopy(document({"acme": "postgresql://u:p@h:5432/acme"}))
    *parents, name = path.split(".")
    node = result
    for parent in parents:
        node = node.setdefault(parent, {})
    node[name] = value
    return result


async def test_defaults_are_those_of_the_contract(
    load_document: Callable[..., Settings],
) -> None:
    content = document({"acme": "postgresql://h/acme"})
    del content["server"]

    settings = load_document(content)

    server = settings.server
    assert (server.host, server.port, server.base_path) == ("127.0.0.1", 8080, "")
    assert server.reuse_port is False
    assert server.max_body_bytes == 134_217_728
    assert server.max_batch_items == 100_000
    assert server.ignore_unknown_fields is False
    assert server.shutdown_grace_seconds == 30
    assert settings.databases["acme"].pool_max_size == 10
    assert settings.databases["acme"].statement_timeout_seconds == 30
    assert settings.auth.jwt.user_claims == ["preferred_username", "cognito:username", "sub"]


async def test_values_come_from_the_environment_and_from_files(
    load_document: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("THE_PORT", "9090")
    monkeypatch.setenv("THE_SECRET", "12345")
    (tmp_path / "dsn").write_text("postgresql://u:p@h/acme\n")
    content = changed("server.port", "${THE_PORT}")
    content["auth"]["jwt"]["secret"] = "${THE_SECRET}"
    content["databases"]["acme"]["dsn"] = f"${{file:{tmp_path / 'dsn'}}}"

    settings = load_document(content)

    assert settings.server.port == 9090
    assert settings.auth.jwt.secret == "12345"
    assert settings.databases["acme"].dsn == "postgresql://u:p@h/acme"


EXPECTED = "expected 64 hex digits (run: care-trials new-key)"
GUEST_DIGEST = document({})["auth"]["api_keys"]["guest"]["sha256"]
DIGESTS: list[tuple[Any, str]] = [
    ("abc", f"{EXPECTED}, got 3 characters"),
    (SECRET_MARKER, f"{EXPECTED}, got {len(SECRET_MARKER)} characters"),
    ("g" * 64, f"{EXPECTED}, got other characters"),
    ("0" * 64 + "\n", f"{EXPECTED}, got 65 characters"),
    ([], f"{EXPECTED}, got an empty list"),
    (["0" * 64, "abc"], f"{EXPECTED}, got 3 characters"),
    ([17], f"{EXPECTED}, got a list"),
    (17, f"{EXPECTED}, got 17"),
    (["a" * 64, "A" * 64], "this digest is already in auth.api_keys.loader.sha256"),
]
"""Values of sha256 and the reason why each is rejected."""

KEY_SETTINGS = {"sha256": "0" * 64, "databases": ["*"]}
UNPRINTABLE = ["a\0b", "a\nb", "\x1b[2J", "\u202egnp"]


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("server.prot", 8080, "server.prot: unknown setting; did you mean port?"),
        ("server.port", "8080", "server.port: expected an integer from 0 to 65535, got a string"),
        ("server.port", 70_000, "server.port: expected an integer from 0 to 65535, got 70000"),
        ("server.reuse_port", 1, "server.reuse_port"),
        (
            "server",
            {"port": 1, "management_port": 1},
            "server.management_port: must differ",
        ),
        ("server.max_body_bytes", 1.5, "server.max_body_bytes"),
        ("server.base_path", "vbasoftware", "server.base_path"),
        ("server.base_path", "/x/", "server.base_path"),
        ("server.ignore_unknown_fields", "no", "server.ignore_unknown_fields"),
        ("server.tls_key", "key.pem", "server.tls_certificate: missing"),
        ("srever.port", 1, "srever"),
        (
            "server.max_queue_seconds",
            10,
            "server.max_queue_seconds: this setting is now called idempotency_wait_seconds",
        ),
        (
            "databases.acme.run_items",
            500,
            "databases.acme.run_items: this setting is now called statement_rows",
        ),
        *(
            ("auth.api_keys.loader.sha256", value, f"auth.api_keys.loader.sha256: {reason}")
            for value, reason in DIGESTS
        ),
        (
            "auth.api_keys.loader.sha256",
            ["0" * 64, "${NOT_SET_ANYWHERE}"],
            "auth.api_keys.loader.sha256[1]: the environment variable NOT_SET_ANYWHERE",
        ),
        (
            "auth.api_keys.loader.sha256",
            ["0" * 64, GUEST_DIGEST.upper()],
            "auth.api_keys.guest.sha256: this digest is already in auth.api_keys.loader.sha256",
        ),
        *(
            ("auth.api_keys", {name: KEY_SETTINGS}, f"auth.api_keys.{ascii(name)[1:-1]}: the name")
            for name in UNPRINTABLE
        ),
        *((name, {}, f"{ascii(name)[1:-1]}: unknown setting") for name in UNPRINTABLE),
        ("auth.api_keys.loader.databases", ["nowhere"], "auth.api_keys.loader.databases: nowhere"),
        ("auth.api_keys", ["loader"], "auth.api_keys: expected a table with an entry per name"),
        (
            "auth.api_keys.loader.allow",
            ["batch", "wriet"],
            "auth.api_keys.loader.allow: unknown action 'wriet'; supported: batch, read, write,"
            " delete",
        ),
        (
            "auth.api_keys.loader.allow",
            "batch",
            "auth.api_keys.loader.allow: expected a list of strings, got a string",
        ),
        ("auth.jwt.algorithms", ["none"], "auth.jwt.algorithms"),
        *(
            (
                "auth.jwt.algorithms",
                [algorithm],
                f"auth.jwt.algorithms: {algorithm} is not valid with auth.jwt.secret; use HS256,"
                " HS384 or HS512",
            )
            for algorithm in ("RS256", "HS257")
        ),
        ("auth.jwt.algorithms", [], "auth.jwt.algorithms"),
        ("auth.jwt.public_key_file", "key.pem", "exactly one"),
        ("auth.jwt.secret", "", "auth.jwt.secret"),
        ("auth.jwt.secret", "${NOT_SET_ANYWHERE}", "NOT_SET_ANYWHERE"),
        ("auth.jwt.secret", "${file:/not/there}", "/not/there"),
        ("server.port", "${HOME}", "server.port"),
        (
            "databases.acme.dsn",
            f"mysql://u:{SECRET_MARKER}@h/x",
            "databases.acme.dsn: expected a DSN",
        ),
        (
            "databases.acme.dsn",
            f"postgresql://u:{SECRET_MARKER}@h/x?channel_binding=require",
            "databases.acme.dsn: the parameter channel_binding",
        ),
        ("databases.acme.pool_max_size", 0, "databases.acme.pool_max_size"),
        ("databases.acme.poolsize", 5, "databases.acme.poolsize"),
        ("databases.acme", "postgresql://h/acme", "databases.acme: expected a table, got a string"),
        ("auth.api_keys.loader.rate_limit", "often", "auth.api_keys.loader.rate_limit: expected"),
    ],
)
async def test_an_unknown_or_mistyped_setting_stops_the_start_with_one_line_naming_it(
    load_document: Callable[..., Settings], path: str, value: Any, named: str
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load_document(changed(path, value))

    message = str(raised.value)
    assert named in message
    assert "\n" not in message
    assert SECRET_MARKER not in message


async def test_all_that_is_wrong_is_told_at_once_a_line_each(
    load_document: Callable[..., Settings],
) -> None:
    content = changed("server.prot", 1)
    content["server"]["tls_key"] = "key.pem"
    content["auth"]["api_keys"]["loader"]["sha256"] = "short"
    content["auth"]["api_keys"]["guest"]["databases"] = ["nowhere"]
    content["auth"]["jwt"]["algorithms"] = ["RS256"]
    del content["databases"]["acme"]["dsn"]

    with pytest.raises(ConfigurationError) as raised:
        load_document(content)

    assert [line.partition(": ")[0] for line in str(raised.value).splitlines()] == [
        "auth.api_keys.loader.sha256",
        "auth.jwt.algorithms",
        "databases.acme.dsn",
        "server.prot",
        "server.tls_certificate",
        "auth.api_keys.guest.databases",
    ]


@pytest.mark.parametrize(
    ("databases", "max_body_bytes", "minimum"),
    [
        (0, 5_000_000, 5_000_000),
        (1, 5_000_000, 5_000_000),
        (3, 5_000_000, 5_000_000 + 2 * 2**20),
        (3, 100, 300),
    ],
    ids=["no database", "one database", "1 MiB for each further one", "small bodies"],
)
def test_too_few_bytes_in_flight_for_the_largest_body_and_the_databases_stop_the_start(
    load_document: Callable[..., Settings], databases: int, max_body_bytes: int, minimum: int
) -> None:
    dsns = {f"database{number}": "postgresql://h/x" for number in range(databases)}

    load_document(document(dsns, max_body_bytes=max_body_bytes, max_bytes_in_flight=minimum))
    with pytest.raises(ConfigurationError) as raised:
        load_document(
            document(dsns, max_body_bytes=max_body_bytes, max_bytes_in_flight=minimum - 1)
        )

    assert str(raised.value) == (
        f"server.max_bytes_in_flight: must be at least {minimum} (max_body_bytes, and"
        f" {min(2**20, max_body_bytes)} for each database except one), got {minimum - 1}"
    )


ENVIRONMENT = {
    "SERVICE_SERVER__PORT": "9000",
    "SERVICE_SERVER__REUSE_PORT": "true",
    "SERVICE_AUTH__API_KEYS__LOADER__SHA256": "0" * 64,
    "SERVICE_AUTH__API_KEYS__LOADER__DATABASES": '["acme"]',
    "SERVICE_AUTH__JWT__ALGORITHMS": '["HS256"]',
    "SERVICE_AUTH__JWT__SECRET": "12345",
    "SERVICE_DATABASES__ACME__DSN": "postgresql://u:${PASSWORD}@h/acme",
    "PASSWORD": "p%40",
    # None of ours: Kubernetes sets such ones, and the send command reads the token.
    "SERVICE_PORT": "tcp://10.0.0.1:80",
    "SERVICE_CONFIG": "/not/there",
    "SERVICE_TOKEN": "x",
}


def test_the_environment_alone_is_enough() -> None:
    settings = load(None, ENVIRONMENT)

    assert (settings.server.port, settings.server.reuse_port) == (9000, True)
    assert settings.auth.api_keys["loader"].databases == ["acme"]
    assert settings.auth.jwt.secret == "12345"
    assert settings.databases["acme"].dsn == "postgresql://u:p%40@h/acme"


@pytest.mark.parametrize(
    ("value", "digests"),
    [
        ("ab" * 32, [b"\xab" * 32]),
        (f'["{"ab" * 32}", "{"CD" * 32}"]', [b"\xab" * 32, b"\xcd" * 32]),
        ("${DIGESTS}", [b"\xef" * 32]),
    ],
    ids=["a digest", "a list", "a reference to a list"],
)
def test_the_environment_has_one_digest_or_a_list(value: str, digests: list[bytes]) -> None:
    variables = {"SERVICE_AUTH__API_KEYS__LOADER__SHA256": value, "DIGESTS": f'["{"ef" * 32}"]'}

    settings = load(None, {**ENVIRONMENT, **variables})

    assert settings.auth.api_keys["loader"].digests == digests


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "service.toml"
    path.write_text(toml(document({"acme": "postgresql://h/acme", "globex": "postgresql://h/x"})))

    settings = load(path, ENVIRONMENT)

    assert settings.server.port == 9000
    assert settings.auth.api_keys["loader"].databases == ["acme"]
    assert set(settings.auth.api_keys) == {"loader", "guest"}
    assert settings.databases["acme"].dsn == "postgresql://u:p%40@h/acme"
    assert settings.databases["globex"].dsn == "postgresql://h/x"


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("SERVICE_SERVER__PROT", "1", "server.prot: unknown setting"),
        ("SERVICE_SERVER__PORT", "many", "server.port: expected an integer"),
        ("SERVICE_SERVER__REUSE_PORT", "maybe", "server.reuse_port: expected true or false"),
        ("SERVICE_AUTH__API_KEYS__LOADER__SHA256", '["abc', "sha256: expected 64 hex digits"),
        (
            "SERVICE_AUTH__JWT__ALGORITHMS",
            "HS256",
            "auth.jwt.algorithms: expected a list of strings",
        ),
        ("SERVICE_DATABASES__ACME", "postgresql://h/x", "databases.acme: expected a table"),
        (
            "SERVICE_SERVER__MAX_QUEUE_SECONDS",
            "10",
            "server.max_queue_seconds: this setting is now called idempotency_wait_seconds",
        ),
        (
            "SERVICE_DATABASES__ACME__RUN_ITEMS",
            "500",
            "databases.acme.run_items: this setting is now called statement_rows",
        ),
    ],
)
def test_what_is_wrong_in_the_environment_is_named_by_its_setting(
    variable: str, value: str, named: str
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load(None, {**ENVIRONMENT, variable: value})

    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_missing_in_the_environment_is_named() -> None:
    with pytest.raises(ConfigurationError) as raised:
        load(None, {"SERVICE_DATABASES__ACME__POOL_MAX_SIZE": "3"})

    assert [line.partition(": ")[0] for line in str(raised.value).splitlines()] == [
        "auth.api_keys",
        "auth.jwt.algorithms",
        "databases.acme.dsn",
    ]


def test_references_work_inside_a_longer_text(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("from-a-file\n")
    dsn = f"postgresql://${{NAME}}:${{file:{tmp_path / 'password'}}}@h:${{PORT}}/acme"

    settings = load(
        None,
        {**ENVIRONMENT, "SERVICE_DATABASES__ACME__DSN": dsn, "NAME": "service", "PORT": "5433"},
    )

    assert settings.databases["acme"].dsn == "postgresql://service:from-a-file@h:5433/acme"


async def test_toml_that_is_broken_and_a_missing_file_stop_the_start(
    load_document: Callable[..., Settings], tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="not valid TOML"):
        load_document("[server\n")
    with pytest.raises(ConfigurationError, match="No such file"):
        load(tmp_path / "absent.toml")


async def test_secrets_do_not_show_in_the_settings_repr() -> None:
    content = document({"acme": f"postgresql://u:{SECRET_MARKER}@h/acme"})
    content["auth"]["jwt"]["secret"] = SECRET_MARKER

    settings = msgspec.convert(content, Settings)

    assert SECRET_MARKER not in repr(settings)
    assert json.dumps(SECRET_MARKER) not in repr(settings.auth)


async def test_a_key_does_only_what_it_is_allowed_to(make_service: MakeService) -> None:
    service = await make_service(allow=["read"])

    answer = await service.put([{KEY: 1}])

    assert answer.status == 403
    assert "is not allowed to send batches" in answer.detail


@pytest.mark.parametrize(
    ("settings", "typed"),
    [(Server, ServerSettings), (Jwt, JwtSettings), (Database, DatabaseSettings)],
)
def test_the_harness_knows_every_setting(settings: type, typed: type) -> None:
    known = get_type_hints(settings)
    for name in ("dsn", "RENAMED"):
        known.pop(name, None)

    assert get_type_hints(typed) == known
