"""The controllers of deployments and stateful sets: as many pods of the template as are asked for."""

from __future__ import annotations

import copy
import hashlib
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tests.kube import admission
from tests.kube.store import Refused

if TYPE_CHECKING:
    from tests.kube.node import Node


class Workloads:
    """Used in the server's loop."""

    def __init__(self, node: Node) -> None:
        self.node, self.store = node, node.store
        self.deployments = node.server.named("deployments")
        self.sets = node.server.named("statefulsets")

    def look(self) -> None:
        """Make and delete pods, and say how far it is."""
        for deployment in self.store.all(self.deployments):
            self._deployment(deployment)
        for stateful in self.store.all(self.sets):
            self._set(stateful)

    def _owned(self, owner: Any) -> list[Any]:
        uid = owner["metadata"]["uid"]
        pods = self.store.all(self.node.pods, owner["metadata"]["namespace"])
        return [p for p in pods if _owner(p) == uid]

    def _deployment(self, deployment: Any) -> None:
        about, spec = deployment["metadata"], deployment["spec"]
        mark, wanted = _hash(spec["template"]), spec.get("replicas", 1)
        owned = self._owned(deployment)
        new = [p for p in owned if p["metadata"].get("labels", {}).get("pod-template-hash") == mark]
        old = [p for p in owned if p not in new]
        ready = [p for p in new if self.node.is_ready(p)]
        # With `Recreate` the old ones go first; else each once there is one in its place.
        surplus = old if spec.get("strategy", {}).get("type") == "Recreate" else old[: len(ready)]
        surplus = surplus or (old if len(new) >= wanted and len(ready) >= wanted else [])
        for pod in [*surplus, *new[wanted:]]:
            self._delete(pod)
        error = ""
        if not surplus:
            for _ in range(wanted - len(new)):
                name = f"{about['name']}-{mark[:9]}-{uuid4().hex[:5]}"
                error = self._make(deployment, name, {"pod-template-hash": mark})
                if error:
                    break
        told: dict[str, Any] = {
            "observedGeneration": about["generation"],
            "replicas": len(owned),
            "updatedReplicas": len(new),
            "readyReplicas": len(ready),
            "availableReplicas": len(ready),
        }
        available = "True" if len(ready) >= wanted else "False"
        told["conditions"] = [{"type": "Available", "status": available}]
        if error:
            told["conditions"].append(
                {
                    "type": "ReplicaFailure",
                    "status": "True",
                    "reason": "FailedCreate",
                    "message": error,
                }
            )
        self.node.replace(self.deployments, {**deployment, "status": told})

    def _set(self, stateful: Any) -> None:
        about, spec = stateful["metadata"], stateful["spec"]
        mark, owned = _hash(spec["template"]), self._owned(stateful)
        label = "controller-revision-hash"
        stale = [p for p in owned if p["metadata"].get("labels", {}).get(label) != mark]
        ready = [p for p in owned if self.node.is_ready(p)]
        error = ""
        if stale:
            self._delete(stale[-1])
        elif len(owned) > spec["replicas"]:
            self._delete(owned[-1])
        elif len(owned) < spec["replicas"] and len(ready) == len(owned):  # in their order
            error = self._make(stateful, f"{about['name']}-{len(owned)}", {label: mark})
        told: dict[str, Any] = {
            "observedGeneration": about["generation"],
            "replicas": len(owned),
            "readyReplicas": len(ready),
            "availableReplicas": len(ready),
            "currentReplicas": len(owned) - len(stale),
            "updatedReplicas": len(owned) - len(stale),
            "updateRevision": f"{about['name']}-{mark[:9]}",
            "currentRevision": "" if stale else f"{about['name']}-{mark[:9]}",
        }
        if error:
            told["conditions"] = [{"type": "FailedCreate", "status": "True", "message": error}]
        self.node.replace(self.sets, {**stateful, "status": told})

    def _make(self, owner: Any, name: str, labels: dict[str, str]) -> str:
        """A pod of the owner's template; why there is none."""
        about, template = owner["metadata"], copy.deepcopy(owner["spec"]["template"])
        made = {"metadata": template.get("metadata") or {}, "spec": template["spec"]}
        made["metadata"]["name"] = name
        made["metadata"]["labels"] = {**made["metadata"].get("labels", {}), **labels}
        made["metadata"]["ownerReferences"] = [
            {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": about["name"],
             "uid": about["uid"], "controller": True}
        ]  # fmt: skip
        self._claim(owner, made)
        try:
            self._allow(made, about["namespace"])
            self.store.create(self.node.pods, about["namespace"], made)
        except Refused as error:
            self.node.event(owner, "FailedCreate", f"Error creating: {error.message}")
            return error.message
        return ""

    def _claim(self, owner: Any, pod: Any) -> None:
        """Volumes of a stateful set's pod, which stay when it goes."""
        claims = self.node.server.named("persistentvolumeclaims")
        for template in owner["spec"].get("volumeClaimTemplates", ()):
            volume = template["metadata"]["name"]
            name = f"{volume}-{pod['metadata']['name']}"
            made = {"metadata": {"name": name}, "spec": template["spec"]}
            with suppress(Refused):  # there since the pod before
                self.store.create(claims, owner["metadata"]["namespace"], made)
            source = {"name": volume, "persistentVolumeClaim": {"claimName": name}}
            pod["spec"].setdefault("volumes", []).append(source)

    def _allow(self, pod: Any, namespace: str) -> None:
        """What admission refuses: too many, as an account that is not there, with too many rights."""
        name = pod["metadata"]["name"]
        there = len(self.store.all(self.node.pods, namespace))
        for quota in self.store.all(self.node.server.named("resourcequotas"), namespace):
            most = int(quota["spec"]["hard"]["pods"])
            if there >= most:
                raise Refused(
                    403,
                    "Forbidden",
                    f'pods "{name}" is forbidden: exceeded quota: {quota["metadata"]["name"]}, '
                    f"requested: pods=1, used: pods={there}, limited: pods={most}",
                )
        account = pod["spec"].get("serviceAccountName")
        accounts = self.store.all(self.node.server.named("serviceaccounts"), namespace)
        if account and account not in {a["metadata"]["name"] for a in accounts}:
            raise Refused(
                403,
                "Forbidden",
                f'pods "{name}" is forbidden: error looking up service account '
                f'{namespace}/{account}: serviceaccount "{account}" not found',
            )
        said = admission.refusal(
            pod, self.store.get(self.node.server.named("namespaces"), ("", namespace))
        )
        if said:
            raise Refused(403, "Forbidden", said)

    def _delete(self, pod: Any) -> None:
        about = pod["metadata"]
        with suppress(Refused):  # somebody was faster
            self.store.delete(self.node.pods, (about["namespace"], about["name"]))


def _owner(pod: Any) -> str:
    owners = pod["metadata"].get("ownerReferences", [{}])
    return str(owners[0].get("uid"))


def _hash(template: Any) -> str:
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]
