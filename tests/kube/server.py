"""The API server: requests to the store, with who may do what, and what resources look like."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from aiohttp import web

from tests.kube import openapi, protobuf, rbac, strategic
from tests.kube.store import Refused, Resource, Store, merged, patched, selects
from tests.kube.streams import Streams

CORE = [
    Resource("", "v1", "namespaces", "Namespace", namespaced=False),
    Resource("", "v1", "pods", "Pod"),
    Resource("", "v1", "services", "Service"),
    Resource("", "v1", "events", "Event"),
    Resource("", "v1", "secrets", "Secret"),
    Resource("", "v1", "serviceaccounts", "ServiceAccount"),
    Resource("", "v1", "resourcequotas", "ResourceQuota"),
    Resource("", "v1", "configmaps", "ConfigMap"),
    Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim"),
    Resource("apps", "v1", "deployments", "Deployment"),
    Resource("apps", "v1", "statefulsets", "StatefulSet"),
    Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy"),
    rbac.ROLES,
    rbac.BINDINGS,
    *rbac.REVIEWS.values(),
    Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition",
             namespaced=False),
]  # fmt: skip
VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]
SCALED = {"deployments": ("spec", "replicas"), "statefulsets": ("spec", "replicas")}
"""Resources that can be scaled, and where they have their number; those of definitions say it."""
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
        self.app.router.add_get("/openapi/v3", self._openapi)
        self.app.router.add_get("/openapi/v3/{place:.*}", self._openapi)
        self.scaled = dict(SCALED)
        self.streams = Streams(self)
        for root in ("/api/{version:v1}", "/apis/{group}/{version}"):
            self.app.router.add_get(f"{root}{{slash:/?}}", self._resources)
            for space in ("/namespaces/{namespace}", ""):
                self.app.router.add_route("*", f"{root}{space}/{{plural}}", self._many)
                self.app.router.add_route("*", f"{root}{space}/{{plural}}/{{name}}", self._one)
                one = f"{root}{space}/{{plural}}/{{name}}/{{sub}}"
                self.app.router.add_route("*", one, self._one)

    def named(self, plural: str) -> Resource:
        """A resource by its plural, which no two groups have here."""
        return next(r for r in self.resources.values() if r.plural == plural)

    def define(self, definition: Any) -> None:
        """Have resources of a definition from now on."""
        spec = definition["spec"]
        version = spec["versions"][0]
        schema = plain(version["schema"]["openAPIV3Schema"])
        names = spec["names"]
        made = Resource(spec["group"], version["name"], names["plural"], names["kind"], True, None)
        self.resources[made.group, made.plural] = made
        scale = version.get("subresources", {}).get("scale")
        if scale:
            self.scaled[made.plural] = tuple(scale["specReplicasPath"].strip(".").split("."))
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
        other = request.headers.get("Impersonate-User")
        if other is None:
            return self.rights[token]
        if self.rights[token][1] != ALL:
            user = self.rights[token][0]
            raise Refused(403, "Forbidden", f'User "{user}" cannot impersonate users')
        return other, set()

    def _require(self, verb: str, resource: Resource, namespace: str) -> None:
        what = {(v, r) for v in (verb, "*") for r in (resource.plural, "*")}
        rules = rbac.rules_of(self.store, self.user, namespace)
        if not what & self.may and not rbac.allows(rules, verb, resource.group, resource.plural):
            where = f' in the namespace "{namespace}"' if namespace else " at the cluster scope"
            raise Refused(
                403,
                "Forbidden",
                f'{resource.full} is forbidden: User "{self.user}" cannot {verb} resource '
                f'"{resource.plural}" in API group "{resource.group}"{where}',
            )
        self.used.add((self.user, verb, resource.plural))

    async def _openapi(self, request: web.Request) -> web.Response:
        place = request.match_info.get("place")
        if not place:
            return web.json_response(openapi.index(self.resources.values()))
        group = "" if place == "api/v1" else place.split("/")[1]
        return web.json_response(openapi.document(self.resources.values(), group))

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
        scale = {"singularName": "", "namespaced": True, "group": "autoscaling", "version": "v1"}
        found += [
            {"name": f"{r.plural}/scale", "kind": "Scale", "verbs": ["get", "patch", "update"], **scale}
            for r in self.resources.values() if r.group == group and r.plural in self.scaled
        ]  # fmt: skip
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
        if request.method == "POST" and resource.plural in rbac.REVIEWS:
            data = await request.read()
            if data.startswith(protobuf.MAGIC):
                return self._review(resource, protobuf.review(data, resource.plural))
            return self._review(resource, json.loads(data))
        if request.method == "POST":
            self._require("create", resource, namespace)
            if resource.namespaced and not any(
                o["metadata"]["name"] == namespace for o in self.store.all(CORE[0])
            ):
                raise Refused(404, "NotFound", f'namespaces "{namespace}" not found')
            given = json.loads(await request.read())
            self._require_fields(request, resource, given)
            self.check(resource, given)
            made = self.store.create(resource, namespace, with_defaults(resource, given))
            return web.json_response(made, status=201)
        if request.query.get("sendInitialEvents") == "true":
            raise Refused(422, "Invalid", "sendInitialEvents: Forbidden: is not supported here")
        if request.query.get("watch") in ("1", "true", "True"):
            self._require("watch", resource, namespace)
            with suppress(ConnectionError):  # who watched is gone
                return await self._watch(request, resource, namespace)
            return web.Response()
        self._require("list", resource, namespace)
        found = [o for o in self.store.all(resource, namespace) if selects(request.query, o)]
        about = {"resourceVersion": str(self.store.version)}
        told = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version}
        return web.json_response({**told, "metadata": about, "items": found})

    def _review(self, resource: Resource, given: Any) -> web.Response:
        spec = given["spec"]
        space = spec.get("namespace") or spec.get("resourceAttributes", {}).get("namespace", "")
        rules = list(rbac.rules_of(self.store, self.user, space))
        if ("*", "*") in self.may:
            rules = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
        given |= {"apiVersion": resource.api_version, "kind": resource.kind}
        return web.json_response(rbac.reviewed(resource.plural, given, rules), status=201)

    def _require_fields(self, request: web.Request, resource: Resource, given: Any) -> None:
        if request.query.get("fieldValidation") == "Strict":
            openapi.require_valid(resource, given)

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
        if sub in ("portforward", "exec", "log"):
            verb = "get" if sub != "exec" else "create"
            self._require(verb, Resource("", "v1", f"pods/{sub}", ""), namespace)
            return await self.streams.answer(sub, request, self.store.get(resource, key))
        self._require(verb, resource, namespace)
        before = self.store.get(resource, key)
        if sub == "scale":
            return await self._scale(request, resource, key, before)
        if request.method == "GET":
            return web.json_response(before)
        if request.method == "DELETE":
            if resource == CORE[0]:
                self._empty(key[1])
            return web.json_response(self.store.delete(resource, key))
        given = json.loads(await request.read())
        if request.method == "PATCH":
            given = _patched(request.content_type, before, given)
            if sub != "status":
                self._require_fields(request, resource, given)
        self.check(resource, given)
        return web.json_response(self.store.replace(resource, key, given))

    def _empty(self, namespace: str) -> None:
        """All that is in a namespace goes with it."""
        for resource, objects in list(self.store.objects.items()):
            for space, name in [k for k in objects if resource.namespaced and k[0] == namespace]:
                with suppress(Refused):  # its owner took it along
                    self.store.delete(resource, (space, name))

    async def _scale(
        self, request: web.Request, resource: Resource, key: tuple[str, str], before: Any
    ) -> web.Response:
        *way, last = self.scaled[resource.plural]
        made = copy.deepcopy(before)
        place = made
        for name in way:
            place = place[name]
        about = {n: made["metadata"][n] for n in ("name", "namespace", "uid", "resourceVersion")}
        scale = {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": about,
                 "spec": {"replicas": place.get(last, 1)}, "status": {"replicas": 0}}  # fmt: skip
        if request.method != "GET":
            given = json.loads(await request.read())
            scale = given if request.method == "PUT" else merged(scale, given)
            place[last] = scale["spec"]["replicas"]
            self.store.replace(resource, key, made)
        return web.json_response(scale)

    def log_of(self, uid: str) -> str:
        """What a pod has written."""
        file = self.logs / uid
        return file.read_text(errors="replace") if file.exists() else ""


def _patched(kind: str, before: Any, given: Any) -> Any:
    if "json-patch" in kind:
        return patched(before, given)
    return strategic.merged(before, given) if "strategic" in kind else merged(before, given)


_DEFAULTS: dict[str, dict[str, Any]] = {
    "deployments": {"replicas": 1, "strategy": {"type": "RollingUpdate"}},
    "statefulsets": {"replicas": 1, "updateStrategy": {"type": "RollingUpdate"}},
    "services": {"type": "ClusterIP"},
}


def with_defaults(resource: Resource, given: Any) -> Any:
    """An object with what the server writes where it says nothing."""
    made = copy.deepcopy(given)
    if resource.plural in _DEFAULTS:
        made["spec"] = {**_DEFAULTS[resource.plural], **made["spec"]}
    if resource.plural == "secrets":
        plain = made.pop("stringData", None) or {}
        coded = {k: base64.b64encode(v.encode()).decode() for k, v in plain.items()}
        made["data"] = {**(made.get("data") or {}), **coded}
    if resource == CORE[0]:
        labels = made["metadata"].setdefault("labels", {})
        labels.setdefault("kubernetes.io/metadata.name", made["metadata"]["name"])
    return made
