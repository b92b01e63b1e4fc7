"""Metadata of what lies under `scenes/`: Zarr v3 groups and arrays, OME-Zarr 0.5, georeference.

Written as plain JSON when a scene is laid out; zarr-python reads it. Nothing in it depends on time,
host, run or the store's path.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segengine.store.conventions import image_label, levels, placed
from segengine.store.keys import (
    COLORS,
    CONFIDENCE,
    INSTANCES,
    MASK,
    PROBABILITIES,
    is_coarser,
    level_path,
    node_metadata,
    shard_key,
)
from segengine.store.layouts import Layout
from segengine.store.shardcodec import codecs
from segengine.types import NO_CONFIDENCE, Color

OME = "0.5"


def mask_dtype(classes: int) -> np.dtype[Any]:
    """Smallest unsigned dtype that holds the classes and void.

    >>> mask_dtype(255).name, mask_dtype(256).name
    ('uint8', 'uint16')
    """
    for name in ("uint8", "uint16", "uint32"):
        if classes <= np.iinfo(name).max:
            return np.dtype(name)
    raise ValueError(f"classes: {classes} are too many")


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One array of a scene."""

    path: str
    """Below the scene: `mask/0`."""
    shape: tuple[int, ...]
    shard: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: str
    fill: int | float
    axes: tuple[str, ...]

    def metadata(self) -> dict[str, Any]:
        """The array's zarr.json."""
        return {
            "shape": list(self.shape),
            "data_type": self.dtype,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": list(self.shard)},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": "NaN" if self.fill != self.fill else self.fill,
            "codecs": codecs(self.chunk),
            "attributes": {},
            "dimension_names": list(self.axes),
            "zarr_format": 3,
            "node_type": "array",
            "storage_transformers": [],
        }

    def shard_key(self, scene: str, place: tuple[int, ...]) -> str:
        """Key of a shard's object in the store."""
        return shard_key(scene, self.path, place)


@dataclass(frozen=True, slots=True)
class SceneArrays:
    """All arrays of a scene, by path."""

    arrays: tuple[ArraySpec, ...]

    def __getitem__(self, path: str) -> ArraySpec:
        for spec in self.arrays:
            if spec.path == path:
                return spec
        raise KeyError(path)

    def __contains__(self, path: str) -> bool:
        return any(spec.path == path for spec in self.arrays)

    @property
    def levels(self) -> tuple[ArraySpec, ...]:
        """Levels of the mask's pyramid above 0, coarser and coarser."""
        return tuple(s for s in self.arrays if is_coarser(s.path))


def holds(spec: ArraySpec, stored: bytes) -> bool:
    """Whether shards that lie under a stored `zarr.json` are read as a spec says."""
    try:
        there, wanted = json.loads(stored), spec.metadata()
        inner = there["codecs"][0]["configuration"]["chunk_shape"]
        same = all(
            there[k] == wanted[k] for k in ("shape", "data_type", "chunk_grid", "fill_value")
        )
    except (ValueError, KeyError, TypeError, IndexError):
        return True  # damaged: it is written again
    return bool(same and inner == list(spec.chunk))


def scene_arrays(
    layout: Layout, classes: int, outputs: tuple[str, ...], frame_colors: bool | None
) -> SceneArrays:
    """The arrays a scene has.

    `outputs` of labels, probabilities, confidence, instances; `frame_colors`: colours are fitted for
    each frame (True), for the scene (False), or fixed by the job (None).
    """
    frames, height, width = layout.shape
    f, side, _ = layout.shard
    c = layout.chunk[1]
    dtype = mask_dtype(classes)
    void = int(np.iinfo(dtype).max)
    axes = ("frame", "y", "x")
    found = [
        ArraySpec(
            path=MASK,
            shape=layout.shape,
            shard=layout.shard,
            chunk=layout.chunk,
            dtype=dtype.name,
            fill=void,
            axes=axes,
        )
    ]
    level, (h, w) = 0, (height, width)
    while max(height, width) > side and max(h, w) > c:
        level, h, w = level + 1, -(-h // 2), -(-w // 2)
        found.append(
            ArraySpec(
                path=level_path(level),
                shape=(frames, h, w),
                shard=layout.shard,
                chunk=layout.chunk,
                dtype=dtype.name,
                fill=void,
                axes=axes,
            )
        )
    if "instances" in outputs:
        found.append(
            ArraySpec(
                path=INSTANCES,
                shape=layout.shape,
                shard=layout.shard,
                chunk=layout.chunk,
                dtype="uint32",
                fill=0,
                axes=axes,
            )
        )
    if "probabilities" in outputs:
        found.append(
            ArraySpec(
                path=PROBABILITIES,
                shape=(frames, classes, height, width),
                shard=(f, classes, side, side),
                chunk=(1, 1, c, c),
                dtype="float32",
                fill=float("nan"),
                axes=("frame", "class", "y", "x"),
            )
        )
    if "confidence" in outputs:
        found.append(
            ArraySpec(
                path=CONFIDENCE,
                shape=layout.shape,
                shard=layout.shard,
                chunk=layout.chunk,
                dtype="uint8",
                fill=NO_CONFIDENCE,
                axes=axes,
            )
        )
    if frame_colors is not None:
        n = frames if frame_colors else 1
        box = (min(n, 4096), classes, 3)
        found.append(
            ArraySpec(
                path=COLORS,
                shape=(n, classes, 3),
                shard=box,
                chunk=box,
                dtype="uint8",
                fill=0,
                axes=("frame", "class", "rgb"),
            )
        )
    return SceneArrays(tuple(found))


def group_metadata(
    attributes: Mapping[str, Any], consolidated: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A group's zarr.json."""
    found: dict[str, Any] = {"attributes": dict(attributes), "zarr_format": 3, "node_type": "group"}
    if consolidated is not None:
        found["consolidated_metadata"] = {
            "kind": "inline",
            "must_understand": False,
            "metadata": dict(consolidated),
        }
    return found


def scene_documents(
    layout: Layout, arrays: SceneArrays, classes: Sequence[str] = (), colors: Sequence[Color] = ()
) -> dict[str, bytes]:
    """Every metadata object of a scene, by key below the scene; the scene group itself comes last.

    `classes`, with `colors` as the job has them: what the mask's labels are.
    """
    placing = layout.placing
    masks = (arrays[MASK], *arrays.levels)
    shapes, paths = [s.shape for s in masks], [s.path for s in masks]
    nodes: dict[str, dict[str, Any]] = {}
    for spec in arrays.arrays:
        name, _, level = spec.path.partition("/")
        if level and name not in nodes:
            ome = _multiscales(name, arrays, layout)
            own: dict[str, Any] = {}
            if spec.path == MASK:
                ome["image-label"] = image_label(classes, colors, int(spec.fill))
                inside = levels(placing, shapes, [p.partition("/")[2] for p in paths])
                own = placed(placing, layout=inside) if len(masks) > 1 else {}
            elif name == INSTANCES.partition("/")[0]:
                ome["image-label"] = {}
            nodes[name] = group_metadata({"ome": ome, **own})
        nodes[spec.path] = spec.metadata()
        if level:
            nodes[spec.path]["attributes"] = placed(placing, level=int(level), group=False)
    attributes = {
        "segengine": {"kind": layout.kind, "bands": layout.bands, "dtype": layout.dtype},
        **placed(placing, layout=levels(placing, shapes, paths)),
        # sorted: readers tell the same in their own orders, and bytes are not to depend on it
        **dict(sorted(layout.attributes.items())),
    }
    documents = {node_metadata(path): to_bytes(node) for path, node in nodes.items()}
    documents[node_metadata()] = to_bytes(group_metadata(attributes, nodes))
    return documents


def to_bytes(document: Mapping[str, Any]) -> bytes:
    """A scene's metadata document as it is stored; without blanks, for there are many."""
    return json.dumps(document, separators=(",", ":")).encode()


def says(stored: bytes | None, document: bytes) -> bool:
    """Whether stored metadata says the same as `document`; earlier releases wrote it with blanks."""
    if stored is None or stored == document:
        return stored is not None
    try:
        return bool(json.loads(stored) == json.loads(document))
    except (ValueError, RecursionError):
        return False


_AXES: dict[str, dict[str, str]] = {
    "frame": {"name": "frame", "type": "time"},
    "class": {"name": "class", "type": "channel"},
    "y": {"name": "y", "type": "space"},
    "x": {"name": "x", "type": "space"},
}


def _multiscales(name: str, arrays: SceneArrays, layout: Layout) -> dict[str, Any]:
    specs = [s for s in arrays.arrays if s.path.startswith(f"{name}/")]
    axes = specs[0].axes
    datasets = []
    for level, spec in enumerate(specs):
        scale = [float(2**level) if axis in ("y", "x") else 1.0 for axis in axes]
        shift = [(2**level - 1) / 2 if axis in ("y", "x") else 0.0 for axis in axes]
        transforms: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
        if level:
            transforms.append({"type": "translation", "translation": shift})
        path = spec.path.removeprefix(f"{name}/")
        datasets.append({"path": path, "coordinateTransformations": transforms})
    multiscale: dict[str, Any] = {
        "name": f"{layout.scene} {name}",
        "axes": [_AXES[a] for a in axes],
        "datasets": datasets,
    }
    if len(specs) > 1:
        multiscale["type"] = "mode"
    return {"version": OME, "multiscales": [multiscale]}
