"""Reviews of rights as kubectl sends them: in Protocol Buffers, behind Kubernetes' four bytes.

https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding has the envelope; the
numbers of fields are those of k8s.io/api/authorization/v1/generated.proto.
"""

from __future__ import annotations

from typing import Any

MAGIC = b"k8s\0"
_ATTRIBUTES = {1: "namespace", 2: "verb", 3: "group", 4: "version", 5: "resource", 6: "subresource"}


def review(data: bytes, plural: str) -> Any:
    """One as its JSON would be."""
    raw = _fields(data.removeprefix(MAGIC))[2]
    spec = _fields(_fields(raw).get(2, b""))
    said: dict[str, Any] = {"namespace": spec.get(1, b"").decode()}
    if plural == "selfsubjectaccessreviews":
        asked = _fields(spec.get(1, b""))
        named = {name: asked[n].decode() for n, name in _ATTRIBUTES.items() if n in asked}
        said = {"resourceAttributes": named}
    return {"spec": said}


def _fields(data: bytes) -> dict[int, bytes]:
    """The last value of each field that has a length."""
    found, at = {}, 0
    while at < len(data):
        key, at = _number(data, at)
        size, at = _number(data, at)
        if key & 7 == 2:
            found[key >> 3] = data[at : at + size]
            at += size
    return found


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
