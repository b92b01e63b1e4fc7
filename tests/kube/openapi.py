"""What kubectl asks of a server's OpenAPI before it sends anything, and what is refused by its schema."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import kubernetes_validate

from tests.kube.store import Refused, Resource

VERSION = "1.32"


def index(resources: Iterable[Resource]) -> dict[str, Any]:
    """The document of documents."""
    roots = {f"apis/{r.group}/{r.version}" if r.group else "api/v1" for r in resources}
    return {"paths": {root: {"serverRelativeURL": f"/openapi/v3/{root}"} for root in roots}}


def document(resources: Iterable[Resource], group: str) -> dict[str, Any]:
    """Of a group: that its fields are checked here, by the server."""
    paths = {}
    for one in resources:
        if one.group == group:
            root = f"/apis/{one.group}/{one.version}" if one.group else "/api/v1"
            space = "/namespaces/{namespace}" if one.namespaced else ""
            kind = {"group": one.group, "version": one.version, "kind": one.kind}
            asked = [{"name": name, "in": "query"} for name in ("fieldValidation", "dryRun")]
            operation = {"x-kubernetes-group-version-kind": kind, "parameters": asked}
            paths[f"{root}{space}/{one.plural}/{{name}}"] = {
                "patch": {"x-kubernetes-action": "patch", "responses": {}, **operation}
            }
    info = {"title": "Kubernetes", "version": "v1.33.0"}
    return {"openapi": "3.0.0", "info": info, "paths": paths}


def require_valid(resource: Resource, given: Any) -> None:
    """Raise Refused for a field that a built-in kind does not have, or that is of another type."""
    if "." in resource.group and not resource.group.endswith(".k8s.io"):
        return
    whole = {**given, "apiVersion": resource.api_version, "kind": resource.kind}
    whole.pop("status", None)
    try:
        kubernetes_validate.validate(whole, VERSION, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        return
    except kubernetes_validate.ValidationError as error:
        where = ".".join(map(str, error.path))
        name = given.get("metadata", {}).get("name")
        said = re.sub(r"\s+", " ", error.message)
        raise Refused(
            400,
            "BadRequest",
            f'{resource.kind} "{name}" in version "v1" cannot be handled as a {resource.kind}: '
            f"strict decoding error: {where}: {said}",
        ) from error
    said = _nowhere(given.get("spec") or {})
    if said:
        name = given.get("metadata", {}).get("name")
        raise Refused(422, "Invalid", f'{resource.kind} "{name}" is invalid: {said}')


def _nowhere(spec: Any) -> str:
    """What a pod, or what makes pods, mounts of volumes that it does not name."""
    pod = (spec.get("template") or {}).get("spec") or spec
    known = {volume["name"] for volume in pod.get("volumes") or ()}
    known |= {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates") or ()}
    return ", ".join(
        f'{container["name"]}.volumeMounts[{i}].name: Not found: "{mount["name"]}"'
        for container in pod.get("containers") or ()
        for i, mount in enumerate(container.get("volumeMounts") or ())
        if mount["name"] not in known
    )
