"""A first job for the files of a folder: they are looked at, and nothing is asked.

What it writes is a choice that runs, not the best one: k-means where there are colours or bands to
tell apart, a threshold where there is one band.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from segengine.errors import JobError, SegengineError, TransientInputError
from segengine.guards.schemes import require_served
from segengine.job import ClusterSpec, FaultsSpec, Job, SourceSpec, StoreSpec, TruthSpec
from segengine.placing import Placing
from segengine.planning.layout import Cut
from segengine.planning.scan import Scan, scanning
from segengine.progress import result_of
from segengine.sources._files import is_url, with_remedy
from segengine.sources._grid import Grid
from segengine.sources.listing import counted, list_entries

LOOKED_AT = 8
"""Files of the commonest kind whose headers are read."""
SCHEMA = "job.schema.json"


@dataclass(frozen=True, slots=True)
class InitReport:
    """What `init` found and wrote."""

    job: str
    """The file."""
    found: str
    """What the folder holds, in words."""

    def lines(self) -> tuple[str, ...]:
        """Text for a terminal."""
        return (
            f"{self.job}: {self.found}",
            f"what it would do: segengine plan {self.job}",
            f"do it: segengine run {self.job}",
        )


def init(path: str = ".", out: str = "job.yaml") -> InitReport:
    """Write a job for what lies at `path`, a file, folder, glob or URL. Raises SegengineError.

    Nothing that is there is replaced: JobError.
    """
    file = Path(os.path.abspath(os.path.expanduser(out)))
    if os.path.lexists(file):
        raise JobError(f"--out: {out} is there already; name another file")
    if not file.parent.is_dir():
        raise JobError(f"--out: {file.parent}: no such folder")
    require_served(path, "PATH")
    place = path if is_url(path) else os.path.abspath(os.path.expanduser(path))
    try:
        listing = list_entries([place])
        files: dict[str, list[str]] = defaultdict(list)
        for entry in listing.entries:
            files[listing.kind_of(entry)].append(entry.uri)
        kinds = sorted(files, key=lambda kind: -len(files[kind]))
        kind = kinds[0]
        scan = _looked_at(kind, files[kind][:LOOKED_AT])
    except ValueError as error:
        raise JobError(str(error).replace("source.paths: ", "", 1).replace(place, path)) from error
    except TransientInputError as error:
        raise SegengineError(with_remedy(f"{path}: {error}")) from error
    seen = next(iter(scan.layouts.values()), None)
    if seen is None:
        reason = scan.unplaced[0].reason if scan.unplaced else "nothing can be read"
        raise JobError(f"{path}: none of the first {LOOKED_AT} files can be read: {reason}")
    shown = place if is_url(place) else os.path.relpath(place, file.parent)
    places = [layout.placing for layout in scan.layouts.values()]
    overlap = _overlap(places)
    text = "\n".join(_text(shown, kinds, kind, seen.bands, _name(place), places, overlap))
    try:
        with file.open("x", encoding="utf-8") as written:
            written.write(text + "\n")
    except OSError as error:
        raise SegengineError(f"--out: {out} cannot be written: {error.strerror}") from error
    many = ", ".join(f"{len(files[k]):,} {_WORDS.get(k, k)}" for k in kinds)
    bands = f"{seen.bands} band{'s' if seen.bands != 1 else ''} of {seen.dtype}"
    skipped = f"; skipped: {counted(listing.skipped)}" if listing.skipped else ""
    one = "; some overlap, and source.mosaic makes them one map" if overlap else ""
    return InitReport(out, f"{many} at {path}, the first with {bands}{one}{skipped}")


_WORDS = {"images": "images", "raster": "rasters", "video": "videos", "zarr": "Zarr arrays",
          "volume": "volumes"}  # fmt: skip


def _name(place: str) -> str:
    """Of the folder that is named, or of the fixed part of a glob."""
    parts = [part for part in place.split("/") if part and not set(part) & set("*?[")]
    name = parts[-1].partition(".")[0] if parts else ""
    return name or "segengine"


def _looked_at(kind: str, files: list[str]) -> Scan:
    """What the headers of some files of a kind say."""
    source = {**SourceSpec(kind=kind, paths=files).model_dump(), "trust": False}
    return result_of(scanning(source, {}, (), Cut(512, 2048)))


def _overlap(places: Sequence[Placing]) -> bool:
    """Whether two of some scenes of one CRS share ground, as their boxes say."""
    boxes = [(place.wkt, _bounds(place)) for place in places if place.georeferenced]
    return any(
        wkt == other and max(a[0], b[0]) < min(a[2], b[2]) and max(a[1], b[1]) < min(a[3], b[3])
        for (wkt, a), (other, b) in combinations(boxes, 2)
    )


def _bounds(place: Placing) -> tuple[float, float, float, float]:
    a, b, c, d, e, f = map(float, place.transform)
    return Grid(place.height, place.width, (a, b, c, d, e, f), place.wkt).bounds


def _segmenter(kinds: Sequence[str], most: str, bands: int) -> dict[str, Any]:
    """A choice that takes all of them."""
    if bands == 1 and len(kinds) == 1:
        return {"kind": "threshold"}
    measured = most in ("raster", "zarr")
    found = {"kind": "kmeans", "clusters": 8 if measured else 4}
    found |= {"scope": "run" if measured else "frame"}
    return found if kinds == ["images"] and bands == 3 else {**found, "space": "bands"}


def _text(
    path: str,
    kinds: Sequence[str],
    most: str,
    bands: int,
    name: str,
    places: Sequence[Placing],
    overlap: bool,
) -> Iterator[str]:
    """Lines of the job, each key with what it means, in the words of the models that check it."""
    segmenter = _segmenter(kinds, most, bands)
    yield f"# yaml-language-server: $schema={SCHEMA}"
    yield f"# For editors that know the line above: segengine schema > {SCHEMA}"
    yield "# Source, segmenter and store are needed. Every key: deployments/jobs/README.md of segengine."
    yield from _key(Job, "name", _said(name))
    yield from ("", "source:")
    yield from _key(SourceSpec, "kind", most if len(kinds) == 1 else "auto", "  ")
    yield from _key(SourceSpec, "paths", f"[{_said(path)}]", "  ")
    if most in ("raster", "zarr"):
        yield from _key(SourceSpec, "bands", "[3, 2, 1]", "  # ")
        if any(place.georeferenced for place in places):
            yield from _map(places, overlap)
    elif most != "volume":
        yield from _key(SourceSpec, "color", "gray", "  # ")
    if most == "video":
        yield from _key(SourceSpec, "every", "10", "  # ")
    yield from ("", "# truth:")
    yield from _key(TruthSpec, "paths", '["labels/{stem}.png"]', "#   ")
    yield from _key(TruthSpec, "classes", "[background, object]", "#   ")
    yield from ("", "segmenter:")
    for key, value in segmenter.items():
        yield from (f"  # {_OPTIONS[key]}", f"  {key}: {value}")
    yield from ("", "store:")
    yield from _key(StoreSpec, "path", "masks.zarr", "  ")
    for key in ("chunk", "shard"):
        yield from _key(StoreSpec, key, StoreSpec.model_fields[key].default, "  ")
    yield from ("", "cluster:")
    yield from _key(ClusterSpec, "workers", "auto", "  ")
    yield from ("", "faults:")
    for key in ("retries", "deadline"):
        yield from _key(FaultsSpec, key, FaultsSpec.model_fields[key].default, "  ")


def _map(places: Sequence[Placing], overlap: bool) -> Iterator[str]:
    """Keys of scenes that lie somewhere on earth."""
    yield from _key(SourceSpec, "area", "field.geojson", "  # ")
    yield from _key(SourceSpec, "resolution", "10 m", "  # ")
    several = len({place.wkt for place in places if place.georeferenced}) > 1
    if several:
        yield "  # These scenes are of several CRS: one map of them needs the next key."
    yield from _key(SourceSpec, "crs", '"EPSG:32633"', "  # ")
    if overlap:
        yield "  # Some of these scenes overlap: as they are, each has a mask of its own."
    yield from _key(SourceSpec, "mosaic", "newest", "  # ")


_OPTIONS = {
    "kind": "How pixels are told apart: one of `segengine segmenters`",
    "clusters": "How many classes there are to be",
    "scope": "What has a fit of its own: frame, scene or run; of a run a class is the same everywhere",
    "space": "What distances are measured in: the bands as they are, or a space of colours",
}


def _key(model: Any, key: str, value: object, indent: str = "") -> Iterator[str]:
    yield f"{indent}# {model.model_fields[key].description}"
    yield f"{indent}{key}: {value}"


def _said(text: str) -> str:
    """As a YAML string: JSON's are."""
    return json.dumps(text, ensure_ascii=False)
