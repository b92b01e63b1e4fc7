"""Files that GDAL's vector drivers write, from the same features as the other formats.

Features stream from the parts to the driver, so that no scene is in memory as a whole. A layer is of one
type, as these formats want: Polygon where every object is one, else MultiPolygon.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from segengine.errors import JobError, SegengineError
from segengine.export._features import crs_wkt, features, to_lonlat
from segengine.export._instances import Piece
from segengine.export._mercator import Clip, without_tiles
from segengine.export._objects import Objects
from segengine.export._shaping import Shaping
from segengine.export._table import are_single, as_single, decoded, encoded, schema
from segengine.outputs import claimed
from segengine.reader import SceneStore, open_store

VERSION = 2
_DEGREES = "EPSG:4326"

Options = Callable[[SceneStore], dict[str, str]]
"""What a driver is asked for a scene; raises JobError where it cannot be written."""


def write(
    store_path: str,
    to: str,
    form: str,
    driver: str,
    suffix: str,
    shaping: Shaping,
    overwrite: bool,
    options: Options = lambda _: {},
    web: Clip | None = None,
) -> list[str]:
    """Write `<scene><suffix>` below the folder `to` for each scene with objects; the files written.

    `form`: the export's name; `driver`: GDAL's. `web`: cuts what is to be on the web's map, at the
    antimeridian and where the map ends; without it polygons are in the scene's CRS. Raises JobError,
    StoreError; SegengineError where some scenes cannot be written, once all others are.
    """
    _pyogrio(form)
    store = open_store(store_path)
    objects = Objects(store, shaping)
    asked, refused = {}, []
    for name in objects.scenes:
        try:
            asked[name] = options(store[name])
        except JobError as error:
            refused.append(error)
    if refused and not asked:
        raise refused[0]
    paths = [Path(to, f"{name}{suffix}") for name in asked]
    parts = objects.parts(claimed(store, to, paths, overwrite=overwrite), form, VERSION)
    written = []
    kept = (found for found in objects.by_scene() if found[0].name in asked)
    for path, (scene, pieces) in zip(paths, kept, strict=True):
        encode = partial(_encoded, scene, shaping, web is not None)
        assemble = partial(_assembled, form, driver, suffix, scene, asked[scene.name], web)
        written.append(parts.write(path, pieces, encode, assemble))
    parts.close()
    if refused:
        left = "; ".join(str(error).removeprefix(f"--to {form}: ") for error in refused)
        raise SegengineError(f"{len(written)} written, and {len(refused)} left out: {left}")
    return written


def _pyogrio(form: str) -> Any:
    try:
        import pyogrio
    except ImportError as error:
        raise JobError(
            f"--to {form}: needs {error.name}, which is not installed; "
            "python -m pip install 'segengine[earth]' brings it"
        ) from None
    return pyogrio


def _encoded(scene: SceneStore, shaping: Shaping, web: bool, piece: Piece) -> bytes:
    wkt = crs_wkt(scene) if web else None
    lonlat = None if wkt is None else to_lonlat(wkt, scene.name)
    return encoded(features(scene, piece, lonlat, shaping), boxes=False, multi=True)


def _assembled(
    form: str,
    driver: str,
    suffix: str,
    scene: SceneStore,
    options: dict[str, str],
    web: Clip | None,
    out: Path,
    parts: list[Path],
) -> None:
    import pyarrow as pa

    pyogrio = _pyogrio(form)
    fields = schema(boxes=False)
    single = web is None and all(are_single(decoded(part)) for part in parts)
    tables: Iterator[Any] = (
        decoded(part) if web is None else web.of(decoded(part)) for part in parts
    )
    if web is not None:
        shown = (table for table in tables if len(table))
        first = next(shown, None)
        if first is None:
            out.write_bytes(without_tiles(scene.name))  # the driver cannot
            return
        tables = itertools.chain([first], shown)
    batches = (
        batch for table in tables for batch in (as_single(table) if single else table).to_batches()
    )
    named = out.with_name(f"{out.name}{suffix}")  # drivers look at the suffix
    named.unlink(missing_ok=True)  # never through a link that has this name
    try:
        with _dated(pyogrio, scene), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'crs' was not provided")
            pyogrio.write_arrow(
                pa.RecordBatchReader.from_batches(fields, batches),
                named,
                layer=scene.name,
                driver=driver,
                geometry_name="geometry",
                geometry_type="Polygon" if single else "MultiPolygon",
                crs=crs_wkt(scene) if web is None else _DEGREES,
                dataset_options=options,
            )
        named.replace(out)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise OSError(str(error)) from error
    finally:
        named.unlink(missing_ok=True)


@contextmanager
def _dated(pyogrio: Any, scene: SceneStore) -> Iterator[None]:
    """What a driver takes for now: when the masks were made, for the same bytes each time."""
    stamp = max((record.finished for record in scene.store.records(scene.name)), default=0.0)
    now = datetime.fromtimestamp(stamp, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": now})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})
