"""Objects of volumes through their slices, against SciPy's labels of the whole volume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy import ndimage

import segengine
from segengine.commands.verify import verify
from segengine.errors import JobError
from segengine.export import nifti
from segengine.instances.rle import encode_rle
from segengine.instances.solids import Solids
from segengine.job import parse_job
from tests.segengine.sources.volumes import write_nifti

AFFINE = np.array([[-0.7, 0.1, 0, 12.5], [0.1, 0.8, 0, -3], [0, 0.05, 2.5, 7], [0, 0, 0, 1]])
LEVEL = 60


def labels(inside: Any, connectivity: int) -> Any:
    return ndimage.label(inside, ndimage.generate_binary_structure(inside.ndim, connectivity))[0]


@given(
    arrays(np.uint8, st.tuples(*[st.integers(1, 5)] * 3), elements=st.integers(0, 2)),
    st.sampled_from([1, 2, 3]),
)
def test_solids_are_the_regions_of_the_volume(classes: Any, connectivity: int) -> None:
    solids, ids = Solids(classes.shape[1], connectivity), []
    for number, own in enumerate(classes):
        here = np.zeros(own.shape, np.int64)
        for kind in (1, 2):
            regions = labels(own == kind, min(connectivity, 2))
            here[regions > 0] = regions[regions > 0] + here.max()
        there = range(1, int(here.max()) + 1)
        rles = [encode_rle(here == i, (0, 0), own.shape) for i in there]
        kinds = [int(own[here == i][0]) for i in there]
        if rles:
            solids.step(number, kinds, rles, new=False)
        ids.append(here)
    found = solids.found()
    ours, place = np.zeros(classes.shape, np.int64), 0
    for number, here in enumerate(ids):
        count = int(here.max())
        own_solids = np.append(0, found.solid[place : place + count] + 1)
        ours[number] = own_solids[here]
        place += count
    theirs = np.zeros(classes.shape, np.int64)
    for kind in (1, 2):
        regions = labels(classes == kind, connectivity)
        theirs[regions > 0] = regions[regions > 0] + theirs.max()
    pairs = {(int(a), int(b)) for a, b in zip(ours.flat, theirs.flat, strict=True)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    assert all((a == 0) == (b == 0) for a, b in pairs)


def test_objects_that_overlap_meet_what_lies_below_each_of_them() -> None:
    square = np.zeros((8, 8), bool)
    long, short, below = square.copy(), square.copy(), square.copy()
    long[0:8, 2] = short[1:3, 2] = below[6, 2] = True
    above = [encode_rle(mask, (0, 0), square.shape) for mask in (long, short)]
    for order, same in (([0, 1], 0), ([1, 0], 1)):
        solids = Solids(8)
        # runs of the longer one end behind those that begin after it
        solids.step(0, [1], [encode_rle(below, (0, 0), square.shape)], new=True)
        solids.step(1, [1, 1], [above[i] for i in order], new=False)
        found = solids.found().solid
        assert found[0] == found[1 + same] != found[2 - same]


def job(folder: Path, connectivity: int = 1, **more: Any) -> Any:
    instances = {"kind": "components", "connectivity": min(connectivity, 2)}
    return parse_job(
        {
            "source": {"kind": "volume", "paths": [str(folder / "in")]},
            "segmenter": {
                "kind": "threshold", "method": "fixed", "levels": [LEVEL], "instances": instances,
            },
            "store": {"path": str(folder / "out.zarr"), "chunk": 16, "shard": 64, "frames": 12},
            "solids": {"connectivity": connectivity},
            "faults": {"fsync": False},
        }
        | more
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(12, 24, 20)), 1.2)
    (tmp_path / "in").mkdir()
    values = (noise / noise.std() * 100).astype(np.int16)
    write_nifti(tmp_path / "in/brain.nii.gz", values.T, AFFINE, qform_code=1)
    np.save(tmp_path / "values.npy", values)
    return tmp_path


@pytest.mark.parametrize("connectivity", [1, 3])
def test_a_run_counts_and_measures_what_scipy_does(
    folder: Path, plain_report: None, connectivity: int
) -> None:
    tables = []
    for cut in ({}, {"shard": 16, "frames": 5}):
        store = {"path": str(folder / "out.zarr"), "chunk": 16, "shard": 64, "frames": 12} | cut
        segengine.run(job(folder, connectivity, store=store))
        tables.append((folder / "out.zarr/tables/solids.parquet").read_bytes())
        if not cut:
            made = segengine.open_store(folder / "out.zarr").table("solids").to_pydict()
            written = nifti.export(str(folder / "out.zarr"), str(folder / "files"))
            (folder / "out.zarr").rename(folder / "whole.zarr")
    assert tables[0] == tables[1]
    theirs = labels(np.load(folder / "values.npy") > LEVEL, connectivity)
    count = int(theirs.max())
    assert count > 5
    assert made["solid"] == list(range(1, count + 1))
    assert [Path(path).name for path in written] == ["brain.nii.gz", "brain.solids.nii.gz"]
    image = nibabel.load(written[1])
    assert np.array_equal(np.asarray(image.dataobj).T, theirs)
    assert image.affine == pytest.approx(AFFINE, abs=1e-6)
    voxels = np.bincount(theirs.flat)[1:]
    assert made["voxels"] == voxels.tolist()
    assert made["mm3"] == pytest.approx(voxels * abs(np.linalg.det(AFFINE[:3, :3])))
    centres = ndimage.center_of_mass(theirs > 0, theirs, range(1, count + 1))
    assert np.array(made["centre"]) == pytest.approx(np.array(centres))
    boxes = [[*(s.start for s in b), *(s.stop for s in b)] for b in ndimage.find_objects(theirs)]
    assert made["box"] == boxes
    scene = segengine.open_store(folder / "whole.zarr")["brain"]
    for solid, frames, ids in zip(made["solid"], made["frames"], made["ids"], strict=True):
        for frame, number in zip(frames, ids, strict=True):
            assert (theirs[frame][scene.instances[frame][:24, :20] == number] == solid).all()


def test_what_goes_on_ends_with_its_time(folder: Path, plain_report: None) -> None:
    block = np.full((3, 4, 6), 100, np.int16)
    image = nibabel.Nifti1Image(np.stack([block.T, block.T], -1), AFFINE)
    nibabel.save(image, folder / "in/brain.nii.gz")
    segengine.run(job(folder))
    made = segengine.open_store(folder / "out.zarr").table("solids").to_pydict()
    assert made["frames"] == [[0, 1, 2], [3, 4, 5]]
    assert made["voxels"] == [72, 72]


def test_another_connectivity_computes_no_shard_and_none_has_no_table(
    folder: Path, plain_report: None
) -> None:
    path = folder / "out.zarr/tables/solids.parquet"
    segengine.run(job(folder))
    before = path.read_bytes()
    assert segengine.run(job(folder, solids={"connectivity": 3})).computed == 0
    assert path.read_bytes() != before
    assert segengine.run(job(folder, solids=None)).computed == 0
    assert not path.exists()
    assert not verify(str(folder / "out.zarr")).problems


def test_a_job_is_told_where_there_is_nothing_to_go_through(folder: Path) -> None:
    with pytest.raises(JobError, match=r"^solids: threshold finds no objects; set"):
        segengine.run(job(folder, segmenter={"kind": "threshold"}))
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "in/a.png")
    photo = {"kind": "images", "paths": [str(folder / "in/a.png")]}
    with pytest.raises(JobError, match=r"^solids: source.paths has no volume; leave the block out"):
        segengine.run(job(folder, source=photo))
    with pytest.raises(JobError, match=r"solids\.connectivity"):
        job(folder, solids={"connectivity": 4})
    with pytest.raises(JobError, match=r"solids\.connectivity: must be 1, 2 or 3, got True"):
        job(folder, solids={"connectivity": True})
