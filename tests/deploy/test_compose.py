"""Compose: it agrees with the image, the configuration, the proxy and the database's roles."""

import hashlib
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import asyncpg
import pytest

from service import config
from service.demo.postgres import find_binaries
from service.migrations import migrate
from service.statements import MISSING_PRIVILEGES, in_schema
from tests.deploy.files import COMPOSE, COMPOSE_FOLDER, PROXY, ROOT, found, run, tool
from tests.support.postgres import MakeDatabase

SERVICES = COMPOSE["services"]
CONFIGURATION = COMPOSE_FOLDER / "service.toml"
SECRETS_MOUNT = "/run/secrets"


def test_compose_follows_the_compose_specification() -> None:
    run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", "compose.yaml")


def test_haproxy_accepts_its_configuration() -> None:
    run(tool("haproxy"), "-c", "-f", COMPOSE_FOLDER / "haproxy.cfg")


def test_secrets_are_never_committed() -> None:
    folders = {str(Path(secret["file"]).parent) for secret in COMPOSE["secrets"].values()}

    assert folders == {"deploy/compose/secrets"}
    assert "/deploy/compose/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_secrets_are_made_by_the_command_that_compose_yaml_gives(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed on this machine")
    head = (ROOT / "compose.yaml").read_text().partition("\nname:")[0]
    (command,) = re.findall(r"^#   (sh .*)$", head, re.MULTILINE)
    shutil.copytree(COMPOSE_FOLDER, tmp_path / "deploy/compose")

    first, second = (
        subprocess.run(
            shlex.split(command), cwd=tmp_path, check=False, capture_output=True, text=True
        )
        for _ in range(2)
    )

    assert (first.returncode, second.returncode) == (0, 1)
    assert "nothing was changed" in second.stderr
    for secret in COMPOSE["secrets"].values():
        assert (tmp_path / secret["file"]).stat().st_mode & 0o777 == 0o644
    folder = tmp_path / "deploy/compose/secrets"
    assert folder.stat().st_mode & 0o777 == 0o700
    key = first.stdout.split()[-1]
    kept = {path.name: path.read_text().strip() for path in folder.iterdir()}
    assert kept["api_key_sha256"] == hashlib.sha256(key.encode()).hexdigest()
    assert key not in kept.values()
    copy = tmp_path / "service.toml"
    copy.write_text(CONFIGURATION.read_text().replace(SECRETS_MOUNT, str(folder)))
    (database,) = config.load(copy, {}).databases.values()
    name = SERVICES["postgres"]["environment"]["POSTGRES_DB"]
    assert database.dsn == f"postgresql://service:{kept['service_password']}@postgres/{name}"


async def test_the_serving_role_may_do_what_the_service_does_and_no_more(
    make_database: MakeDatabase, tmp_path: Path
) -> None:
    psql = find_binaries() / "psql"
    dsn = make_database(migrated=False)
    role = dsn.partition("?")[0].rpartition("/")[2]
    script = (COMPOSE_FOLDER / "roles.sql").read_text()
    (tmp_path / "service_password").write_text("it's\n")
    (tmp_path / "roles.sql").write_text(
        script.replace(SECRETS_MOUNT, str(tmp_path)).replace(" service", f" {role}")
    )

    run(psql, "--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-d", dsn, "-f", tmp_path / "roles.sql")
    await migrate(dsn)

    connection = await asyncpg.connect(dsn)
    try:
        may = await connection.fetchrow(
            """
            select rolcanlogin as login, rolsuper as superuser,
                has_table_privilege($1, 'care_case_clinical_trial', 'delete, truncate') as delete
            from pg_roles
            where rolname = $1
            """,
            role,
        )
        await connection.execute(f"set role {role}")
        missing = await connection.fetch(in_schema(MISSING_PRIVILEGES, "public"))
        await connection.execute("reset role")
    finally:
        await connection.execute(f"drop owned by {role}; drop role {role}")
        await connection.close()
    assert missing == []
    assert dict(may or {}) == {"delete": False, "login": True, "superuser": False}


def test_each_is_started_after_what_it_needs() -> None:
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert SERVICES["service"]["depends_on"] == {
        "migrate": {"condition": "service_completed_successfully"}
    }
    assert SERVICES["proxy"]["depends_on"] == {"service": {"condition": "service_healthy"}}
    assert "healthcheck" in SERVICES["postgres"]
    for source in COMPOSE["configs"].values():
        assert (ROOT / source["file"]).is_file()


def test_the_proxy_waits_for_what_is_in_flight_and_sends_nothing_twice() -> None:
    """A key-0 item that arrives twice is created twice."""
    hard_stop = int(found(r"hard-stop-after (\d+)s$", PROXY))
    stop = int(found(r"^(\d+)s$", SERVICES["proxy"]["stop_grace_period"]))
    grace = tomllib.loads(CONFIGURATION.read_text())["server"]["shutdown_grace_seconds"]
    directives = [shlex.split(line, comments=True) for line in PROXY.splitlines()]

    assert stop > hard_stop > grace
    assert [words[1:] for words in directives if words[:1] == ["retry-on"]] == [["conn-failure"]]
    assert ["option", "http-buffer-request"] not in directives
