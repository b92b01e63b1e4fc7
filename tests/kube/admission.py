"""The level `restricted` of Kubernetes' Pod Security Standards, as a namespace's label asks for it.

https://kubernetes.io/docs/concepts/security/pod-security-standards/ has the fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

LABEL = "pod-security.kubernetes.io/enforce"
_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
_HOST = ("hostNetwork", "hostPID", "hostIPC")


def violations(spec: dict[str, Any]) -> Iterator[str]:
    """Of a pod's specification, in the words of the admission controller."""
    containers = [*spec.get("initContainers", ()), *spec["containers"]]
    whole = spec.get("securityContext", {})
    for name in _HOST:
        if spec.get(name):
            yield f"host namespaces ({name}=true)"
    for volume in spec.get("volumes", ()):
        kinds = set(volume) - {"name"}
        if not kinds <= _VOLUMES:
            yield f'restricted volume types (volume "{volume["name"]}" uses {sorted(kinds)[0]})'
    for container in containers:
        own, name = container.get("securityContext", {}), container["name"]
        if own.get("privileged"):
            yield f'privileged (container "{name}" must not set securityContext.privileged=true)'
        if own.get("allowPrivilegeEscalation") is not False:
            yield (
                f'allowPrivilegeEscalation != false (container "{name}" must set '
                "securityContext.allowPrivilegeEscalation=false)"
            )
        dropped = own.get("capabilities", {}).get("drop", ())
        added = set(own.get("capabilities", {}).get("add", ())) - {"NET_BIND_SERVICE"}
        if "ALL" not in dropped or added:
            yield (
                f'unrestricted capabilities (container "{name}" must set '
                'securityContext.capabilities.drop=["ALL"])'
            )
        if not own.get("runAsNonRoot", whole.get("runAsNonRoot")):
            yield (
                f'runAsNonRoot != true (pod or container "{name}" must set '
                "securityContext.runAsNonRoot=true)"
            )
        if own.get("runAsUser", whole.get("runAsUser")) == 0:
            yield f'runAsUser=0 (pod or container "{name}" must not set runAsUser=0)'
        profile = own.get("seccompProfile", whole.get("seccompProfile", {})).get("type")
        if profile not in ("RuntimeDefault", "Localhost"):
            yield (
                f'seccompProfile (pod or container "{name}" must set '
                'securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")'
            )


def refusal(pod: dict[str, Any], namespace: dict[str, Any]) -> str:
    """Why a pod may not be in a namespace; empty: it may."""
    if namespace["metadata"].get("labels", {}).get(LABEL) != "restricted":
        return ""
    found = list(violations(pod["spec"]))
    version = namespace["metadata"]["labels"].get(f"{LABEL}-version", "latest")
    name = pod["metadata"]["name"]
    said = ", ".join(found)
    return (
        f'pods "{name}" is forbidden: violates PodSecurity "restricted:{version}": {said}'
        if found
        else ""
    )
