"""`segengine init`: what it writes is a job that runs, and it replaces nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import av
import cv2
import jsonschema
import numpy as np
import pytest
import rasterio
import yaml
import zarr

import segengine
from segengine.commands.init import init
from segengine.errors import JobError
from segengine.job import Job, load_job
from segengine.planning.layout import Cut
from segengine.planning.scan import scan
from tests.segengine.sources.scenes import field, write
from tests.segengine.sources.stac_scenes import make_item, save


def photos(folder: Path) -> None:
    for i in range(3):
        image = np.random.default_rng(i).integers(0, 256, (48, 64, 3), np.uint8)
        assert cv2.imwrite(str(folder / f"{i}.png"), image)


def gray(folder: Path) -> None:
    assert cv2.imwrite(str(folder / "g.png"), np.eye(40, dtype=np.uint8) * 200)


def scenes(folder: Path) -> None:
    about = {"driver": "GTiff", "height": 60, "width": 50, "count": 4, "dtype": "uint16"}
    where = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
    with rasterio.open(folder / "s.tif", "w", **about, **where) as file:
        file.write(np.random.default_rng(0).integers(0, 4000, (4, 60, 50), np.uint16))


def video(folder: Path) -> None:
    with av.open(str(folder / "v.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "gray"
        for i in range(4):
            image = np.full((48, 64), 50 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="gray")))
        container.mux(stream.encode())


def array(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 52, 3), np.uint8)
    zarr.save_array(folder / "a.zarr", pixels)


def both(folder: Path) -> None:
    photos(folder)
    scenes(folder)


@pytest.mark.parametrize(
    ("write", "kind", "segmenter", "frames"),
    [
        (photos, "images", {"kind": "kmeans", "clusters": 4, "scope": "frame"}, 3),
        (gray, "images", {"kind": "threshold"}, 1),
        (scenes, "raster", {"kind": "kmeans", "clusters": 8, "scope": "run", "space": "bands"}, 1),
        (video, "video", {"kind": "threshold"}, 4),
        (array, "zarr", {"kind": "kmeans", "clusters": 8, "scope": "run", "space": "bands"}, 2),
        (both, "auto", {"kind": "kmeans", "clusters": 4, "scope": "frame", "space": "bands"}, 4),
    ],
)
def test_what_it_writes_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Any,
    kind: str,
    segmenter: Any,
    frames: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "in put"
    folder.mkdir()
    write(folder)
    (folder / "notes.txt").touch()
    (tmp_path / "jobs").mkdir()
    said = " ".join(init("in put", "jobs/first.yaml").lines())
    assert "skipped: 1 .txt" in said
    assert "segengine run jobs/first.yaml" in said
    text = (tmp_path / "jobs/first.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=job.schema.json\n")
    written = yaml.safe_load(text)
    jsonschema.Draft202012Validator(Job.model_json_schema()).validate(written)
    assert written["source"] == {"kind": kind, "paths": ["../in put"]}
    assert written["segmenter"] == segmenter
    summary = segengine.run(load_job("jobs/first.yaml"))
    assert (summary.frames, summary.exit_code) == (frames, 0)
    assert summary.store == str(tmp_path / "jobs/masks.zarr")
    assert segengine.run(load_job("jobs/first.yaml")).computed == 0


def test_the_store_of_another_job_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    for taken, free in ((), "masks.zarr"), (("masks.zarr",), "masks-2.zarr"):
        for name in taken:
            (tmp_path / name).mkdir()
        init("a.png", f"{free}.yaml")
        assert yaml.safe_load(Path(f"{free}.yaml").read_text())["store"]["path"] == free


def test_files_of_one_name_in_several_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("T1", "T2", "T3"):
        bands(tmp_path / "in" / name, "img.tif")
        (tmp_path / "ph" / name).mkdir(parents=True)
        gray(tmp_path / "ph" / name)
    (tmp_path / "ph/T1/g.png").write_bytes(b"no picture")
    for path, kind, overlap in (("in", "raster", True), ("ph", "images", False)):
        (tmp_path / "job.yaml").unlink(missing_ok=True)
        said = init(path).lines()[0]
        assert f"3 {kind.removesuffix('s')}s at {path}, the first with 1 band of" in said
        assert ("some overlap" in said) == overlap
        assert source() == {"kind": kind, "paths": [path]}
    summary = segengine.run(load_job("job.yaml"))
    assert (summary.frames, summary.exit_code) == (3, 3)


def test_every_key_is_explained(tmp_path: Path) -> None:
    photos(tmp_path)
    init(str(tmp_path), str(tmp_path / "job.yaml"))
    lines = (tmp_path / "job.yaml").read_text().splitlines()
    keys = [
        i for i, line in enumerate(lines) if re.match(r"(#? *)\w+: \S", line.replace("# ", "", 1))
    ]
    keys = [i for i in keys if not lines[i].startswith(("# yaml-", "# For"))]
    assert len(keys) >= 12
    for i in keys:
        assert re.match(r" *#+ .{10}", lines[i - 1]), lines[i]


@pytest.mark.parametrize(("step", "overlap"), [(400, True), (500, False)])
def test_scenes_that_overlap_are_told_of_the_mosaic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, overlap: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for i in range(2):
        write(tmp_path / f"in/{i}.tif", field(10, 500, i), 10, (600_000.0 + i * step, 5_000_000.0))
    said = init("in").lines()[0]
    assert ("source.mosaic" in said) == overlap
    text = (tmp_path / "job.yaml").read_text()
    assert ("Some of these scenes overlap" in text) == overlap
    assert segengine.run(load_job("job.yaml")).frames == 2
    asked = re.sub(r"^  # (mosaic: newest)$", r"  \1", text, flags=re.MULTILINE)
    assert asked != text
    (tmp_path / "map.yaml").write_text(asked.replace("masks.zarr", "map.zarr"))
    assert segengine.run(load_job("map.yaml")).frames == 1


def bands(folder: Path, *names: str, day: int = 0) -> None:
    """Files of one band each, all of the same ground; later days lie beside it."""
    for i, name in enumerate(names):
        values = field(10, 300, i).astype(np.uint16)
        write(folder / name, values, 10, (600_000.0 + day * 400, 5_000_000.0))


def source(path: str = "job.yaml") -> Any:
    return yaml.safe_load(Path(path).read_text())["source"]


@pytest.mark.parametrize(
    ("names", "path", "found"),
    [
        (("T1_B03.tif", "T1_B02.tif"), "in/{scene}_{band}.tif", ["B02", "B03"]),
        (("T1/nir.tif", "T1/red.tif"), "in/{scene}/{band}.tif", ["red", "nir"]),
        (
            ("T1/T1_B8A_20m.tif", "T1/T1_B08_20m.tif"),
            "in/T1/{scene}_{band}_20m.tif",
            ["B08", "B8A"],
        ),
        (("T1_SR_B4.tif", "T1_SR_B10.tif"), "in/{scene}_{band}.tif", ["SR_B4", "SR_B10"]),
        (("red_clip.tif", "nir_clip.tif"), "{scene}/{band}_clip.tif", ["red", "nir"]),
    ],
)
def test_files_of_one_band_each_are_one_scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: Any, path: str, found: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    bands(tmp_path / "in", *names)
    said = init("in").lines()[0]
    assert "one scene of 2 files each, a band a file, at in, the first with 2 bands" in said
    assert "overlap" not in said
    assert source() == {"kind": "raster", "paths": [path], "bands": found}
    (layout,) = scanned().layouts.values()
    assert layout.bands == 2
    assert layout.attributes["band_names"] == found


def scanned() -> Any:
    return scan(load_job("job.yaml").source.model_dump() | {"trust": False}, {}, (), Cut(64, 256))


def test_several_scenes_of_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for day, name in enumerate(("S1", "S2")):
        bands(tmp_path / "in" / name, f"{name}_B02.tif", f"{name}_B03.tif", day=day)
    write(tmp_path / "in/S1/S1_TCI.tif", np.zeros((3, 30, 30), np.uint8), 10)
    said = init("in").lines()[0]
    assert "2 scenes of 2 files each" in said
    assert "1 other files are left out" not in said
    assert "1 other file is left out" in said
    assert source()["paths"] == ["in/*/{scene}_{band}.tif"]
    assert sorted(scanned().layouts) == ["S1", "S2"]


@pytest.mark.parametrize("left", ["", "_10m"])
def test_scenes_whose_names_begin_with_the_band(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for day, name in enumerate(("S0", "S_1")):
        bands(tmp_path / "in", f"red_{name}{left}.tif", f"nir_{name}{left}.tif", day=day)
    said = init("in").lines()[0]
    assert "2 scenes of 2 files each" in said
    assert "left out" not in said
    assert source()["paths"] == [f"in/{{band}}_{{scene}}{left}.tif"]
    assert sorted(scanned().layouts) == ["S0", "S_1"]


def test_folders_are_scenes_where_their_files_are_called_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for day, name in enumerate(("T1", "T2")):
        for each in ("clip", "raw"):
            bands(tmp_path / "in" / name, f"red_{each}.tif", f"nir_{each}.tif", day=day)
    init("in")
    assert source()["paths"] == ["in/{scene}/{band}_clip.tif"]


@pytest.mark.parametrize("name", ["{scene}.tif", "{scene}_{band}.tif"])
def test_folders_are_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    for day, scene in enumerate(("T1", "T2")):
        for band in ("red", "nir"):
            bands(tmp_path / "in" / band, name.format(scene=scene, band=band), day=day)
    for number, given in enumerate(("in", ["in/nir", "in/red"])):
        assert "2 scenes of 2 files each" in init(given, f"{number}.yaml").lines()[0]
        found = yaml.safe_load(Path(f"{number}.yaml").read_text())["source"]
        assert found["paths"] == [f"in/{{band}}/{name}"]
        assert found["bands"] == ["red", "nir"]
    Path("0.yaml").rename("job.yaml")
    assert sorted(scanned().layouts) == ["T1", "T2"]


def test_what_a_shell_made_of_a_glob_is_one_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("T1", "T2", "T3[x]"):
        (tmp_path / "ph" / name).mkdir(parents=True)
        gray(tmp_path / "ph" / name)
    said = init(sorted(map(str, Path("ph").glob("*/g.png"))))
    assert said.lines()[0].startswith("job.yaml: 3 images at ph/T1/g.png and 2 more")
    assert source()["paths"] == ["ph/*/g.png"]
    assert segengine.run(load_job("job.yaml")).frames == 3
    with pytest.raises(JobError, match=r"would both be named g\.png"):
        init(["ph/T1/g.png", "ph/T2/g.png"], "some.yaml")  # nothing else is taken unasked


@pytest.mark.parametrize("given", ["in", "in/{scene}.tif"])
def test_braces_in_a_name_are_no_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.chdir(tmp_path)
    bands(tmp_path / "in", "{scene}.tif")
    assert init(given).lines()[0].startswith(f"job.yaml: 1 raster at {given}, ")
    assert [layout.names for layout in scanned().layouts.values()] == [("{scene}.tif",)]


def test_a_folder_of_landsat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scene = "LC09_L2SP_193027_20260109_20260118_02_T1"
    others = ("ST_B10", "QA_PIXEL", "QA_RADSAT", "SR_QA_AEROSOL", *(f"ST_{each}" for each in
              ("ATRAN", "CDIST", "DRAD", "EMIS", "EMSD", "QA", "TRAD", "URAD")))  # fmt: skip
    told = [f"SR_B{i}" for i in range(1, 8)]
    bands(tmp_path / "in" / scene, *(f"{scene}_{each}.TIF" for each in (*others, *told)))
    said = init("in").lines()[0]
    assert "one scene of 7 files each" in said
    assert "12 other files are left out" in said
    path = f"in/{scene}/{{scene}}_{{band}}.TIF"
    assert source() == {"kind": "raster", "paths": [path], "bands": told}
    assert sorted(scanned().layouts) == [scene]


@pytest.mark.parametrize("given", ["in/*/?.json", ["in/a/a.json", "in/b/b.json"]])
def test_several_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: Any) -> None:
    monkeypatch.chdir(tmp_path)
    values = np.full((30, 30), 7, np.uint16)
    items = [make_item(tmp_path / "in", n, {"red": values}, i) for i, n in enumerate("ab")]
    save(tmp_path / "in", *items)
    assert "2 STAC items at in/" in init(given).lines()[0]
    assert source() == {"kind": "stac", "paths": given if isinstance(given, list) else [given]}
    assert sorted(scanned().layouts) == ["a", "b"]


@pytest.mark.parametrize(
    "given", ["in/T1_B02.tif,in/T1_B03.tif", ["in/T1_B02.tif", "in/T1_B03.tif"]]
)
def test_files_that_are_named_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    bands(tmp_path / "in", "T1_B02.tif", "T1_B03.tif")
    assert " at in/T1_B02.tif and 1 more, the first with 2 bands" in init(given).lines()[0]
    assert yaml.safe_load(Path("job.yaml").read_text())["name"] == "in"
    assert source()["paths"] == ["in/{scene}_{band}.tif"]
    bands(tmp_path / "in", "T2_B02.tif", "T2_B03.tif", day=1)
    (tmp_path / "job.yaml").unlink()
    init(given)  # nothing else is taken unasked
    assert source() == {"kind": "raster", "paths": ["in/T1_B02.tif", "in/T1_B03.tif"]}
    text = Path("job.yaml").read_text()
    assert '  # paths: ["in/{scene}_{band}.tif"]\n' in text
    assert '  # bands: ["B02", "B03"]\n' in text


def test_names_alone_make_no_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bands(tmp_path / "in", "T1_B02.tif")
    bands(tmp_path / "in", "T1_B03.tif", day=3)  # of another place
    init("in")
    assert source() == {"kind": "raster", "paths": ["in"]}
    (tmp_path / "job.yaml").unlink()
    bands(tmp_path / "years", "field_2024.tif", "field_2025.tif")
    init("years")
    assert source() == {"kind": "raster", "paths": ["years"]}


@pytest.mark.parametrize("name", ["catalog.json", "collection.json", "a/a.json", ""])
def test_stac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    values = np.full((30, 30), 7, np.uint16)
    items = [
        make_item(tmp_path / "in", n, {"red": values, "nir": values}, i) for i, n in enumerate("ab")
    ]
    save(tmp_path / "in", *items)
    path = f"in/{name}".rstrip("/")
    said = init(path).lines()[0]
    count = "1 STAC item" if name == "a/a.json" else "2 STAC items"
    assert f"{count} at {path}, the first with 2 bands of uint16" in said
    assert source() == {"kind": "stac", "paths": [path if name else "in/catalog.json"]}
    text = Path("job.yaml").read_text()
    assert '  # assets: ["red", "nir"]\n' in text
    assert "  # mosaic: newest\n" in text
    assert len(scanned().layouts) == int(count[0])


def test_stac_without_a_scene_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    about = {"stac_version": "1.0.0", "id": "x", "description": "", "links": []}
    (tmp_path / "c.json").write_text(json.dumps({"type": "Catalog", **about}))
    (tmp_path / "i.json").write_text(json.dumps({"type": "Feature", **about}))
    (tmp_path / "field.json").write_text('{"type": "FeatureCollection", "features": []}')
    for path, said in (
        ("c.json", "^c.json: none of the first 8 items can be read, and it names no item"),
        ("i.json", "^i.json: none of the first 8 items can be read: x: has no geometry"),
        ("field.json", "field.json names no input|none of the first 8 files can be read"),
    ):
        with pytest.raises(JobError, match=said):
            init(path)
    assert not (tmp_path / "job.yaml").exists()


def test_the_masks_beside_the_photos_are_no_input_of_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(tmp_path)
    monkeypatch.chdir(tmp_path)
    init()
    assert yaml.safe_load((tmp_path / "job.yaml").read_text())["name"] == tmp_path.name
    assert segengine.run(load_job("job.yaml")).frames == 3
    again = segengine.run(load_job("job.yaml"))
    assert (again.frames, again.computed) == (3, 0)


def test_what_cannot_be_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.png").write_bytes(b"no picture")
    photos(tmp_path)
    (tmp_path / "mine.yaml").write_text("mine")
    for path, out, said in (
        ("none", "job.yaml", "^none names no input"),
        ("empty", "job.yaml", "^empty names no input"),
        ("bad", "job.yaml", "^bad: none of the first 8 files can be read: "),
        ("ftp://host/x", "job.yaml", "^PATH: ftp:// is not served"),
        (".", "mine.yaml", "^--out: mine.yaml is there already; name another file$"),
        (".", "no/job.yaml", "^--out: .*no: no such folder$"),
    ):
        with pytest.raises(JobError, match=said) as caught:
            init(path, out)
        assert "\n" not in str(caught.value)
    assert (tmp_path / "mine.yaml").read_text() == "mine"
    assert not (tmp_path / "job.yaml").exists()
