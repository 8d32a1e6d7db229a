"""The files of scripts/deploy against the schemas of Kubernetes and KubeRay, and on a real serve."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import kubernetes_validate
import pytest
import yaml
from dockerfile_parse import DockerfileParser

from llamafile_mgr.config_reading import load_config
from tests.support.service import running_service, service_links

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "scripts" / "deploy"
OBJECTS = {
    each["kind"]: each
    for each in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8"))
}
CLUSTER = yaml.safe_load((DEPLOY / "raycluster.yaml").read_text(encoding="utf-8"))
SCHEMA = json.loads((Path(__file__).parent / "raycluster.schema.json").read_text(encoding="utf-8"))
KUBERNETES = kubernetes_validate.latest_version()


def ray_templates() -> list[dict[str, Any]]:
    spec = CLUSTER["spec"]
    return [group["template"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def pods() -> list[dict[str, Any]]:
    return [OBJECTS["Deployment"]["spec"]["template"]["spec"], *(each["spec"] for each in ray_templates())]


@pytest.mark.parametrize("kind", ["ConfigMap", "PersistentVolumeClaim", "Deployment", "Service"])
def test_kubernetes_accepts_it(kind: str) -> None:
    kubernetes_validate.validate(OBJECTS[kind], KUBERNETES, strict=True)


def test_a_wrong_field_would_be_seen() -> None:
    wrong = {**OBJECTS["Service"], "spec": {"port": [80]}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**CLUSTER, "spec": {**CLUSTER["spec"], "workers": 3}}, SCHEMA)


def test_kuberay_accepts_the_cluster() -> None:
    jsonschema.validate(CLUSTER, SCHEMA)
    for template in ray_templates():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_no_container_may_do_more_than_it_must() -> None:
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert {"requests", "limits"} <= set(container["resources"])


def test_no_pod_is_told_of_other_services() -> None:
    assert [pod["enableServiceLinks"] for pod in pods()] == [False] * len(pods())


def test_every_mount_has_its_volume() -> None:
    for pod in pods():
        volumes = {volume["name"] for volume in pod.get("volumes", ())}
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes


def test_the_objects_name_each_other() -> None:
    pod = OBJECTS["Deployment"]["spec"]["template"]
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert volumes["config"]["configMap"]["name"] == OBJECTS["ConfigMap"]["metadata"]["name"]
    claim = volumes["models"]["persistentVolumeClaim"]["claimName"]
    assert claim == OBJECTS["PersistentVolumeClaim"]["metadata"]["name"]
    assert OBJECTS["Service"]["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    (container,) = pod["spec"]["containers"]
    assert OBJECTS["Service"]["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Return the settings of the ConfigMap as they stand there."""
    path = tmp_path / "config.toml"
    path.write_text(OBJECTS["ConfigMap"]["data"]["config.toml"], encoding="utf-8")
    return path


def test_the_settings_are_ours(settings: Path) -> None:
    serve = load_config(settings, file=settings, environ={}).serve
    (container,) = OBJECTS["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert serve.port == container["ports"][0]["containerPort"]
    grace = OBJECTS["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > serve.drain_seconds


def test_probes_clients_and_scrapers_get_through(model_home: Path, settings: Path, tmp_path: Path) -> None:
    """A real serve with these settings: only its address, its model and the place of the keys differ."""
    keys = tmp_path / "keys"
    keys.write_text("app " + "a" * 32 + "\nadmin " + "b" * 32 + "\n")
    keys.chmod(0o600)
    text = settings.read_text().replace("/keys/keys", str(keys)).replace("0.0.0.0", "127.0.0.1")
    settings.write_text(text.replace("mxbai-embed-large-v1", "all-minilm-l6-v2"))
    (container,) = OBJECTS["Deployment"]["spec"]["template"]["spec"]["containers"]
    # Old clusters and other pods of the namespace pass these whatever this Deployment says.
    links = service_links(OBJECTS["Service"]["metadata"]["name"])
    with running_service(model_home, extra={"LLAMAFILE_MGR_CONFIG": str(settings), **links}) as service:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = container[probe]["httpGet"]
            headers = {each["name"]: each["value"] for each in asked["httpHeaders"]}
            assert httpx.get(service.url + asked["path"], headers=headers).status_code == 200
        body = {"input": "hello"}
        for name, key, status in (
            ("llamafile-mgr", "a" * 32, 200),
            ("llamafile-mgr.default.svc:8080", "a" * 32, 200),
            ("llamafile-mgr", "c" * 32, 401),
            ("example.org", "a" * 32, 403),
        ):
            headers = {"Host": name, "Authorization": f"Bearer {key}"}
            reply = httpx.post(f"{service.url}/v1/embeddings", json=body, headers=headers)
            assert reply.status_code == status, (name, reply.text)
        annotations = OBJECTS["Service"]["metadata"]["annotations"]
        headers = {"Host": "llamafile-mgr.default.svc", "Authorization": f"Bearer {'b' * 32}"}
        reply = httpx.get(service.url + annotations["prometheus.io/path"], headers=headers)
        assert (reply.status_code, "# TYPE" in reply.text) == (200, True)


@pytest.fixture
def container_file() -> DockerfileParser:
    return DockerfileParser(fileobj=BytesIO((DEPLOY / "Containerfile").read_bytes()))


def test_the_container_file(container_file: DockerfileParser) -> None:
    steps = [(step["instruction"], step["value"]) for step in container_file.structure]
    known = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV", "VOLUME", "USER", "EXPOSE", "STOPSIGNAL"}
    known |= {"HEALTHCHECK", "ENTRYPOINT", "CMD", "COMMENT"}
    assert {name for name, _ in steps} <= known
    last = dict(steps)
    assert container_file.is_multistage
    assert any(name == "ARG" and value.endswith("-slim") for name, value in steps)
    assert last["USER"] == "10001:10001"
    assert last["VOLUME"] == "/models"
    assert json.loads(last["ENTRYPOINT"]) == ["llamafile-mgr"]
    assert json.loads(last["HEALTHCHECK"].partition("CMD ")[2]) == ["llamafile-mgr", "status"]
    users = {str(pod["securityContext"]["runAsUser"]) for pod in pods()}
    assert users == {last["USER"].partition(":")[0]}


def test_what_it_copies_is_there(container_file: DockerfileParser) -> None:
    copied = [step["value"] for step in container_file.structure if step["instruction"] == "COPY"]
    sources = [word for value in copied if not value.startswith("--from") for word in value.split()[:-1]]
    assert sources
    assert [source for source in sources if not (ROOT / source).exists()] == []
