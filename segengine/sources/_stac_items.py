"""From a STAC item to the parts of a scene: which asset is which band, and what is known of it.

    assets: [red, "visual:2"]      red: a key of the item's assets, else an `eo:common_name`
                                   visual:2: the second band of the asset `visual`

What an item says is untrusted: every value is looked at before it is used, whichever version of STAC
it is of (`bands` of 1.1, `raster:bands` and `eo:bands` of 1.0 and before). Where an asset
tells its grid (`proj:shape`, `proj:transform`, `proj:code`) and its band's dtype, nodata, scale and offset,
no plan opens it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import xxhash

from segengine.errors import CorruptInputError
from segengine.sources._stac_absent import LackingError, Lacks
from segengine.sources._stac_links import Reach, resolved
from segengine.types import Header, Part

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_QUERY = re.compile(r'(?<=[^\s"])\?[^"\s]*(?=")')
"""Of a URL at the end of a JSON text: a signature is another each night."""
_CODE = re.compile(r"[A-Za-z]{1,16}:[0-9A-Za-z.]{1,16}")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_NOTHING = ("", "none", "None", "null")
"""As some write that there is no nodata."""
_INFINITE = ("nan", "inf", "-inf")
_LONGEST_ID = 1000
_MOST_ASSETS = 10_000
_DTYPES = frozenset(
    ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32",
     "float64")
)  # fmt: skip
_RASTERS = ("image/tiff", "image/jp2", "image/vnd.stac.geotiff", "image/x.geotiff", "image/geotiff")
_PICTURES = frozenset(("thumbnail", "preview", "overview", "visual", "metadata"))
"""Roles (and names of assets without one) of what shows a scene, or tells of it: bands are looked for
in the others first."""


@dataclass(frozen=True, slots=True)
class Item:
    """What is used of a STAC item."""

    name: str
    """Its id."""
    collection: str
    base: str
    """Where it lies: what its links are relative to."""
    digest: str
    """Of all that it says, without its links and the credentials of its URLs."""
    parts: tuple[Part, ...] = ()
    keys: tuple[str, ...] = ()
    """Of the asset of each part."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """JSON values for the scene's group."""
    problem: str = ""
    """Why it is no scene; empty: it is one."""
    lacks: Lacks | None = None
    """Assets that the job names; None: it has none that could be looked at."""
    order: int = 0
    """Which of the job's paths led to it."""


def name_of(item: Mapping[str, Any]) -> str:
    """An item's id as it may stand in a line. Raises CorruptInputError where it has none."""
    found = item.get("id")
    # Before 1.0 some ids were numbers.
    text = str(found) if isinstance(found, int) and not isinstance(found, bool) else found
    if not isinstance(text, str) or not text.strip():
        raise CorruptInputError("has no id")
    if len(text) > _LONGEST_ID:
        raise CorruptInputError(f"its id has {len(text):,} characters; at most {_LONGEST_ID:,}")
    return _CONTROL.sub(" ", text).encode("utf-8", "replace").decode()


def full_name(item: Item) -> str:
    """With its collection: of two that have one id."""
    return f"{item.collection}/{item.name}" if item.collection else item.name


def read_item(
    item: Mapping[str, Any], base: str, assets: Sequence[str] | None, reach: Reach
) -> Item:
    """What is used of a STAC item at `base`. Raises CorruptInputError where it has no id.

    All else that is wrong with it is its `problem`.
    """
    name = name_of(item)
    collection = item.get("collection")
    collection = _CONTROL.sub(" ", collection) if isinstance(collection, str) else ""
    digest = _digest(item)
    lacks = None
    try:
        _require_item(item)
        chosen = list(_chosen(item["assets"], assets))
        lacks = Lacks()
        code = _code(_properties(item))
        parts = tuple(each.part(base, reach, code) for each in chosen)
    except CorruptInputError as error:
        lacks = error.lacks if isinstance(error, LackingError) else lacks
        problem = str(error)
        return Item(
            name=name, collection=collection, base=base, digest=digest, problem=problem, lacks=lacks
        )
    keys = tuple(each.key for each in chosen)
    about = _attributes(item, name, collection)
    return Item(
        name=name,
        collection=collection,
        base=base,
        digest=digest,
        parts=parts,
        keys=keys,
        attributes=about,
        lacks=lacks,
    )


def _digest(item: Mapping[str, Any]) -> str:
    said = {key: value for key, value in item.items() if key != "links"}
    text = json.dumps(said, sort_keys=True, separators=(",", ":"), default=str)
    if "?" in text:
        text = _QUERY.sub("", text)
    return xxhash.xxh3_64_hexdigest(text.encode("utf-8", "surrogatepass"))


def _require_item(item: Mapping[str, Any]) -> None:
    if item.get("type", "Feature") != "Feature":
        raise CorruptInputError("is no STAC item")
    geometry = item.get("geometry")
    if not isinstance(geometry, Mapping) or not geometry:
        raise CorruptInputError("has no geometry")
    assets = item.get("assets")
    if not isinstance(assets, Mapping) or not assets:
        raise CorruptInputError("has no assets")
    if len(assets) > _MOST_ASSETS:
        raise CorruptInputError(f"has {len(assets):,} assets; at most {_MOST_ASSETS:,} are read")


def _properties(item: Mapping[str, Any]) -> Mapping[str, Any]:
    found = item.get("properties")
    return found if isinstance(found, Mapping) else {}


def _attributes(item: Mapping[str, Any], name: str, collection: str) -> dict[str, Any]:
    """The item's id, time and clouds, for those who order scenes by them."""
    properties = _properties(item)
    found: dict[str, Any] = {"id": name}
    if collection:
        found["collection"] = collection
    time = properties.get("datetime") or properties.get("start_datetime")
    if isinstance(time, str) and len(time) <= 64:
        found["datetime"] = _CONTROL.sub(" ", time).upper()  # RFC 3339 allows `t` and `z`, STAC not
    clouds = _number(properties.get("eo:cloud_cover"))
    if clouds is not None:
        found["cloud_cover"] = clouds
    return {"stac": found}


@dataclass(frozen=True, slots=True)
class _Choice:
    """A band of an asset."""

    key: str
    asset: Mapping[str, Any]
    band: int
    """1-based; 0: the only one that the file has."""
    label: str

    def part(self, base: str, reach: Reach, code: str) -> Part:
        """Where it lies, and what the item says of it; `code`: of the item's CRS. Raises
        CorruptInputError."""
        kind = self.asset.get("type")
        if isinstance(kind, str) and kind.lower().startswith("text/"):
            raise CorruptInputError(f"its asset {self.key} is {kind[:80]}, and no raster")
        try:
            uri = resolved(self.asset.get("href"), base)
        except CorruptInputError as error:
            raise CorruptInputError(f"its asset {self.key} {error}") from error
        reach.require_asset(uri, base, self.key)
        scale, offset = self._told("scale"), self._told("offset")
        nodata = self._told("nodata")
        told = scale is not None and offset is not None and nodata is not None
        if scale == 0:
            raise CorruptInputError(
                f"its asset {self.key} has a scale of 0, with which all of its pixels are alike"
            )
        dtype = _said(self.asset, max(self.band, 1) - 1, "data_type")
        dtype = dtype if isinstance(dtype, str) and dtype in _DTYPES else None
        return Part(
            uri,
            band=self.band,
            name=self.label,
            scale=scale,
            offset=offset,
            nodata=nodata,
            dtype=dtype,
            header=_header(self.asset, code) if told and dtype is not None else None,
        )

    def _told(self, name: str) -> float | None:
        """A number that is said of the band, nodata NaN or infinite too; None: nothing is. Raises
        CorruptInputError for what is no number: pixels would be other values than are meant."""
        value = _said(self.asset, max(self.band, 1) - 1, name)
        if value is None or (name == "nodata" and value in _NOTHING):
            return None
        number = _number(value, finite=name != "nodata")
        if number is None:
            text = _CONTROL.sub(" ", str(value))[:40]
            what = "number" if name == "nodata" else "finite number"
            raise CorruptInputError(
                f"its asset {self.key} has the {name} {text!r}, which is no {what}"
            )
        return number


def _header(asset: Mapping[str, Any], code: str) -> Header | None:
    """What an asset says of its file's header; None: not all, or what cannot be.

    Its own shape and transform: those of the item may be of another of its assets.
    """
    shape, place = asset.get("proj:shape"), asset.get("proj:transform")
    crs = _code(asset) or code
    if not crs or not isinstance(shape, list) or not isinstance(place, list):
        return None
    numbers = [_number(value) for value in place]
    if len(shape) != 2 or any(type(side) is not int or side < 1 for side in shape):
        return None
    if len(numbers) not in (6, 9) or None in numbers or numbers[6:] not in ([], [0, 0, 1]):
        return None
    a, b, c, d, e, f = (float(value) for value in numbers[:6] if value is not None)
    return Header(shape[0], shape[1], (a, b, c, d, e, f), crs) if a * e - b * d else None


def _code(said: Mapping[str, Any]) -> str:
    """The CRS that an item or an asset names by a code, as EPSG:32633; empty: none."""
    code, number = said.get("proj:code"), said.get("proj:epsg")
    if isinstance(code, str) and _CODE.fullmatch(code):
        return code
    return f"EPSG:{number}" if type(number) is int and 0 < number < 1 << 24 else ""


def _chosen(assets: Mapping[str, Any], wanted: Sequence[str] | None) -> Iterator[_Choice]:
    """The bands that the job asks for, in its order. Raises CorruptInputError for one that is not there."""
    known = {key: asset for key, asset in assets.items() if isinstance(asset, Mapping)}
    if wanted is None:
        for key in _data(known):
            yield from _all_bands(key, known[key])
        return
    common: dict[str, list[tuple[str, int]]] = {}
    if any(name not in known for name in wanted):
        common = _common_names(known)
    there = {*known, *common}
    lacking = [name for name in wanted if name not in there and not _numbered(name, known)]
    if lacking:
        raise LackingError(
            f"has no asset and no eo:common_name {lacking[0]}; its assets: {_listed(known)}",
            lacking,
            (*known, *common),
        )
    for name in wanted:
        numbered = _numbered(name, known)
        if name in known:
            yield from _all_bands(name, known[name])
        elif numbered:
            yield _Choice(numbered[0], known[numbered[0]], numbered[1], name)
        else:
            yield _common(name, common[name], known)


def _numbered(name: str, known: Mapping[str, Any]) -> tuple[str, int] | tuple[()]:
    """Asset and band of `visual:2`; empty: it is no such name."""
    key, _, number = name.rpartition(":")
    fits = key in known and number.isdecimal() and 0 < int(number) <= 1 << 16
    return (key, int(number)) if fits else ()


def _data(assets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Assets that are pixels by what the item says, where the job names none."""
    if len(assets) == 1:
        return list(assets)
    rasters = [key for key, asset in assets.items() if _is_raster(key, asset)]
    found = [key for key in rasters if "data" in _roles(assets[key])] or rasters
    if not found:
        raise CorruptInputError(f"none of its assets is a raster by its type: {_listed(assets)}")
    return found


def _is_raster(key: str, asset: Mapping[str, Any]) -> bool:
    kind = asset.get("type")
    return (
        isinstance(kind, str)
        and kind.lower().partition(";")[0].strip() in _RASTERS
        and not _PICTURES & (_roles(asset) or {key.lower()})
    )


def _roles(asset: Mapping[str, Any]) -> set[str]:
    found = asset.get("roles")
    return {role for role in found if isinstance(role, str)} if isinstance(found, list) else set()


def _all_bands(key: str, asset: Mapping[str, Any]) -> Iterator[_Choice]:
    count = _count(asset)
    if count <= 1:
        yield _Choice(key, asset, 0, key)
        return
    for i in range(count):
        name = _said(asset, i, "name")
        named = isinstance(name, str) and name and len(name) <= 100
        yield _Choice(key, asset, i + 1, _CONTROL.sub(" ", name) if named else f"{key}:{i + 1}")


def _common_names(assets: Mapping[str, Mapping[str, Any]]) -> dict[str, list[tuple[str, int]]]:
    """Asset and place of each band that has an `eo:common_name`, by it."""
    found: dict[str, list[tuple[str, int]]] = {}
    for key, asset in assets.items():
        for i in range(max(1, _count(asset))):
            name = _said(asset, i, "common_name")
            if isinstance(name, str):
                found.setdefault(name, []).append((key, i))
    return found


def _common(
    name: str, found: list[tuple[str, int]], assets: Mapping[str, Mapping[str, Any]]
) -> _Choice:
    """The band of an `eo:common_name`: of one that has an asset to itself, of the finest."""
    found = [each for each in found if not _PICTURES & _roles(assets[each[0]])] or found
    found = [each for each in found if _count(assets[each[0]]) <= 1] or found
    if len(found) > 1:
        finest = min(_spacing(assets[key]) for key, _ in found)
        found = [each for each in found if _spacing(assets[each[0]]) == finest]
    if len(found) > 1:
        both = " and ".join(key for key, _ in found[:2])
        raise CorruptInputError(f"{name} is the eo:common_name of {both}; name the one meant")
    ((key, i),) = found
    return _Choice(key, assets[key], i + 1 if _count(assets[key]) > 1 else 0, name)


def _spacing(asset: Mapping[str, Any]) -> float:
    """Metres between pixels, as far as an item says; a number to compare by."""
    for key in ("gsd", "spatial_resolution"):
        found = _number(_said(asset, 0, key))
        if found is not None and found > 0:
            return found
    place = asset.get("proj:transform")
    size = _number(place[0]) if isinstance(place, list) and place else None
    return abs(size) if size else math.inf


def _count(asset: Mapping[str, Any]) -> int:
    lists = (asset.get(key) for key in _LISTS)
    return max((len(found) for found in lists if isinstance(found, list)), default=0)


_LISTS = ("bands", "raster:bands", "eo:bands")
_SHARED = frozenset(
    ("nodata", "data_type", "gsd", "scale", "offset", "spatial_resolution", "common_name")
)
"""What an asset may say of all its bands at once; its name and its type are its own."""


def _said(asset: Mapping[str, Any], index: int, name: str) -> Any:
    """What is said of a band, under any name that a version of STAC has for it; None: nothing."""
    names = (name, f"raster:{name}", f"eo:{name}")
    for key in _LISTS:
        bands = asset.get(key)
        band = bands[index] if isinstance(bands, list) and index < len(bands) else None
        if isinstance(band, dict):
            for each in names:
                if band.get(each) is not None:
                    return band[each]
    if name in _SHARED:
        return next((asset[each] for each in names if asset.get(each) is not None), None)
    return None


def _number(value: object, finite: bool = True) -> float | None:
    """A number, also where it is written as text; None: it is none."""
    if isinstance(value, str):
        value = value.strip()
        if not finite and value.lower() in _INFINITE:
            return float(value)
        value = float(value) if len(value) <= 64 and _DECIMAL.fullmatch(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) or not finite else None


def _listed(assets: Mapping[str, Any]) -> str:
    names = [_CONTROL.sub(" ", key)[:60] for key in list(assets)[:12]]
    return ", ".join(names) + (f" and {len(assets) - 12} more" if len(assets) > 12 else "")
