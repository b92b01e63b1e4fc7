"""Strategic merge patches: lists of objects are merged by the key that their kind has for it.

https://github.com/kubernetes/community/blob/master/contributors/devel/sig-api-machinery/strategic-merge-patch.md
"""

from __future__ import annotations

import copy
from typing import Any

_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "imagePullSecrets": "name",
    "conditions": "type",
    "ownerReferences": "uid",
}


def merged(before: Any, patch: Any) -> Any:
    """An object as a patch changes it."""
    if not isinstance(patch, dict) or not isinstance(before, dict):
        return copy.deepcopy(patch)
    if patch.get("$patch") == "replace":
        return {k: copy.deepcopy(v) for k, v in patch.items() if k != "$patch"}
    found = dict(before)
    kept = patch.get("$retainKeys")
    if kept is not None:
        found = {k: v for k, v in found.items() if k in kept}
    for name, value in patch.items():
        if name.startswith("$"):
            continue
        if value is None:
            found.pop(name, None)
        elif isinstance(value, list) and name in _KEYS and isinstance(found.get(name), list):
            found[name] = _list(found[name], value, _key(name, found[name] + value))
        elif isinstance(value, dict):
            found[name] = merged(found.get(name, {}), value)
        else:
            found[name] = copy.deepcopy(value)
    return found


def _key(name: str, items: list[Any]) -> str:
    return "port" if name == "ports" and any("port" in i for i in items) else _KEYS[name]


def _list(before: list[Any], patch: list[Any], key: str) -> list[Any]:
    found = {item[key]: item for item in before}
    for item in patch:
        if item.get("$patch") == "delete":
            found.pop(item[key], None)
        else:
            found[item[key]] = merged(found.get(item[key], {}), item)
    return list(found.values())
