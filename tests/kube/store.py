"""Objects of a cluster, each change of which has a number, and who waits for the next one."""

from __future__ import annotations

import asyncio
import copy
import datetime
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Key = tuple[str, str]
"""Namespace (empty where there is none) and name."""


class Refused(Exception):
    """A request that is answered with a status of failure."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message

    @property
    def body(self) -> dict[str, Any]:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }


@dataclass(frozen=True)
class Resource:
    """A kind of objects, as discovery tells it."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    schema: Any = None

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def full(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Store:
    """All objects by resource. Used in one event loop only."""

    def __init__(self) -> None:
        self.objects: dict[Resource, dict[Key, Any]] = {}
        self.changes: list[tuple[int, Resource, str, Any]] = []
        self.version = 0
        self.changed = asyncio.Condition()

    def all(self, resource: Resource, namespace: str = "") -> list[Any]:
        found = self.objects.get(resource, {}).items()
        return [o for (space, _), o in sorted(found) if not namespace or space == namespace]

    def get(self, resource: Resource, key: Key) -> Any:
        found = self.objects.get(resource, {}).get(key)
        if found is None:
            raise Refused(404, "NotFound", f'{resource.full} "{key[1]}" not found')
        return found

    def create(self, resource: Resource, namespace: str, given: Any) -> Any:
        made = copy.deepcopy(given)
        about = made.setdefault("metadata", {})
        if "name" not in about and "generateName" in about:
            about["name"] = f"{about['generateName']}{uuid.uuid4().hex[:5]}"
        key = (namespace, about["name"])
        if key in self.objects.get(resource, {}):
            raise Refused(409, "AlreadyExists", f'{resource.full} "{key[1]}" already exists')
        made |= {"apiVersion": resource.api_version, "kind": resource.kind}
        about |= {"uid": str(uuid.uuid4()), "creationTimestamp": now(), "generation": 1}
        if resource.namespaced:
            about["namespace"] = namespace
        self.objects.setdefault(resource, {})[key] = made
        self._note(resource, "ADDED", made)
        return made

    def replace(self, resource: Resource, key: Key, given: Any) -> Any:
        before = self.get(resource, key)
        made = copy.deepcopy(given)
        fixed = {
            n: before["metadata"][n] for n in ("uid", "creationTimestamp", "name", "generation")
        }
        made["metadata"] = {**made.get("metadata", {}), **fixed}
        if resource.namespaced:
            made["metadata"]["namespace"] = key[0]
        if before["metadata"].get("deletionTimestamp"):
            made["metadata"]["deletionTimestamp"] = before["metadata"]["deletionTimestamp"]
        made["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"]
        if made == before:
            return before
        if made.get("spec") != before.get("spec"):
            made["metadata"]["generation"] += 1
        self.objects[resource][key] = made
        if made["metadata"].get("deletionTimestamp") and not made["metadata"].get("finalizers"):
            return self._remove(resource, key)
        self._note(resource, "MODIFIED", made)
        return made

    def delete(self, resource: Resource, key: Key) -> Any:
        found = self.get(resource, key)
        if found["metadata"].get("finalizers"):
            if not found["metadata"].get("deletionTimestamp"):
                found["metadata"]["deletionTimestamp"] = now()
                self._note(resource, "MODIFIED", found)
            return found
        return self._remove(resource, key)

    def _remove(self, resource: Resource, key: Key) -> Any:
        gone = self.objects[resource].pop(key)
        self._note(resource, "DELETED", gone)
        for other, key_of_other in list(self._owned(gone["metadata"]["uid"])):
            self.delete(other, key_of_other)
        return gone

    def _owned(self, uid: str) -> Iterator[tuple[Resource, Key]]:
        for resource, objects in self.objects.items():
            for key, found in list(objects.items()):
                owners = found["metadata"].get("ownerReferences", [])
                if any(owner["uid"] == uid for owner in owners):
                    yield resource, key

    def _note(self, resource: Resource, what: str, changed: Any) -> None:
        self.version += 1
        changed["metadata"]["resourceVersion"] = str(self.version)
        self.changes.append((self.version, resource, what, copy.deepcopy(changed)))
        asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()


def merged(before: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    found = dict(before) if isinstance(before, dict) else {}
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = merged(found.get(name), value)
    return found


def patched(before: Any, steps: Any) -> Any:
    """RFC 6902: add, replace, remove and test."""
    found = copy.deepcopy(before)
    for step in steps:
        *way, last = [p.replace("~1", "/").replace("~0", "~") for p in step["path"].split("/")[1:]]
        place: Any = found
        for part in way:
            place = place[int(part) if isinstance(place, list) else part]
        name: Any = last
        if isinstance(place, list):
            name = len(place) if last == "-" else int(last)
        if step["op"] == "test":
            if place[name] != step["value"]:
                raise Refused(422, "Invalid", f"the server rejected our request: {step}")
        elif step["op"] == "remove":
            del place[name]
        elif step["op"] == "add" and isinstance(place, list):
            place.insert(name, step["value"])
        else:
            place[name] = step["value"]
    return found


def selects(query: Any, found: Any) -> bool:
    """Whether an object is among those that a list asks for."""
    labels = found["metadata"].get("labels", {})
    for part in filter(None, re.split(r",(?![^(]*\))", query.get("labelSelector", ""))):
        name, sign, value = re.fullmatch(r"\s*([^=!\s]+)\s*(!?==?)?\s*(.*)", part).groups()  # type: ignore[union-attr]
        if sign is None:
            if name not in labels:
                return False
        elif (labels.get(name) == value) is (sign == "!="):
            return False
    for part in filter(None, query.get("fieldSelector", "").split(",")):
        path, _, value = part.partition("=")
        place: Any = found
        for name in path.split("."):
            place = place.get(name, {}) if isinstance(place, dict) else {}
        if place != value.lstrip("="):
            return False
    return True
