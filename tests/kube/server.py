"""The API server: requests to the store, with who may do what, and what resources look like."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from aiohttp import WSMsgType, web

from tests.kube.store import Refused, Resource, Store, merged, patched, selects

CORE = [
    Resource("", "v1", "namespaces", "Namespace", namespaced=False),
    Resource("", "v1", "pods", "Pod"),
    Resource("", "v1", "services", "Service"),
    Resource("", "v1", "events", "Event"),
    Resource("", "v1", "secrets", "Secret"),
    Resource("", "v1", "serviceaccounts", "ServiceAccount"),
    Resource("", "v1", "resourcequotas", "ResourceQuota"),
    Resource("apps", "v1", "deployments", "Deployment"),
    Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition",
             namespaced=False),
]  # fmt: skip
VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]
ALL = {("*", "*")}
"""Rights of who may do all: pairs of verb and resource."""


def definitions() -> list[Any]:
    """The operator's resource definitions, as its package has them."""
    place = files("dask_kubernetes.operator") / "deployment/helm/dask-kubernetes-operator/crds"
    return [yaml.safe_load(p.read_text()) for p in sorted(Path(str(place)).glob("*.yaml"))]


def plain(schema: Any) -> Any:
    """An openAPIV3Schema as JSON Schema has it."""
    if isinstance(schema, list):
        return [plain(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    found = {k: plain(v) for k, v in schema.items() if k not in ("description", "format")}
    if schema.get("x-kubernetes-int-or-string"):
        found.pop("anyOf", None)
        found["type"] = ["integer", "string"]
    if schema.get("nullable") and isinstance(found.get("type"), str):
        found["type"] = [found["type"], "null"]
    return found


class Server:
    """Answers requests, all in one event loop."""

    def __init__(self, store: Store, logs: Path) -> None:
        """`logs`: the folder where nodes keep what pods write, by their uid."""
        self.store, self.logs = store, logs
        self.resources = {(r.group, r.plural): r for r in CORE}
        self.rights: dict[str, tuple[str, set[tuple[str, str]]]] = {}
        """By token: the user's name, and what it may do."""
        self.used: set[tuple[str, str, str]] = set()
        """Users, verbs and resources of what was granted so far."""
        self.app = web.Application(middlewares=[self._answered], client_max_size=1 << 24)
        self.app.router.add_get("/version{slash:/?}", self._version)
        self.app.router.add_get("/api{slash:/?}", self._versions)
        self.app.router.add_get("/apis{slash:/?}", self._groups)
        self.app.router.add_get("/apis/{group}", self._group)
        for root in ("/api/{version:v1}", "/apis/{group}/{version}"):
            self.app.router.add_get(f"{root}{{slash:/?}}", self._resources)
            for space in ("/namespaces/{namespace}", ""):
                self.app.router.add_route("*", f"{root}{space}/{{plural}}", self._many)
                self.app.router.add_route("*", f"{root}{space}/{{plural}}/{{name}}", self._one)
                one = f"{root}{space}/{{plural}}/{{name}}/{{sub}}"
                self.app.router.add_route("*", one, self._one)

    def define(self, definition: Any) -> None:
        """Have resources of a definition from now on."""
        spec = definition["spec"]
        version = spec["versions"][0]
        schema = plain(version["schema"]["openAPIV3Schema"])
        names = spec["names"]
        made = Resource(spec["group"], version["name"], names["plural"], names["kind"], True, None)
        self.resources[made.group, made.plural] = made
        self.schemas = {**getattr(self, "schemas", {}), made: jsonschema.Draft7Validator(schema)}
        self.store.create(
            self.resources["apiextensions.k8s.io", "customresourcedefinitions"], "", definition
        )

    # ---------------------------------------------------------------------------------- requests

    @web.middleware
    async def _answered(self, request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            self.user, self.may = self._known(request)
            return await handler(request)  # type: ignore[no-any-return]
        except Refused as error:
            return web.json_response(error.body, status=error.code)

    def _known(self, request: web.Request) -> tuple[str, set[tuple[str, str]]]:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in self.rights:
            raise Refused(401, "Unauthorized", "Unauthorized")
        return self.rights[token]

    def _require(self, verb: str, resource: Resource, namespace: str) -> None:
        what = {(v, r) for v in (verb, "*") for r in (resource.plural, "*")}
        if not what & self.may:
            where = f' in the namespace "{namespace}"' if namespace else " at the cluster scope"
            raise Refused(
                403,
                "Forbidden",
                f'{resource.full} is forbidden: User "{self.user}" cannot {verb} resource '
                f'"{resource.plural}" in API group "{resource.group}"{where}',
            )
        self.used.add((self.user, verb, resource.plural))

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"major": "1", "minor": "33", "gitVersion": "v1.33.0"})

    async def _versions(self, request: web.Request) -> web.Response:
        return web.json_response({"kind": "APIVersions", "versions": ["v1"]})

    def _told(self, group: str) -> dict[str, Any]:
        versions = [{"groupVersion": f"{group}/v1", "version": "v1"}]
        return {"name": group, "versions": versions, "preferredVersion": versions[0]}

    async def _groups(self, request: web.Request) -> web.Response:
        groups = sorted({r.group for r in self.resources.values() if r.group})
        told = [self._told(group) for group in groups]
        return web.json_response({"kind": "APIGroupList", "apiVersion": "v1", "groups": told})

    async def _group(self, request: web.Request) -> web.Response:
        told = self._told(request.match_info["group"])
        return web.json_response({"kind": "APIGroup", "apiVersion": "v1", **told})

    async def _resources(self, request: web.Request) -> web.Response:
        group = request.match_info.get("group", "")
        found = [
            {"name": r.plural, "singularName": r.kind.lower(), "namespaced": r.namespaced,
             "kind": r.kind, "verbs": VERBS, "shortNames": []}
            for r in self.resources.values() if r.group == group
        ]  # fmt: skip
        if not found:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        version = f"{group}/v1" if group else "v1"
        told = {"kind": "APIResourceList", "groupVersion": version, "resources": found}
        return web.json_response({"apiVersion": "v1", **told})

    def _resource(self, request: web.Request) -> tuple[Resource, str]:
        info = request.match_info
        found = self.resources.get((info.get("group", ""), info["plural"]))
        if found is None:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        return found, info.get("namespace", "")

    def check(self, resource: Resource, given: Any) -> None:
        """Refuse what the resource's schema does not allow."""
        schema = getattr(self, "schemas", {}).get(resource)
        errors = list(schema.iter_errors(given)) if schema else []
        if errors:
            where = ".".join(map(str, errors[0].absolute_path))
            name = given.get("metadata", {}).get("name")
            raise Refused(
                422,
                "Invalid",
                f'{resource.kind}.{resource.group} "{name}" is invalid: {where}: {errors[0].message}',
            )

    async def _many(self, request: web.Request) -> web.StreamResponse:
        resource, namespace = self._resource(request)
        if request.method == "POST":
            self._require("create", resource, namespace)
            if resource.namespaced and not any(
                o["metadata"]["name"] == namespace for o in self.store.all(CORE[0])
            ):
                raise Refused(404, "NotFound", f'namespaces "{namespace}" not found')
            given = json.loads(await request.read())
            self.check(resource, given)
            made = self.store.create(resource, namespace, given)
            return web.json_response(made, status=201)
        if request.query.get("watch") in ("1", "true", "True"):
            self._require("watch", resource, namespace)
            return await self._watch(request, resource, namespace)
        self._require("list", resource, namespace)
        found = [o for o in self.store.all(resource, namespace) if selects(request.query, o)]
        about = {"resourceVersion": str(self.store.version)}
        told = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version}
        return web.json_response({**told, "metadata": about, "items": found})

    async def _watch(
        self, request: web.Request, resource: Resource, namespace: str
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        since = request.query.get("resourceVersion", "")
        seen = int(since) if since.isdigit() else 0
        end = asyncio.get_running_loop().time() + float(request.query.get("timeoutSeconds", 300))
        while (left := end - asyncio.get_running_loop().time()) > 0:
            for version, of, what, found in list(self.store.changes):
                mine = of == resource and (
                    not namespace or found["metadata"]["namespace"] == namespace
                )
                if version > seen and mine and selects(request.query, found):
                    line = json.dumps({"type": what, "object": found})
                    await response.write(line.encode() + b"\n")
            seen = max(seen, self.store.version)
            async with self.store.changed:
                if self.store.version == seen:
                    try:
                        await asyncio.wait_for(self.store.changed.wait(), min(left, 5))
                    except TimeoutError:
                        continue
        return response

    async def _one(self, request: web.Request) -> web.StreamResponse:
        resource, namespace = self._resource(request)
        key, sub = (namespace, request.match_info["name"]), request.match_info.get("sub", "")
        verb = {"GET": "get", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}[request.method]
        if sub == "portforward":
            self._require("get", Resource("", "v1", "pods/portforward", ""), namespace)
            return await self._forward(request, self.store.get(resource, key))
        if sub == "log":
            self._require("get", Resource("", "v1", "pods/log", ""), namespace)
            text = self.log_of(self.store.get(resource, key)["metadata"]["uid"])
            return web.Response(text=text)
        self._require(verb, resource, namespace)
        before = self.store.get(resource, key)
        if request.method == "GET":
            return web.json_response(before)
        if request.method == "DELETE":
            return web.json_response(self.store.delete(resource, key))
        given = json.loads(await request.read())
        if request.method == "PATCH":
            steps = "json-patch" in request.content_type
            given = patched(before, given) if steps else merged(before, given)
        self.check(resource, given)
        return web.json_response(self.store.replace(resource, key, given))

    def log_of(self, uid: str) -> str:
        """What a pod has written."""
        file = self.logs / uid
        return file.read_text(errors="replace") if file.exists() else ""

    async def _forward(self, request: web.Request, pod: Any) -> web.StreamResponse:
        """A port of a pod, by a web socket: channel 0 is data, 1 errors; each begins with the port."""
        port = int(request.query["ports"])
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",), max_msg_size=0)
        await socket.prepare(request)
        for channel in (0, 1):
            await socket.send_bytes(bytes([channel]) + port.to_bytes(2, "little"))
        try:
            reader, writer = await asyncio.open_connection(pod["status"]["podIP"], port)
        except (OSError, KeyError) as error:
            await socket.send_bytes(b"\x01" + str(error).encode())
            await socket.close()
            return socket

        async def back() -> None:
            while data := await reader.read(1 << 16):
                await socket.send_bytes(b"\0" + data)
            await socket.close()

        task = asyncio.get_running_loop().create_task(back())
        try:
            async for message in socket:
                if message.type == WSMsgType.BINARY and message.data[:1] == b"\0":
                    writer.write(message.data[1:])
                    await writer.drain()
        except ConnectionError:
            pass
        finally:
            task.cancel()
            writer.close()
        return socket


Rights = Mapping[str, tuple[str, set[tuple[str, str]]]]
