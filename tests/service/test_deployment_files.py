"""The container file and the Kubernetes manifests: valid by the Kubernetes schemas, and true to the service."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tunesmith.cli import serve
from tunesmith.service.access import OPEN_PATHS
from tunesmith.service.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
VERSIONS = ("1.30", "1.34")


@pytest.fixture(scope="module")
def manifests() -> dict[str, dict]:
    """By kind, as kustomize builds them; where there is no kubectl, the files with the labels that it would put in."""
    if shutil.which("kubectl"):
        done = subprocess.run(["kubectl", "kustomize", str(KUBERNETES)], capture_output=True, text=True, check=True)
        return {each["kind"]: each for each in yaml.safe_load_all(done.stdout)}
    plan = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    labels = plan["labels"][0]["pairs"]
    found = {}
    for name in plan["resources"]:
        each = yaml.safe_load((KUBERNETES / name).read_text())
        found[each["kind"]] = _labelled(each, labels)
    found["Deployment"]["spec"]["template"]["spec"]["containers"][0]["image"] += ":" + plan["images"][0]["newTag"]
    return found


def _labelled(item, labels):
    if isinstance(item, dict):
        for name, value in item.items():
            item[name] = (
                labels if name in {"matchLabels", "selector", "labels"} and value == {} else _labelled(value, labels)
            )
    return [_labelled(each, labels) for each in item] if isinstance(item, list) else item


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_keeps_to_the_schema_of_kubernetes(manifests, version):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    assert set(manifests) >= {
        "Deployment",
        "Service",
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
        "NetworkPolicy",
    }
    for manifest in manifests.values():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_schema_would_notice_a_mistake(manifests):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    broken = {**manifests["Service"], "spec": {**manifests["Service"]["spec"], "prots": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[0], strict=True)


def pod(manifests) -> dict:
    return manifests["Deployment"]["spec"]["template"]["spec"]


def container(manifests) -> dict:
    (found,) = pod(manifests)["containers"]
    return found


def test_everything_points_at_the_same_pods(manifests):
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert labels
    for selector in (
        manifests["Deployment"]["spec"]["selector"]["matchLabels"],
        manifests["Service"]["spec"]["selector"],
        manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
        assert selector
    target = manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", manifests["Deployment"]["metadata"]["name"])
    ports = {port["name"] for port in container(manifests)["ports"]}
    assert {port["targetPort"] for port in manifests["Service"]["spec"]["ports"]} <= ports
    assert {port["port"] for rule in manifests["NetworkPolicy"]["spec"]["ingress"] for port in rule["ports"]} <= ports


def test_the_probes_ask_routes_that_need_no_key(manifests):
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container(manifests)[probe]["httpGet"]["path"] in OPEN_PATHS
    assert container(manifests)["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container(manifests)["livenessProbe"]["httpGet"]["path"] == "/livez"


def test_the_pod_has_no_rights_that_it_does_not_need(manifests):
    assert pod(manifests)["automountServiceAccountToken"] is False
    assert pod(manifests)["securityContext"]["runAsNonRoot"] is True
    assert pod(manifests)["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    rights = container(manifests)["securityContext"]
    assert rights == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert manifests["NetworkPolicy"]["spec"]["egress"] == []
    assert container(manifests)["resources"]["limits"]["memory"]


def test_the_pod_outlives_the_drain_and_no_pod_is_missed(manifests):
    config = yaml.safe_load((KUBERNETES / "config.yaml").read_text())
    assert pod(manifests)["terminationGracePeriodSeconds"] > config["settle-seconds"] + config["drain-seconds"]
    rolling = manifests["Deployment"]["spec"]["strategy"]["rollingUpdate"]
    assert (rolling["maxUnavailable"], rolling["maxSurge"]) == (0, 1)
    assert "replicas" not in manifests["Deployment"]["spec"]  # the autoscaler's to say
    spec = manifests["HorizontalPodAutoscaler"]["spec"]
    assert 1 < spec["minReplicas"] < spec["maxReplicas"]


def test_the_configuration_is_one_that_serve_takes(manifests):
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    options = parser.parse_args(["run", "--config", str(KUBERNETES / "config.yaml")])
    settings, pool, models = serve._settings(options)
    assert isinstance(settings, Settings)
    assert (settings.settle_seconds, settings.keep, pool.workers, models) == (10, False, 1, ["run"])
    assert {port["containerPort"] for port in container(manifests)["ports"]} == {settings.port}
    assert str(settings.registry).startswith(container(manifests)["volumeMounts"][0]["mountPath"])


def test_the_autoscalers_metric_is_one_that_the_service_gives(manifests):
    from answerings import StubAnswering
    from prometheus_client import generate_latest

    from tunesmith.service import meters

    (metric,) = manifests["HorizontalPodAutoscaler"]["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    shown = generate_latest(meters.Meters(StubAnswering()).registry).decode()
    assert re.search(rf"^{name} ", shown, re.MULTILINE)
    adapter = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())
    (rule,) = adapter["rules"]["custom"]
    assert re.fullmatch(rule["name"]["matches"], name)
    assert rule["name"]["as"] == name
    assert name in rule["seriesQuery"]
    assert name in rule["metricsQuery"]


def test_the_container_runs_without_rights_and_says_whether_it_lives():
    lines = _instructions((DEPLOY / "Containerfile").read_text())
    last = lines[max(place for place, (word, _) in enumerate(lines) if word == "FROM") :]
    words = dict(last)
    assert words["USER"] == "10001:10001"
    assert "/livez" in words["HEALTHCHECK"]
    assert words["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(words["ENTRYPOINT"]) == ["tunesmith"]
    serve.add_arguments(parser := argparse.ArgumentParser())
    assert parser.parse_args(json.loads(words["CMD"])[1:]).host == "0.0.0.0"
    order = [word for word, _ in last]
    assert order.index("USER") > order.index("COPY")
    copied = [text.split()[:-1] for word, text in lines if word == "COPY" and "--from" not in text]
    root = DEPLOY.parent
    assert all((root / name).exists() for names in copied for name in names)


def _instructions(text: str) -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n\s*", "", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in joined.splitlines() if line.strip()]
