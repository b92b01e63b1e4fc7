"""Slides: levels against tiffslide itself, micrometres, glass that is void and never read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import tiffslide

import segengine
from segengine.errors import JobError
from segengine.job import load_job
from segengine.planning.layout import Cut
from segengine.planning.scan import Scan, scan
from segengine.registry import reader
from segengine.sources import _slide as slides
from segengine.testing import SourceTests
from segengine.types import Tile, Unreadable
from tests.segengine.sources.volumes import write_nifti

ABOUT = "Aperio Image Library v12.0.1\n{} x {} (64x64) JPEG/RGB Q=70|AppMag = 20|User = Quennelby{}"


def picture(height: int = 640, width: int = 512) -> Any:
    """(y, x, 3) a stained patch on glass."""
    found = np.full((height, width, 3), 240, np.uint8)
    y, x = np.mgrid[:height, :width]
    inside = ((y - height * 0.35) / 130) ** 2 + ((x - width * 0.4) / 110) ** 2 < 1
    stain = np.random.default_rng(0).integers(0, 60, (height, width, 3), np.uint8)
    found[inside] = (stain + np.array([150, 60, 140], np.uint8))[inside]
    return found


def write(path: Path, pixels: Any, mpp: float | None = 0.5, levels: int = 3) -> Path:
    """As Aperio's scanners write: the finest level, a thumbnail, and the coarser levels; tiles of 64."""
    path.parent.mkdir(parents=True, exist_ok=True)
    said = "" if mpp is None else f"|MPP = {mpp}"
    options: dict[str, Any] = {"photometric": "rgb", "metadata": None, "compression": "zlib"}
    height, width = pixels.shape[:2]
    with tifffile.TiffWriter(path) as file:
        text = ABOUT.format(width, height, said)
        file.write(pixels, tile=(64, 64), description=text, **options)
        file.write(cv2.resize(pixels, (64, 80)), rowsperstrip=80, description=text, **options)
        for level in range(1, levels):
            size = width >> level, height >> level
            coarse = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
            file.write(coarse, tile=(64, 64), description=text, **options)
    return path


def found(path: Path, **options: Any) -> Scan:
    return scan({"kind": "volume", "paths": [str(path)], **options}, {}, (), Cut(16, 64))


def read(path: Path, rows: Any = None, cols: Any = None, **options: Any) -> Any:
    (layout,) = found(path, **options).layouts.values()
    (ref,) = layout.frames()
    source = reader("volume", options)
    rows, cols = rows or slice(0, ref.height), cols or slice(0, ref.width)
    (tile,) = source.read((ref,), rows, cols)
    assert isinstance(tile, Tile), tile
    return tile.pixels, tile.valid


class TestSlides(SourceTests):
    def make(self, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        pixels = picture()[150:310, 130:258]
        write(folder / "in/a.svs", pixels)
        return {"kind": "volume", "paths": [f"{folder}/in"]}, {"a.svs": pixels}


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_level_is_what_tiffslide_reads(tmp_path: Path, level: int) -> None:
    path = write(tmp_path / "a.svs", picture(645, 515))
    with tiffslide.TiffSlide(path) as theirs:
        width, height = theirs.level_dimensions[level]
        whole = theirs.read_region((0, 0), level, (width, height), as_array=True)
    side = 0.5 * 515 / width
    pixels, valid = read(path, resolution=side)
    assert valid is None or valid[:-1].all()  # rows are rounded up
    assert pixels.shape[1] == width
    rows = min(len(pixels), height)
    # the level's own pixels, but where its other axis is longer by a part of one
    assert (pixels[: rows - 1] == whole[: rows - 1]).mean() > 0.99
    (layout,) = found(path, resolution=side).layouts.values()
    assert layout.attributes["slide"]["micrometres"] == pytest.approx([side, side])


@pytest.mark.parametrize("resampling", ["nearest", "average", "bilinear"])
def test_windows_do_not_depend_on_the_cut(tmp_path: Path, resampling: str) -> None:
    path = write(tmp_path / "a.svs", picture(645, 515))
    options: dict[str, Any] = {"resolution": 0.7, "resampling": resampling, "tissue": True}
    whole, valid = read(path, **options)
    assert whole.shape[:2] == pytest.approx((645 * 0.5 / 0.7, 515 * 0.5 / 0.7), abs=1)
    for rows in (slice(0, 77), slice(60, 200)):
        for cols in (slice(0, 64), slice(130, 301)):
            part, sure = read(path, rows, cols, **options)
            sure = np.ones(part.shape[:2], bool) if sure is None else sure
            assert np.array_equal(sure, valid[rows, cols])
            assert np.array_equal(part[sure], whole[rows, cols][sure])


def test_glass_is_void_and_never_read(tmp_path: Path, monkeypatch: Any) -> None:
    pixels = picture()
    path = write(tmp_path / "in/a.svs", pixels)
    for tissue in (False, True):
        (tmp_path / "job.yaml").write_text(
            f"source: {{kind: volume, paths: [in], resolution: 1.0, tissue: {str(tissue).lower()}}}\n"
            "segmenter: {kind: threshold, object: dark, scope: scene}\n"
            f"store: {{path: {tissue}.zarr, chunk: 32, shard: 64}}\n"
        )
        looked = []
        plain = slides._Slide.read

        def counted(
            self: Any,
            level: int,
            rows: slice,
            cols: slice,
            looked: Any = looked,
            plain: Any = plain,
        ) -> Any:
            looked.append((level, rows, cols))
            return plain(self, level, rows, cols)

        monkeypatch.setattr(slides._Slide, "read", counted)
        job = load_job(tmp_path / "job.yaml")
        assert segengine.run(job).exit_code == 0
        monkeypatch.setattr(slides._Slide, "read", plain)
        assert segengine.run(job).computed == 0
        store = segengine.open_store(tmp_path / f"{tissue}.zarr")
        assert "quennelby" not in str(store["a"].attributes).lower()
        mask = store["a"].mask[0]
        coarse = cv2.resize(pixels, (256, 320), interpolation=cv2.INTER_AREA)
        stained = coarse.min(axis=-1) < slides.GLASS
        if not tissue:
            everything = len(looked)
            assert not (mask == 255).any()
            continue
        assert (mask[stained] != 255).all()
        grown = cv2.dilate(stained.astype(np.uint8), np.ones((33, 33), np.uint8)) > 0
        assert (mask[~grown] == 255).all()
        assert len([one for one in looked if one[0] == 1]) < 0.6 * everything
    assert list(found(path).layouts) == ["a"]
    (layout,) = found(tmp_path / "in", kind="auto").layouts.values()
    assert layout.kind == "volume"


def test_tissue_of_one_fine_level_is_looked_for_by_8_micrometres(tmp_path: Path) -> None:
    pixels = picture()
    pixels[200:203, 150:210] = 240  # a crack
    pixels[600, 480] = 60  # a speck
    _, tissue = read(write(tmp_path / "a.svs", pixels, levels=1), tissue=True)
    assert tissue[160:280, 150:250].all()
    assert not tissue[590:610, 470:490].any()
    _, coarse = read(write(tmp_path / "b.svs", pixels, levels=5), tissue=True)
    assert (tissue == coarse).mean() > 0.99


def test_what_is_no_slide_is_said(tmp_path: Path, capfd: Any) -> None:
    def refused(path: Path, **options: Any) -> str:
        (one,) = found(path, **options).unplaced
        assert one.kind == "corrupt"
        assert "\n" not in one.reason
        return one.reason

    bare = write(tmp_path / "bare.svs", picture(), mpp=None)
    assert read(bare)[0].shape == (640, 512, 3)
    assert "says no micrometres a pixel" in refused(bare, resolution=1.0)
    whole = write(tmp_path / "a.svs", picture()).read_bytes()
    cut = tmp_path / "cut.svs"
    cut.write_bytes(b"x" * 500)
    assert "damaged slide" in refused(cut)
    tifffile.imwrite(tmp_path / "gray.svs", np.zeros((200, 200), np.uint16), tile=(64, 64))
    (layout,) = found(tmp_path / "gray.svs").layouts.values()
    (tile,) = reader("volume", {}).read(layout.frames(), slice(0, 9), slice(0, 9))
    assert isinstance(tile, Unreadable)
    cut.write_bytes(whole[: len(whole) // 2])
    assert refused(cut)
    assert not capfd.readouterr().err
    write_nifti(tmp_path / "a.nii", np.zeros((4, 4, 2), np.uint8), np.eye(4))
    assert "source.resolution is of slides" in refused(tmp_path / "a.nii", resolution=1.0)
    with pytest.raises(JobError, match="tissue: is 'yes'"):
        found(bare, tissue="yes")


def test_the_worked_example(tmp_path: Path) -> None:
    """deployments/jobs/slides.yaml: the stained patch is objects, and glass is void."""
    example = Path(__file__).parents[3] / "deployments/jobs/slides.yaml"
    job = tmp_path / "job.yaml"
    job.write_text(example.read_text().replace("/srv/segengine", str(tmp_path)))
    pixels = picture()
    pixels[200:240, 150:200] = (60, 20, 60)
    write(tmp_path / "slides/a.svs", pixels)
    assert segengine.run(load_job(job)).exit_code == 0
    store = segengine.open_store(tmp_path / "masks/slides.zarr")
    (scene,) = store.scenes.values()
    mask = np.asarray(scene.mask[0, :640, :512])
    assert (mask[200:240, 150:200] == 1).all()
    assert mask[639, 511] == 255
    areas = store.table("instances").column("area").to_pylist()
    assert min(areas) >= 40
    assert max(areas) >= 40 * 50
