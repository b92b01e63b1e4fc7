"""The scheduler of pods and the node's agent, and what else works in one loop with them.

A pod has an address of its own below 127/8, and its one container is a process: of this machine as it
is, or, with boxes, in a root of its own as its image and its volumes have it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from secrets import randbelow
from typing import Any

from tests.kube.boxes import IMAGES, Boxes, Image, programs
from tests.kube.probes import passes
from tests.kube.server import Server
from tests.kube.services import Services
from tests.kube.store import Key, Refused, Resource, now, selects
from tests.kube.workloads import Workloads

MARK = "SEGENGINE_TEST_PROCESS"
ENOUGH = 9
"""Starts of a container."""
TURN = 0.1
"""Seconds between looks."""


def expanded(text: str, values: Mapping[str, str]) -> str:
    """A text of a specification with the variables that it names as $(NAME), where there are such."""
    return re.sub(r"\$\((\w+)\)", lambda m: values.get(m[1], m[0]), text)


class Node:
    """One, with room for some pods, and images that it can pull."""

    def __init__(
        self,
        server: Server,
        environment: dict[str, str],
        images: set[str],
        boxes: Boxes | None = None,
    ) -> None:
        """`boxes`: containers have roots of their own, and services are reached by their names."""
        server.logs.mkdir()
        self.server, self.store, self.boxes = server, server.store, boxes
        server.streams.node = self
        self.environment, self.images = environment, images
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        """By uid of the pod."""
        self.addresses: dict[str, str] = {}
        self.restarts: dict[str, int] = {}
        self.count = 0
        self.net = f"127.{9 + randbelow(240)}"
        """Beginning of addresses: other clusters of this machine have others."""
        self._probes: dict[str, asyncio.Task[None]] = {}
        self._ready: dict[str, bool] = {}
        self._pause: dict[str, float] = {}

    def start(self) -> None:
        self.pods = self.server.named("pods")
        self.deployments = self.server.named("deployments")
        self.services = self.server.named("services")
        self.workloads = Workloads(self)
        self.proxies = Services(self, self.boxes.hosts) if self.boxes else None
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def end(self) -> None:
        self.task.cancel()
        for uid in list(self.processes):
            self._stop(uid)
        if self.proxies:
            self.proxies.end()

    async def _run(self) -> None:
        while True:
            self.workloads.look()
            pods = self.store.all(self.pods)
            for pod in pods:
                self._look_at_pod(pod)
            for uid in set(self.processes) - {pod["metadata"]["uid"] for pod in pods}:
                self._stop(uid)
            services = self.store.all(self.services)
            for service in services:
                self._look_at_service(service)
            if self.proxies:
                await self.proxies.look(services)
            await asyncio.sleep(TURN)

    def is_ready(self, pod: Any) -> bool:
        """Whether a pod's own word is that it is."""
        conditions = pod.get("status", {}).get("conditions", ())
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def works(self, uid: str) -> bool:
        """Whether a pod's process does."""
        process = self.processes.get(uid)
        return process is not None and process.poll() is None

    # ------------------------------------------------------------------------------- controllers

    def _look_at_service(self, service: Any) -> None:
        if "status" not in service:
            made = copy.deepcopy(service)
            made["status"] = {"loadBalancer": {}}
            self.replace(self.services, made)

    # -------------------------------------------------------------------------------------- pods

    def _look_at_pod(self, pod: Any) -> None:
        uid = pod["metadata"]["uid"]
        (container,) = pod["spec"]["containers"]
        process = self.processes.get(uid)
        if process is None:
            self._begin(pod, container)
        elif process.poll() is not None:
            if self.boxes or self.restarts.get(uid, 0) < ENOUGH:
                self._start_again(pod, container, process)
        elif not self._is_told(pod, "Running") and self._has_begun(uid, container):
            self._tell(pod, "Running", {"running": {"startedAt": now()}})
        elif self.boxes and self.is_ready(pod) and not self._ready.get(uid, True):
            self._tell(pod, "Running", {"waiting": {"reason": "Unready"}})

    def _has_begun(self, uid: str, container: Any) -> bool:
        if self.boxes:
            return self._ready.get(uid, not {"startupProbe", "readinessProbe"} & set(container))
        # Its own word, since a stranger may listen where a probe looks.
        return "readinessProbe" not in container or "Scheduler at:" in self.server.log_of(uid)

    def _start_again(self, pod: Any, container: Any, process: subprocess.Popen[bytes]) -> None:
        """What ended is begun anew: in a box a second later, as often as it ends; else at once, and no
        more once that is enough to be seen, where a real node would go on."""
        uid = pod["metadata"]["uid"]
        self.restarts[uid] = self.restarts.get(uid, 0) + 1
        message = f"back-off 10s restarting failed container={container['name']}"
        state = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
        ended = {"exitCode": process.returncode, "reason": "Error"}
        self._tell(pod, "Running", state, last={"terminated": ended})
        if self.boxes:
            del self.processes[uid]
            self._ready.pop(uid, None)
            self._pause[uid] = asyncio.get_running_loop().time() + 1
        elif process.returncode and self.restarts[uid] > 2:
            self.restarts[uid] = ENOUGH
        else:
            self._launch(pod, container)

    def _begin(self, pod: Any, container: Any) -> None:
        if asyncio.get_running_loop().time() < self._pause.get(pod["metadata"]["uid"], 0):
            return
        gpus = container.get("resources", {}).get("limits", {}).get("nvidia.com/gpu")
        selector = pod["spec"].get("nodeSelector")
        if gpus or selector:
            lacks = "1 Insufficient nvidia.com/gpu" if gpus else (
                "1 node(s) didn't match Pod's node affinity/selector"
            )  # fmt: skip
            message = f"0/1 nodes are available: {lacks}."
            condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
            self._tell(pod, "Pending", None, [{**condition, "message": message}])
            self.event(pod, "FailedScheduling", message)
            return
        secrets = self._secrets(pod)
        for volume in pod["spec"].get("volumes", []):
            name = volume.get("secret", {}).get("secretName")
            if name and name not in secrets:
                self._tell(pod, "Pending", {"waiting": {"reason": "ContainerCreating"}})
                said = f'MountVolume.SetUp failed for volume "{volume["name"]}" : secret "{name}" not found'
                self.event(pod, "FailedMount", said)
                return
        image = container["image"]
        if image not in self.images:
            message = (
                f'Back-off pulling image "{image}": failed to resolve reference: {image}: not found'
            )
            self._tell(
                pod, "Pending", {"waiting": {"reason": "ImagePullBackOff", "message": message}}
            )
            self.event(pod, "Failed", f'Failed to pull image "{image}": not found')
            return
        self._launch(pod, container)

    def _secrets(self, pod: Any) -> dict[str, dict[str, str]]:
        """Data of the secrets of a pod's namespace, by name."""
        found = self.store.all(self.server.named("secrets"), pod["metadata"]["namespace"])
        return {s["metadata"]["name"]: s.get("data") or {} for s in found}

    def inside(
        self, pod: Any, container: str | None, words: list[str]
    ) -> tuple[list[str], dict[str, str], str]:
        """Command line, environment and folder by which words run where a pod's container does."""
        (one,) = pod["spec"]["containers"]
        if container not in (None, one["name"]):
            raise Refused(400, "BadRequest", f"container {container} is not valid for pod")
        if self.boxes is None:
            return words, {**self.environment, **self._environ(pod, one)}, "/"
        image = self._image(one)
        told = self.boxes.words(pod, one, words, image.folder, self._secrets(pod))
        return told, self._boxed_environ(pod, one, image), "/"

    def _image(self, container: Any) -> Image:
        return IMAGES[container["image"].rpartition(":")[0].rpartition("/")[2]]

    def _boxed_environ(self, pod: Any, container: Any, image: Image) -> dict[str, str]:
        address = self.addresses[pod["metadata"]["uid"]]
        found = {"PATH": programs(), "POD_IP": address, **image.environ}
        found[MARK] = self.environment[MARK]
        own = self._environ(pod, container)
        return found | {k: address if v == "0.0.0.0" else v for k, v in own.items()}

    def _environ(self, pod: Any, container: Any) -> dict[str, str]:
        """Variables of a container, as its specification has them; each may name those before it."""
        found: dict[str, str] = {}
        for entry in container.get("env") or ():
            if "valueFrom" in entry:
                named = entry["valueFrom"]["secretKeyRef"]
                data = self._secrets(pod)[named["name"]][named["key"]]
                found[entry["name"]] = base64.b64decode(data).decode()
            else:
                said = str(entry.get("value", ""))
                said = said if self.boxes else self._resolved(said)
                found[entry["name"]] = expanded(said, found)
        return found

    def _lacks(self, pod: Any, container: Any) -> str:
        """What a container's variables name and nobody has."""
        for entry in container.get("env") or ():
            named = entry.get("valueFrom", {}).get("secretKeyRef")
            if named and named["name"] not in self._secrets(pod):
                return f'secret "{named["name"]}" not found'
            if named and named["key"] not in self._secrets(pod)[named["name"]]:
                space = pod["metadata"]["namespace"]
                return f"couldn't find key {named['key']} in Secret {space}/{named['name']}"
        return ""

    def _launch(self, pod: Any, container: Any) -> None:
        lacks = self._lacks(pod, container)
        if lacks:
            waiting = {"reason": "CreateContainerConfigError", "message": lacks}
            self._tell(pod, "Pending", {"waiting": waiting})
            return
        uid, own = pod["metadata"]["uid"], self._environ(pod, container)
        if not self.boxes and any(".svc.cluster.local" in value for value in own.values()):
            return  # a name that stands for nobody yet
        self._address(uid)
        words = [*container.get("command", ()), *container.get("args", ())]
        words = self._words(words, self.addresses[uid], own) or [*self._image(container).words]
        argv, environ, _ = self.inside(pod, None, words)
        with (self.server.logs / uid).open("ab") as log:
            self.processes[uid] = subprocess.Popen(
                argv,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if self.boxes:
            self._begin_probes(pod, container)
            self._tell(pod, "Running", {"waiting": {"reason": "ContainerCreating"}})

    def _words(self, given: list[str], address: str, own: Mapping[str, str]) -> list[str]:
        """A container's command with its variables, and its address in the place of all addresses."""
        words = [expanded(word, own) for word in given]
        words = [re.sub(r"^(0\.0\.0\.0$|(?=:\d+$))", address, word) for word in words]
        if self.boxes:
            return words
        if words[0] == "python":
            words[0] = sys.executable
        if "distributed.cli.dask_scheduler" in words:  # its ports are its own
            words += ["--dashboard-address", f"{address}:8787"]
        return words

    def _begin_probes(self, pod: Any, container: Any) -> None:
        uid = pod["metadata"]["uid"]
        if uid in self._probes:
            self._probes.pop(uid).cancel()
        if {"startupProbe", "readinessProbe"} & set(container):
            work = self._probe(pod, container)
            self._probes[uid] = asyncio.get_running_loop().create_task(work)

    async def _probe(self, pod: Any, container: Any) -> None:
        """Once it has started, ask again and again whether it is ready."""
        uid = pod["metadata"]["uid"]
        for name in ("startupProbe", "readinessProbe"):
            probe = container.get(name)
            while probe:
                try:
                    done = await passes(self, pod, probe, self.addresses[uid])
                except OSError:
                    done = False
                if name == "readinessProbe" or "readinessProbe" not in container:
                    self._ready[uid] = done
                if done and name == "startupProbe":
                    break
                await asyncio.sleep(min(1.0, probe.get("periodSeconds", 10)))

    async def sick(self) -> list[str]:
        """Names of pods that a liveness probe would have begun anew."""
        found = []
        for pod in self.store.all(self.pods):
            probe = pod["spec"]["containers"][0].get("livenessProbe")
            address = self.addresses.get(pod["metadata"]["uid"], "")
            if probe and not await passes(self, pod, probe, address):
                found.append(pod["metadata"]["name"])
        return found

    def _address(self, uid: str) -> None:
        if uid not in self.addresses:
            self.count += 1
            self.addresses[uid] = f"{self.net}.{self.count // 250}.{self.count % 250 + 1}"

    def _resolved(self, value: str) -> str:
        """The names of services as addresses."""

        def found(match: re.Match[str]) -> str:
            return self.address_of(match[1], match[2]) or match[0]

        return re.sub(r"([\w-]+)\.([\w-]+)\.svc\.cluster\.local", found, value)

    def address_of(self, service: str, namespace: str) -> str:
        """Of a pod behind a service; empty: none is there."""
        with contextlib.suppress(Refused):
            for pod in self.behind(self.store.get(self.services, (namespace, service))):
                if "podIP" in pod.get("status", {}):
                    return str(pod["status"]["podIP"])
        return ""

    def behind(self, service: Any) -> list[Any]:
        """The pods that a service selects."""
        labels = ",".join(f"{k}={v}" for k, v in service["spec"]["selector"].items())
        pods = self.store.all(self.pods, service["metadata"]["namespace"])
        return [pod for pod in pods if selects({"labelSelector": labels}, pod)]

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
        self.replace(self.pods, made)

    def replace(self, of: Resource, made: Any) -> None:
        key: Key = (made["metadata"]["namespace"], made["metadata"]["name"])
        with contextlib.suppress(Refused):
            self.store.replace(of, key, made)

    def event(self, about: Any, reason: str, message: str) -> None:
        events = self.server.named("events")
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
        if uid in self._probes:
            self._probes.pop(uid).cancel()
        if self.boxes:
            self.boxes.forget(uid)
