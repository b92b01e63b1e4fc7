"""A CRS that is far from the scenes, and metres where there are degrees, are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import segengine
from segengine.commands.plan import plan
from segengine.job import parse_job
from segengine.planning.places import _overlap
from tests.segengine.networks.test_trained import write_scene


def job(folder: Path, paths: list[str], **source: Any) -> dict[str, Any]:
    return {
        "source": {"paths": paths, **source},
        "segmenter": {"kind": "threshold"},
        "store": {"path": str(folder / "m.zarr"), "chunk": 32, "shard": 64},
    }


def told(folder: Path, paths: list[str], **source: Any) -> list[str]:
    """What `plan` and `run` both say, and nothing else."""
    wanted = job(folder, paths, **source)
    first = list(plan(parse_job(wanted)).notices)
    assert list(segengine.run(wanted).messages) == first
    return first


@pytest.fixture
def scene(tmp_path: Path) -> str:
    """At 15 degrees east, on the equator."""
    return write_scene(tmp_path / "a.tif", 10)


def test_a_crs_far_from_the_scenes_is_told(tmp_path: Path, scene: str) -> None:
    assert told(tmp_path, [scene], crs="EPSG:32735") == [
        "source.crs EPSG:32735 is far from scene a: it is for 24E to 30E, 80S to 0N; if that is not "
        "meant, name the CRS of their place"
    ]


@pytest.mark.parametrize("crs", [None, "EPSG:32633", "EPSG:3857", "EPSG:4326", "EPSG:32634"])
def test_a_crs_that_holds_them_is_not(tmp_path: Path, scene: str, crs: str | None) -> None:
    assert told(tmp_path, [scene], crs=crs) == []


def test_metres_say_nothing_of_degrees(tmp_path: Path) -> None:
    degrees = write_scene(tmp_path / "degrees.tif", 1e-4, "EPSG:4326")
    assert told(tmp_path, [degrees], resolution="10 m") == [
        "source.resolution 10 m says nothing of a CRS in degrees, and pixels are read as they are: scene "
        "degrees; set source.crs to one in metres, or the resolution in degrees as a number"
    ]
    store = segengine.open_store(tmp_path / "m.zarr")
    assert store["degrees"].mask.shape == (1, 64, 96)


@pytest.mark.parametrize(
    "source", [{"resolution": 2e-4}, {"resolution": "10 m", "crs": "EPSG:32633"}]
)
def test_what_has_sense_is_not_told(tmp_path: Path, source: dict[str, Any]) -> None:
    assert (
        told(tmp_path, [write_scene(tmp_path / "degrees.tif", 1e-4, "EPSG:4326")], **source) == []
    )


@given(
    lon=st.floats(-180, 180), lat=st.floats(-90, 90), west=st.floats(-180, 180),
    wide=st.floats(0.1, 60), south=st.floats(-90, 60), high=st.floats(0.1, 30),
)  # fmt: skip
def test_the_date_line_is_no_border(
    lon: float, lat: float, west: float, wide: float, south: float, high: float
) -> None:
    """A point meets an area just where its longitude, counted from the area's west, is below its width."""
    east = west + wide
    use = (west, south, east - 360 if east > 180 else east, south + high)
    inside = (lon - west) % 360 <= wide and south <= lat <= south + high
    near = min((lon - west) % 360, abs((lon - west) % 360 - wide)) < 1e-9
    assert near or _overlap([(lon, lat)], use) == inside
