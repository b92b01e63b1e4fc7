"""Vector tiles where the web's map has an edge: the antimeridian, and Web Mercator's ends."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio import Affine

from segengine import registry

pytestmark = pytest.mark.usefixtures("plain_report")
CYLINDRICAL = "EPSG:6933"
"""Of equal area."""
PLACES = {
    "degrees": ("EPSG:4326", Affine(0.01, 0, 179.8, 0, -0.01, 10)),  # to 180.2
    "utm": ("EPSG:32660", Affine(1000, 0, 809_000, 0, -1000, 1_000_000)),  # the same meridian
    "pole": ("EPSG:3995", Affine(30_000, 0, -600_000, 0, -30_000, 600_000)),
    "far": ("EPSG:3995", Affine(1000, 0, 0, 0, -1000, 0)),  # all of it beyond
}
PIXELS = np.kron(np.indices((4, 4)).sum(axis=0) % 2 * 200, np.ones((10, 10))).astype("uint8")
"""Sixteen squares, alike only in their corners."""


@pytest.fixture(scope="module")
def exported(new_bench: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder of GeoJSON and PMTiles, and the lines that were said."""
    from segengine_flows import cli

    bench, out = new_bench(), tmp_path_factory.mktemp("out")
    bench.inputs.mkdir()
    for name, (crs, transform) in PLACES.items():
        with rasterio.open(
            bench.inputs / f"{name}.tif", "w", driver="GTiff", height=40, width=40, count=1,
            dtype="uint8", crs=crs, transform=transform,
        ) as file:  # fmt: skip
            file.write(PIXELS, 1)
    bench.run({"kind": "threshold", "method": "fixed", "levels": [100]})
    registry.load("exports", "geojson")(str(bench.store), str(out))
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        assert cli.main(["export", str(bench.store), "--to", "pmtiles", "--out", str(out)]) == 0
    return out, said.getvalue().splitlines()


def by_id(path: Path) -> Any:
    """Equal areas, by object; tiles give an object in pieces."""
    found = pyogrio.read_dataframe(path).to_crs(CYLINDRICAL)
    return found.dissolve("id").geometry.area


@pytest.mark.parametrize("name", ["degrees", "utm"])
def test_objects_at_the_antimeridian_lie_on_both_sides(
    name: str, exported: tuple[Path, list[str]]
) -> None:
    folder, _ = exported
    tiles, wanted = by_id(folder / f"{name}.pmtiles"), by_id(folder / f"{name}.geojson")
    assert list(tiles.index) == list(wanted.index) == sorted(wanted.index)
    assert len(wanted) == 16
    np.testing.assert_allclose(tiles, wanted, rtol=0.1)  # steps of tiles
    boxes = pyogrio.read_dataframe(folder / f"{name}.pmtiles").to_crs("EPSG:4326").bounds
    assert (boxes.maxx - boxes.minx).max() < 1
    assert boxes.minx.min() == pytest.approx(-180, abs=1e-6)
    assert boxes.maxx.max() == pytest.approx(180, abs=1e-6)


def test_what_lies_beyond_web_mercator_is_told(exported: tuple[Path, list[str]]) -> None:
    folder, said = exported
    shapes = pyogrio.read_dataframe(folder / "pole.geojson").geometry
    end = 85.0511287798
    out = int((shapes.bounds.miny > end).sum()) + 16
    cut = int(((shapes.bounds.miny <= end) & (shapes.bounds.maxy > end)).sum())
    assert len(shapes) == 16
    assert out > 16
    assert cut > 0
    (line,) = [each for each in said if "Web Mercator" in each]
    assert line == (
        "segengine: --to pmtiles: Web Mercator ends at 85.05 degrees north and south: "
        f"{out} polygons lie beyond it and are left out, {cut} polygons reach beyond it and are cut there"
    )
    tiles = by_id(folder / "pole.pmtiles")
    left = geopandas.read_file(folder / "pole.geojson").clip(shapely.box(-180, -end, 180, end))
    wanted = left.to_crs(CYLINDRICAL).set_index("id").geometry.area.sort_index()
    assert list(tiles.index) == list(wanted.index)
    np.testing.assert_allclose(tiles, wanted, rtol=0.1)
    assert not len(pyogrio.read_dataframe(folder / "far.pmtiles"))  # GDAL opens it
