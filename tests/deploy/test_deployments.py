"""Compose, Kubernetes and systemd agree with the service, the image and their configuration."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from service import __version__
from tests.deploy.files import (
    COMPOSE,
    ENVIRONMENT,
    FINAL,
    KUBERNETES_FOLDER,
    MANIFESTS,
    PROXY,
    ROOT,
    SYSTEMD_FOLDER,
    UNIT,
    found,
    load,
    secrets_in,
)

MAX_CONNECTIONS = 100  # PostgreSQL's default
CONFIGURATIONS = {
    "compose": ROOT / COMPOSE["configs"]["service"]["file"],
    "kubernetes": KUBERNETES_FOLDER / "service.toml",
    "systemd": SYSTEMD_FOLDER / "service.toml",
}
SERVERS = {name: tomllib.loads(p.read_text())["server"] for name, p in CONFIGURATIONS.items()}
USER, GROUP = map(int, FINAL["USER"].split(":"))

SERVICE, MIGRATE, HAPROXY = (COMPOSE["services"][name] for name in ("service", "migrate", "proxy"))
DEPLOYMENT = MANIFESTS["deployment"]["spec"]
POD, JOB = DEPLOYMENT["template"]["spec"], MANIFESTS["migrate"]["spec"]["template"]["spec"]
CONTAINER, JOB_CONTAINER = POD["containers"][0], JOB["containers"][0]
ANNOTATIONS = DEPLOYMENT["template"]["metadata"]["annotations"]
PORTS = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
(SERVICE_PORT,) = MANIFESTS["service"]["spec"]["ports"]
INGRESS = [port["port"] for port in MANIFESTS["network"]["spec"]["ingress"][0]["ports"]]
STARTUP, LIVENESS, READINESS = (
    CONTAINER[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")
)
PORT, MANAGEMENT_PORT = map(int, FINAL["EXPOSE"].split())


FACTS: dict[str, tuple[object, list[object]]] = {
    "version": (
        __version__,
        [
            found(r"^ARG VERSION=(.+)", (ROOT / "Dockerfile").read_text()),
            *(each["image"].rpartition(":")[2] for each in (SERVICE, MIGRATE)),
            MANIFESTS["kustomization"]["images"][0]["newTag"],
            found(r"care_case_clinical_trials_service-(.+)-py3-none-any.whl", UNIT),
        ],
    ),
    "host": ("0.0.0.0", [server["host"] for server in SERVERS.values()]),  # noqa: S104
    "port": (
        PORT,
        [
            *(server["port"] for server in SERVERS.values()),
            int(found(r"server-template replica \d+ service:(\d+)", PROXY)),
            int(found(r"bind :(\d+)", PROXY)),
            *map(int, HAPROXY["ports"][0].split(":")),
            PORTS["http"],
            *(SERVICE_PORT["port"], PORTS[SERVICE_PORT["targetPort"]], INGRESS[0]),
        ],
    ),
    "management port": (
        MANAGEMENT_PORT,
        [
            *(SERVERS[name]["management_port"] for name in ("compose", "kubernetes")),
            int(found(r"check port (\d+)", PROXY)),
            int(found(r"MANAGEMENT_PORT=(\d+)%i$", UNIT) + "1"),
            *(PORTS["management"], int(ANNOTATIONS["prometheus.io/port"]), INGRESS[1]),
            *(PORTS[probe["port"]] for probe in (STARTUP, LIVENESS, READINESS)),
        ],
    ),
    "shared port": (True, [SERVERS["systemd"]["reuse_port"]]),
    "liveness": ("/livez", [STARTUP["path"], LIVENESS["path"]]),
    "readiness": ("/readyz", [READINESS["path"], found(r"meth GET uri (\S+)", PROXY)]),
    "metrics": ("/metrics", [ANNOTATIONS["prometheus.io/path"]]),
    "serve": ("serve", [CONTAINER["args"][0], found(r"^ExecStart=\S+ (\w+)$", UNIT)]),
    "migrate": ("migrate", [MIGRATE["command"][0], JOB_CONTAINER["args"][0]]),
}


@pytest.mark.parametrize("fact", FACTS)
def test_a_fact_is_the_same_wherever_it_is_written(fact: str) -> None:
    expected, values = FACTS[fact]

    assert values == [expected] * len(values)


@pytest.mark.parametrize(
    ("name", "replicas", "grace_seconds", "memory"),
    [
        (
            "compose",
            SERVICE["deploy"]["replicas"],
            int(found(r"^(\d+)s$", SERVICE["stop_grace_period"])),
            SERVICE["deploy"]["resources"]["limits"]["memory"],
        ),
        (
            "kubernetes",
            MANIFESTS["autoscaler"]["spec"]["maxReplicas"]
            + DEPLOYMENT["strategy"]["rollingUpdate"]["maxSurge"],
            POD["terminationGracePeriodSeconds"]
            - CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"],
            CONTAINER["resources"]["limits"]["memory"],
        ),
        (
            "systemd",
            len({*re.findall(r"care-trials@\d", UNIT)}),
            int(found(r"^TimeoutStopSec=(\d+)$", UNIT)),
            found(r"^MemoryMax=(.+)$", UNIT),
        ),
    ],
    ids=list(CONFIGURATIONS),
)
def test_the_configuration_loads_and_fits_its_surroundings(
    name: str, replicas: int, grace_seconds: int, memory: str, tmp_path: Path
) -> None:
    settings = load(CONFIGURATIONS[name], tmp_path)

    for key in settings.auth.api_keys.values():
        assert {*key.databases} <= settings.databases.keys()
    for database in settings.databases.values():
        assert 1 < replicas < MAX_CONNECTIONS / database.pool_max_size
    assert grace_seconds > settings.server.shutdown_grace_seconds
    assert int(memory.rstrip("Gi")) * 2**30 > 2 * settings.server.max_bytes_in_flight


def compose_files(service: dict[str, Any]) -> set[str]:
    """Return the paths of the configuration and the secrets in a container."""
    assert {*service["secrets"]} <= COMPOSE["secrets"].keys()
    return {each["target"] for each in service["configs"]} | {
        f"/run/secrets/{name}" for name in service["secrets"]
    }


def kubernetes_files(pod: dict[str, Any]) -> set[str]:
    """Return the paths of the configuration and the secrets in a pod."""
    (generated,) = MANIFESTS["kustomization"]["configMapGenerator"]
    kinds = {("configMap", generated["name"]): generated["files"]}
    text = (KUBERNETES_FOLDER / "kustomization.yaml").read_text()
    for command in text.split("create secret generic ")[1:]:
        names = re.findall(r"--from-literal=(\w+)=", command)
        kinds["secret", command.split()[0]] = names
    mounts = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
    return {
        f"{mounts[volume['name']]}/{name}"
        for volume in pod["volumes"]
        for kind, key in (("configMap", "name"), ("secret", "secretName"))
        if kind in volume
        for name in kinds[kind, volume[kind][key]]
    }


def systemd_files() -> set[str]:
    """Return where the steps before the unit put the configuration and the secrets."""
    ((name, folder),) = re.findall(r"deploy/systemd/(\S+\.toml) (\S+)", UNIT)
    (secrets,) = re.findall(r"# Put (\w+), (\w+) and (\w+) into (\S+),", UNIT)
    return {folder + name, *(f"{secrets[-1]}/{each}" for each in secrets[:-1])}


# Compose reads "$$" as "$".
COMPOSE_OWNER = {name: text.replace("$$", "$") for name, text in MIGRATE["environment"].items()}
KUBERNETES_OWNER = {each["name"]: each["value"] for each in JOB_CONTAINER["env"]}
UNIT_ENVIRONMENT = dict(re.findall(r"^Environment=(\w+)=(.*)$", UNIT.replace("%i", "1"), re.M))


@pytest.mark.parametrize(
    ("deployment", "files", "environment", "owner"),
    [
        ("compose", compose_files(SERVICE), {}, None),
        ("compose", compose_files(MIGRATE), COMPOSE_OWNER, "postgres:owner_password"),
        ("kubernetes", kubernetes_files(POD), {}, None),
        ("kubernetes", kubernetes_files(JOB), KUBERNETES_OWNER, "owner"),
        ("systemd", systemd_files(), UNIT_ENVIRONMENT, None),
    ],
    ids=["compose", "compose migrate", "kubernetes", "kubernetes migrate", "systemd"],
)
def test_a_process_has_the_files_that_it_reads_and_migrate_alone_the_owners_dsn(
    deployment: str, files: set[str], environment: dict[str, str], owner: str | None, tmp_path: Path
) -> None:
    configuration = CONFIGURATIONS[deployment].read_text()
    secrets = secrets_in(configuration + "".join(environment.values()))
    (database,) = load(CONFIGURATIONS[deployment], tmp_path, environment).databases.values()

    assert files == {(ENVIRONMENT | environment)["SERVICE_CONFIG"], *secrets}
    assert configuration.count("${") == len(secrets_in(configuration)) == 3
    assert database.migration_dsn == (owner and f"postgresql://{owner}@postgres/acme")


def test_no_process_runs_as_root_writes_files_or_gains_privileges() -> None:
    assert USER > 0 < GROUP
    for service in (SERVICE, MIGRATE):
        assert service["read_only"] is True
        assert not {"tmpfs", "volumes", "user", "cap_add"} & service.keys()
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    for pod in (POD, JOB):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": GROUP,
            "fsGroup": GROUP,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        (container,) = pod["containers"]
        assert all(mount["readOnly"] for mount in container["volumeMounts"])
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
