"""Corrections as truth of a source of their own, and as files for others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import segengine
from segengine import corrections, registry
from segengine.errors import JobError
from segengine.export.coco import export as to_coco
from segengine.export.png import export as to_png
from segengine.registry import reader
from segengine.store.blobs import open_objects
from segengine.training.data import open_data
from segengine.training.job import parse_train_job
from tests.conftest import Bench

SEGMENTER = {"kind": "threshold", "method": "fixed", "levels": 100, "instances": "components"}


def corrected(bench: Bench, name: str, labels: np.ndarray) -> np.ndarray:
    """Save a correction; the mask as it is then."""
    store = bench.open()
    row = next(r for r in store.frames.to_pylist() if r["name"] == name)
    files = corrections.files_of(row["scene"], row["frame"])
    save = {"who": "Ada", "when": "2026-01-01T00:00:00Z"}
    objects = open_objects(str(bench.store))
    corrections.write(objects, files, files.labels, labels, "none", {}, save)
    return np.where(labels == 255, store[row["scene"]].mask_of(name), labels)


@pytest.fixture
def reviewed(bench: Bench) -> tuple[Bench, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A store of three photos, two of which were corrected; their pictures and masks."""
    rng = np.random.default_rng(1)
    pictures, masks = {}, {}
    for name, size in (("a.png", (40, 56)), ("sub/b.png", (33, 70)), ("c.png", (40, 56))):
        pictures[name] = rng.integers(0, 255, (*size, 3)).astype(np.uint8)
        bench.put(name, pictures[name])
    bench.run(SEGMENTER)
    for name in ("a.png", "sub/b.png"):
        drawn = np.full(pictures[name].shape[:2], 255, np.uint8)
        drawn[3:20, 5:30] = rng.integers(0, 2, (17, 25))
        masks[name] = corrected(bench, name, drawn)
    return bench, pictures, masks


def test_it_trains_on_corrected_frames_alone(reviewed: Any) -> None:
    bench, _, masks = reviewed
    job = parse_train_job(
        {
            "source": {"kind": "review", "paths": [str(bench.store)]},
            "architecture": "unet",
            "split": {"train": 0.5, "validation": 0.5},
            "out": str(bench.root / "out"),
        }
    )
    data = open_data(job)
    assert data.classes == ("background", "object")
    frames = {f.ref.name: f for part in (data.train, data.validation) for f in part.frames}
    assert frames.keys() == masks.keys()
    for name, frame in frames.items():
        found = frame.labels(*(slice(0, n) for n in frame.shape))
        np.testing.assert_array_equal(found, masks[name])


def test_pictures_are_the_jobs_own(reviewed: Any) -> None:
    bench, pictures, _ = reviewed
    spec = {"kind": "review", "paths": [str(bench.store)], "untouched": "void"}
    source = reader("review", spec)
    listing = source.list([str(bench.store)])  # type: ignore[attr-defined]
    assert [entry.name for entry in listing.entries] == ["a.png", "sub/b.png"]
    bench.store.rename(bench.root / "was.zarr")
    again = bench.run(SEGMENTER)  # the same frames, of another store
    assert again.computed
    with pytest.raises(ValueError, match="segengine review"):
        registry.create("sources", "review", {}).list([str(bench.store)])
    moved = {**spec, "paths": [str(bench.root / "was.zarr")]}
    store = {"path": str(bench.root / "new.zarr")}
    summary = bench.run(SEGMENTER, source=moved, store=store)
    assert summary.metrics["confusion"]
    for name in ("a.png", "sub/b.png"):
        (found,) = (s for s in segengine.open_store(store["path"]).scenes.values()
                    if name in {r.name for r in s.frames})  # fmt: skip
        frame = next(r.index for r in found.frames if r.name == name)
        np.testing.assert_array_equal(found.pixels(frame).pixels, pictures[name])


def test_label_images_of_corrected_frames(reviewed: Any) -> None:
    bench, _, masks = reviewed
    to = bench.root / "png"
    written = to_png(str(bench.store), str(to), corrected=True)
    assert sorted(written) == [str(to / "a.png"), str(to / "sub/b.png")]
    for name, mask in masks.items():
        np.testing.assert_array_equal(np.array(Image.open(to / name)), mask)


def test_objects_of_corrected_frames_as_pycocotools_reads_them(reviewed: Any) -> None:
    from pycocotools.coco import COCO

    bench, _, masks = reviewed
    (path,) = to_coco(str(bench.store), str(bench.root / "coco"), corrected=True)
    data = COCO(path)
    by_name = {image["file_name"]: number for number, image in data.imgs.items()}
    assert by_name.keys() == masks.keys()
    for name, mask in masks.items():
        rows = data.loadAnns(data.getAnnIds(imgIds=[by_name[name]]))
        together = np.sum([data.annToMask(row) for row in rows], axis=0)
        np.testing.assert_array_equal(together, mask == 1)
        assert all("score" not in row for row in rows)
    assert json.loads(Path(path).read_text())["categories"] == [
        {"id": 1, "name": "object", "supercategory": ""}
    ]


def test_without_a_correction_it_says_what_to_do(bench: Bench) -> None:
    bench.put("a.png", np.zeros((20, 30), np.uint8))
    bench.run(SEGMENTER)
    for export in (to_png, to_coco):
        with pytest.raises(JobError, match="segengine review"):
            export(str(bench.store), str(bench.root / "out"), corrected=True)
    with pytest.raises(JobError, match="neither mask nor void"):
        registry.create("sources", "review", {"untouched": "keep"})
