"""Contract section 4, ``check-config``: tests everything that a configuration refers to."""

import asyncio
import json
import re
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from service.statements import MISSING_PRIVILEGES, in_schema
from tests.support.certificates import Authority
from tests.support.configuration import DatabaseSettings, JwtSettings, ServerSettings, document
from tests.support.documents import fenced
from tests.support.embedded import free_port
from tests.support.key_server import KeyServer, published, serving_keys
from tests.support.postgres import MakeDatabase
from tests.support.running import MakeService, RunCommand, StartProcess
from tests.support.service import SECRET

STRONG: JwtSettings = {"algorithms": ["HS256"], "secret": SECRET, "issuer": "us"}


@pytest.fixture
def check(run_command: RunCommand) -> Callable[..., tuple[int, list[str]]]:
    """Runs check-config; returns its exit status and its lines."""

    def run(
        databases: dict[str, str],
        *,
        jwt: JwtSettings | None = None,
        database: DatabaseSettings | None = None,
        **server: Any,
    ) -> tuple[int, list[str]]:
        config = document(databases, jwt=jwt or STRONG, database=database, **server)
        result = run_command("check-config", config=config)
        assert "marker" not in result.stdout + result.stderr
        assert SECRET not in result.stdout + result.stderr
        return result.returncode, result.stdout.splitlines()

    return run


Check = Callable[..., tuple[int, list[str]]]


def with_user(dsn: str, user: str, password: str) -> str:
    return re.sub(r"://[^/]*@", f"://{user}:{password}@", dsn)


async def test_all_is_well(check: Check, make_database: MakeDatabase) -> None:
    dsn = make_database()
    connection = await asyncpg.connect(dsn)
    name = await connection.fetchval("select current_database()")
    await connection.execute(f"alter database {name} set synchronous_commit = off")
    await connection.close()

    status, lines = await asyncio.to_thread(check, {"acme": dsn}, base_path="/x")

    assert status == 0
    assert [line.partition(":")[0] for line in lines] == [
        "server",
        "API key loader",
        "API key guest",
        "auth.jwt",
        "database acme",
        "warning",
    ]
    assert "/x" in lines[0]
    assert lines[1:3] == [
        "API key loader: batch on *, 2 secrets",
        "API key guest: batch on ",
    ]
    assert "synchronous_commit or fsync is off" in lines[-1]


@pytest.mark.parametrize(
    ("dsn", "message"),
    [
        ("postgresql://u:marker@db1.invalid/x", "unknown host db1.invalid"),
        (
            "postgresql://u:marker@x@db1.invalid/x",
            "unknown host db1.invalid; if the password contains @, write %40",
        ),
        ("postgresql://u:marker@127.0.0.1:1/x", "nothing is listening on 127.0.0.1:1"),
        ("postgresql://u:marker@%2Fnot%2Fthere/x", "no server socket in /not/there"),
    ],
    ids=["host", "unescaped @", "port", "socket"],
)
def test_an_unreachable_server_is_reported_with_its_cause(
    check: Check, dsn: str, message: str
) -> None:
    status, lines = check({"down": dsn})

    assert status == 1
    assert lines[-1] == f"failed: database down: {message}"


def test_a_refused_connection_is_reported_with_its_cause(
    check: Check, make_database: MakeDatabase
) -> None:
    good = make_database()
    name = urlsplit(good).path.removeprefix("/")

    _, nowhere = check({"acme": good.replace(name, "globx")})
    _, nobody = check({"acme": with_user(good, "nobody", "marker")})
    _, unknown = check({"acme": f"{good}{'&' if '?' in good else '?'}foo=1"})
    _, outdated = check({"acme": make_database(migrated=False)})

    assert nowhere[-1] == "failed: database acme: database globx does not exist"
    assert "the user nobody cannot log in" in nobody[-1] or "wrong password" in nobody[-1]
    assert unknown[-1] == "failed: database acme: the server does not know the setting foo (42704)"
    assert (
        outdated[-1] == "failed: database acme: the schema is out of date; run: care-trials migrate"
    )


def test_the_owners_dsn_is_tested(check: Check, make_database: MakeDatabase) -> None:
    dsn = make_database()
    wrong = "postgresql://u:marker@127.0.0.1:1/x"

    well, lines = check({"acme": dsn}, database={"migration_dsn": dsn})
    ill, more = check({"acme": dsn}, database={"migration_dsn": wrong})

    assert (well, ill) == (0, 1)
    assert lines[-1].startswith("database acme as its owner: connected to ")
    assert more[-1] == "failed: database acme as its owner: nothing is listening on 127.0.0.1:1"


@pytest.fixture
async def role(make_database: MakeDatabase) -> AsyncIterator[tuple[str, str, str]]:
    """A role without privileges: its name, its DSN of a migrated database, and the owner's."""
    owners, name = make_database(), f"role_{secrets.token_hex(4)}"
    connection = await asyncpg.connect(owners)
    await connection.execute(f"create role {name} login password '{name}'")
    yield name, with_user(owners, name, name), owners
    await connection.execute(f"drop owned by {name}; drop role {name}")
    await connection.close()


GRANTS = (
    "select, insert, update on care_case_clinical_trial",
    "select, insert, delete on care_case_clinical_trial_receipt",
    "usage, update on sequence care_case_clinical_trial_care_case_clinical_trial_key_seq",
)


async def grant_all(name: str, owners: str, more: str = "") -> None:
    """Give a role all that it needs, and do more as the owner."""
    connection = await asyncpg.connect(owners)
    await connection.execute(";".join(f"grant {grant} to {name}" for grant in GRANTS) + more)
    await connection.close()


async def test_every_missing_privilege_is_reported_as_the_grant_that_fixes_it(
    check: Check, role: tuple[str, str, str]
) -> None:
    name, dsn, owners = role
    prefix = "failed: database acme: missing privilege; run: "

    status, lines = await asyncio.to_thread(check, {"acme": dsn})
    grants = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]
    connection = await asyncpg.connect(owners)
    try:
        await connection.execute(";".join(grants))
        fixed, _ = await asyncio.to_thread(check, {"acme": dsn})
        await connection.execute(f"revoke delete on care_case_clinical_trial_receipt from {name}")
        _, again = await asyncio.to_thread(check, {"acme": dsn})
    finally:
        await connection.close()

    assert (status, fixed) == (1, 0)
    assert grants == sorted(f"grant {grant} to {name}" for grant in GRANTS)
    assert prefix + f"grant delete on care_case_clinical_trial_receipt to {name}" in again


async def test_the_grants_of_the_docs_are_those_of_the_list(role: tuple[str, str, str]) -> None:
    name, dsn, owners = role
    (grants, _) = (b.text for b in fenced("sql") if b.section == "Prepare a database")
    owner = await asyncpg.connect(owners)
    served = await asyncpg.connect(dsn)
    try:
        before = await served.fetch(in_schema(MISSING_PRIVILEGES, "public"))
        await owner.execute(grants.replace("to service", f"to {name}"))
        after = await served.fetch(in_schema(MISSING_PRIVILEGES, "public"))
        granted = await owner.fetch(
            "select lower(privilege_type) as privilege, table_name from"
            " information_schema.table_privileges where grantee = $1",
            name,
        )
    finally:
        await owner.close()
        await served.close()

    assert [missing for (missing,) in before] == sorted(GRANTS)
    assert after == []
    tables = [grant.partition(" on ") for grant in GRANTS if "sequence" not in grant]
    expected = {(each, table) for privileges, _, table in tables for each in privileges.split(", ")}
    assert {tuple(row) for row in granted} == expected


async def test_a_role_with_the_listed_grants_stores_everything(
    role: tuple[str, str, str], make_service: MakeService
) -> None:
    """The list of grants is complete: nothing that the service does needs more."""
    name, dsn, owners = role
    await grant_all(name, owners)
    service = await make_service({"acme": dsn})
    key = {"Idempotency-Key": "k"}

    answers = [
        await service.put([{"careCaseClinicalTrial_Key": k} for k in (1, 0)], headers=key)
        for _ in range(2)
    ]

    assert [answer.statuses for answer in answers] == [[201, 201], [200, 201]]


async def test_too_few_connections_are_reported(check: Check, role: tuple[str, str, str]) -> None:
    name, dsn, owners = role
    await grant_all(name, owners, f";alter role {name} connection limit 4")

    status, lines = await asyncio.to_thread(check, {"acme": dsn}, database={"pool_max_size": 5})

    assert status == 1
    message = f"pool_max_size is 5, but the role {name} is limited to 4 connections"
    assert f"failed: database acme: {message}" in lines


async def test_settings_that_a_role_needs_behind_a_pooler_are_reported(
    check: Check, role: tuple[str, str, str]
) -> None:
    name, dsn, owners = role
    isolation = "default_transaction_isolation = 'serializable'"
    await grant_all(name, owners, f";alter role {name} set {isolation}")
    pooled: DatabaseSettings = {"transaction_pooling": True}

    direct, _ = await asyncio.to_thread(check, {"acme": dsn})
    status, lines = await asyncio.to_thread(check, {"acme": dsn}, database=pooled)

    assert (direct, status) == (0, 1)
    statement = f"run: alter role {name} set default_transaction_isolation = 'read committed'"
    assert f"failed: database acme: {statement}" in lines
    assert f"warning: database acme: run: alter role {name} set statement_timeout = '30s'" in lines


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "create rule r as on insert to care_case_clinical_trial"
            " where new.comment = 'x' do instead nothing",
            "failed: database acme: the table care_case_clinical_trial has a rule",
        ),
        (
            "alter table care_case_clinical_trial drop constraint care_case_clinical_trial_pkey,"
            " add primary key (care_case_clinical_trial_key) deferrable",
            "failed: database acme: the primary key of care_case_clinical_trial is deferrable",
        ),
        (
            "create unique index one_protocol on care_case_clinical_trial (protocol_number)",
            "database acme: rows are applied one at a time (slower) because of the index"
            " one_protocol",
        ),
    ],
    ids=["rule", "deferrable key", "unique index"],
)
async def test_the_tenants_additions_are_reported(
    check: Check, make_database: MakeDatabase, change: str, message: str
) -> None:
    dsn = make_database()
    connection = await asyncpg.connect(dsn)
    await connection.execute(change)
    await connection.close()

    status, lines = await asyncio.to_thread(check, {"acme": dsn})

    assert status == message.startswith("failed")
    assert any(line.startswith(message) for line in lines)


async def test_a_port_that_is_taken_is_reported(check: Check) -> None:
    taken = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with taken:
        port = taken.sockets[0].getsockname()[1]
        status, lines = await asyncio.to_thread(check, {}, port=port)
        ports = {"port": free_port(), "management_port": port}
        other, more = await asyncio.to_thread(check, {}, **ports)

    assert (status, other) == (1, 1)
    assert lines[0] == "failed: server.port: the port is taken by another process"
    assert more[0] == "failed: server.management_port: the port is taken by another process"


async def test_a_foreign_address_is_reported_under_its_setting(check: Check) -> None:
    status, lines = await asyncio.to_thread(check, {}, host="203.0.113.1")

    assert status == 1
    assert lines[0] == "failed: server.host: this machine has no address 203.0.113.1"


async def test_an_address_on_which_the_service_itself_listens_is_fine(
    check: Check, start_process: StartProcess
) -> None:
    service, _ = await start_process()

    status, lines = await asyncio.to_thread(check, dict(service.databases), port=service.port)

    assert status == 0
    assert lines[0].startswith("server: already serving on http://127.0.0.1:")


@pytest.mark.parametrize(
    ("days", "level", "message"),
    [(100, "", "valid until "), (3, "warning: ", "valid until "), (-1, "failed: ", "expired on ")],
)
def test_the_certificates_expiry_is_reported(
    check: Check, tmp_path: Path, days: int, level: str, message: str
) -> None:
    certificate, key = Authority(tmp_path, "authority").sign("x", days=days)
    server: ServerSettings = {"tls_certificate": str(certificate), "tls_key": str(key)}

    status, lines = check({}, **server)

    assert status == (days < 0)
    assert any(line.startswith(f"{level}server.tls_certificate: {message}") for line in lines)


def test_a_certificate_without_its_key_is_reported(check: Check, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    (certificate, _), (_, key) = authority.sign("one"), authority.sign("two")

    status, lines = check({}, tls_certificate=str(certificate), tls_key=str(key))

    assert status == 1
    assert any("are not a certificate with its key" in line for line in lines)


NO_KEYS = "failed: auth.jwt.jwks_url: 127.0.0.1 returned no usable keys"


@pytest.mark.parametrize(
    ("status", "published_keys", "line"),
    [
        (200, [{}, {"kid": "two"}], "auth.jwt.jwks_url: fetched 2 keys from 127.0.0.1"),
        (200, [], NO_KEYS),
        (200, [{"use": "enc"}], NO_KEYS),
        (200, [{"kty": "oct", "k": "c2VjcmV0"}], NO_KEYS),
        (302, [{}], "failed: auth.jwt.jwks_url: 127.0.0.1 returned no key set: status 302"),
    ],
    ids=["keys", "empty", "for encryption", "symmetric", "moved"],
)
async def test_the_key_set_is_fetched(
    check: Check, status: int, published_keys: list[dict[str, str]], line: str
) -> None:
    key = rsa.generate_private_key(65537, 2048)
    async with serving_keys(KeyServer(status=status)) as keys:
        keys.publish(*(published(key, **members) for members in published_keys))
        rules: JwtSettings = {"algorithms": ["RS256"], "audience": "us", "jwks_url": keys.url}
        code, lines = await asyncio.to_thread(check, {}, jwt=rules)

    assert (code, lines[-1]) == (line.startswith("failed"), line)
    assert any(line.startswith("warning: auth.jwt.jwks_url: http://") for line in lines)


@pytest.mark.parametrize(
    ("jwt", "is_warned"),
    [
        ({"algorithms": ["HS256"], "secret": SECRET}, True),
        ({"algorithms": ["HS256"], "secret": SECRET, "issuer": "us"}, False),
        ({"algorithms": ["HS256"], "secret": SECRET, "audience": "them"}, False),
    ],
    ids=["neither", "issuer", "audience"],
)
def test_tokens_without_issuer_and_audience_are_warned_of(
    check: Check, jwt: JwtSettings, *, is_warned: bool
) -> None:
    status, lines = check({}, jwt=jwt)

    assert status == 0
    assert any("neither issuer nor audience is set" in line for line in lines) is is_warned


async def test_startup_logs_the_same_findings(
    start_process: StartProcess, make_database: MakeDatabase, tmp_path: Path
) -> None:
    certificate, key = Authority(tmp_path, "authority").sign("x", days=3)
    await start_process(
        extra_databases={
            "behind": make_database(migrated=False),
            "down": "postgresql://u:marker@127.0.0.1:1/x",
        },
        tls_certificate=str(certificate),
        tls_key=str(key),
        base_path="/x",
    )

    log = tmp_path / "log-0"
    async with asyncio.timeout(10):
        while "database down" not in log.read_text():
            await asyncio.sleep(0.05)

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    told = {line["message"]: line for line in lines}
    assert told["serving"].items() >= {"tls": True, "base_path": "/x", "level": "INFO"}.items()
    assert told["serving"]["version"]
    levels = {message.partition(": ")[0]: line["level"] for message, line in told.items()}
    assert levels["server.tls_certificate"] == "WARNING"
    assert levels["auth.jwt"] == "WARNING"
    assert told["database down: nothing is listening on 127.0.0.1:1"]["level"] == "ERROR"
    assert told["database behind: the schema is out of date; run: care-trials migrate"]
    assert any(message.startswith("database acme: ready at ") for message in told)
    assert "marker" not in log.read_text()
