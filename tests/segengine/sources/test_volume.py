"""Volumes: against nibabel, pydicom and highdicom; what is missing, tilted or uneven; no patient."""

from __future__ import annotations

import gzip
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
import zarr
from highdicom.legacy import LegacyConvertedEnhancedCTImage
from pydicom.data import get_testdata_file
from pydicom.pixels import apply_modality_lut, apply_windowing
from scipy import ndimage
from scipy.spatial import cKDTree

import segengine
from segengine.commands.plan import plan
from segengine.commands.verify import verify
from segengine.errors import JobError
from segengine.job import load_job
from segengine.planning.layout import Cut
from segengine.planning.scan import Scan, scan
from segengine.registry import reader
from segengine.sources import _inflated, _series
from segengine.sources._inflated import Inflated
from segengine.testing import SourceTests
from segengine.types import Tile, Unreadable
from tests.segengine.sources.volumes import (
    OBLIQUE,
    PATIENT,
    SECRETS,
    body,
    datasets,
    slice_of,
    write_nifti,
    write_series,
)

AFFINE = np.array([[-0.7, 0.1, 0, 12.5], [0.1, 0.8, 0, -3], [0, 0.05, 2.5, 7], [0, 0, 0, 1]])


def found(path: Path | str, kind: str = "volume", **options: Any) -> Scan:
    return scan({"kind": kind, "paths": [str(path)], **options}, {}, (), Cut(16, 64))


def pixels(path: Path | str, kind: str = "volume", rows: Any = None, **options: Any) -> Any:
    """(frame, y, x, band) of the only scene, and valid (frame, y, x)."""
    (layout,) = found(path, kind, **options).layouts.values()
    source = reader(layout.kind, {"paths": [], **options})
    tiles: list[Any] = list(
        source.read(layout.frames(), rows or slice(0, layout.shape[1]), slice(0, layout.shape[2]))
    )
    assert all(isinstance(tile, Tile) for tile in tiles), tiles
    values = np.stack([tile.pixels for tile in tiles])
    assert str(values.dtype) == layout.dtype
    valid = [
        np.ones(v.shape[:2], bool) if t.valid is None else t.valid
        for v, t in zip(values, tiles, strict=True)
    ]
    return values, np.stack(valid)


def about(path: Path | str, **options: Any) -> dict[str, Any]:
    """Attributes of the only scene."""
    (layout,) = found(path, **options).layouts.values()
    return dict(layout.attributes["volume"])


def refused(path: Path | str, **options: Any) -> str:
    """Why nothing is read."""
    result = found(path, **options)
    assert not result.layouts
    (one,) = result.unplaced
    assert "\n" not in one.reason
    return one.reason


class TestVolume(SourceTests):
    def make(self, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        spec = {"kind": "volume", "paths": [f"{folder}/in"]}
        values, frames = body(), {}
        write_series(folder / "in/series", values)
        frames |= {f"series#{i}": v[..., None] for i, v in enumerate(values)}
        for name in ("brain.nii", "packed.nii.gz"):
            write_nifti(folder / "in" / name, values.T, AFFINE)
            frames |= {f"{name}#{i}": v[..., None] for i, v in enumerate(values)}
        many = LegacyConvertedEnhancedCTImage(
            datasets(write_series(folder / "not-in", values, series="1.2.9")),
            highdicom.UID(), 1, highdicom.UID(), 1,
        )  # fmt: skip
        many.save_as(folder / "in/many.dcm")
        frames |= {f"many.dcm#{i}": v[..., None] for i, v in enumerate(values)}
        return spec, frames


# ------------------------------------------------------------------------------------------------ NIfTI


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["<u1", "<i2", ">i2", ">f4", "<f8", "<u4"])
def test_nifti_is_what_nibabel_reads(tmp_path: Path, dtype: str, suffix: str) -> None:
    values = np.random.default_rng(2).integers(0, 200, (11, 17, 5, 3)).astype(dtype)
    header = nibabel.Nifti2Header if dtype == "<f8" else nibabel.Nifti1Header
    image = nibabel.Nifti1Image if header is nibabel.Nifti1Header else nibabel.Nifti2Image
    empty = header(endianness=dtype[0])
    empty.set_data_dtype(dtype)
    shown = image(values, AFFINE, empty)
    nibabel.save(shown, tmp_path / f"a{suffix}")
    again = nibabel.load(tmp_path / f"a{suffix}")
    got, valid = pixels(tmp_path / f"a{suffix}")
    assert got.dtype == np.dtype(dtype).newbyteorder("=")
    assert valid.all()
    theirs = np.asarray(again.dataobj)  # (x, y, z, t)
    for t, z in itertools.product(range(3), range(5)):
        assert np.array_equal(got[t * 5 + z, ..., 0], theirs[..., z, t].T)
    said = about(tmp_path / f"a{suffix}")
    assert np.array_equal(said["affine"], again.affine)
    assert said["orientation"] == "".join(nibabel.aff2axcodes(again.affine))
    assert said["spacing"][::-1] == pytest.approx(nibabel.affines.voxel_sizes(again.affine))
    assert said["slices"] == 5


@pytest.mark.parametrize(
    "slope", [(2.0, -1024.0, "int32"), (0.5, 3.0, "float32"), (1.0, 0.0, "int16")]
)
def test_nifti_is_rescaled(tmp_path: Path, slope: Any) -> None:
    values = np.random.default_rng(3).integers(-9000, 9000, (8, 9, 4)).astype(np.int16)
    path = write_nifti(tmp_path / "a.nii", values, AFFINE)
    data = bytearray(path.read_bytes())
    data[112:120] = np.array(slope[:2], "<f4").tobytes()  # nibabel keeps these two to itself
    path.write_bytes(data)
    got, _ = pixels(path)
    assert got.dtype == slope[2]
    assert np.array_equal(got[..., 0].T, nibabel.load(path).get_fdata())


def test_nan_is_void_and_colours_are_bands(tmp_path: Path) -> None:
    values = np.ones((4, 5, 2), np.float32)
    values[1, 2, 1] = np.nan
    _, valid = pixels(write_nifti(tmp_path / "a.nii.gz", values, AFFINE))
    assert np.argwhere(~valid).tolist() == [[1, 2, 1]]
    kind = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours = np.random.default_rng(0).integers(0, 255, (6, 7, 3, 3), np.uint8)
    shown = np.ascontiguousarray(colours).view(kind)[..., 0]
    got, _ = pixels(write_nifti(tmp_path / "b.nii", shown, AFFINE))
    assert np.array_equal(got, colours.transpose(2, 1, 0, 3))


def test_what_is_no_nifti_is_said(tmp_path: Path) -> None:
    values = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    whole = write_nifti(tmp_path / "whole/a.nii", values, AFFINE).read_bytes()

    def bad(data: bytes, name: str = "a.nii") -> str:
        path = tmp_path / "bad" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        said = refused(path)
        path.unlink()
        return said

    def patched(at: int, data: bytes) -> bytes:
        return whole[:at] + data + whole[at + len(data) :]

    assert "cut short" in bad(whole[:-1])
    assert "it begins as none" in bad(b"x" * 400)
    assert "there are 3" in bad(b"abc")
    assert "pair" in bad(patched(344, b"ni1"))
    assert "ANALYZE" in bad(patched(344, b"\0\0\0"))
    assert "vectors are not" in bad(patched(40, np.array([5, 4, 5, 2, 1, 3], "<i2").tobytes()))
    assert "complex64" in bad(patched(70, np.array([32, 64], "<i2").tobytes()))
    assert "singular" in bad(patched(280, np.zeros(12, "<f4").tobytes()))
    assert "its shape" in bad(patched(42, np.array([-4], "<i2").tobytes()))
    # 200 bytes that claim 10^14: before any memory is taken, plain and packed
    huge = patched(42, np.array([32000, 32000, 32000], "<i2").tobytes())
    assert "cut short" in bad(huge)
    assert "packed ones" in bad(gzip.compress(huge), "a.nii.gz")
    packed = bytearray(gzip.compress(whole))
    packed[-6] ^= 1  # the checksum
    for data, reason in (
        (packed, "incorrect data check"),
        (gzip.compress(whole[:-1]), "cut short"),
    ):
        path = tmp_path / "a.nii.gz"
        path.write_bytes(data)
        (layout,) = found(path).layouts.values()
        tiles = list(reader("volume", {}).read(layout.frames(), slice(0, 5), slice(0, 4)))
        assert [isinstance(tile, Tile) for tile in tiles] == [True] * 5 + [False]
        assert isinstance(tiles[-1], Unreadable)
        assert (tiles[-1].kind, reason in tiles[-1].reason) == ("corrupt", True)


def test_a_packed_file_is_read_anywhere_in_bounded_memory(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(_inflated, "_STEP", 3000)
    monkeypatch.setattr(_inflated, "_PIECE", 1000)
    monkeypatch.setattr(_inflated, "_READ", 700)
    monkeypatch.setattr(_inflated, "_POINTS", 8)
    rng = np.random.default_rng(5)
    data = rng.integers(0, 7, 200_000, np.uint8).tobytes()
    half = len(data) // 3
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(data[:half]) + gzip.compress(data[half:]) + b"\0" * 9)
    read = 0

    class Counting:
        def __init__(self, file: Any) -> None:
            self.file = file

        def read(self, size: int) -> bytes:
            nonlocal read
            found: bytes = self.file.read(size)
            read += len(found)
            return found

        def seek(self, *at: int) -> int:
            return int(self.file.seek(*at))

        def tell(self) -> int:
            return int(self.file.tell())

    with path.open("rb") as file:
        inflated = Inflated(Counting(file))  # type: ignore[arg-type]
        for start in range(0, len(data), 5000):
            assert inflated.read(start, 5000) == data[start : start + 5000]
        assert read <= path.stat().st_size + 700  # forward: once
        assert len(inflated._points) <= 8
        for start in rng.integers(0, len(data) - 4000, 20):
            read = 0
            assert inflated.read(int(start), 4000) == data[start : start + 4000]
            assert read < path.stat().st_size / 3  # from the point before
        with pytest.raises(segengine.errors.CorruptInputError, match="cut short"):
            inflated.read(len(data) - 10, 11)


# ------------------------------------------------------------------------------------------------ DICOM


@pytest.mark.parametrize("rows", [(1.0, 0.0, 0.0, 0.0, 1.0, 0.0), OBLIQUE])
def test_a_series_is_what_highdicom_makes_of_it(tmp_path: Path, rows: Any) -> None:
    values = body()
    normal = np.cross(rows[:3], rows[3:])
    places = [np.array([-8.25, 4.125, -31.3]) + 2.5 * i * normal for i in range(len(values))]
    paths = write_series(tmp_path / "a", values, places, rows=rows)
    got, valid = pixels(tmp_path)
    theirs = highdicom.get_volume_from_series(datasets(paths))
    assert got.dtype == np.int16
    assert valid.all()
    lps = np.diag([-1, -1, 1, 1])
    # theirs has axes (slice, row, column), and may go down the slices
    order = theirs.affine[:, [2, 1, 0, 3]]
    ours = np.array(about(tmp_path)["affine"])
    if not np.allclose(order[:3, 2], (lps @ ours)[:3, 2]):
        order = order.copy()
        order[:3, 3] += order[:3, 2] * (len(values) - 1)
        order[:3, 2] *= -1
    assert np.abs(lps @ ours - order).max() < 1e-9
    for i, path in enumerate(paths):
        data = pydicom.dcmread(path)
        assert np.array_equal(got[i, ..., 0], apply_modality_lut(data.pixel_array, data))
    assert about(tmp_path)["modality"] == "CT"
    assert about(tmp_path)["rescale"] == [1.0, -1024.0]


def test_what_a_series_lacks_is_said_by_name(tmp_path: Path) -> None:
    values = body(7)

    def said(name: str, change: Any, **more: Any) -> str:
        paths = write_series(tmp_path / name, values, **more)
        change(paths)
        return refused(tmp_path / name)

    def again(path: Path, **changes: Any) -> None:
        data = pydicom.dcmread(path)
        for key, value in changes.items():
            setattr(data, key, value)
        data.save_as(path)

    names = [p.name for p in write_series(tmp_path / "whole", values)]
    for numbers in (True, False):
        reason = said(f"lost-{numbers}", lambda paths: paths[3].unlink(), numbers=numbers)
        assert reason == (
            f"a slice is missing between {names[2]} and {names[4]}: they are 5 mm apart, others 2.5 mm"
        )
    many = said("many", lambda paths: [paths[i].unlink() for i in (1, 3, 4)])
    assert many.startswith(f"a slice is missing between {names[0]} and {names[2]}")
    twice = said("twice", lambda p: again(p[2], ImagePositionPatient=[-8.25, 4.125, -31.3]))
    assert twice == f"has two slices in one place: {names[0]} and {names[2]}" or twice == (
        f"has two slices in one place: {names[2]} and {names[0]}"
    )
    size = said("size", lambda p: again(p[2], Rows=20, Columns=24))
    assert "differ in size" in size
    assert names[2] in size
    assert "not parallel" in said("turn", lambda p: again(p[2], ImageOrientationPatient=[*OBLIQUE]))
    shifted = said("shift", lambda p: again(p[2], ImagePositionPatient=[-4, 4.125, -26.3]))
    assert shifted == f"its slices do not lie on a line: {names[2]} is 4.25 mm beside it"
    paths = write_series(tmp_path / "cut", values)
    paths[2].write_bytes(paths[2].read_bytes()[:-200])  # a frame, and not the volume
    (layout,) = found(tmp_path / "cut").layouts.values()
    tiles = list(reader("volume", {}).read(layout.frames(), slice(0, 24), slice(0, 20)))
    bad = [(i, tile.reason) for i, tile in enumerate(tiles) if isinstance(tile, Unreadable)]
    assert bad == [(2, "cut short: its header says 960 bytes of pixels, and it has 772")]
    paths[2].write_bytes(b"x" * 4000)
    reasons = {u.name: u.reason for u in found(tmp_path / "cut").unplaced}
    assert "DICM is not at byte 128" in reasons.pop(names[2])
    assert "a slice is missing" in reasons.pop("cut")


def test_uneven_spacing_and_tilt_are_said_and_read(tmp_path: Path, bench: Any) -> None:
    values = body(6)
    heights = [0, 2.5, 5, 10, 15, 20]  # numbered one after the other: none was ever between them
    write_series(tmp_path / "in/uneven", values, [(0, 0, z) for z in heights])
    write_series(
        tmp_path / "in/tilted",
        values,
        [(0, 0.5 * i, 2 * i) for i in range(6)],
        name="S{:04d}.dcm",
        series="1.2.3",
    )
    notes = {
        n: v.attributes["volume"].get("notes") for n, v in found(tmp_path / "in").layouts.items()
    }
    assert notes == {
        "uneven": ["uneven spacing, 2.5 to 5 mm"],
        "tilted": [f"gantry tilt of {np.degrees(np.arctan(0.25)):.1f} degrees"],
    }
    job = {
        **bench.job({"kind": "threshold"}),
        "source": {"kind": "volume", "paths": [f"{tmp_path}/in"]},
    }
    lines = "\n".join(plan(segengine.job.parse_job(job)).lines())
    assert "1 volume has gantry tilt of 14.0 degrees (tilted)" in lines
    assert "1 volume has uneven spacing, 2.5 to 5 mm (uneven)" in lines
    assert "bands" not in lines.replace("1 band", "")  # slices of other names are no other bands
    (tilted,) = found(tmp_path / "in/tilted").layouts.values()
    assert np.array(tilted.attributes["volume"]["affine"])[:3, 2] == pytest.approx([0, -0.5, 2])


@pytest.mark.parametrize(
    ("gone", "note"),
    [
        ((), None),
        ((0,), "instance numbers from 2 on, as where slice 1 is missing"),
        ((0, 1, 2), "instance numbers from 4 on, as where slices 1 to 3 are missing"),
        ((5, 6), None),
        ((0, 1, 2, 3), None),  # as many of before: numbers of more than this series
        ((0, 1, 2, 3, 4, 5), None),
    ],
)
def test_instance_numbers_that_begin_late_are_said(
    gone: tuple[int, ...], note: str | None, tmp_path: Path
) -> None:
    paths = write_series(tmp_path / "in", body(7))
    for number in gone:
        paths[number].unlink()
    (layout,) = found(tmp_path / "in").layouts.values()
    notes = layout.attributes["volume"].get("notes")
    assert notes == (note and [note])


def test_frames_of_one_file_lie_in_their_places(tmp_path: Path) -> None:
    values = body(5)
    single = datasets(write_series(tmp_path / "single", values))
    many = LegacyConvertedEnhancedCTImage(single, highdicom.UID(), 1, highdicom.UID(), 1)
    order = [3, 0, 4, 2, 1]
    groups = many.PerFrameFunctionalGroupsSequence
    many.PerFrameFunctionalGroupsSequence = pydicom.Sequence([groups[i] for i in order])
    stored = many.pixel_array[order]
    many.PixelData = stored.tobytes()
    (tmp_path / "many").mkdir()
    many.save_as(tmp_path / "many/a.dcm")
    got, _ = pixels(tmp_path / "many")
    assert np.array_equal(got[..., 0], values)
    assert about(tmp_path / "many")["affine"] == about(tmp_path / "single")["affine"]
    del many.PerFrameFunctionalGroupsSequence[1:]
    many.save_as(tmp_path / "many/a.dcm")
    assert "5 frames, and 1 descriptions" in refused(tmp_path / "many")
    # a small file that claims millions of frames: before memory is taken, packed or not
    for syntax in (pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.RLELossless):
        few = slice_of(values[0], (0, 0, 0), NumberOfFrames=9_000_000)
        few.file_meta.TransferSyntaxUID = syntax
        if syntax.is_encapsulated:
            few.PixelData = pydicom.encaps.encapsulate([b"\0" * 64])
            few["PixelData"].VR = "OB"
        few.save_as(tmp_path / "many/a.dcm", enforce_file_format=True)
        assert "cut short: its header says 9,000,000 frames" in refused(tmp_path / "many")


def test_several_times_follow_each_other(tmp_path: Path) -> None:
    values = body(8)
    for i, one in enumerate(values):
        write_series(
            tmp_path / "in", one[None], [(0, 0, 2.0 * (i % 4))],
            name=f"{i}.dcm", TemporalPositionIdentifier=1 + i // 4,
        )  # fmt: skip
    got, _ = pixels(tmp_path / "in")
    assert np.array_equal(got[..., 0], values)
    assert about(tmp_path / "in")["slices"] == 4


def test_padding_is_void_and_low_may_be_white(tmp_path: Path) -> None:
    values = body(2)
    values[0, :3] = -1024
    values[1, 0, 0] = 3071
    paths = write_series(tmp_path / "in", values, PixelPaddingValue=0)
    got, valid = pixels(tmp_path / "in")
    assert not valid[0, :3].any()
    assert valid[0, 3:].all()
    data = [pydicom.dcmread(path) for path in paths]
    shown, _ = pixels(tmp_path / "in", window=[40, 400])
    for i, each in enumerate(data):
        hounsfield = apply_modality_lut(each.pixel_array, each)
        each.BitsStored = each.BitsAllocated = 8  # pydicom's range of what comes out
        each.RescaleSlope, each.RescaleIntercept = 1, 0
        theirs = apply_windowing(hounsfield.astype(np.float64), each)
        assert np.abs(shown[i, ..., 0] - theirs).max() <= 0.5 + 1e-9
    write_series(
        tmp_path / "white", values, PhotometricInterpretation="MONOCHROME1", series="1.2.4"
    )
    inverted, _ = pixels(tmp_path / "white", window=[40, 400])
    assert np.array_equal(inverted, 255 - shown)
    assert np.array_equal(got, pixels(tmp_path / "white")[0])


def test_each_slice_may_have_a_scale_of_its_own(tmp_path: Path) -> None:
    values = np.round(body(3) / 8) * 8.0
    for i, one in enumerate(values):
        write_series(
            tmp_path / "in", one[None], [(0, 0, 2.0 * i)], name=f"{i}.dcm", slope=0.5 + i, intercept=-1024
        )  # fmt: skip
    got, _ = pixels(tmp_path / "in")
    assert got.dtype == np.float32
    theirs = [
        apply_modality_lut(d.pixel_array, d)
        for d in datasets([tmp_path / f"in/{i}.dcm" for i in range(3)])
    ]
    assert np.array_equal(got[..., 0], np.float32(theirs))


def test_pydicoms_own_files(tmp_path: Path) -> None:
    """Other byte orders, implicit VR, JPEG-LS, JPEG 2000, RLE, colours; what is no image is skipped."""
    same = ("MR_small", "MR_small_implicit", "MR_small_bigendian", "MR_small_RLE",
            "MR_small_jpeg_ls_lossless", "MR_small_jp2klossless")  # fmt: skip
    for name in (*same, "CT_small", "examples_ybr_color", "test-SR", "image_dfl", "JPGExtended",
                 "examples_palette", "MR_truncated"):  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / "IM0").write_bytes(Path(get_testdata_file(f"{name}.dcm")).read_bytes())
    first, _ = pixels(tmp_path / same[0])
    for name in same[1:]:
        assert np.array_equal(pixels(tmp_path / name)[0], first), name
    colours, _ = pixels(tmp_path / "examples_ybr_color", rows=slice(100, 140))
    theirs = pydicom.pixels.pixel_array(get_testdata_file("examples_ybr_color.dcm"))
    assert np.array_equal(colours, theirs[:, 100:140])
    assert "deflated" in refused(tmp_path / "image_dfl")
    assert "pip install pylibjpeg pylibjpeg-libjpeg" in refused(tmp_path / "JPGExtended")
    assert "PALETTE" in refused(tmp_path / "examples_palette")
    with pytest.raises(JobError, match=r"holds no image .only what is skipped: 1 without a suffix"):
        found(tmp_path / "test-SR")
    assert "cut short" in refused(tmp_path / "MR_truncated")


def test_files_become_series(tmp_path: Path) -> None:
    values = body(3)
    write_series(tmp_path / "p1/ct", values)
    write_series(tmp_path / "p2", values, series="1.2.3", name="A{:02d}.dcm")
    write_series(tmp_path / "p2", values, series="1.2.4", name="B{:02d}.dcm")
    write_series(tmp_path / "p3", values[:1], series="1.2.5")
    (tmp_path / "notes.txt").write_text("x")
    write_nifti(tmp_path / "p4/a.nii.gz", values.T, AFFINE)
    for kind in ("volume", "auto"):
        result = found(tmp_path, kind)
        shapes = {layout.names[0]: layout.shape[0] for layout in result.layouts.values()}
        assert shapes == {
            "p1/ct": 3, "p2/A00.dcm": 3, "p2/B00.dcm": 3, "p3/IM0000.dcm": 1, "p4/a.nii.gz": 3,
        }  # fmt: skip
        assert {layout.kind for layout in result.layouts.values()} == {"volume"}
        assert result.skipped == {".txt": 1}
    assert list(found(tmp_path / "p4/a.nii.gz").layouts) == ["a"]
    assert list(found(tmp_path / "p1/ct").layouts) == ["ct"]


@pytest.mark.parametrize(("module", "name"), [("nibabel", "a.nii"), ("pydicom", "a.dcm")])
def test_a_package_that_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: Any, module: str, name: str
) -> None:
    write_nifti(tmp_path / "a.nii", body().T, AFFINE)
    slice_of(body()[0], (0, 0, 0)).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    monkeypatch.setitem(sys.modules, module, None)
    if module == "nibabel":
        said = refused(tmp_path / name)
    else:
        with pytest.raises(JobError) as caught:
            found(tmp_path / name)
        said = str(caught.value)
    assert said.endswith(
        f"needs {module}, which is not installed; python -m pip install 'segengine[medical]' brings it"
    )


def test_bad_options_are_one_line(tmp_path: Path) -> None:
    write_nifti(tmp_path / "in/a.nii", body().T, AFFINE)
    for window in ("[40]", "[40, 0]", "soft", "[a, b]", "[.inf, 3]"):
        (tmp_path / "job.yaml").write_text(
            f"source: {{kind: volume, paths: [in], window: {window}}}\n"
            "segmenter: {kind: threshold}\nstore: {path: out.zarr}\n"
        )
        with pytest.raises(JobError, match=r"window: is .* it must be \[center, width\]"):
            segengine.run(load_job(tmp_path / "job.yaml"))


# ------------------------------------------------------------------------------------------ whole runs


def objects_of(store: Path) -> dict[str, bytes]:
    """Every object of a store, and what arrays and tables hold, uncompressed."""
    held = {str(p.relative_to(store)): p.read_bytes() for p in store.rglob("*") if p.is_file()}
    import pyarrow.parquet as pq

    for name in list(held):
        if name.endswith(".parquet"):
            held[f"{name}, read"] = repr(pq.read_table(store / name).to_pylist()).encode()
    for path in filter(Path.is_dir, (store / "scenes").iterdir()):
        for name, array in zarr.open_group(path, mode="r").members(max_depth=None):
            if isinstance(array, zarr.Array):
                held[f"{path.name}/{name}, read"] = np.asarray(array[:]).tobytes()
    return held


def test_no_patient_is_in_any_object_of_a_store(tmp_path: Path) -> None:
    """DESIGN.md: no patient's name in any object of the store; nor an id, a date, a place."""
    values = body()
    write_series(tmp_path / "in/ct", values)
    write_nifti(tmp_path / "in/brain.nii.gz", values.T, AFFINE)
    bad = write_series(tmp_path / "in/bad", values, series="1.2.3")
    bad[2].unlink()  # what is quarantined is told too
    odd = slice_of(values[0], (0, 0, 0), series="1.2.4")
    odd.Modality = "QUENNELBY"
    odd.save_as(tmp_path / "in/odd.dcm", enforce_file_format=True)
    raw = b"".join(p.read_bytes() for p in (tmp_path / "in").rglob("*.dcm"))
    assert all(str(v).encode() in raw for v in PATIENT.values())  # the search would find them
    (tmp_path / "job.yaml").write_text(
        "source: {kind: volume, paths: [in]}\nsegmenter: {kind: kmeans, clusters: 2, scope: scene}\n"
        "store: {path: out.zarr, chunk: 16, shard: 16}\n"
    )
    text = slice_of(values[0], (0, 0, 0), series="1.2.5", intercept=-1000)
    text.save_as(tmp_path / "in/text.dcm", enforce_file_format=True)
    raw = (tmp_path / "in/text.dcm").read_bytes()
    assert b"-1000" in raw
    (tmp_path / "in/text.dcm").write_bytes(raw.replace(b"-1000", b"QUENN"))
    summary = segengine.run(load_job(tmp_path / "job.yaml"))
    assert summary.exit_code == 3
    held = objects_of(tmp_path / "out.zarr")
    assert len(held) > 20
    for name, data in held.items():
        text = data.lower().replace(b"\0", b"")
        for secret in (*SECRETS, "quenn", "1.2.826"):
            assert secret.encode() not in text, (name, secret)
    group = json.loads(held["scenes/ct/zarr.json"])["attributes"]
    assert group["volume"]["spacing"] == [2.5, 0.75, 0.5]


def test_a_volume_is_segmented_verified_and_kept_up_to_date(tmp_path: Path) -> None:
    values = body(6, 24, 20)
    paths = write_series(tmp_path / "in/ct", values)
    write_nifti(tmp_path / "in/ct.nii.gz", values.T, AFFINE)
    text = (
        "source: {{kind: {}, paths: [in]}}\nsegmenter: {{kind: threshold, scope: scene}}\n"
        "store: {{path: {}, chunk: 16, shard: {}, frames: {}}}\n"
        'truth: {{paths: ["truth/{{stem}}.nii.gz"], classes: [dark, bright]}}\n'
    )
    truth = (values > -200).astype(np.uint8)
    truth[3, 4:8, 4:8] ^= 1
    write_nifti(tmp_path / "truth/ct.nii.gz", truth.T, AFFINE)
    jobs = [("volume", "a.zarr", 16, 3), ("auto", "b.zarr", 64, 4)]
    stores = []
    for kind, path, shard, frames in jobs:
        (tmp_path / "job.yaml").write_text(text.format(kind, path, shard, frames))
        job = load_job(tmp_path / "job.yaml")
        assert segengine.run(job).exit_code == 0
        assert segengine.run(job).computed == 0
        assert verify(str(tmp_path / path)).exit_code == 0
        stores.append(segengine.open_store(tmp_path / path))
    for store in stores:
        assert sorted(store.scenes) == ["ct", "ct-" + sorted(store.scenes)[1][3:]]
        for scene in store.scenes.values():
            assert np.array_equal(scene.mask[:], values > -200)
        accuracy = store.metrics["overall"]["pixel_accuracy"]
        assert accuracy == pytest.approx(1 - 16 / values.size)
    job = load_job(tmp_path / "job.yaml")
    data = pydicom.dcmread(paths[4])
    data.PixelData = np.full((24, 20), 2000, np.uint16).tobytes()
    data.save_as(paths[4])
    assert segengine.run(job).computed == 2  # one volume; the other is as it was
    assert stores[1]["ct"].mask[4].all()
    other = segengine.job.parse_job(
        {**job.as_json(), "source": {**job.as_json()["source"], "window": None}}
    )
    assert segengine.run(other).computed == 0
    # other options are another picture: laid out anew, and refused as at first
    gray = load_job(tmp_path / "job.yaml", ["source.kind=volume", "source.window=[40, 400]"])
    assert segengine.run(gray).computed == 4
    again = segengine.open_store(gray.store.path)
    assert {scene.layout.dtype for scene in again.scenes.values()} == {"uint8"}
    assert not np.asarray(next(iter(again.scenes.values())).mask[:] == 255).any()
    for change in ("source.window=[40]", "source.tissue=maybe"):
        with pytest.raises(JobError, match="it must be"):
            segengine.run(load_job(tmp_path / "job.yaml", ["source.kind=volume", change]))


@pytest.mark.usefixtures("plain_report")
def test_the_worked_example(tmp_path: Path) -> None:
    """deployments/jobs/volume.yaml; distances are millimetres, as by SciPy."""
    example = Path(__file__).parents[3] / "deployments/jobs/volume.yaml"
    job = tmp_path / "job.yaml"
    job.write_text(example.read_text().replace("/srv/segengine", str(tmp_path)))
    values = body(4)
    write_series(tmp_path / "ct/one", values)
    write_nifti(tmp_path / "ct/two.nii.gz", values.T, AFFINE)
    write_series(
        tmp_path / "ct/flat", values[:1], PixelSpacing=None
    )  # says no place, and no spacing
    truth = np.roll(values > -200, (2, 1), (1, 2)).astype(np.uint8)
    for name in ("one", "two", "IM0000"):
        path = tmp_path / f"ct-labels/{name}.nii.gz"
        write_nifti(path, truth[:1].T if name == "IM0000" else truth.T, AFFINE)
    assert segengine.run(load_job(job)).exit_code == 0
    store = segengine.open_store(tmp_path / "masks/volume.zarr")
    assert store["two"].attributes["volume"]["spacing"][0] == pytest.approx(2.5)
    found = store.metrics["scenes"]
    for scene, spacing in (("one", (0.75, 0.5)), ("two", store["two"].layout.spacing)):
        for index, name in enumerate(store.classes):
            each = []
            for a, b in zip(store[scene].mask[:], truth, strict=True):
                edges = [
                    m & ~ndimage.binary_erosion(m, ndimage.generate_binary_structure(2, 1))
                    for m in (a == index, b == index)
                ]
                both = [
                    ndimage.distance_transform_edt(~y, sampling=spacing)[x]
                    for x, y in (edges, edges[::-1])
                ]
                if all(len(d) for d in both):
                    each.append(max(np.percentile(d, 95) for d in both))
            ours = found[scene]["hd95(spacing=scene)"]["classes"][name]
            assert ours["hd95"] == pytest.approx(np.mean(each), abs=1e-9)
            # across slices where the affine puts them: that of `two` is oblique
            affine = np.array(store[scene].attributes["volume"]["affine"])
            a, b = (
                np.argwhere(m & ~ndimage.binary_erosion(m))[:, ::-1] @ affine[:3, :3].T
                for m in (store[scene].mask[:] == index, truth == index)
            )
            apart = (cKDTree(y).query(x)[0] for x, y in ((a, b), (b, a)))
            ours = found[scene]["hd95(spacing=volume)"]["classes"][name]
            assert ours["hd95"] == pytest.approx(max(np.percentile(d, 95) for d in apart), abs=1e-8)
    (other,) = found.keys() - {"one", "two"}
    for spacing in ("scene", "volume"):
        assert found[other][f"hd95(spacing={spacing})"]["mean_hd95"] is None
    assert ["says no spacing" in row["reason"] for row in store.metrics["missing_truth"]] == [True]


def test_numbers_tell_a_missing_slice_from_one_that_never_was() -> None:
    missing = _series._missing
    gaps, step = np.array([5.0, 2.5, 5.0]), 5.0
    assert missing(gaps, np.array([2, 1, 2]), step, 0.05) == [1, 0, 1]
    assert missing(np.array([2.5, 5.0, 5.0]), np.array([1, 1, 1]), 5.0, 0.05) == [0, 0, 0]
    assert missing(np.array([2.5, 2.5, 5.0]), None, 2.5, 0.05) == [0, 0, 1]
    assert missing(np.array([2.5, 2.6, 4.1]), None, 2.6, 0.05) == [0, 0, 0]
