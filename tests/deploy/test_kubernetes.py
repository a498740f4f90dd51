"""The manifests for Kubernetes: they agree with the image, the configuration and each other."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from service import __version__, cli, config
from service.http.app import MANAGEMENT, build_app
from tests.deploy.files import (
    ENVIRONMENT,
    FINAL,
    KUBERNETES_FOLDER,
    MANIFESTS,
    MAX_CONNECTIONS,
    load,
    references,
    run,
    tool,
)

VERSION = "1.30"  # the oldest with the preStop sleep
CONFIGURATION = KUBERNETES_FOLDER / "service.toml"
SECRETS_MOUNT = "/run/secrets"

DEPLOYMENT, JOB = MANIFESTS["deployment"], MANIFESTS["migrate"]
PODS = {"deployment": DEPLOYMENT["spec"]["template"], "migrate": JOB["spec"]["template"]}
CONTAINERS = {name: pod["spec"]["containers"][0] for name, pod in PODS.items()}
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


@pytest.fixture
def settings(tmp_path: Path) -> config.Settings:
    return load(CONFIGURATION, tmp_path)


def mounts_and_volumes(name: str) -> tuple[dict[str, str], dict[str, Any]]:
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINERS[name]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in PODS[name]["spec"]["volumes"]}
    assert mounts.keys() == volumes.keys()
    return mounts, volumes


@pytest.mark.parametrize("name", sorted(MANIFESTS.keys() - {"kustomization"}))
def test_manifests_follow_the_schemas_of_kubernetes(name: str) -> None:
    program = tool("kubernetes-validate")

    run(program, "--strict", "-k", VERSION, KUBERNETES_FOLDER / f"{name}.yaml")


def test_kustomize_finds_its_resources() -> None:
    kustomization = MANIFESTS["kustomization"]
    files = [name for each in kustomization["configMapGenerator"] for name in each["files"]]

    assert all((KUBERNETES_FOLDER / name).is_file() for name in kustomization["resources"] + files)
    stems = {name.removesuffix(".yaml") for name in kustomization["resources"]}
    assert stems == MANIFESTS.keys() - {"kustomization"}


def built() -> list[dict[str, Any]]:
    """Return what kustomize makes of the folder."""
    text = run(tool("kubectl"), "kustomize", KUBERNETES_FOLDER)
    return [each for each in yaml.safe_load_all(text) if each]


def test_kustomize_builds_all_of_it_with_one_tag(tmp_path: Path) -> None:
    program = tool("kubernetes-validate")
    manifests = built()

    kinds = sorted(each["kind"] for each in manifests)
    images = {
        container["image"]
        for each in manifests
        if each["kind"] in ("Deployment", "Job")
        for container in each["spec"]["template"]["spec"]["containers"]
    }
    path = tmp_path / "built.yaml"
    path.write_text(yaml.safe_dump_all(manifests))

    assert kinds == sorted(
        [
            *(each["kind"] for name, each in MANIFESTS.items() if name != "kustomization"),
            "ConfigMap",
        ]
    )
    assert images == {f"care-case-clinical-trials:{__version__}"}
    run(program, "--strict", "-k", VERSION, path)


def test_the_configuration_loads(settings: config.Settings) -> None:
    assert settings.server.host == "0.0.0.0"  # noqa: S104
    for key in settings.auth.api_keys.values():
        assert set(key.databases) <= settings.databases.keys()


def test_the_commands_exist() -> None:
    used = {container["args"][0] for container in CONTAINERS.values()}

    assert used == {"serve", "migrate"}
    assert used <= cli.main.commands.keys()


def test_the_image_is_of_the_projects_version() -> None:
    """Its tag stands in one place."""
    images = {container["image"] for container in CONTAINERS.values()}
    (image,) = MANIFESTS["kustomization"]["images"]

    assert images == {image["name"]}
    assert image == {"name": "care-case-clinical-trials", "newTag": __version__}


def test_pods_run_as_the_images_user() -> None:
    user, group = map(int, FINAL["USER"].split(":"))

    for pod in PODS.values():
        context = pod["spec"]["securityContext"]
        assert context["runAsNonRoot"] is True
        assert (context["runAsUser"], context["runAsGroup"]) == (user, group)
        assert context["fsGroup"] == group
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}


def test_the_configuration_is_mounted_where_the_image_looks_for_it() -> None:
    (generated,) = MANIFESTS["kustomization"]["configMapGenerator"]

    for name in PODS:
        mounts, volumes = mounts_and_volumes(name)
        assert f"{mounts['config']}/{generated['files'][0]}" == ENVIRONMENT["SERVICE_CONFIG"]
        assert volumes["config"]["configMap"]["name"] == generated["name"]


def test_it_mounts_the_secrets_that_the_configuration_reads() -> None:
    read = references(CONFIGURATION)
    head = (KUBERNETES_FOLDER / "kustomization.yaml").read_text().partition("apiVersion")[0]
    documented = {
        command.split()[0]: set(re.findall(r"--from-literal=(\w+)=", command))
        for command in head.split("create secret generic ")[1:]
    }

    assert CONFIGURATION.read_text().count(f"{{file:{SECRETS_MOUNT}/") == len(read)
    mounts, volumes = mounts_and_volumes("deployment")
    assert mounts["secrets"] == SECRETS_MOUNT
    assert documented[volumes["secrets"]["secret"]["secretName"]] == read
    mounts, volumes = mounts_and_volumes("migrate")
    assert mounts["secrets"] == SECRETS_MOUNT
    assert documented[volumes["secrets"]["secret"]["secretName"]] == read
    (variable,) = CONTAINERS["migrate"]["env"]
    path = Path(variable["value"].removeprefix("${file:").removesuffix("}"))
    assert str(path.parent) == mounts["owner"]
    assert documented[volumes["owner"]["secret"]["secretName"]] == {path.name}


def test_the_job_has_the_owners_dsn(tmp_path: Path) -> None:
    (variable,) = CONTAINERS["migrate"]["env"]
    (tmp_path / "acme_dsn").write_text("postgresql://owner:p@h/acme")
    value = variable["value"].replace("/run/owner", str(tmp_path / "owner"))
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner/acme_dsn").write_text("postgresql://owner:p@h/acme\n")
    load(CONFIGURATION, tmp_path)

    settings = config.load(tmp_path / "service.toml", {variable["name"]: value})

    assert settings.databases["acme"].migration_dsn == "postgresql://owner:p@h/acme"


def test_the_probed_paths_exist(settings: config.Settings) -> None:
    application = build_app(settings, config.Tuning())[MANAGEMENT]
    served = {resource.canonical for resource in application.router.resources()}
    container = CONTAINERS["deployment"]

    probed = {name: container[name]["httpGet"]["path"] for name in PROBES}

    assert probed == dict(zip(PROBES, ("/livez", "/livez", "/readyz"), strict=True))
    assert PODS["deployment"]["metadata"]["annotations"]["prometheus.io/path"] == "/metrics"
    assert {*probed.values(), "/metrics"} <= served


def test_the_ports_are_the_same_everywhere(settings: config.Settings) -> None:
    server = settings.server
    container = CONTAINERS["deployment"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    (service_port,) = MANIFESTS["service"]["spec"]["ports"]
    annotations = PODS["deployment"]["metadata"]["annotations"]
    ingress = MANIFESTS["network"]["spec"]["ingress"]

    assert ports == {"http": server.port, "management": server.management_port}
    assert [int(port) for port in FINAL["EXPOSE"].split()] == list(ports.values())
    assert [each["port"] for rule in ingress for each in rule["ports"]] == list(ports.values())
    assert (service_port["port"], service_port["targetPort"]) == (server.port, "http")
    assert int(annotations["prometheus.io/port"]) == server.management_port
    assert {container[name]["httpGet"]["port"] for name in PROBES} == {"management"}


def test_nothing_is_killed_within_its_grace_period(settings: config.Settings) -> None:
    pause = CONTAINERS["deployment"]["lifecycle"]["preStop"]["sleep"]["seconds"]
    least = pause + settings.server.shutdown_grace_seconds

    assert PODS["deployment"]["spec"]["terminationGracePeriodSeconds"] > least


def test_all_pools_together_fit_into_the_database(settings: config.Settings) -> None:
    most = MANIFESTS["autoscaler"]["spec"]["maxReplicas"]
    surge = DEPLOYMENT["spec"]["strategy"]["rollingUpdate"]["maxSurge"]

    for database in settings.databases.values():
        assert (most + surge) * database.pool_max_size < MAX_CONNECTIONS


def test_two_replicas_run_and_one_stays() -> None:
    autoscaler, disruption = MANIFESTS["autoscaler"]["spec"], MANIFESTS["disruption"]["spec"]

    assert autoscaler["minReplicas"] == 2
    assert "replicas" not in DEPLOYMENT["spec"], "would undo the autoscaler's number"
    assert autoscaler["scaleTargetRef"]["name"] == DEPLOYMENT["metadata"]["name"]
    assert disruption["maxUnavailable"] == 1


def test_the_autoscaler_goes_by_the_cpu_that_a_pod_requests() -> None:
    (metric,) = MANIFESTS["autoscaler"]["spec"]["metrics"]

    assert metric["resource"]["name"] == "cpu"
    assert metric["resource"]["target"]["averageUtilization"] < 100
    assert CONTAINERS["deployment"]["resources"]["requests"]["cpu"] == "1"


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


def test_no_container_of_the_service_may_write_or_gain_privileges() -> None:
    for name, container in CONTAINERS.items():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert all(mount["readOnly"] for mount in container["volumeMounts"])
        assert PODS[name]["spec"]["automountServiceAccountToken"] is False
