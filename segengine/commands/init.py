"""A first job for the files of a folder: they are looked at, and nothing is asked.

What it writes is a choice that runs, not the best one: k-means where there are colours or bands to
tell apart, a threshold where there is one band.
"""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segengine.commands._bandfiles import BandFiles, band_files
from segengine.commands._catalogs import catalog_at, first_items
from segengine.commands._oneglob import as_it_stands, one_glob
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
from segengine.store.layouts import Layout

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


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What lies at the paths, as far as it was looked at."""

    kinds: Sequence[str]
    """The commonest first."""
    paths: Sequence[str]
    """That find it, absolute."""
    layouts: Sequence[Layout]
    """Of some scenes; of one of several files, of the first of them."""
    said: str
    """How many there are, in words."""
    skipped: str = ""
    bands: Sequence[str] = ()
    """Where scenes are of several files: their names."""
    alike: BandFiles | None = None
    """Files that look like bands of one scene, and that no path finds alone."""
    assets: Sequence[str] = ()

    @property
    def count(self) -> int:
        """Bands of a scene."""
        return len(self.bands) or self.layouts[0].bands

    @property
    def places(self) -> list[Placing]:
        """Where the scenes lie."""
        return [layout.placing for layout in self.layouts]


def init(path: str | Sequence[str] = ".", out: str = "job.yaml") -> InitReport:
    """Write a job for what lies at `path`, files, folders, globs or URLs. Raises SegengineError.

    Several are a list, or one text with commas. Nothing that is there is replaced: JobError.
    """
    file = Path(os.path.abspath(os.path.expanduser(out)))
    if os.path.lexists(file):
        raise JobError(f"--out: {out} is there already; name another file")
    if not file.parent.is_dir():
        raise JobError(f"--out: {file.parent}: no such folder")
    given = _several(path) if isinstance(path, str) else list(path)
    for each in given:
        require_served(each, "PATH")
    places = [p if is_url(p) else os.path.abspath(os.path.expanduser(p)) for p in given]
    try:
        catalogs = [place for place in map(catalog_at, places[:LOOKED_AT]) if place is not None]
        if catalogs and len(catalogs) == min(len(places), LOOKED_AT):
            found = _items([*catalogs, *places[LOOKED_AT:]])
        else:
            found = _files(given, places)
    except ValueError as error:
        message = str(error).replace("source.paths: ", "", 1)
        for place, each in zip(places, given, strict=True):
            message = message.replace(place, each)
        raise JobError(message) from error
    except TransientInputError as error:
        raise SegengineError(with_remedy(f"{_called(given)}: {error}")) from error
    shown, beside = (
        [p if is_url(p) else os.path.relpath(p, file.parent) for p in paths]
        for paths in (found.paths, [found.alike.path] if found.alike is not None else [])
    )
    overlap = _overlap(found.places)
    name = _name(places[0] if len(places) == 1 else places[0].rpartition("/")[0])
    text = "\n".join(_text(found, shown, beside, name, overlap, _free(file.parent)))
    try:
        with file.open("x", encoding="utf-8") as written:
            written.write(text + "\n")
    except OSError as error:
        raise SegengineError(f"--out: {out} cannot be written: {error.strerror}") from error
    bands = f"{found.count} band{'s' if found.count != 1 else ''} of {found.layouts[0].dtype}"
    one = "; some overlap, and source.mosaic makes them one map" if overlap else ""
    return InitReport(
        out, f"{found.said} at {_called(given)}, the first with {bands}{one}{found.skipped}"
    )


def _free(folder: Path) -> str:
    """A store that is not there: in one that is, the masks of another job would be of inputs gone."""
    names = itertools.chain(["masks.zarr"], (f"masks-{n}.zarr" for n in itertools.count(2)))
    return next(name for name in names if not os.path.lexists(folder / name))


def _several(path: str) -> list[str]:
    """A path, or some with commas between, where none is called so."""
    if "," not in path or is_url(path) or os.path.lexists(os.path.expanduser(path)):
        return [path]
    return [each.strip() for each in path.split(",") if each.strip()] or [path]


def _called(given: Sequence[str]) -> str:
    """What a user gave, also where a shell made it of a glob."""
    return given[0] if len(given) == 1 else f"{given[0]} and {len(given) - 1:,} more"


def _items(catalogs: Sequence[str]) -> _Inputs:
    found = first_items(catalogs, LOOKED_AT)
    count = len(found.layouts)
    said = f"{count:,} STAC item{'s' * (count != 1)}" + " or more" * (count == LOOKED_AT)
    layouts = list(found.layouts.values())
    return _Inputs(["stac"], catalogs, layouts, said, assets=found.assets)


def _files(given: Sequence[str], places: Sequence[str]) -> _Inputs:
    places = list(map(as_it_stands, places))
    try:
        listing = list_entries(places)
    except ValueError:  # files of one name
        glob = one_glob(places)
        if glob is None:
            raise
        places = [glob]
        listing = list_entries(places)
    files: dict[str, list[str]] = defaultdict(list)
    for entry in listing.entries:
        files[listing.kind_of(entry)].append(entry.uri)
    kinds = sorted(files, key=lambda kind: -len(files[kind]))
    kind = kinds[0]
    many = ", ".join(_counted(k, len(files[k])) for k in kinds)
    skipped = f"; skipped: {counted(listing.skipped)}" if listing.skipped else ""
    alike = band_files(files[kind]) if kind == "raster" else None
    if alike is not None:
        layouts = list(_of_several_files(alike))
        if layouts and alike.exact:
            scenes = "one scene" if len(alike.scenes) == 1 else f"{len(alike.scenes):,} scenes"
            left = len(listing.entries) - alike.files
            said = f"{scenes} of {len(alike.bands)} files each, a band a file,"
            others = "1 other file is" if left == 1 else f"{left:,} other files are"
            skipped = (f"; {others} left out" if left else "") + skipped
            return _Inputs([kind], [alike.path], layouts, said, skipped, bands=alike.bands)
        alike = alike if layouts else None
    scans = list(_looked_at(kind, files[kind][:LOOKED_AT]))
    layouts = [layout for scan in scans for layout in scan.layouts.values()]
    if not layouts:
        reasons = [each.reason for scan in scans for each in scan.unplaced]
        raise JobError(
            f"{_called(given)}: none of the first {LOOKED_AT} files can be read: "
            f"{reasons[0] if reasons else 'nothing can be read'}"
        )
    return _Inputs(kinds, places, layouts, many, skipped, alike=alike)


def _of_several_files(alike: BandFiles) -> Iterator[Layout]:
    """Of the first scenes that are what their files' names say: one band a file, of the same ground."""
    seen = 0
    for files in alike.scenes:
        scans = _looked_at("raster", list(files.values()))
        layouts = [layout for scan in scans for layout in scan.layouts.values()]
        if len(layouts) < 2 or any(la.bands > 1 or la.shape[0] > 1 for la in layouts):
            return
        if not _same_ground([layout.placing for layout in layouts]):
            return
        yield layouts[0]
        seen += len(files)
        if seen >= LOOKED_AT:
            return


def _same_ground(places: Sequence[Placing]) -> bool:
    """Whether scenes of one CRS cover the same, but for a pixel of the coarsest."""
    if not all(place.georeferenced for place in places) or len({p.wkt for p in places}) > 1:
        return False
    boxes = np.array([_bounds(place) for place in places])
    coarsest = max(max(abs(float(p.transform[0])), abs(float(p.transform[1]))) for p in places)
    return bool((np.ptp(boxes, axis=0) <= 2 * coarsest).all())


_WORDS = {"images": "image", "zarr": "Zarr array"}


def _counted(kind: str, count: int) -> str:
    return f"{count:,} {_WORDS.get(kind, kind)}{'s' * (count != 1)}"


def _name(place: str) -> str:
    """Of the folder that is named, or of the fixed part of a glob."""
    parts = [part for part in place.split("/") if part and not set(part) & set("*?[")]
    name = parts[-1].partition(".")[0] if parts else ""
    return name or "segengine"


def _looked_at(kind: str, files: Sequence[str]) -> Iterator[Scan]:
    """What the headers of some files of a kind say.

    A file that is named by its own path is called by its name alone, so that files of one name, which
    lie in several folders, are looked at in turn.
    """
    seen = Counter[str]()
    turns: dict[int, list[str]] = defaultdict(list)
    for file in files:
        name = file.rpartition("/")[2]
        turns[seen[name]].append(as_it_stands(file))
        seen[name] += 1
    for paths in turns.values():
        source = {**SourceSpec(kind=kind, paths=paths).model_dump(), "trust": False}
        yield result_of(scanning(source, {}, (), Cut(512, 2048)))


def _overlap(places: Sequence[Placing]) -> bool:
    """Whether two of some scenes of one CRS share ground, as their boxes say."""
    boxes = [(place.wkt, _bounds(place)) for place in places if place.georeferenced]
    return any(
        wkt == other and max(a[0], b[0]) < min(a[2], b[2]) and max(a[1], b[1]) < min(a[3], b[3])
        for (wkt, a), (other, b) in itertools.combinations(boxes, 2)
    )


def _bounds(place: Placing) -> tuple[float, float, float, float]:
    a, b, c, d, e, f = map(float, place.transform)
    return Grid(place.height, place.width, (a, b, c, d, e, f), place.wkt).bounds


def _segmenter(kinds: Sequence[str], most: str, bands: int) -> dict[str, Any]:
    """A choice that takes all of them."""
    if bands == 1 and len(kinds) == 1:
        return {"kind": "threshold"}
    measured = most in ("raster", "zarr", "stac")
    found = {"kind": "kmeans", "clusters": 8 if measured else 4}
    found |= {"scope": "run" if measured else "frame"}
    return found if kinds == ["images"] and bands == 3 else {**found, "space": "bands"}


def _text(
    found: _Inputs,
    paths: Sequence[str],
    beside: Sequence[str],
    name: str,
    overlap: bool,
    store: str,
) -> Iterator[str]:
    """Lines of the job, each key with what it means, in the words of the models that check it.

    `beside`: the path of scenes of several files, where it is only told.
    """
    kinds, most = found.kinds, found.kinds[0]
    segmenter = _segmenter(kinds, most, found.count)
    yield f"# yaml-language-server: $schema={SCHEMA}"
    yield f"# For editors that know the line above: segengine schema > {SCHEMA}"
    yield "# Source, segmenter and store are needed. Every key: deployments/jobs/README.md of segengine."
    yield from _key(Job, "name", _said(name))
    yield from ("", "source:")
    yield from _key(SourceSpec, "kind", most if len(kinds) == 1 else "auto", "  ")
    yield from _key(SourceSpec, "paths", _list(paths), "  ")
    if found.bands:
        yield "  # Files that differ in {band} alone are one scene, called as {scene} says. Their order:"
        yield f"  bands: {_list(found.bands)}"
    elif found.assets:
        yield f"  # {_OPTIONS['assets']}"
        yield f"  # assets: {_list(found.assets)}"
    if found.alike is not None:
        yield "  # These files look like bands of one scene. This finds it, and others that are named so:"
        yield f"  # paths: {_list(beside)}"
        yield "  # and these are its bands:"
        yield f"  # bands: {_list(found.alike.bands)}"
    if most in ("raster", "zarr", "stac"):
        if not (found.bands or found.alike or most == "stac"):
            yield from _key(SourceSpec, "bands", "[3, 2, 1]", "  # ")
        if any(place.georeferenced for place in found.places):
            yield from _map(found.places, overlap)
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
    yield from _key(StoreSpec, "path", store, "  ")
    for key in ("chunk", "shard"):
        yield from _key(StoreSpec, key, StoreSpec.model_fields[key].default, "  ")
    yield from ("", "cluster:")
    yield from _key(ClusterSpec, "workers", "auto", "  ")
    yield from ("", "faults:")
    for key in ("retries", "deadline"):
        yield from _key(FaultsSpec, key, FaultsSpec.model_fields[key].default, "  ")


def _list(texts: Sequence[str]) -> str:
    return f"[{', '.join(map(_said, texts))}]"


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
    "assets": "Keys of assets, or an eo:common_name, in the order of bands; "
    "omitted = those of the role data",
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
