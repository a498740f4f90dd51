"""The manifests for Kubernetes: kustomize builds them, and they agree with each other."""

from pathlib import Path

import pytest
import yaml

from service import __version__
from tests.deploy.files import KUBERNETES_FOLDER, MANIFESTS, run, tool

VERSION = "1.30"  # the oldest with the preStop sleep
DEPLOYMENT = MANIFESTS["deployment"]["spec"]
POD, JOB = DEPLOYMENT["template"], MANIFESTS["migrate"]["spec"]["template"]


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


def test_kustomize_builds_all_of_it_with_one_tag(tmp_path: Path) -> None:
    path = tmp_path / "built.yaml"
    path.write_text(run(tool("kubectl"), "kustomize", KUBERNETES_FOLDER))
    manifests = {each["kind"]: each for each in yaml.safe_load_all(path.read_text())}

    kinds = {each["kind"] for each in MANIFESTS.values()} - {"Kustomization"}
    assert manifests.keys() == kinds | {"ConfigMap"}
    for kind in ("Deployment", "Job"):
        (container,) = manifests[kind]["spec"]["template"]["spec"]["containers"]
        assert container["image"] == f"care-case-clinical-trials:{__version__}"
    run(tool("kubernetes-validate"), "--strict", "-k", VERSION, path)


def test_two_replicas_run_and_one_stays_and_a_busy_core_adds_another() -> None:
    autoscaler, disruption = MANIFESTS["autoscaler"]["spec"], MANIFESTS["disruption"]["spec"]
    (metric,) = autoscaler["metrics"]

    assert autoscaler["minReplicas"] == 2
    assert "replicas" not in DEPLOYMENT, "would undo the autoscaler's number"
    assert autoscaler["scaleTargetRef"]["name"] == MANIFESTS["deployment"]["metadata"]["name"]
    assert disruption["maxUnavailable"] == 1
    assert metric["resource"]["name"] == "cpu"
    assert metric["resource"]["target"]["averageUtilization"] < 100
    assert POD["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "1"


def test_selectors_select_the_pods() -> None:
    serving, migrating = POD["metadata"]["labels"], JOB["metadata"]["labels"]
    key = "app.kubernetes.io/name"
    selector = MANIFESTS["network"]["spec"]["podSelector"]

    assert DEPLOYMENT["selector"]["matchLabels"] == serving
    assert MANIFESTS["service"]["spec"]["selector"] == serving
    assert MANIFESTS["disruption"]["spec"]["selector"]["matchLabels"] == serving
    assert selector == {
        "matchExpressions": [
            {"key": key, "operator": "In", "values": [serving[key], migrating[key]]}
        ]
    }
    assert serving != migrating, "the Service would send requests to the job"
