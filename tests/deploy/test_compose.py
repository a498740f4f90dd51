"""Compose: it agrees with the image, the configuration, the proxy and the database's roles."""

import hashlib
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import asyncpg
import pytest

from service import __version__, cli, config
from service.demo.postgres import find_binaries
from service.http.app import MANAGEMENT, build_app
from service.migrations import migrate
from service.statements import MISSING_PRIVILEGES
from tests.deploy.files import (
    COMPOSE,
    COMPOSE_FOLDER,
    ENVIRONMENT,
    FINAL,
    MAX_CONNECTIONS,
    PROXY,
    ROOT,
    load,
    references,
    run,
    seconds,
    tool,
)
from tests.harness.postgres import MakeDatabase

SERVICES = COMPOSE["services"]
CONFIGURATION = COMPOSE_FOLDER / "service.toml"
SECRETS_MOUNT = "/run/secrets"


@pytest.fixture
def settings(tmp_path: Path) -> config.Settings:
    return load(CONFIGURATION, tmp_path)


def test_compose_follows_the_compose_specification() -> None:
    run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", "compose.yaml")


def test_haproxy_accepts_its_configuration() -> None:
    run(tool("haproxy"), "-c", "-f", COMPOSE_FOLDER / "haproxy.cfg")


def test_the_configuration_loads(settings: config.Settings) -> None:
    assert settings.server.host == "0.0.0.0"  # noqa: S104
    for key in settings.auth.api_keys.values():
        assert set(key.databases) <= settings.databases.keys()


def test_the_commands_exist() -> None:
    assert set(SERVICES["migrate"]["command"]) <= cli.main.commands.keys()


def test_the_image_is_of_the_projects_version() -> None:
    images = {SERVICES[name]["image"] for name in ("service", "migrate")}

    assert images == {f"care-case-clinical-trials:{__version__}"}


def test_the_configuration_is_mounted_where_the_image_looks_for_it() -> None:
    for name in ("service", "migrate"):
        (mounted,) = SERVICES[name]["configs"]
        assert mounted["target"] == ENVIRONMENT["SERVICE_CONFIG"]
        assert ROOT / COMPOSE["configs"][mounted["source"]]["file"] == CONFIGURATION


@pytest.mark.parametrize("name", ["service", "migrate"])
def test_it_mounts_the_secrets_that_its_configuration_reads(name: str) -> None:
    environment = json.dumps(SERVICES[name].get("environment", {}))
    read = references(CONFIGURATION) | set(re.findall(rf"{SECRETS_MOUNT}/(\w+)", environment))

    assert set(SERVICES[name]["secrets"]) == read
    assert read <= COMPOSE["secrets"].keys()
    assert ("owner_password" in read) == (name == "migrate")


def test_migrate_has_the_owners_dsn(tmp_path: Path) -> None:
    variables: dict[str, str] = SERVICES["migrate"]["environment"]
    for name in ("owner_password", *references(CONFIGURATION)):
        (tmp_path / name).write_text("0" * 64)
    copy = tmp_path / "service.toml"
    copy.write_text(CONFIGURATION.read_text().replace(SECRETS_MOUNT, str(tmp_path)))

    # Compose reads "$$" as "$".
    environment = {
        name: value.replace("$$", "$").replace(SECRETS_MOUNT, str(tmp_path))
        for name, value in variables.items()
    }
    (database,) = config.load(copy, environment).databases.values()

    assert database.dsn == f"postgresql://service:{'0' * 64}@postgres/acme"
    assert database.migration_dsn == f"postgresql://postgres:{'0' * 64}@postgres/acme"


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
            select has_table_privilege($1, table_name, 'select') as read,
                has_table_privilege($1, table_name, 'insert') as insert,
                has_table_privilege($1, table_name, 'update') as update,
                has_table_privilege($1, table_name, 'delete') as delete,
                has_table_privilege($1, table_name, 'truncate') as truncate,
                has_schema_privilege($1, 'public', 'create') as create,
                has_sequence_privilege(
                    $1, pg_get_serial_sequence(table_name, table_name || '_key'), 'usage'
                ) as draw,
                (select rolcanlogin and not rolsuper from pg_roles where rolname = $1) as plain
            from (values ('care_case_clinical_trial')) as tables (table_name)
            """,
            role,
        )
        await connection.execute(f"set role {role}")
        missing = await connection.fetch(MISSING_PRIVILEGES)
        await connection.execute("reset role")
    finally:
        await connection.execute(f"drop owned by {role}; drop role {role}")
        await connection.close()
    assert missing == []
    assert may is not None
    assert {name for name, is_true in may.items() if is_true} >= {
        *("read", "insert", "update", "draw", "plain")
    }
    assert not may["delete"]
    assert not may["truncate"]


def test_the_probed_paths_exist(settings: config.Settings) -> None:
    management = build_app(settings, config.Tuning())[MANAGEMENT]

    probed = re.findall(r"http-check send meth GET uri (\S+)", PROXY)

    assert probed == ["/readyz"]
    assert {*probed} <= {resource.canonical for resource in management.router.resources()}


def test_the_port_is_the_same_everywhere(settings: config.Settings) -> None:
    exposed = [int(port) for port in FINAL["EXPOSE"].split()]
    assert exposed == [settings.server.port, settings.server.management_port]
    assert {
        *map(int, re.findall(r"server-template replica \d+ service:(\d+)", PROXY)),
        *map(int, re.findall(r"bind :(\d+)", PROXY)),
        *(int(number) for number in SERVICES["proxy"]["ports"][0].split(":")),
    } == {settings.server.port}
    assert re.findall(r"check port (\d+)", PROXY) == [str(settings.server.management_port)]


def test_nothing_is_killed_within_its_grace_period(settings: config.Settings) -> None:
    grace = settings.server.shutdown_grace_seconds
    (hard_stop,) = re.findall(r"hard-stop-after (\S+)", PROXY)

    assert seconds(SERVICES["service"]["stop_grace_period"]) > grace
    assert seconds(SERVICES["proxy"]["stop_grace_period"]) > seconds(hard_stop) > grace


def test_all_pools_together_fit_into_the_database(settings: config.Settings) -> None:
    replicas = SERVICES["service"]["deploy"]["replicas"]

    assert replicas == 2
    for database in settings.databases.values():
        assert replicas * database.pool_max_size < MAX_CONNECTIONS


def test_no_container_of_the_service_may_write_or_gain_privileges() -> None:
    for name in ("service", "migrate"):
        service = SERVICES[name]
        assert service["read_only"] is True
        assert not {"tmpfs", "volumes"} & service.keys()
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_each_is_started_after_what_it_needs() -> None:
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert SERVICES["service"]["depends_on"] == {
        "migrate": {"condition": "service_completed_successfully"}
    }
    assert SERVICES["proxy"]["depends_on"] == {"service": {"condition": "service_healthy"}}
    assert "healthcheck" in SERVICES["postgres"]
    for source in COMPOSE["configs"].values():
        assert (ROOT / source["file"]).is_file()


def test_the_proxy_sends_nothing_twice() -> None:
    """An item without a key is created anew each time that it arrives."""
    directives = [shlex.split(line, comments=True) for line in PROXY.splitlines()]

    assert [words[1:] for words in directives if words[:1] == ["retry-on"]] == [["conn-failure"]]
    assert ["option", "http-buffer-request"] not in directives
