"""The controller of deployments, the scheduler of pods and the node's agent, as one loop.

A deployment has one pod. A pod has an address of its own below 127/8, and its container is a process.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import re
import signal
import subprocess
import sys
from typing import Any
from uuid import uuid4

from tests.kube.server import Server
from tests.kube.store import Key, Refused, Resource, now, selects

TURN = 0.1
"""Seconds between looks."""


def resource(server: Server, plural: str) -> Resource:
    return next(r for r in server.resources.values() if r.plural == plural)


class Node:
    """One, with room for some pods, and images that it can pull."""

    def __init__(self, server: Server, environment: dict[str, str], images: set[str]) -> None:
        server.logs.mkdir()
        self.server, self.store = server, server.store
        self.environment, self.images = environment, images
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        """By uid of the pod."""
        self.addresses: dict[str, str] = {}
        self.restarts: dict[str, int] = {}
        self.count = 0

    def start(self) -> None:
        self.pods = resource(self.server, "pods")
        self.deployments = resource(self.server, "deployments")
        self.services = resource(self.server, "services")
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def end(self) -> None:
        self.task.cancel()
        for uid in list(self.processes):
            self._stop(uid)

    async def _run(self) -> None:
        while True:
            for deployment in self.store.all(self.deployments):
                self._look_at_deployment(deployment)
            pods = self.store.all(self.pods)
            for pod in pods:
                self._look_at_pod(pod)
            for uid in set(self.processes) - {pod["metadata"]["uid"] for pod in pods}:
                self._stop(uid)
            for service in self.store.all(self.services):
                self._look_at_service(service)
            await asyncio.sleep(TURN)

    # ------------------------------------------------------------------------------- controllers

    def _look_at_service(self, service: Any) -> None:
        if "status" not in service:
            made = copy.deepcopy(service)
            made["status"] = {"loadBalancer": {}}
            made["spec"].setdefault("type", "ClusterIP")
            self._replace(self.services, made)

    def _look_at_deployment(self, deployment: Any) -> None:
        about = deployment["metadata"]
        pods = self.store.all(self.pods, about["namespace"])
        owned = [p for p in pods if self._owner(p) == about["uid"]]
        if owned:
            return
        template = copy.deepcopy(deployment["spec"]["template"])
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": about["name"]}
        owner |= {"uid": about["uid"], "controller": True}
        made = {"metadata": template.get("metadata", {}), "spec": template["spec"]}
        made["metadata"]["name"] = f"{about['name']}-{uuid4().hex[:5]}"
        made["metadata"]["ownerReferences"] = [owner]
        try:
            self._allow(made, about["namespace"], len(pods))
        except Refused as error:
            self._event(deployment, "FailedCreate", f"Error creating: {error.message}")
            told = copy.deepcopy(deployment)
            condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate"}
            told["status"] = {"conditions": [{**condition, "message": error.message}]}
            self._replace(self.deployments, told)
            return
        self.store.create(self.pods, about["namespace"], made)

    def _owner(self, pod: Any) -> str:
        owners = pod["metadata"].get("ownerReferences", [{}])
        return str(owners[0].get("uid"))

    def _allow(self, pod: Any, namespace: str, there: int) -> None:
        """What admission refuses: too many, or as an account that is not there."""
        name = pod["metadata"]["name"]
        for quota in self.store.all(resource(self.server, "resourcequotas"), namespace):
            most = int(quota["spec"]["hard"]["pods"])
            if there >= most:
                raise Refused(
                    403,
                    "Forbidden",
                    f'pods "{name}" is forbidden: exceeded quota: {quota["metadata"]["name"]}, '
                    f"requested: pods=1, used: pods={there}, limited: pods={most}",
                )
        account = pod["spec"].get("serviceAccountName")
        accounts = self.store.all(resource(self.server, "serviceaccounts"), namespace)
        if account and account not in {a["metadata"]["name"] for a in accounts}:
            raise Refused(
                403,
                "Forbidden",
                f'pods "{name}" is forbidden: error looking up service account '
                f'{namespace}/{account}: serviceaccount "{account}" not found',
            )

    # -------------------------------------------------------------------------------------- pods

    def _look_at_pod(self, pod: Any) -> None:
        uid = pod["metadata"]["uid"]
        (container,) = pod["spec"]["containers"]
        process = self.processes.get(uid)
        if process is None:
            self._begin(pod, container)
        elif process.poll() is not None and self.restarts.get(uid, 0) < 9:
            self.restarts[uid] = self.restarts.get(uid, 0) + 1
            message = f"back-off 10s restarting failed container={container['name']}"
            state = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
            ended = {"exitCode": process.returncode, "reason": "Error"}
            self._tell(pod, "Running", state, last={"terminated": ended})
            if process.returncode and self.restarts[uid] > 2:
                self.restarts[uid] = 9  # enough to be seen; a real node would go on
            else:
                self._launch(pod, container)
        elif (
            process.poll() is None
            and not self._is_told(pod, "Running")
            and ("readinessProbe" not in container or "Scheduler at:" in self.server.log_of(uid))
        ):  # its own word, since a stranger may listen where a probe looks
            self._tell(pod, "Running", {"running": {"startedAt": now()}})

    def _begin(self, pod: Any, container: Any) -> None:
        gpus = container.get("resources", {}).get("limits", {}).get("nvidia.com/gpu")
        selector = pod["spec"].get("nodeSelector")
        if gpus or selector:
            lacks = "1 Insufficient nvidia.com/gpu" if gpus else (
                "1 node(s) didn't match Pod's node affinity/selector"
            )  # fmt: skip
            message = f"0/1 nodes are available: {lacks}."
            condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
            self._tell(pod, "Pending", None, [{**condition, "message": message}])
            self._event(pod, "FailedScheduling", message)
            return
        secrets = {s["metadata"]["name"] for s in self.store.all(
            resource(self.server, "secrets"), pod["metadata"]["namespace"])}  # fmt: skip
        for volume in pod["spec"].get("volumes", []):
            name = volume.get("secret", {}).get("secretName")
            if name and name not in secrets:
                self._tell(pod, "Pending", {"waiting": {"reason": "ContainerCreating"}})
                said = f'MountVolume.SetUp failed for volume "{volume["name"]}" : secret "{name}" not found'
                self._event(pod, "FailedMount", said)
                return
        image = container["image"]
        if image not in self.images:
            message = (
                f'Back-off pulling image "{image}": failed to resolve reference: {image}: not found'
            )
            self._tell(
                pod, "Pending", {"waiting": {"reason": "ImagePullBackOff", "message": message}}
            )
            self._event(pod, "Failed", f'Failed to pull image "{image}": not found')
            return
        self._launch(pod, container)

    def _launch(self, pod: Any, container: Any) -> None:
        uid = pod["metadata"]["uid"]
        if uid not in self.addresses:
            self.count += 1
            self.addresses[uid] = f"127.9.{self.count // 250}.{self.count % 250 + 1}"
        own = {e["name"]: self._resolved(str(e["value"])) for e in container.get("env") or ()}
        words = [*container.get("command", ()), *container.get("args", ())]
        words = [re.sub(r"\$\((\w+)\)", lambda m: own.get(m[1], m[0]), word) for word in words]
        words = [self.addresses[uid] if word == "0.0.0.0" else word for word in words]
        if any(".svc.cluster.local" in value for value in own.values()):
            return  # a name that stands for nobody yet
        if words[0] == "python":
            words[0] = sys.executable
        if "distributed.cli.dask_scheduler" in words:  # its ports are its own
            words += ["--dashboard-address", f"{self.addresses[uid]}:8787"]
        with (self.server.logs / uid).open("ab") as log:
            self.processes[uid] = subprocess.Popen(
                words,
                env={**self.environment, **own},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _resolved(self, value: str) -> str:
        """The names of services as addresses."""

        def found(match: re.Match[str]) -> str:
            return self.address_of(match[1], match[2]) or match[0]

        return re.sub(r"([\w-]+)\.([\w-]+)\.svc\.cluster\.local", found, value)

    def address_of(self, service: str, namespace: str) -> str:
        """Of a pod behind a service; empty: none is there."""
        with contextlib.suppress(Refused):
            spec = self.store.get(self.services, (namespace, service))["spec"]
            labels = ",".join(f"{k}={v}" for k, v in spec["selector"].items())
            for pod in self.store.all(self.pods, namespace):
                if selects({"labelSelector": labels}, pod) and "podIP" in pod.get("status", {}):
                    return str(pod["status"]["podIP"])
        return ""

    def _is_told(self, pod: Any, phase: str) -> bool:
        status = pod.get("status", {})
        states = [c["state"] for c in status.get("containerStatuses", ())]
        return status.get("phase") == phase and all("running" in state for state in states)

    def _tell(
        self, pod: Any, phase: str, state: Any, conditions: Any = (), last: Any = None
    ) -> None:
        made = copy.deepcopy(pod)
        runs = phase == "Running" and "running" in (state or {})
        ready = {"type": "Ready", "status": "True" if runs else "False"}
        made["status"] = {
            "phase": phase,
            "conditions": [*conditions, ready, {**ready, "type": "ContainersReady"}],
        }
        (container,) = pod["spec"]["containers"]
        if state is not None:
            told = {"name": container["name"], "image": container["image"], "ready": runs}
            told |= {"state": state, "restartCount": self.restarts.get(pod["metadata"]["uid"], 0)}
            made["status"]["containerStatuses"] = [{**told, "lastState": last or {}}]
        if pod["metadata"]["uid"] in self.addresses:
            made["status"]["podIP"] = self.addresses[pod["metadata"]["uid"]]
        if "startedAt" in str(pod.get("status")) and runs and self._is_told(pod, phase):
            return
        self._replace(self.pods, made)

    def _replace(self, of: Resource, made: Any) -> None:
        key: Key = (made["metadata"]["namespace"], made["metadata"]["name"])
        with contextlib.suppress(Refused):
            self.store.replace(of, key, made)

    def _event(self, about: Any, reason: str, message: str) -> None:
        events = resource(self.server, "events")
        meta = about["metadata"]
        name = f"{meta['name']}.{reason.lower()}"
        with contextlib.suppress(Refused):  # said already
            self.store.create(
                events,
                meta["namespace"],
                {
                    "metadata": {"name": name},
                    "type": "Warning",
                    "reason": reason,
                    "message": message,
                    "lastTimestamp": now(),
                    "involvedObject": {
                        "kind": about["kind"],
                        "name": meta["name"],
                        "uid": meta["uid"],
                    },
                },
            )

    def _stop(self, uid: str) -> None:
        process = self.processes[uid]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        del self.processes[uid]
