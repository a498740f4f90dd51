"""Contract section 3, "Configuration"."""

import asyncio
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import pytest

from service.config import ConfigurationError, Database, Jwt, Server, Settings, load
from tests.harness.configuration import (
    DatabaseSettings,
    JwtSettings,
    ServerSettings,
    document,
    toml,
)
from tests.harness.running import MakeService

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
        node = node[int(parent)] if isinstance(node, list) else node.setdefault(parent, {})
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


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("server.prot", 8080, "prot"),
        ("server.port", "8080", "server.port"),
        ("server.port", 70_000, "server.port"),
        ("server.workers", 2, "workers"),
        ("server.reuse_port", 1, "server.reuse_port"),
        ("server.max_body_bytes", 1.5, "server.max_body_bytes"),
        ("server.base_path", "vbasoftware", "server.base_path"),
        ("server.base_path", "/x/", "server.base_path"),
        ("server.ignore_unknown_fields", "no", "server.ignore_unknown_fields"),
        ("server.tls_key", "key.pem", "tls_certificate"),
        ("srever.port", 1, "srever"),
        ("auth.api_keys.0.sha256", SECRET_MARKER, "auth.api_keys[0].sha256"),
        ("auth.api_keys.0.databases", ["nowhere"], "nowhere"),
        ("auth.api_keys.1.name", "loader", "auth.api_keys"),
        ("auth.jwt.algorithms", ["none"], "auth.jwt.algorithms"),
        ("auth.jwt.algorithms", ["RS256"], "auth.jwt.algorithms"),
        ("auth.jwt.algorithms", [], "auth.jwt.algorithms"),
        ("auth.jwt.public_key_file", "key.pem", "exactly one"),
        ("auth.jwt.secret", "", "auth.jwt.secret"),
        ("auth.jwt.secret", "${NOT_SET_ANYWHERE}", "NOT_SET_ANYWHERE"),
        ("auth.jwt.secret", "${file:/not/there}", "/not/there"),
        ("server.port", "${HOME}", "server.port"),
        ("databases.acme.dsn", f"mysql://u:{SECRET_MARKER}@h/x", "databases"),
        (
            "databases.acme.dsn",
            f"postgresql://u:{SECRET_MARKER}@h/x?channel_binding=require",
            "databases.acme.dsn: the parameter channel_binding",
        ),
        ("databases.acme.pool_max_size", 0, "pool_max_size"),
        ("databases.acme.poolsize", 5, "poolsize"),
        ("auth.api_keys.0.rate_limit", "often", "rate_limit"),
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


@pytest.mark.parametrize(
    ("settings", "typed"),
    [(Server, ServerSettings), (Jwt, JwtSettings), (Database, DatabaseSettings)],
)
def test_the_harness_knows_every_setting(settings: type, typed: type) -> None:
    known = get_type_hints(settings)
    known.pop("dsn", None)

    assert get_type_hints(typed) == known


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(
            "create rule r as on insert to care_case_clinical_trial"
            " where new.comment = 'x' do instead nothing",
            "has a rule",
            id="rule",
        ),
        pytest.param(
            "alter table care_case_clinical_trial"
            " drop constraint care_case_clinical_trial_pkey,"
            " add primary key (care_case_clinical_trial_key) deferrable",
            "is deferrable",
            id="deferrable primary key",
        ),
    ],
)
async def test_a_table_that_cannot_go_with_on_conflict_is_told_at_the_start(
    make_service: MakeService, caplog: pytest.LogCaptureFixture, change: str, reason: str
) -> None:
    service = await make_service()
    await service.execute(change)

    await make_service(databases=service.databases)
    async with asyncio.timeout(10):
        while reason not in caplog.text:
            await asyncio.sleep(0.02)
