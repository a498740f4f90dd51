"""Contract section 4, ``check-config``: all that a configuration names is tried, told in words."""

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
    ("dsn", "words"),
    [
        ("postgresql://u:marker@db1.invalid/x", "the host name of db1.invalid is not known"),
        ("postgresql://u:marker@127.0.0.1:1/x", "nothing listens at 127.0.0.1:1"),
        ("postgresql://u:marker@%2Fnot%2Fthere/x", "there is no server's socket in /not/there"),
    ],
    ids=["host", "port", "socket"],
)
def test_a_server_that_is_not_there_is_told_in_words(check: Check, dsn: str, words: str) -> None:
    status, lines = check({"down": dsn})

    assert status == 1
    assert lines[-1] == f"failed: database down: {words}"


def test_what_a_server_refuses_is_told_in_words(check: Check, make_database: MakeDatabase) -> None:
    good = make_database()
    name = urlsplit(good).path.removeprefix("/")

    _, nowhere = check({"acme": good.replace(name, "globx")})
    _, nobody = check({"acme": with_user(good, "nobody", "marker")})
    _, behind = check({"acme": make_database(migrated=False)})

    assert nowhere[-1] == "failed: database acme: database globx does not exist"
    assert "does not let the user nobody in" in nobody[-1] or "password refused" in nobody[-1]
    assert behind[-1] == (
        "failed: database acme: not at the current schema: run care-trials migrate"
    )


def test_the_owners_dsn_is_tried(check: Check, make_database: MakeDatabase) -> None:
    dsn = make_database()
    wrong = "postgresql://u:marker@127.0.0.1:1/x"

    well, lines = check({"acme": dsn}, database={"migration_dsn": dsn})
    ill, more = check({"acme": dsn}, database={"migration_dsn": wrong})

    assert (well, ill) == (0, 1)
    assert lines[-1].startswith("database acme as its owner: reached at ")
    assert more[-1] == "failed: database acme as its owner: nothing listens at 127.0.0.1:1"


@pytest.fixture
async def role(make_database: MakeDatabase) -> AsyncIterator[tuple[str, str, str]]:
    """A role without rights: its name, its DSN of a migrated database, and the owner's."""
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


async def test_every_right_that_is_lacking_is_told_as_the_grant_that_mends_it(
    check: Check, role: tuple[str, str, str]
) -> None:
    name, dsn, owners = role
    prefix = f"failed: database acme: the role {name} lacks a right: "

    status, lines = await asyncio.to_thread(check, {"acme": dsn})
    told = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]
    connection = await asyncpg.connect(owners)
    try:
        await connection.execute(";".join(told))
        mended, _ = await asyncio.to_thread(check, {"acme": dsn})
        await connection.execute(f"revoke delete on care_case_clinical_trial_receipt from {name}")
        _, again = await asyncio.to_thread(check, {"acme": dsn})
    finally:
        await connection.close()

    assert (status, mended) == (1, 0)
    assert told == sorted(f"grant {grant} to {name}" for grant in GRANTS)
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
        rights = await owner.fetch(
            "select lower(privilege_type) as right, table_name from"
            " information_schema.table_privileges where grantee = $1",
            name,
        )
    finally:
        await owner.close()
        await served.close()

    assert [missing for (missing,) in before] == sorted(GRANTS)
    assert after == []
    tables = [grant.partition(" on ") for grant in GRANTS if "sequence" not in grant]
    expected = {(right, table) for rights, _, table in tables for right in rights.split(", ")}
    assert {tuple(right) for right in rights} == expected


async def test_a_role_that_was_told_enough_stores_everything(
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


async def test_too_few_connections_are_told(check: Check, role: tuple[str, str, str]) -> None:
    name, dsn, owners = role
    await grant_all(name, owners, f";alter role {name} connection limit 4")

    status, lines = await asyncio.to_thread(check, {"acme": dsn}, database={"pool_max_size": 5})

    assert status == 1
    words = f"failed: database acme: pool_max_size is 5, but the server grants {name} 4"
    assert any(line.startswith(words) for line in lines)


async def test_what_a_role_needs_behind_a_pooler_is_told(
    check: Check, role: tuple[str, str, str]
) -> None:
    name, dsn, owners = role
    isolation = "default_transaction_isolation = 'serializable'"
    await grant_all(name, owners, f";alter role {name} set {isolation}")
    pooled: DatabaseSettings = {"transaction_pooling": True}

    direct, _ = await asyncio.to_thread(check, {"acme": dsn})
    status, lines = await asyncio.to_thread(check, {"acme": dsn}, database=pooled)

    assert (direct, status) == (0, 1)
    statement = f"alter role {name} set default_transaction_isolation = 'read committed'"
    assert f"failed: database acme: {statement}" in lines
    assert f"warning: database acme: alter role {name} set statement_timeout = '30s'" in lines


@pytest.mark.parametrize(
    ("change", "words"),
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
            "database acme: records are applied one by one, more slowly, because of the index"
            " one_protocol",
        ),
    ],
    ids=["rule", "deferrable key", "unique index"],
)
async def test_what_the_tenant_added_is_told(
    check: Check, make_database: MakeDatabase, change: str, words: str
) -> None:
    dsn = make_database()
    connection = await asyncpg.connect(dsn)
    await connection.execute(change)
    await connection.close()

    status, lines = await asyncio.to_thread(check, {"acme": dsn})

    assert status == words.startswith("failed")
    assert any(line.startswith(words) for line in lines)


async def test_a_port_that_is_taken_is_told(check: Check) -> None:
    taken = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with taken:
        port = taken.sockets[0].getsockname()[1]
        status, lines = await asyncio.to_thread(check, {}, port=port)
        ports = {"port": free_port(), "management_port": port}
        other, more = await asyncio.to_thread(check, {}, **ports)

    assert (status, other) == (1, 1)
    assert lines[0] == "failed: server.port: the port is taken by another process"
    assert more[0] == "failed: server.management_port: the port is taken by another process"


async def test_beside_the_service_itself_the_address_is_fine(
    check: Check, start_process: StartProcess
) -> None:
    service, _ = await start_process()

    status, lines = await asyncio.to_thread(check, dict(service.databases), port=service.port)

    assert status == 0
    assert lines[0].startswith("server: serving already at http://127.0.0.1:")


@pytest.mark.parametrize(
    ("days", "level", "words"),
    [(100, "", "good until "), (3, "warning: ", "good until "), (-1, "failed: ", "ended on ")],
)
def test_the_certificates_end_is_told(
    check: Check, tmp_path: Path, days: int, level: str, words: str
) -> None:
    certificate, key = Authority(tmp_path, "authority").sign("x", days=days)
    server: ServerSettings = {"tls_certificate": str(certificate), "tls_key": str(key)}

    status, lines = check({}, **server)

    assert status == (days < 0)
    assert any(line.startswith(f"{level}server.tls_certificate: {words}") for line in lines)


def test_a_certificate_without_its_key_is_told(check: Check, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    (certificate, _), (_, key) = authority.sign("one"), authority.sign("two")

    status, lines = check({}, tls_certificate=str(certificate), tls_key=str(key))

    assert status == 1
    assert any("hold no certificate with its key" in line for line in lines)


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
def test_tokens_that_anybody_may_have_asked_for_are_warned_of(
    check: Check, jwt: JwtSettings, *, is_warned: bool
) -> None:
    status, lines = check({}, jwt=jwt)

    assert status == 0
    assert any("neither issuer nor audience is set" in line for line in lines) is is_warned


async def test_the_start_tells_the_same_in_the_log(
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
    assert told["database down: nothing listens at 127.0.0.1:1"]["level"] == "ERROR"
    assert told["database behind: not at the current schema: run care-trials migrate"]
    assert any(message.startswith("database acme: ready at ") for message in told)
    assert "marker" not in log.read_text()
