"""What a run asks of Kubernetes: the operator's resource `DaskCluster`, made from the job's options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segengine.dispatch.clusters import SETTINGS, variable
from segengine.terms.kubernetes import Kubernetes, Volume

ALONE = 60
"""Seconds that a worker looks for its scheduler, before it ends."""
DAY = 86400
"""Seconds."""
POD = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
CONTAINER = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
"""What Kubernetes' Pod Security Standards ask of the level `restricted`: a namespace may enforce it."""
SCHEDULER = {"cpu": "1", "memory": "2G"}
"""What a scheduler may take: it holds records, and no pixel."""


def cluster_spec(name: str, options: Kubernetes, workers: int) -> dict[str, Any]:
    """The resource. The operator's own function gives it its shape, and the probes."""
    from dask_kubernetes.operator.kubecluster.kubecluster import make_cluster_spec

    made: dict[str, Any] = make_cluster_spec(
        name, image=options.image, n_workers=workers, idle_timeout=options.idle_seconds
    )
    made["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "segengine"}
    # As commands, since an image has an entry point of its own; of one thread, and without pages.
    commands = {
        "scheduler": ["--host", "0.0.0.0"],
        "worker": [
            *("--name", "$(DASK_WORKER_NAME)", "--nthreads", "1", "--no-dashboard"),
            *("--memory-limit", str(options.worker_bytes), "--death-timeout", str(ALONE)),
        ],
    }
    asked = {"scheduler": SCHEDULER, "worker": _asked(options)}
    for part, words in commands.items():
        pod = made["spec"][part]["spec"]
        (container,) = pod["containers"]
        del container["args"]
        container["command"] = ["python", "-m", f"distributed.cli.dask_{part}", *words]
        container["resources"] = {"requests": asked[part], "limits": asked[part]}
        container["env"] = _variables(options, part)
        if part == "worker":
            del container["ports"]
        _furnish(pod, container, options, part)
    return made


def _asked(options: Kubernetes) -> dict[str, str]:
    found = {"cpu": str(options.resources.cpu), "memory": str(options.worker_bytes)}
    if options.resources.gpu:
        found["nvidia.com/gpu"] = str(options.resources.gpu)
    return found


def _variables(options: Kubernetes, part: str) -> list[dict[str, str]]:
    """Dask's settings are the run's, as on one machine."""
    found = {variable(key): str(value) for key, value in SETTINGS.items()}
    if part == "scheduler":
        # The operator is to end an idle cluster, not the scheduler itself, which would only start anew.
        # To one without a time the operator gives five minutes where it asks whether it is idle.
        found[variable("distributed.scheduler.idle-timeout")] = f"{options.idle_seconds + DAY}s"
    found |= options.env
    return [{"name": name, "value": value} for name, value in found.items()]


def _furnish(pod: Any, container: Any, options: Kubernetes, part: str) -> None:
    """Add what both kinds of pods have, and what only workers need."""
    pod["securityContext"], container["securityContext"] = POD, CONTAINER
    pod["automountServiceAccountToken"] = False  # none of them asks Kubernetes anything
    if options.service_account:
        pod["serviceAccountName"] = options.service_account
    if options.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in options.pull_secrets]
    if options.tolerations:
        pod["tolerations"] = [t.model_dump(exclude_none=True) for t in options.tolerations]
    if options.node_selector:
        pod["nodeSelector"] = dict(options.node_selector)
    if part == "scheduler":
        return
    if options.env_from:
        container["envFrom"] = [{"secretRef": {"name": name}} for name in options.env_from]
    if options.volumes:
        pod["volumes"] = [{"name": v.name, **_source(v)} for v in options.volumes]
        container["volumeMounts"] = [
            {"name": v.name, "mountPath": v.path, "readOnly": v.read_only} for v in options.volumes
        ]


def _source(volume: Volume) -> Mapping[str, Any]:
    if volume.claim is not None:
        claim = {"claimName": volume.claim, "readOnly": volume.read_only}
        return {"persistentVolumeClaim": claim}
    if volume.secret is not None:
        return {"secret": {"secretName": volume.secret}}
    return {"configMap": {"name": volume.config_map}}


# ------------------------------------------------------------------------------- why pods do not start

AS_ROOT = "RunAsNonRoot"
"""An image whose user is root, or has a name and no number."""
HOPELESS = {
    "ErrImagePull": "image",
    "ImagePullBackOff": "image",
    "InvalidImageName": "image",
    "ErrImageNeverPull": "image",
    "CreateContainerConfigError": "env_from",
    "CreateContainerError": "image",
    "CrashLoopBackOff": "image",
    AS_ROOT: "image",
}
"""A container's reasons to wait that do not pass by themselves, or seldom; and the option to look at."""
EVENTS = {"FailedMount", "FailedAttachVolume", "FailedCreate", "FailedCreatePodSandBox"}
"""Events of what Kubernetes tries again, in vain."""


def waits(pod: Mapping[str, Any]) -> tuple[str, str]:
    """Why a pod does not run, as reason and message; empty: it does, is just starting, or waits for
    room, which comes."""
    status = pod.get("status", {})
    for container in status.get("containerStatuses", ()):
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") in HOPELESS:
            message = str(waiting.get("message", ""))
            # The same reason as that of a secret that is missing.
            return AS_ROOT if "runAsNonRoot" in message else waiting["reason"], message
    for condition in status.get("conditions", ()):
        message = str(condition.get("message", ""))
        if condition.get("reason") == "Unschedulable" and "Insufficient" not in message:
            return "Unschedulable", message
    return "", ""


def refused(deployment: Mapping[str, Any]) -> str:
    """What Kubernetes said where it makes no pod of a deployment; empty: it does."""
    for condition in deployment.get("status", {}).get("conditions", ()):
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return str(condition.get("message", condition.get("reason", "")))
    return ""
