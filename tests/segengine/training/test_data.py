"""Samples: right, streamed, the same for the same seed, and never of both parts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from segengine.errors import JobError, SegengineError
from segengine.networks.bundles import _parse
from segengine.sources.images import ImageSource
from segengine.training import synthetic
from segengine.training.data import Samples, class_counts, open_data, order
from segengine.training.fit import bundle_of
from segengine.types import Unreadable

from .conftest import MakeJob


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 9))
def test_an_order_has_each_sample_once_and_reaches_no_farther_than_its_window(
    count: int, window: int, seed: int
) -> None:
    drawn = order(count, window, np.random.default_rng(seed))
    assert sorted(drawn) == list(range(count))
    assert all(sample < place + window for place, sample in enumerate(drawn))


def test_every_epoch_is_its_own_and_a_seed_repeats_it(make_job: MakeJob) -> None:
    job = make_job()
    data = open_data(job)
    first, again, second = (Samples(data, job, epoch) for epoch in (0, 0, 1))
    assert first.picks == again.picks
    assert first.picks != second.picks
    for i in reversed(range(len(first))):  # in any order of reading
        for a, b in zip(first[i], again[i], strict=True):
            assert a.tobytes() == b.tobytes()
    other = make_job(seed=1)
    assert Samples(data, other, 0).picks != first.picks


def test_batches_have_the_shapes_and_types_that_training_needs(make_job: MakeJob) -> None:
    job = make_job(input={"size": [16, 24], "resize": "patches", "patches": 6})
    samples = Samples(open_data(job), job, 0)
    assert [len(samples[i][0]) for i in range(len(samples))] == [4, 2]
    pixels, labels = samples[0]
    assert (pixels.shape, pixels.dtype) == ((4, 16, 24, 3), np.float32)
    assert (labels.shape, labels.dtype) == ((4, 16, 24), np.int32)
    assert 0 <= pixels.min() < pixels.max() < 2
    assert set(np.unique(labels)) <= {0, 1, 2, 3, 4, 255}


def test_validation_is_every_cell_as_it_lies_on_disk(make_job: MakeJob, scenes: Path) -> None:
    job = make_job()
    samples = Samples(open_data(job), job, None)
    assert len(samples.picks) == 9 * len(samples.part.frames)
    for place in (0, len(samples.picks) - 1):
        index, rows, cols = samples.picks[place]
        name = samples.part.frames[index].ref.name
        image = np.asarray(Image.open(scenes / "images" / name))[rows, cols]
        truth = np.asarray(Image.open(scenes / "labels" / name))[rows, cols]
        found = samples.prepared(place)
        np.testing.assert_allclose(found.pixels, image / np.float32(255), rtol=1e-6)
        np.testing.assert_array_equal(found.labels, truth)


def test_no_frame_is_in_both_parts(make_job: MakeJob) -> None:
    data = open_data(make_job())
    train, validation = ({f.ref.name for f in p.frames} for p in (data.train, data.validation))
    assert train
    assert validation
    assert not train & validation


def test_pages_of_a_file_stay_in_one_part(make_job: MakeJob, tmp_path: Path) -> None:
    for name in "abcd":
        pages = np.random.default_rng(0).integers(0, 255, (3, 20, 20), np.uint8)
        tifffile.imwrite(tmp_path / f"{name}.tif", pages, photometric="minisblack")
        Image.fromarray(pages[0] % 2).save(tmp_path / f"{name}.png")
    truth = {"paths": [str(tmp_path / "{scene}.png")], "classes": ["even", "odd"]}
    source = {"kind": "images", "paths": [str(tmp_path / "*.tif")]}
    data = open_data(make_job(source=source, truth=truth))
    groups = [[f.group for f in part.frames] for part in (data.train, data.validation)]
    assert not set(groups[0]) & set(groups[1])
    assert all(groups[i].count(g) == 3 for i in (0, 1) for g in groups[i])


def test_nothing_is_read_before_it_is_asked_for(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    read = ImageSource.read

    def counted(self: ImageSource, frames: Any, rows: slice, cols: slice) -> Any:
        reads.append(len(frames))
        return read(self, frames, rows, cols)

    monkeypatch.setattr(ImageSource, "read", counted)
    job = make_job()
    samples = Samples(open_data(job), job, 0)
    assert not reads
    samples[1]
    assert sum(reads) == job.batch


def test_class_counts_are_those_of_the_label_images(make_job: MakeJob, scenes: Path) -> None:
    whole = make_job(input={"size": [48, 48], "resize": True})
    patches = make_job()
    for job in (whole, patches):
        data = open_data(job)
        truth = [np.asarray(Image.open(scenes / "labels" / f.ref.name)) for f in data.train.frames]
        wanted = np.bincount(np.concatenate(truth).ravel(), minlength=5)
        np.testing.assert_array_equal(class_counts(data, job), wanted)


def test_nodata_is_void_and_nan_is_neutral(make_job: MakeJob, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        pixels = np.full((8, 8), 3.0, np.float32)
        pixels[2, 3] = np.nan
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels)
        Image.fromarray(np.ones((8, 8), np.uint8)).save(tmp_path / f"{name}.png")
    job = make_job(
        source={"kind": "images", "paths": [str(tmp_path / "*.tif")]},
        truth={"paths": [str(tmp_path / "{stem}.png")], "classes": ["a", "b"]},
        input={"size": [8, 8], "resize": True, "scale": {"mean": [2.0], "std": [0.5]}},
    )
    found = Samples(open_data(job), job, None).prepared(0)
    assert found.labels[2, 3] == 255
    assert (found.labels == 1).sum() == 63
    assert found.pixels[2, 3, 0] == 0
    assert found.pixels[0, 0, 0] == 2


def test_a_frame_smaller_than_a_patch_is_filled_with_void(make_job: MakeJob) -> None:
    job = make_job(input={"size": [64, 56], "resize": "patches"})
    found = Samples(open_data(job), job, None).sample(0)
    assert found.labels.shape == (64, 56)
    assert (found.labels[48:] == 255).all()
    assert (found.labels[:, 48:] == 255).all()
    assert (found.labels[:48, :48] < 5).all()


def test_unreadable_frames_are_named_or_end_the_training(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job()
    samples = Samples(open_data(job), job, 0)
    for kind in ("corrupt", "error"):
        monkeypatch.setattr(
            ImageSource, "read", lambda *_, kind=kind: iter([Unreadable(kind, "half a file")])
        )
        if kind == "corrupt":
            pixels, labels = samples[0]
            assert (labels == 255).all()
            assert not pixels.any()
            assert set(samples.lost.values()) == {"half a file"}
        else:
            with pytest.raises(SegengineError, match="half a file; the same command goes on"):
                samples[0]


def test_data_that_cannot_be_trained_on_is_one_line(make_job: MakeJob, tmp_path: Path) -> None:
    classes = list(synthetic.CLASSES)
    wrong: list[tuple[dict[str, Any], str]] = [
        (
            {"truth": {"paths": [str(tmp_path / "{stem}.png")], "classes": classes}},
            r"^truth: none of 8 frames has truth; looked for .*scene-0000\d\.png",
        ),
        ({"truth": None}, "^truth: auto inputs have no truth of their own"),
        (
            {"truth": {"paths": make_job().truth.paths}},  # type: ignore[union-attr]
            r"^truth\.classes: name the classes",
        ),
        (
            {"split": {"train": "a", "validation": "b"}},
            r"^split\.train: auto inputs have no split 'a'",
        ),
        (
            {"input": {"size": [16, 16], "scale": {"mean": [1, 2], "std": [1, 2]}}},
            r"^input\.scale\.mean: has 2 values for 3 bands",
        ),
        ({"input": {"size": [16, 16], "bands": 4}}, r"^input\.bands: scene-.* has 3 bands, not 4"),
    ]
    for changes, message in wrong:
        with pytest.raises(JobError, match=message) as error:
            open_data(make_job(**changes))
        assert "\n" not in str(error.value)


def test_what_is_left_out_is_named(make_job: MakeJob, scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no")
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "alone.png")
    paths = [str(scenes / "images/*.png"), str(tmp_path / "*.png")]
    notes = open_data(make_job(source={"paths": paths})).notes
    assert notes[0] == "1 frames have no truth and are left out"
    assert notes[1].startswith("broken.png cannot be read and is left out: ")


def test_frames_in_both_lists_are_a_leak(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("scene-00001\nscene-00002\n")
    (tmp_path / "b.txt").write_text("scene-00002\n")
    lists = {
        k: {"files": str(tmp_path / f)} for k, f in (("train", "a.txt"), ("validation", "b.txt"))
    }
    with pytest.raises(JobError, match=r"^split: 1 frames are both .* scene-00002\.png"):
        open_data(make_job(split=lists))
    (tmp_path / "b.txt").write_text("scene-00003\n")
    data = open_data(make_job(split=lists))
    assert [f.ref.name for f in data.train.frames] == ["scene-00001.png", "scene-00002.png"]
    assert [f.ref.name for f in data.validation.frames] == ["scene-00003.png"]


def test_official_splits_of_a_data_set(make_job: MakeJob, tmp_path: Path) -> None:
    synthetic.write_pets(tmp_path / "pets", 24)
    job = make_job(
        source={"kind": "pets", "paths": [str(tmp_path / "pets")]},
        truth=None,
        split={"train": "trainval", "validation": {"split": "test", "fraction": 0.2}},
        input={"size": [32, 32]},
    )
    data = open_data(job)
    assert data.classes == ("pet", "background", "border")
    listed = (tmp_path / "pets/annotations/trainval.txt").read_text().split("\n")[:-1]
    stems = {f.ref.name.rpartition("/")[2].removesuffix(".jpg") for f in data.train.frames}
    assert stems == {line.split()[0] for line in listed}
    assert 0 < len(data.validation.frames) < 12
    labels = Samples(data, job, None).sample(0).labels
    assert set(np.unique(labels)) == {0, 1, 2}


def test_a_bundle_says_at_which_resolution_and_of_which_bands(
    make_job: MakeJob, tmp_path: Path
) -> None:
    """Of scenes that are alike; where they differ, or are made smaller, it says nothing."""
    for i, side in enumerate((10, 10, 10, 20)):
        place = rasterio.Affine(side, 0, 500_000, 0, -side, 5_000_000)
        with rasterio.open(
            tmp_path / f"{i}.tif", "w", driver="GTiff", count=2, height=20, width=20, dtype="uint8",
            crs="EPSG:32633", transform=place,
        ) as file:  # fmt: skip
            file.write(np.random.default_rng(i).integers(0, 255, (2, 20, 20), np.uint8))
            file.descriptions = ("red", "nir")
        Image.fromarray(np.eye(20, dtype=np.uint8)).save(tmp_path / f"{i}.png")
    truth = {"paths": [str(tmp_path / "{stem}.png")], "classes": ["even", "odd"]}

    def said(pattern: str, **changes: Any) -> tuple[Any, ...]:
        source = {"kind": "raster", "paths": [str(tmp_path / pattern)]}
        job = make_job(source=source, truth=truth, **changes)
        text = bundle_of(job, open_data(job), {}).to_json()
        bundle = _parse(text.encode())
        assert ("resolution" in text) == (bundle.resolution is not None)
        return bundle.resolution, bundle.band_names

    assert said("[012].tif") == (10.0, ("red", "nir"))
    assert said("*.tif") == (None, ("red", "nir"))
    assert said("[012].tif", input={"size": [16, 16], "resize": True}) == (None, ("red", "nir"))
