"""A static STAC catalog: an item a scene with its footprint, classes, figures and assets.

    catalog.json          what there is
    items/<scene>.json    STAC 1.1, with the extensions label, projection and classification
    masks/                Cloud Optimized GeoTIFFs, one a frame, as `cog` writes them
    objects/              GeoJSON of the instances, one a scene, where there are any

All links are relative: the folder can be moved, or put in a bucket. A scene without georeference has
no geometry, as STAC has it for what lies nowhere. `datetime` is the input's where it says one, else
when the mask was finished, as `created` is.

Sources: https://github.com/radiantearth/stac-spec (1.1.0), and the extensions label 1.0.1, projection
2.0.0 and classification 1.1.0 of https://stac-extensions.github.io.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from segengine.export import cog, geojson
from segengine.export._footprint import footprint
from segengine.export._objects import Objects
from segengine.export._shaping import Shaping
from segengine.export._targets import targets
from segengine.outputs import Output, claimed
from segengine.placing import Placing
from segengine.reader import SceneStore, Store, open_store
from segengine.sources._stac_walk import EXPORTED
from segengine.stages.metrics_json import text
from segengine.store.keys import INSTANCE_TABLE, scene_folder
from segengine.urls import public

VERSION = "1.1.0"
EXTENSIONS = (
    "https://stac-extensions.github.io/label/v1.0.1/schema.json",
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/classification/v1.1.0/schema.json",
)
COG = "image/tiff; application=geotiff; profile=cloud-optimized"
CATALOG, ITEMS, MASKS, OBJECTS = "catalog.json", "items", "masks", "objects"


def export(store_path: str, to: str, *, overwrite: bool = False) -> list[str]:
    """Write a catalog of a store below the folder `to`, with all that its items name; the files written.

    `overwrite`: also files that no export wrote. Raises JobError, StoreError.
    """
    store, folder = open_store(store_path), Path(to)
    items = {name: folder / ITEMS / f"{name}.json" for name in store.scenes}
    objects = Objects(store, Shaping()) if store.objects.exists(INSTANCE_TABLE) else None
    shapes = [] if objects is None else geojson.files(objects, str(folder / OBJECTS))
    masks: dict[str, list[tuple[int, Path]]] = {}
    for target in targets(store, str(folder / MASKS), ".tif"):
        masks.setdefault(target.scene.name, []).append((target.frame, target.path))
    paths = [folder / CATALOG, *items.values(), *shapes]
    paths += [p for own in masks.values() for _, path in own for p in cog.files(path)]
    output = claimed(store, to, paths, overwrite=overwrite)
    written = cog.write(store, str(folder / MASKS), output)
    if objects is not None:
        written += geojson.write(objects, shapes, output)
    polygons = {} if objects is None else dict(zip(objects.scenes, shapes, strict=True))
    figures = store.metrics
    for name, path in items.items():
        item = _item(store[name], masks.get(name, []), polygons.get(name), figures, path)
        written.append(_put(output, path, item))
    written.append(_put(output, folder / CATALOG, _catalog(store, items)))
    output.close()
    return written


def _put(output: Output, path: Path, document: Mapping[str, Any]) -> str:
    with output.replacing(path) as partial:
        partial.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")
    return str(path)


def _catalog(store: Store, items: Mapping[str, Path]) -> dict[str, Any]:
    name = str(store.job.get("name") or "masks")
    links = [_link("root", f"./{CATALOG}")]
    links += [
        _link("item", f"./{ITEMS}/{quote(path.name)}", "application/geo+json")
        for path in items.values()
    ]
    return {
        "type": "Catalog",
        "stac_version": VERSION,
        "id": name,
        "title": name,
        "description": _description(store),
        "links": links,
    }


def _description(store: Store) -> str:
    kind = store.job.get("segmenter", {}).get("kind", "a segmenter")
    return f"{EXPORTED} {len(store.classes)} classes, labelled by {kind}"


def _link(rel: str, href: str, kind: str = "application/json") -> dict[str, str]:
    return {"rel": rel, "href": href, "type": kind}


def _item(
    scene: SceneStore,
    masks: list[tuple[int, Path]],
    objects: Path | None,
    metrics: Mapping[str, Any],
    path: Path,
) -> dict[str, Any]:
    store, place = scene.store, footprint(scene)
    found: dict[str, Any] = {
        "type": "Feature",
        "stac_version": VERSION,
        "stac_extensions": list(EXTENSIONS),
        "id": scene.name,
        "geometry": None if place is None else place.geometry,
    }
    if place is not None:
        found["bbox"] = place.bbox
    own = dict(metrics.get("scenes", {}).get(scene.name, {}))
    areas = own.pop("areas", {})
    found["properties"] = {
        "title": text(scene.layout.names[0]) if not scene.layout.stacked else scene.name,
        **_times(scene),
        **_labels(store, areas),
        **_projection(scene.layout.placing),
        **({"segengine:areas": areas} if areas else {}),
        **({"segengine:figures": own} if own else {}),
    }
    found["links"] = [
        _link("root", f"../{CATALOG}"),
        _link("parent", f"../{CATALOG}"),
        *_sources(scene),
    ]
    found["assets"] = _assets(scene, masks, objects, path)
    return found


def _times(scene: SceneStore) -> dict[str, str | None]:
    """`created`, when the last shard was labelled, and `datetime`; of a map from when to when."""
    stamps = (record.finished for record in scene.store.records(scene.name))
    made = datetime.fromtimestamp(max(stamps, default=0.0), UTC)
    created = _iso(made)
    mosaic = scene.layout.mosaic
    times = [] if mosaic is None else [m.time for m in mosaic.members if m.time is not None]
    if times:
        first, last = (_iso(datetime.fromtimestamp(t, UTC)) for t in (min(times), max(times)))
        span = {"start_datetime": first, "end_datetime": last}
        return {"datetime": first if first == last else None, "created": created, **span}
    item = scene.attributes.get("stac")
    taken = item.get("datetime") if isinstance(item, Mapping) else None
    return {"datetime": taken if isinstance(taken, str) and taken else created, "created": created}


def _iso(time: datetime) -> str:
    return time.isoformat(timespec="seconds").replace("+00:00", "Z")


def _labels(store: Store, areas: Mapping[str, Any]) -> dict[str, Any]:
    """The extension `label`."""
    found: dict[str, Any] = {
        "label:type": "raster",
        "label:properties": None,
        "label:description": _description(store),
        "label:classes": [{"name": None, "classes": list(store.classes)}],
        "label:tasks": ["segmentation"],
        "label:methods": ["automated"],
    }
    if areas:
        counts = [{"name": name, "count": row["pixels"]} for name, row in areas.items()]
        found["label:overviews"] = [{"property_key": "class", "counts": counts}]
    return found


def _projection(placing: Placing) -> dict[str, Any]:
    """The extension `projection`."""
    found: dict[str, Any] = {"proj:shape": [placing.height, placing.width], "proj:code": None}
    if placing.transform:
        found["proj:transform"] = [float(value) for value in placing.transform]
    if placing.georeferenced:
        from pyproj import CRS
        from pyproj.exceptions import ProjError

        try:
            crs = CRS.from_wkt(placing.wkt)
            code = crs.to_authority()
            if code is not None:
                found["proj:code"] = ":".join(code)
            else:
                found["proj:wkt2"] = crs.to_wkt("WKT2_2019")
        except ProjError:
            found["proj:wkt2"] = placing.wkt
    return found


def _sources(scene: SceneStore) -> Iterator[dict[str, str]]:
    """What it was made from, where others can find it too."""
    layout = scene.layout
    made_of = list(zip(layout.names, layout.uris, strict=True))
    if layout.mosaic is not None:
        made_of = [(member.name, member.uri) for member in layout.mosaic.members]
    for name, uri in made_of:
        if uri.startswith(("https://", "http://", "s3://", "gs://")):
            yield {"rel": "via", "href": public(uri), "title": text(name)}


def _assets(
    scene: SceneStore, masks: list[tuple[int, Path]], objects: Path | None, item: Path
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for frame, path in masks:
        key = "labels" if scene.layout.shape[0] == 1 else f"labels-{frame:06d}"
        found[key] = {
            "href": _relative(path, item),
            "type": COG,
            "title": text(scene.layout.frame_name(frame)),
            "roles": ["data", "labels", "labels-raster"],
            "data_type": scene.mask.dtype.name,
            "nodata": scene.void,
            "classification:classes": _classes(scene, frame),
        }
    if objects is not None:
        found["objects"] = {
            "href": _relative(objects, item),
            "type": "application/geo+json",
            "title": "instances as polygons",
            "roles": ["data", "labels", "labels-vector"],
        }
    if "://" in scene.store.path:
        found["zarr"] = {
            "href": public(f"{scene.store.path}/{scene_folder(scene.name)}"),
            "type": "application/vnd.zarr; version=3",
            "title": "the store's own arrays",
            "roles": ["data"],
        }
    return found


def _relative(path: Path, item: Path) -> str:
    return "../" + quote(path.relative_to(item.parent.parent).as_posix(), errors="surrogateescape")


def _classes(scene: SceneStore, frame: int) -> list[dict[str, Any]]:
    """The extension `classification`: what each value of a mask is."""
    colors = scene.colors(frame).tolist()
    found: list[dict[str, Any]] = [
        {
            "value": value,
            "name": re.sub(r"[^0-9A-Za-z_-]+", "_", name) or "_",
            "title": name,
            "description": name,  # 1.1.0 wants it, 2.0.0 the name
            "color_hint": "{:02X}{:02X}{:02X}".format(*color),
        }
        for value, (name, color) in enumerate(zip(scene.store.classes, colors, strict=True))
    ]
    void = {"name": "void", "title": "void", "description": "not labelled", "nodata": True}
    return [*found, {"value": scene.void, **void}]
