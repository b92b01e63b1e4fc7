"""What a model says of the images that it learned from: resolution, bands, scale, classes.

    ONNX with Deepness' metadata    resolution (centimetres), standardization_mean, standardization_std,
                                    class_names, seg_thresh, tile_size; its values are divided by 255
    a STAC item beside the model    unet.json or unet.onnx.json, of the extension `mlm`, or named as the
                                    model: then its asset with the role `mlm:model` is
    a bundle of `segengine train`   what it was trained on

All of it is a stranger's: each value is looked at before it is used, and an expression or a function that
it names is never run. Sources: Deepness' page "Adding metadata to ONNX model"; the STAC extension MLM 1.5
(`value_scaling`) and 1.0 (`norm_type`, `statistics`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from segengine.guards import texts
from segengine.networks import value_scaling
from segengine.networks.bundles import Bundle
from segengine.networks.said import LONGEST, mapping, mappings, number, numbers, text
from segengine.types import Trained

MOST = 1 << 20
"""Bytes of an item."""
_DEEPNESS = frozenset(
    ("model_type", "standardization_mean", "tiles_overlap", "seg_thresh", "reg_output_scaling", "det_conf")
)  # fmt: skip
"""Keys of which one is there in a model that was made for Deepness; others use `resolution` and `names`."""
_FINEST, _COARSEST = 1e-4, 1e6
"""Metres a pixel."""
_MOST_NAMES = 4096


def of_metadata(pairs: Mapping[str, str]) -> Trained | None:
    """What the metadata of an ONNX file says; None: nothing that is known here."""
    if not _DEEPNESS & pairs.keys():
        return None
    said = {key: _value(value) for key, value in pairs.items() if key in _KNOWN}
    centimetres = number(said.get("resolution"))
    mean, std = (numbers(said.get(f"standardization_{what}")) for what in ("mean", "std"))
    both = mean and std and len(mean) == len(std) and 0 not in std  # Deepness takes both or none
    side = number(said.get("tile_size", said.get("tiles_size")))
    threshold = number(said.get("seg_thresh"))
    found = Trained(
        by="its metadata",
        resolution=None if centimetres is None else _bounded(centimetres / 100),
        scale={"divide": 255} | ({"mean": mean, "std": std} if both else {}),
        classes=_numbered(said.get("class_names")),
        threshold=threshold if threshold is not None and 0 <= threshold <= 1 else None,
        window=int(side) if side is not None and 1 <= side <= 1 << 16 else None,
    )
    used = {
        "resolution": found.resolution is not None,
        "standardization_mean": both,
        "standardization_std": both,
        "class_names": found.classes,
        "seg_thresh": found.threshold is not None,
        "tile_size": found.window is not None,
        "tiles_size": found.window is not None,
        "model_type": str(said.get("model_type")).lower() in _SEGMENTS,
    }
    doubts = tuple(f"{key} {_shown(said[key])}" for key in _KNOWN if key in said and not used[key])
    return replace(found, doubts=doubts)


_KNOWN = (
    "model_type", "resolution", "standardization_mean", "standardization_std", "class_names", "seg_thresh",
    "tile_size", "tiles_size",
)  # fmt: skip
_SEGMENTS = frozenset(("segmentor", "segmentation", "segmenter"))
"""What Deepness calls networks that give each pixel a class."""


def _shown(value: Any) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def of_bundle(bundle: Bundle) -> Trained | None:
    """What a bundle says beside that which it is built by; None: nothing."""
    resolution = None if bundle.resolution is None else _bounded(bundle.resolution)
    if resolution is None and not bundle.band_names:
        return None
    return Trained("its bundle", resolution, bundle.band_names, scale=bundle.scale or None)


# ---------------------------------------------------------------------------------------- STAC's MLM


def item_of(path: Path) -> tuple[Path, dict[str, Any] | None, str]:
    """The model that a path means, the STAC item that tells of it, and that item's name.

    The item is the path itself, or lies beside the model under its name and `.json`; None: there is
    none. Raises ValueError where an item is named and has no model.
    """
    if path.suffix.lower() == ".json":
        item = _item(path)
        if item is None:
            raise ValueError(
                "is no STAC item of the extension mlm, which a model could be named by"
            )
        return path.parent / _model_in(item), item, path.name
    for beside in (path.with_name(f"{path.name}.json"), path.with_suffix(".json")):
        if beside.is_file():
            try:
                item = _item(beside)
            except ValueError:
                continue  # whatever it is, nobody has named it
            if item is not None:
                return path, item, beside.name
    return path, None, ""


def of_item(item: Mapping[str, Any], name: str) -> Trained:
    """What an item of the extension `mlm` says of a model with one input."""
    properties = mapping(item.get("properties"))
    inputs = mappings(properties.get("mlm:input"))
    taken = inputs[0] if len(inputs) == 1 else {}
    names = _band_names(taken.get("bands"))
    known = _bands_by_name(item)
    about = [known.get(band, {}) for band in names]
    common = tuple(text(each, "eo:common_name", "common_name") for each in about)
    scale, unscaled = value_scaling.of_input(taken)
    outputs = mappings(properties.get("mlm:output"))
    return Trained(
        by=name,
        resolution=_spacing(properties, about),
        bands=names,
        common=common if all(common) else (),
        scale=scale,
        unscaled=unscaled,
        classes=_classes(outputs[0].get("classification:classes")) if outputs else (),
    )


def _item(path: Path) -> dict[str, Any] | None:
    if path.stat().st_size > MOST:
        raise ValueError(f"{path.name} is larger than {MOST >> 20} MiB and is refused")
    try:
        found = texts.parse(path.read_bytes(), path.name)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is no JSON") from error
    properties = mapping(mapping(found).get("properties"))
    return found if any(str(key).startswith("mlm:") for key in properties) else None


def _model_in(item: Mapping[str, Any]) -> str:
    """The path of an item's model, below its folder. Raises ValueError."""
    assets = mapping(item.get("assets"))
    models = [
        asset
        for asset in map(mapping, assets.values())
        if isinstance(asset.get("roles"), list) and "mlm:model" in asset["roles"]
    ]
    if len(models) != 1:
        raise ValueError(
            f"has {len(models)} assets with the role mlm:model, not one; name the file"
        )
    href = models[0].get("href")
    if not isinstance(href, str) or "://" in href:
        raise ValueError("its model lies elsewhere; download it beside the item, and name the file")
    inner = href.removeprefix("./")
    if not inner or inner.startswith("/") or ".." in inner.split("/") or "\0" in inner:
        raise ValueError("its model lies outside the item's folder; name the file")
    return inner


def _bands_by_name(item: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """What an item, or its assets, tell of bands, under their names."""
    found: dict[str, dict[str, Any]] = {}
    places = (item.get("properties"), *mapping(item.get("assets")).values())
    for place in map(mapping, places):
        for key in ("bands", "eo:bands", "raster:bands"):
            for band in mappings(place.get(key))[:_MOST_NAMES]:
                name = text(band, "name")
                if name:
                    found.setdefault(name, {}).update(band)
    return found


def _band_names(given: Any) -> tuple[str, ...]:
    """Names of bands; none where one is worked out of others, or stands twice: of several times."""
    if not isinstance(given, list) or not 0 < len(given) <= _MOST_NAMES:
        return ()
    bands = [each if isinstance(each, dict) else {"name": each} for each in given]
    names = tuple(text(band, "name") for band in bands)
    derived = any(band.get("expression") is not None for band in bands)
    return () if derived or not all(names) or len(set(names)) < len(names) else names


def _spacing(properties: Mapping[str, Any], bands: Iterable[Mapping[str, Any]]) -> float | None:
    """Metres a pixel: of the finest band that says so, else of the item."""
    keys = ("gsd", "spatial_resolution", "raster:spatial_resolution", "eo:gsd")
    told = [number(band.get(key)) for band in bands for key in keys]
    known = [each for value in told if value is not None and (each := _bounded(value)) is not None]
    own = number(properties.get("gsd"))
    return min(known) if known else None if own is None else _bounded(own)


def _classes(given: Any) -> tuple[str, ...]:
    """Names of `classification:classes`, where their values are 0, 1, 2 ..."""
    by_value = {each.get("value"): text(each, "name", "description") for each in mappings(given)}
    return _in_order(by_value)


# ---------------------------------------------------------------------------------------- Values


def _value(given: str) -> Any:
    try:
        return texts.parse(given, "its metadata")
    except ValueError:
        return given


def _numbered(given: Any) -> tuple[str, ...]:
    """Names by their numbers, as a JSON object has them: its keys are texts."""
    pairs = given.items() if isinstance(given, dict) else ()
    return _in_order({int(k): v for k, v in pairs if isinstance(k, str) and k.isdecimal()})


def _in_order(names: Mapping[Any, Any]) -> tuple[str, ...]:
    """Different names of 0, 1, 2 ...; none where they are not."""
    found = tuple(names.get(i) for i in range(len(names)))
    fit = 0 < len(found) <= _MOST_NAMES and len(set(found)) == len(found)
    shown = tuple(n for n in found if isinstance(n, str) and n.strip() and len(n) <= LONGEST)
    return shown if fit and len(shown) == len(found) and all(map(str.isprintable, shown)) else ()


def _bounded(metres: float) -> float | None:
    return metres if _FINEST <= metres <= _COARSEST else None
