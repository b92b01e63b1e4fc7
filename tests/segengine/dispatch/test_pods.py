"""What Kubernetes is asked for, against the operator's own schema, and what it says of pods."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from segengine.dispatch import pods
from segengine.dispatch.clusters import SETTINGS
from segengine.terms.kubernetes import Kubernetes
from tests.kube.server import definitions, plain

FULL = Kubernetes.of(
    {
        "image": "r/i:1",
        "resources": {"cpu": "1500m", "memory": "4GB", "gpu": 1},
        "service_account": "worker",
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "node_selector": {"zone": "a"},
        "volumes": [
            {"name": "scenes", "claim": "scenes", "path": "/scenes", "read_only": True},
            {"name": "key", "secret": "key", "path": "/key"},
            {"name": "conf", "config_map": "conf", "path": "/conf"},
        ],
        "env": {"AWS_REGION": "eu"},
        "env_from": ["s3"],
        "pull_secrets": ["pull"],
        "idle_timeout": "1h",
    }
)


def spec(options: Kubernetes = FULL) -> Any:
    return pods.cluster_spec("seg-1", options, 3)


@pytest.mark.parametrize(
    "options", [FULL, Kubernetes.of({"image": "i", "resources": {"memory": "1G"}})]
)
def test_the_resource_is_what_the_operator_takes(options: Kubernetes) -> None:
    (definition,) = [d for d in definitions() if d["spec"]["names"]["kind"] == "DaskCluster"]
    schema = plain(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    jsonschema.Draft7Validator(schema).validate(spec(options))


@pytest.mark.parametrize("part", ["scheduler", "worker"])
def test_pods_keep_to_the_level_restricted_of_pod_security(part: str) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted"""
    pod = spec()["spec"][part]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"]["type"] in ("RuntimeDefault", "Localhost")
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    allowed = {"name", "configMap", "emptyDir", "persistentVolumeClaim", "secret"}
    assert all(volume.keys() <= allowed for volume in pod.get("volumes", ()))
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"]["drop"] == ["ALL"]
        assert not context.get("privileged")
    assert pod["automountServiceAccountToken"] is False


def test_a_worker_is_a_pod_of_one_thread_and_of_what_was_asked() -> None:
    worker = spec()["spec"]["worker"]
    (container,) = worker["spec"]["containers"]
    words = " ".join(container["command"])
    assert words.startswith("python -m distributed.cli.dask_worker ")
    assert "--nthreads 1" in words
    assert "--memory-limit 4000000000" in words
    assert "args" not in container  # the image's own entry point would take them
    asked = {"cpu": "1500m", "memory": "4000000000", "nvidia.com/gpu": "1"}
    assert container["resources"] == {"limits": asked, "requests": asked}
    assert container["envFrom"] == [{"secretRef": {"name": "s3"}}]
    assert worker["replicas"] == 3
    assert worker["spec"]["volumes"] == [
        {"name": "scenes", "persistentVolumeClaim": {"claimName": "scenes", "readOnly": True}},
        {"name": "key", "secret": {"secretName": "key"}},
        {"name": "conf", "configMap": {"name": "conf"}},
    ]
    mounts = [(m["name"], m["mountPath"], m["readOnly"]) for m in container["volumeMounts"]]
    assert mounts == [("scenes", "/scenes", True), ("key", "/key", False), ("conf", "/conf", False)]


def test_both_kinds_of_pods_have_the_runs_settings() -> None:
    for part in ("scheduler", "worker"):
        pod = spec()["spec"][part]["spec"]
        (container,) = pod["containers"]
        env = {e["name"]: e["value"] for e in container["env"]}
        assert env["DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION"] == "1.0"
        assert env["AWS_REGION"] == "eu"
        assert len(env) >= len(SETTINGS)
        assert pod["serviceAccountName"] == "worker"
        assert pod["imagePullSecrets"] == [{"name": "pull"}]
        assert pod["nodeSelector"] == {"zone": "a"}
        assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]
        assert container["image"] == "r/i:1"


def test_only_the_operator_ends_what_is_idle() -> None:
    found = spec()["spec"]
    assert found["idleTimeout"] == 3600
    (container,) = found["scheduler"]["spec"]["containers"]
    env = {e["name"]: e["value"] for e in container["env"]}
    assert int(env["DASK_DISTRIBUTED__SCHEDULER__IDLE_TIMEOUT"].removesuffix("s")) > 2 * 3600
    assert "nvidia.com/gpu" not in container["resources"]["limits"]


def waiting(reason: str, message: str = "why") -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"status": {"phase": "Pending", "containerStatuses": [{"state": state}]}}


def unplaced(message: str) -> dict[str, Any]:
    condition = {"type": "PodScheduled", "reason": "Unschedulable", "message": message}
    return {"status": {"phase": "Pending", "conditions": [condition]}}


@pytest.mark.parametrize(
    ("pod", "found"),
    [
        (waiting("ErrImagePull"), "ErrImagePull"),
        (waiting("CreateContainerConfigError"), "CreateContainerConfigError"),
        (
            waiting(
                "CreateContainerConfigError",
                "container has runAsNonRoot and image will run as root",
            ),
            pods.AS_ROOT,
        ),
        (waiting("ContainerCreating"), ""),
        ({"metadata": {}}, ""),
        (unplaced("0/3 nodes are available: 3 Insufficient cpu."), ""),
        (
            unplaced("0/3 nodes are available: 3 node(s) had untolerated taint {gpu: }."),
            "Unschedulable",
        ),
    ],
)
def test_what_passes_by_waiting_is_waited_for(pod: Any, found: str) -> None:
    assert pods.waits(pod)[0] == found
