"""Distances across the slices of volumes: of each time as one, whatever the cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import segengine
from segengine.commands.verify import verify
from segengine.job import parse_job
from segengine.measuring.measures import MeasureSpec
from segengine.metrics.surface import Surface
from segengine.worker import measure
from tests.segengine.sources.volumes import write_nifti

pytestmark = pytest.mark.usefixtures("plain_report")
LABEL = "hd95(spacing=volume)"
SLICES, TIMES = 5, 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A volume of two times, and its truth."""
    rng = np.random.default_rng(0)
    shape = (TIMES, SLICES, 20, 17)
    values, truth = (
        np.stack([ndimage.gaussian_filter(rng.normal(size=shape[1:]), 1.5) for _ in range(TIMES)])
        for _ in range(2)
    )
    (tmp_path / "truth").mkdir()
    affine = np.diag([0.5, 0.75, 2.5, 1])
    write_nifti(tmp_path / "in/brain.nii.gz", (values > 0).astype(np.uint8).T * 100, affine)
    write_nifti(tmp_path / "truth/brain.nii.gz", (truth > 0).astype(np.uint8).T, affine)
    np.save(tmp_path / "both.npy", np.stack([values > 0, truth > 0]))
    return tmp_path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """First frames of the volumes that are measured."""
    found: list[int] = []
    own = measure._volume_payload

    def counted(task: Any) -> Any:
        found.append(task.frames[0].index)
        return own(task)

    monkeypatch.setattr(measure, "_volume_payload", counted)
    return found


def job(folder: Path, name: str = "out.zarr", **more: Any) -> Any:
    blocks = {
        "source": {"kind": "volume", "paths": [str(folder / "in")]},
        "truth": {"paths": [str(folder / "truth/{stem}.nii.gz")], "classes": ["off", "on"]},
        "segmenter": {"kind": "threshold", "method": "fixed", "levels": [50]},
        "evaluate": {"metrics": [{"metric": "hd95", "spacing": "volume"}]},
        "faults": {"fsync": False},
    }
    store = {"path": str(folder / name), "chunk": 16, "shard": 64, "frames": SLICES * TIMES}
    return parse_job(blocks | {"store": store | more.pop("store", {})} | more)


def edges(mask: Any) -> Any:
    return mask & ~ndimage.binary_erosion(mask)


def hd95(a: Any, b: Any) -> float:
    a, b = edges(a), edges(b)
    apart = (
        ndimage.distance_transform_edt(~y, sampling=(2.5, 0.75, 0.5))[x]
        for x, y in ((a, b), (b, a))
    )
    return max(float(np.percentile(one, 95)) for one in apart)


def test_they_are_scipys_for_any_cut_and_are_computed_once(folder: Path, calls: list[int]) -> None:
    cut = {"shard": 16, "frames": 3}
    found = [segengine.run(job(folder)), segengine.run(job(folder, "cut.zarr", store=cut))]
    assert sorted(calls) == [0, 0, SLICES, SLICES]
    first, second = (one.metrics["overall"][LABEL] for one in found)
    assert first == second
    labels, truth = np.load(folder / "both.npy")
    for name, on in (("off", False), ("on", True)):
        each = [hd95(a == on, b == on) for a, b in zip(labels, truth, strict=True)]
        assert first["classes"][name]["hd95"] == pytest.approx(np.mean(each), abs=1e-9)
        assert first["classes"][name]["volumes"] == TIMES
    assert not found[1].metrics["missing_truth"]
    calls.clear()
    both = {"metrics": ["hausdorff", {"metric": "hd95", "spacing": "volume"}]}
    more = segengine.run(job(folder, "cut.zarr", store=cut, evaluate=both))
    assert more.metrics["overall"][LABEL] == first
    assert more.metrics["overall"]["hausdorff"]["mean_hausdorff"] > 0
    assert LABEL not in more.metrics["worst"]  # a slice by itself has none
    assert not calls
    assert not verify(str(folder / "cut.zarr")).problems


def test_a_time_with_a_slice_that_is_not_scored_is_left_out_by_name(folder: Path) -> None:
    labels, truth = np.load(folder / "both.npy")
    odd = truth.astype(np.uint8)
    odd[1, 3, :4] = 9  # no class
    write_nifti(folder / "truth/brain.nii.gz", odd.T, np.diag([0.5, 0.75, 2.5, 1]))
    metrics = segengine.run(job(folder)).metrics
    own = metrics["overall"][LABEL]["classes"]["on"]
    assert own["volumes"] == 1
    assert own["hd95"] == pytest.approx(hd95(labels[0], truth[0]), abs=1e-9)
    reasons = {row["frame"]: row["reason"] for row in metrics["missing_truth"]}
    assert reasons[SLICES] == "slices are not scored (8); distances across slices leave it out"
    assert sorted(reasons) == [SLICES, SLICES + 3]


def test_a_time_with_a_slice_that_has_no_mask_is_left_out_by_name(folder: Path) -> None:
    path = folder / "in/brain.nii.gz"
    path.write_bytes(path.read_bytes()[:-1])
    found = segengine.run(job(folder))
    assert found.exit_code == 3
    assert found.metrics["overall"][LABEL]["classes"]["on"]["volumes"] == 1
    (row,) = found.metrics["missing_truth"]
    assert row["frame"] == SLICES
    assert row["reason"] == "slices have no mask (9); distances across slices leave it out"


def test_what_is_too_large_or_no_volume_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, calls: list[int]
) -> None:
    from segengine.metrics import _surfaces

    monkeypatch.setattr(_surfaces, "LARGEST", 50)
    metrics = segengine.run(job(folder)).metrics
    assert metrics["overall"][LABEL]["mean_hd95"] is None
    reasons = {row["frame"]: row["reason"] for row in metrics["missing_truth"]}
    why = "a surface of it has more than 50 voxels; distances across slices leave it out"
    assert reasons == {0: why, SLICES: why}
    calls.clear()
    monkeypatch.setattr("segengine.stages.aggregate.LARGEST_VOLUME", 100)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "in/a.png")
    photo = {"kind": "images", "paths": [str(folder / "in/a.png")]}
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "truth/a.png")
    truth = {"paths": [str(folder / "truth/{stem}.png")], "classes": ["off", "on"]}
    metrics = segengine.run(job(folder, "photo.zarr", source=photo, truth=truth)).metrics
    (row,) = metrics["missing_truth"]
    assert row["reason"] == "its scene is no volume; distances across slices leave it out"
    metrics = segengine.run(job(folder, "large.zarr")).metrics
    assert ["more than 100 voxels" in row["reason"] for row in metrics["missing_truth"]] == [
        True
    ] * 2
    assert not calls


def test_a_metric_of_volumes_is_given_labels_and_truth_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Surface, "needs", ("truth", "instances"))
    block = {"metrics": [{"metric": "hd95", "spacing": "volume"}, "hd95"]}
    spec = MeasureSpec.of(block, ["off", "on"], None, {"labels", "truth", "instances"})
    ((one, reason),) = spec.unmet
    assert (one.label, reason[:21]) == (LABEL, "it sees whole volumes")


def test_void_stays_void_where_slices_are_of_several_dtypes() -> None:
    slices = [np.full((1, 1, 2), (3, np.iinfo(kind).max), kind) for kind in (np.uint8, np.uint16)]
    assert measure._together(slices).tolist() == [[[3, 65535]], [[3, 65535]]]
