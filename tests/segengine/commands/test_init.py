"""`segengine init`: what it writes is a job that runs, and it replaces nothing."""

from __future__ import annotations

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
from tests.segengine.sources.scenes import field, write


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
