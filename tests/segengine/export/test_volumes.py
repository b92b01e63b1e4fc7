"""Volumes out: NIfTI read back by nibabel, DICOM-SEG by pydicom and highdicom, in the source's places."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
from highdicom.legacy import LegacyConvertedEnhancedCTImage

import segengine
from segengine.errors import JobError, SegengineError
from segengine.export import dicomseg, nifti
from segengine.job import load_job
from tests.segengine.sources.volumes import (
    OBLIQUE,
    PATIENT,
    body,
    datasets,
    write_nifti,
    write_series,
)

AFFINE = np.array([[-0.7, 0.1, 0, 12.5], [0.1, 0.8, 0, -3], [0, 0.3, 2.5, 7], [0, 0, 0, 1]])
FLIP = np.diag([-1.0, -1, 1, 1])


def run(folder: Path) -> segengine.reader.Store:
    (folder / "job.yaml").write_text(
        "source: {kind: volume, paths: [in]}\nsegmenter: {kind: kmeans, clusters: 3, scope: scene}\n"
        "store: {path: out.zarr, chunk: 16, shard: 32, frames: 2}\n"
    )
    assert segengine.run(load_job(folder / "job.yaml")).exit_code in (0, 3)
    return segengine.open_store(folder / "out.zarr")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of volumes: tilted, oblique, multi-frame, NIfTI of three dimensions and of four."""
    folder = tmp_path_factory.mktemp("volumes")
    values = body(5)
    tilted = [(-208.1234567, 4.1 + 0.3 * i, -31.3 + 2.5 * i) for i in range(5)]
    write_series(folder / "in/tilted", values, tilted)
    normal = np.cross(OBLIQUE[:3], OBLIQUE[3:])
    places = [np.array([3.1, -4.7, 11.9]) + 1.7 * i * normal for i in range(5)]
    paths = write_series(folder / "in/oblique", values, places, rows=OBLIQUE, series="1.2.4")
    many = LegacyConvertedEnhancedCTImage(datasets(paths), highdicom.UID(), 1, highdicom.UID(), 1)
    order = [3, 0, 4, 2, 1]
    many.PixelData = many.pixel_array[order].tobytes()
    groups = many.PerFrameFunctionalGroupsSequence
    many.PerFrameFunctionalGroupsSequence = pydicom.Sequence([groups[i] for i in order])
    many.save_as(folder / "in/many.dcm")
    write_nifti(folder / "in/brain.nii.gz", values.T, AFFINE, qform_code=1)
    old = nibabel.Nifti1Image(np.stack([values.T, values.T[::-1]], -1), None)
    old.header.set_zooms((0.7, 0.8, 2.5, 1))
    nibabel.save(old, folder / "in/old.nii")
    run(folder)
    return folder


def test_nifti_is_read_back_by_nibabel(made: Path, tmp_path: Path) -> None:
    store = segengine.open_store(made / "out.zarr")
    written = nifti.export(str(made / "out.zarr"), str(tmp_path / "out"))
    assert sorted(Path(p).name for p in written) == [
        f"{name}.nii.gz" for name in ("brain", "many", "oblique", "old", "tilted")
    ]
    for path in written:
        name = Path(path).name.removesuffix(".nii.gz")
        image = nibabel.load(path)
        mask = store[name].mask[:]
        theirs = np.asarray(image.dataobj)
        frames = (
            theirs if theirs.ndim == 3 else np.moveaxis(theirs, 3, 2).reshape(20, 24, 10, order="C")
        )
        assert np.array_equal(np.transpose(frames, (2, 1, 0)), mask)
        assert image.affine == pytest.approx(
            np.array(store[name].attributes["volume"]["affine"]), abs=1e-6
        )
        (extension,) = image.header.extensions
        about = json.loads(extension.get_content())["segengine"]
        assert about == {"classes": list(store.classes), "void": 255}
        assert "quennelby" not in repr(image.header).lower()
    for name in ("brain.nii.gz", "old.nii"):
        source = nibabel.load(made / "in" / name)
        image = nibabel.load(tmp_path / "out" / f"{name.partition('.')[0]}.nii.gz")
        assert np.array_equal(image.affine, source.affine)
        assert image.shape == source.shape
        assert image.header.get_xyzt_units()[0] == source.header.get_xyzt_units()[0]
    # sheared: no qform says it; turned: one does, to what float32 holds
    tilted, oblique = (nibabel.load(tmp_path / f"out/{n}.nii.gz") for n in ("tilted", "oblique"))
    assert (int(tilted.header["qform_code"]), int(tilted.header["sform_code"])) == (0, 1)
    assert oblique.header.get_qform(coded=True)[1] == 1
    assert oblique.header.get_qform() == pytest.approx(oblique.affine, abs=1e-3)
    # float32 has no room for -208.1234567 to 1e-6
    assert (int(tilted.header["sizeof_hdr"]), int(image.header["sizeof_hdr"])) == (540, 348)
    before = {p: Path(p).read_bytes() for p in written}
    nifti.export(str(made / "out.zarr"), str(tmp_path / "out"))
    assert before == {p: Path(p).read_bytes() for p in written}


def test_dicom_seg_is_read_back_on_the_source(made: Path, tmp_path: Path) -> None:
    store = segengine.open_store(made / "out.zarr")
    written = dicomseg.export(str(made / "out.zarr"), str(tmp_path / "out"))
    assert sorted(Path(p).name for p in written) == ["many.dcm", "oblique.dcm", "tilted.dcm"]
    for path in written:
        name = Path(path).stem
        plain = pydicom.dcmread(path)
        assert plain.Modality == "SEG"
        # what a segmentation must say of its patient is there, and belongs there
        assert plain.PatientID == PATIENT["PatientID"]
        assert str(plain.PatientName) == PATIENT["PatientName"]
        assert plain.FrameOfReferenceUID == "1.2.826.0.1.78"
        labels = [str(s.SegmentLabel) for s in plain.SegmentSequence]
        assert labels == list(store.classes)
        mask = store[name].mask[:]
        seg = highdicom.seg.segread(path)
        affine = np.array(store[name].attributes["volume"]["affine"])
        source = sorted((made / "in" / name).glob("*.dcm")) or [made / "in/many.dcm"]
        for number in range(1, 4):
            got = np.zeros(mask.shape, bool)
            each = zip(plain.PerFrameFunctionalGroupsSequence, plain.pixel_array, strict=True)
            for group, frame in each:
                if group.SegmentIdentificationSequence[0].ReferencedSegmentNumber != number:
                    continue
                place = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
                ours = np.linalg.solve(affine, [*(FLIP[:3, :3] @ place), 1])
                assert np.abs(ours[:2]).max() * 0.5 < 1e-6
                assert abs(ours[2] - round(ours[2])) * 1.7 < 1e-6
                got[round(ours[2])] = frame
            assert np.array_equal(got, mask == number - 1)
        if name != "many":
            uids = [
                d.SOPInstanceUID for d in sorted(datasets(source), key=lambda d: d.InstanceNumber)
            ]
            theirs = seg.get_pixels_by_source_instance(uids, segment_numbers=[1, 2, 3])
            assert np.array_equal(
                np.moveaxis(theirs, -1, 0).astype(bool), [mask == i for i in range(3)]
            )
    before = {p: Path(p).read_bytes() for p in written}
    dicomseg.export(str(made / "out.zarr"), str(tmp_path / "out"))
    assert before == {p: Path(p).read_bytes() for p in written}
    if shutil.which("dciodvfy"):
        for path in written:
            said = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
            assert "Error" not in said.stderr


def test_void_and_background_are_no_segment(tmp_path: Path) -> None:
    values = body(3)
    values[0, :5] = -1024
    write_series(tmp_path / "in/ct", values, PixelPaddingValue=0)
    (tmp_path / "job.yaml").write_text(
        "source: {kind: volume, paths: [in]}\nsegmenter: {kind: threshold, scope: scene}\n"
        "store: {path: out.zarr, chunk: 16, shard: 16}\n"
    )
    segengine.run(load_job(tmp_path / "job.yaml"))
    mask = segengine.open_store(tmp_path / "out.zarr")["ct"].mask[:]
    assert (mask[0, :5] == 255).all()
    (path,) = dicomseg.export(str(tmp_path / "out.zarr"), str(tmp_path / "seg"))
    seg = highdicom.seg.segread(path)
    assert [s.SegmentLabel for s in seg.SegmentSequence] == ["object"]
    data = sorted(datasets(list((tmp_path / "in/ct").iterdir())), key=lambda d: d.InstanceNumber)
    theirs = seg.get_pixels_by_source_instance([d.SOPInstanceUID for d in data])
    assert np.array_equal(theirs[..., 0], mask == 1)
    # changed after it was segmented: its masks are of another volume
    data[1].PixelData = bytes(len(data[1].PixelData))
    paths = {str(pydicom.dcmread(p).SOPInstanceUID): p for p in (tmp_path / "in/ct").iterdir()}
    data[1].save_as(paths[str(data[1].SOPInstanceUID)])
    with pytest.raises(SegengineError, match="ct: has changed since it was segmented; run again"):
        dicomseg.export(str(tmp_path / "out.zarr"), str(tmp_path / "seg"))
    lost = paths[str(data[1].SOPInstanceUID)]
    lost.unlink()
    with pytest.raises(SegengineError, match=f"ct: {lost.name}: no such file"):
        dicomseg.export(str(tmp_path / "out.zarr"), str(tmp_path / "seg"))


def test_what_cannot_be_written_is_one_line(
    made: Path, tmp_path: Path, bench: Any, monkeypatch: Any, noise: Any
) -> None:
    bench.put("a.png", noise(1, (20, 20, 3)))
    bench.run({"kind": "threshold"})
    for form, export in (("nifti", nifti.export), ("dicom-seg", dicomseg.export)):
        with pytest.raises(JobError, match=f"--to {form}: the store holds no volume"):
            export(str(bench.store), str(tmp_path / "x"))
        with pytest.raises(JobError, match="is an input of the store"):
            export(str(made / "out.zarr"), str(made / "in"), overwrite=True)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "brain.nii.gz").write_bytes(b"of mine")
    with pytest.raises(JobError, match="add --overwrite"):
        nifti.export(str(made / "out.zarr"), str(mine))
    assert (mine / "brain.nii.gz").read_bytes() == b"of mine"
    for form, export, module in (
        ("nifti", nifti.export, "nibabel"),
        ("dicom-seg", dicomseg.export, "highdicom"),
    ):
        with monkeypatch.context() as without:
            without.setitem(sys.modules, module, None)
            with pytest.raises(JobError, match=rf"{form}: needs {module}, .*segengine\[medical\]"):
                export(str(made / "out.zarr"), str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()


def test_a_store_of_nifti_alone_has_no_dicom(tmp_path: Path) -> None:
    write_nifti(tmp_path / "in/a.nii", body(2).T, AFFINE)
    run(tmp_path)
    with pytest.raises(JobError, match=r"no volume of DICOM .* --to nifti takes any volume"):
        dicomseg.export(str(tmp_path / "out.zarr"), str(tmp_path / "seg"))
