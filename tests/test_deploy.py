"""The files to deploy with: they agree with the service, with each other and with their schemas."""

import asyncio
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import yaml
from packaging.requirements import Requirement

from service import __version__, cli, config
from service.app import build_app
from service.embedded import EmbeddedPostgresError, find_binaries
from service.migrations import migrate
from tests.under_test import free_port

ROOT = Path(__file__).parent.parent
COMPOSE_FOLDER = ROOT / "deploy/compose"
KUBERNETES_FOLDER = ROOT / "deploy/kubernetes"
CONFIGURATIONS = [COMPOSE_FOLDER / "service.toml", KUBERNETES_FOLDER / "service.toml"]
SECRETS_MOUNT = "/run/secrets"
KUBERNETES_VERSION = "1.30"  # the oldest with the preStop sleep
MAX_CONNECTIONS = 100  # PostgreSQL's default

MakeDatabase = Callable[..., str]

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
MANIFESTS: dict[str, dict[str, Any]] = {
    path.stem: yaml.safe_load(path.read_text()) for path in KUBERNETES_FOLDER.glob("*.yaml")
}
DEPLOYMENT, JOB = MANIFESTS["deployment"], MANIFESTS["migrate"]
PODS = {"deployment": DEPLOYMENT["spec"]["template"], "migrate": JOB["spec"]["template"]}
CONTAINERS = {name: pod["spec"]["containers"][0] for name, pod in PODS.items()}


def instructions(stage: int) -> list[tuple[str, str]]:
    """Return the instructions of one of the Dockerfile's stages and what follows each."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    pairs = [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]
    starts = [i for i, (word, _) in enumerate(pairs) if word == "FROM"]
    return pairs[starts[stage] : [*starts[1:], len(pairs)][stage]]


BUILD, FINAL = instructions(0), dict(instructions(1))
ENVIRONMENT = dict(pair.split("=", 1) for pair in FINAL["ENV"].split())
HEALTHCHECK: list[str] = json.loads(FINAL["HEALTHCHECK"].partition("CMD ")[2])


def tool(name: str) -> str:
    """Return the path of one of the dev group's programs; skips where it is not installed."""
    program = shutil.which(name, path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip(f"{name} is not installed in this environment")
    return program


def seconds(duration: str) -> int:
    """Return the seconds of a Compose or HAProxy duration."""
    match = re.fullmatch(r"(\d+)s", duration)
    assert match, duration
    return int(match[1])


def references(path: Path) -> set[str]:
    """Return the secrets that a configuration reads from files."""
    return set(re.findall(rf"\$\{{file:{SECRETS_MOUNT}/([^}}]+)\}}", path.read_text()))


@pytest.fixture
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> config.Settings:
    """The settings of the configuration file at ``request.param``, with secrets made up."""
    for name in references(request.param):
        value = "postgresql://service:password@postgres/acme" if "dsn" in name else "0" * 64
        (tmp_path / name).write_text(f"{value}\n")
    copy = tmp_path / "service.toml"
    copy.write_text(request.param.read_text().replace(SECRETS_MOUNT, str(tmp_path)))
    return config.load(copy)


with_each_configuration = pytest.mark.parametrize(
    "settings", CONFIGURATIONS, ids=["compose", "kubernetes"], indirect=True
)


# The schemas of each kind of file


def run(*command: str | Path) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_dockerfile_passes_hadolint() -> None:
    run(tool("hadolint"), "Dockerfile")


def test_compose_follows_the_compose_specification() -> None:
    run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", "compose.yaml")


@pytest.mark.parametrize("name", sorted(MANIFESTS.keys() - {"kustomization"}))
def test_manifests_follow_the_schemas_of_kubernetes(name: str) -> None:
    program = tool("kubernetes-validate")

    run(program, "--strict", "-k", KUBERNETES_VERSION, KUBERNETES_FOLDER / f"{name}.yaml")


def test_haproxy_accepts_its_configuration() -> None:
    program = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("haproxy is not installed on this machine")

    run(program, "-c", "-f", COMPOSE_FOLDER / "haproxy.cfg")


def test_kustomize_finds_its_resources() -> None:
    kustomization = MANIFESTS["kustomization"]
    files = [name for each in kustomization["configMapGenerator"] for name in each["files"]]

    assert all((KUBERNETES_FOLDER / name).is_file() for name in kustomization["resources"] + files)
    stems = {name.removesuffix(".yaml") for name in kustomization["resources"]}
    assert stems == MANIFESTS.keys() - {"kustomization", "migrate"}


# The image


def test_base_images_are_pinned() -> None:
    images = [BUILD[0][1].split()[0], FINAL["FROM"].split()[0]]
    images += [COMPOSE["services"][name]["image"] for name in ("postgres", "proxy")]

    assert images[0] == images[1]
    for image in images:
        assert re.fullmatch(r"[a-z]+:\d+\.\d+(\.\d+)?-[a-z-]+", image), image


def test_the_base_image_has_a_supported_python() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    match = re.match(r"python:(\d+\.\d+\.\d+)", BUILD[0][1])

    assert match is not None
    assert Requirement(f"python{project['requires-python']}").specifier.contains(match[1])


def test_the_final_stage_builds_nothing_and_copies_only_the_environment() -> None:
    final = instructions(1)

    assert "RUN" not in FINAL
    assert [rest for word, rest in final if word in ("COPY", "ADD")] == [
        "--from=build /app/venv /app/venv"
    ]


def test_the_image_runs_as_a_number_that_is_not_root() -> None:
    user, group = FINAL["USER"].split(":")
    assert int(user) > 0
    assert int(group) > 0
    for pod in PODS.values():
        context = pod["spec"]["securityContext"]
        assert context["runAsNonRoot"] is True
        assert (context["runAsUser"], context["runAsGroup"]) == (int(user), int(group))
        assert context["fsGroup"] == int(group)
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}


def test_the_image_starts_and_stops_as_the_service_does() -> None:
    assert json.loads(FINAL["ENTRYPOINT"]) == ["python", "-m", "service"]
    assert json.loads(FINAL["CMD"]) == ["serve"]
    assert FINAL["STOPSIGNAL"] == "SIGTERM"
    assert ENVIRONMENT["PATH"].startswith("/app/venv/bin:")
    assert ENVIRONMENT["PYTHONDONTWRITEBYTECODE"] == "1"


def test_only_what_git_tracks_is_copied_into_the_build() -> None:
    copied = [name for word, rest in BUILD if word == "COPY" for name in rest.split()[:-1]]
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")

    for name in copied:
        run("git", "ls-files", "--error-unmatch", name)


def test_the_build_backend_is_locked_as_a_whole() -> None:
    """The Dockerfile names what it takes of the lock; pip would refuse if one were missing."""
    step = next(rest for word, rest in BUILD if word == "RUN" and "awk" in rest)
    command = step.partition(" > ")[0]

    result = subprocess.run(
        ["/bin/sh", "-c", command], capture_output=True, text=True, check=True, cwd=ROOT
    )

    locked = set(re.findall(r"^([a-z-]+)==", result.stdout, re.MULTILINE))
    assert result.stdout.count("--hash=") >= len(locked)
    assert locked == needed_by("hatchling")


def needed_by(name: str) -> set[str]:
    """Return a distribution's name and those of all that it requires on a recent Python."""
    names = {name}
    for text in importlib.metadata.requires(name) or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or marker.evaluate({"python_version": "3.13", "extra": ""}):
            names |= needed_by(requirement.name)
    return names


@pytest.fixture
def image() -> Iterator[Path]:
    """A folder that others may enter, for what the Dockerfile makes."""
    with tempfile.TemporaryDirectory(prefix="image-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def is_open(path: Path) -> bool:
    """Tell whether any user can come to a path."""
    return all(folder.stat().st_mode & 0o001 for folder in path.parents)


def test_the_project_step_installs_a_service_that_runs_without_a_home(image: Path) -> None:
    """Runs the step of the Dockerfile itself; the dependencies are this environment's."""
    step = [rest for word, rest in BUILD if word == "RUN"][-1]
    assert "pip wheel" in step
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, image)
    for name in ("service", "sql"):
        shutil.copytree(ROOT / name, image / name)
    environment = image / "venv"
    venv.create(environment, symlinks=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    here = next(path for path in sys.path if path.endswith("site-packages"))
    (packages / "dependencies.pth").write_text(f"{here}\n")
    search = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    subprocess.run(
        ["/bin/sh", "-c", step.replace("/app/venv", str(environment))],
        cwd=image,
        env={**os.environ, "PATH": search, "PIP_NO_INDEX": "1"},
        capture_output=True,
        check=True,
    )
    (image / "elsewhere").mkdir()
    # root's own interpreter may lie where no other user can come.
    switch = os.geteuid() == 0 and all(map(is_open, (Path(sys.executable).resolve(), Path(here))))
    answers = [
        subprocess.run(
            [environment / "bin/python", *arguments],
            cwd=image / "elsewhere",
            env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},  # no HOME
            user=10001 if switch else None,
            group=10001 if switch else None,
            extra_groups=[] if switch else None,
            capture_output=True,
            text=True,
            check=False,
        )
        for arguments in (
            ["-m", "service", "--help"],
            ["-m", "service", "openapi"],
            ["-c", "import service.statements as s; print(s.__file__, s.SQL_FOLDER)"],
        )
    ]

    assert [answer.returncode for answer in answers] == [0, 0, 0], answers
    assert "check-config" in answers[0].stdout
    assert json.loads(answers[1].stdout)["openapi"].startswith("3.1")
    assert answers[2].stdout.split() == [
        str(packages / "service/statements.py"),
        str(packages / "sql"),
    ]


async def test_the_health_check_tells_a_running_service(make_service: Callable[..., Any]) -> None:
    service = await make_service()

    async def health(port: int) -> int:
        command = [sys.executable, *HEALTHCHECK[1:]]
        assert "8080" in command[-1]
        command[-1] = command[-1].replace("8080", str(port))
        process = await asyncio.create_subprocess_exec(
            *command, stderr=asyncio.subprocess.DEVNULL, env={"http_proxy": "http://127.0.0.1:1"}
        )
        return await process.wait()

    assert await health(service.port) == 0
    assert await health(free_port()) == 1


# Configuration and secrets


@with_each_configuration
def test_the_configuration_loads(settings: config.Settings) -> None:
    assert settings.server.host == "0.0.0.0"  # noqa: S104
    for key in settings.auth.api_keys:
        assert set(key.databases) <= settings.databases.keys()


def test_the_configuration_is_mounted_where_the_image_looks_for_it() -> None:
    path = ENVIRONMENT["SERVICE_CONFIG"]

    for name in ("service", "migrate"):
        (mounted,) = COMPOSE["services"][name]["configs"]
        assert mounted["target"] == path
        assert ROOT / COMPOSE["configs"][mounted["source"]]["file"] == CONFIGURATIONS[0]
    (generated,) = MANIFESTS["kustomization"]["configMapGenerator"]
    for name, pod in PODS.items():
        mounts, volumes = mounts_and_volumes(name)
        assert f"{mounts['config']}/{generated['files'][0]}" == path
        assert volumes["config"]["configMap"]["name"] == generated["name"], pod


def mounts_and_volumes(name: str) -> tuple[dict[str, str], dict[str, Any]]:
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINERS[name]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in PODS[name]["spec"]["volumes"]}
    assert mounts.keys() == volumes.keys()
    return mounts, volumes


@pytest.mark.parametrize("name", ["service", "migrate"])
def test_compose_mounts_the_secrets_that_the_configuration_reads(name: str) -> None:
    mounted = COMPOSE["services"][name]["secrets"]

    targets = {each if isinstance(each, str) else each["target"] for each in mounted}
    sources = {each if isinstance(each, str) else each["source"] for each in mounted}

    assert targets == references(CONFIGURATIONS[0])
    assert sources <= COMPOSE["secrets"].keys()
    assert ("owner_acme_dsn" in sources) == (name == "migrate")


def test_kubernetes_mounts_the_secrets_that_the_configuration_reads() -> None:
    head = (KUBERNETES_FOLDER / "kustomization.yaml").read_text().partition("apiVersion")[0]
    documented = {
        command.split()[0]: set(re.findall(r"--from-literal=(\w+)=", command))
        for command in head.split("create secret generic ")[1:]
    }

    mounts, volumes = mounts_and_volumes("deployment")
    assert mounts["secrets"] == SECRETS_MOUNT
    assert documented[volumes["secrets"]["secret"]["secretName"]] == references(CONFIGURATIONS[1])
    mounts, volumes = mounts_and_volumes("migrate")
    assert mounts["secrets"] == SECRETS_MOUNT
    paths = []
    for source in volumes["secrets"]["projected"]["sources"]:
        paths += [item["path"] for item in source["secret"]["items"]]
        keys = {item["key"] for item in source["secret"]["items"]}
        assert keys <= documented[source["secret"]["name"]]
    assert sorted(paths) == sorted(references(CONFIGURATIONS[1]))


def test_secrets_are_never_committed() -> None:
    folders = {str(Path(secret["file"]).parent) for secret in COMPOSE["secrets"].values()}

    assert folders == {"deploy/compose/secrets"}
    assert "/deploy/compose/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_secrets_are_made_by_the_lines_that_compose_yaml_gives(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed on this machine")
    head = (ROOT / "compose.yaml").read_text().partition("\nname:")[0]
    commands = [line[4:] for line in head.splitlines() if line.startswith("#   ")]
    script = "\n".join(line for line in commands if not line.startswith("docker "))

    subprocess.run(["/bin/sh", "-ec", script], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)

    for secret in COMPOSE["secrets"].values():
        assert (tmp_path / secret["file"]).stat().st_mode & 0o777 == 0o644
    folder = tmp_path / "deploy/compose/secrets"
    assert folder.stat().st_mode & 0o777 == 0o700
    copy = tmp_path / "service.toml"
    copy.write_text(CONFIGURATIONS[0].read_text().replace(SECRETS_MOUNT, str(folder)))
    (database,) = config.load(copy).databases.values()
    password = (folder / "service_password").read_text().strip()
    name = COMPOSE["services"]["postgres"]["environment"]["POSTGRES_DB"]
    assert database.dsn == f"postgresql://service:{password}@postgres/{name}"


async def test_the_serving_role_may_do_what_the_service_does_and_no_more(
    make_database: MakeDatabase, tmp_path: Path
) -> None:
    try:
        psql = find_binaries() / "psql"
    except EmbeddedPostgresError as error:
        pytest.skip(str(error))
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
    finally:
        await connection.execute(f"drop owned by {role}; drop role {role}")
        await connection.close()
    assert may is not None
    assert {name for name, is_true in may.items() if is_true} >= {
        *("read", "insert", "update", "draw", "plain")
    }
    assert not may["delete"]
    assert not may["truncate"]


# What holds the parts together


def arguments_used() -> Iterator[str]:
    yield from json.loads(FINAL["CMD"])
    yield from COMPOSE["services"]["migrate"]["command"]
    for container in CONTAINERS.values():
        yield from container["args"]


def test_the_commands_exist() -> None:
    assert set(arguments_used()) <= cli.main.commands.keys()


@with_each_configuration
async def test_the_probed_paths_exist(settings: config.Settings) -> None:
    served = {resource.canonical for resource in build_app(settings).router.resources()}
    container = CONTAINERS["deployment"]
    probed = {
        name: container[name]["httpGet"]["path"]
        for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    proxy = (COMPOSE_FOLDER / "haproxy.cfg").read_text()
    annotations = PODS["deployment"]["metadata"]["annotations"]

    assert probed == {
        "startupProbe": "/livez",
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz",
    }
    assert re.findall(r"http-check send meth GET uri (\S+)", proxy) == ["/readyz"]
    assert re.findall(r"if \{ path (\S+) \}", proxy) == ["/metrics"]
    assert annotations["prometheus.io/path"] == "/metrics"
    assert "'/livez'" in HEALTHCHECK[-1]
    assert {*probed.values(), "/metrics"} <= served


@with_each_configuration
def test_the_port_is_the_same_everywhere(settings: config.Settings) -> None:
    proxy = (COMPOSE_FOLDER / "haproxy.cfg").read_text()
    container = CONTAINERS["deployment"]
    (port,) = container["ports"]
    (service_port,) = MANIFESTS["service"]["spec"]["ports"]
    annotations = PODS["deployment"]["metadata"]["annotations"]
    ingress = MANIFESTS["network"]["spec"]["ingress"]

    assert {
        int(FINAL["EXPOSE"]),
        *map(int, re.findall(r"'127\.0\.0\.1', (\d+)", HEALTHCHECK[-1])),
        *map(int, re.findall(r"server-template replica \d+ service:(\d+)", proxy)),
        *map(int, re.findall(r"bind :(\d+)", proxy)),
        *(int(number) for number in COMPOSE["services"]["proxy"]["ports"][0].split(":")),
        port["containerPort"],
        service_port["port"],
        int(annotations["prometheus.io/port"]),
        *(each["port"] for rule in ingress for each in rule["ports"]),
    } == {settings.server.port}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == port["name"]
    assert service_port["targetPort"] == port["name"]


@with_each_configuration
def test_nothing_is_killed_within_its_grace_period(settings: config.Settings) -> None:
    grace = settings.server.shutdown_grace_seconds
    services, pod = COMPOSE["services"], PODS["deployment"]["spec"]
    pause = CONTAINERS["deployment"]["lifecycle"]["preStop"]["sleep"]["seconds"]
    proxy = (COMPOSE_FOLDER / "haproxy.cfg").read_text()
    (hard_stop,) = re.findall(r"hard-stop-after (\S+)", proxy)

    assert pod["terminationGracePeriodSeconds"] > pause + grace
    assert seconds(services["service"]["stop_grace_period"]) > grace
    assert seconds(services["proxy"]["stop_grace_period"]) > seconds(hard_stop) > grace


@with_each_configuration
def test_all_pools_together_fit_into_the_database(settings: config.Settings) -> None:
    replicas = COMPOSE["services"]["service"]["deploy"]["replicas"]
    most = MANIFESTS["autoscaler"]["spec"]["maxReplicas"]
    surge = DEPLOYMENT["spec"]["strategy"]["rollingUpdate"]["maxSurge"]

    for database in settings.databases.values():
        each = settings.server.workers * database.pool_max_size
        assert replicas * each < MAX_CONNECTIONS
        assert (most + surge) * each < MAX_CONNECTIONS


def test_two_replicas_run_and_one_stays() -> None:
    autoscaler, disruption = MANIFESTS["autoscaler"]["spec"], MANIFESTS["disruption"]["spec"]

    assert COMPOSE["services"]["service"]["deploy"]["replicas"] == 2
    assert autoscaler["minReplicas"] == 2
    assert "replicas" not in DEPLOYMENT["spec"], "would undo the autoscaler's number"
    assert autoscaler["scaleTargetRef"]["name"] == DEPLOYMENT["metadata"]["name"]
    assert disruption["maxUnavailable"] == 1


def test_the_autoscalers_metric_is_one_of_the_services() -> None:
    from service.metrics import BATCHES_IN_FLIGHT

    (metric,) = MANIFESTS["autoscaler"]["spec"]["metrics"]

    (family,) = BATCHES_IN_FLIGHT.collect()
    assert metric["pods"]["metric"]["name"] == family.name


def test_selectors_select_the_pods() -> None:
    labels = {name: pod["metadata"]["labels"] for name, pod in PODS.items()}
    key = "app.kubernetes.io/name"
    (expression,) = MANIFESTS["network"]["spec"]["podSelector"]["matchExpressions"]

    assert DEPLOYMENT["spec"]["selector"]["matchLabels"] == labels["deployment"]
    assert MANIFESTS["service"]["spec"]["selector"] == labels["deployment"]
    assert MANIFESTS["disruption"]["spec"]["selector"]["matchLabels"] == labels["deployment"]
    assert (expression["key"], expression["operator"]) == (key, "In")
    assert set(expression["values"]) == {each[key] for each in labels.values()}
    assert labels["deployment"] != labels["migrate"], "the Service would send requests to the job"


def test_one_image_everywhere_and_of_the_projects_version() -> None:
    images = {container["image"] for container in CONTAINERS.values()}
    images |= {COMPOSE["services"][name]["image"] for name in ("service", "migrate")}

    assert images == {f"care-case-clinical-trials:{__version__}"}
    assert FINAL["ARG"] == "REVISION=unknown"
    assert f"ARG VERSION={__version__}\n" in (ROOT / "Dockerfile").read_text()


def test_no_container_of_the_service_may_write_or_gain_privileges() -> None:
    for name in ("service", "migrate"):
        service = COMPOSE["services"][name]
        assert service["read_only"] is True
        assert service["tmpfs"] == ["/tmp"]  # noqa: S108
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    for name, container in CONTAINERS.items():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert PODS[name]["spec"]["automountServiceAccountToken"] is False
        mounts, volumes = mounts_and_volumes(name)
        assert mounts["tmp"] == ENVIRONMENT["HOME"] == "/tmp"  # noqa: S108
        assert "emptyDir" in volumes["tmp"]


def test_compose_starts_each_after_what_it_needs() -> None:
    services = COMPOSE["services"]

    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert services["service"]["depends_on"] == {
        "migrate": {"condition": "service_completed_successfully"}
    }
    assert services["proxy"]["depends_on"] == {"service": {"condition": "service_healthy"}}
    assert "healthcheck" in services["postgres"]
    for source in COMPOSE["configs"].values():
        assert (ROOT / source["file"]).is_file()


def test_the_proxy_sends_nothing_twice() -> None:
    """An item without a key is created anew each time that it arrives."""
    proxy = (COMPOSE_FOLDER / "haproxy.cfg").read_text()
    directives = [shlex.split(line, comments=True) for line in proxy.splitlines()]

    assert [words[1:] for words in directives if words[:1] == ["retry-on"]] == [["conn-failure"]]
    assert ["option", "http-buffer-request"] not in directives
