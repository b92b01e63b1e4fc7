"""A package outside the tree: installed by pip, tried by its own suites, and used by a job by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import segengine
from segengine.testing._pictures import picture
from tests.segengine.testing.test_chapter import EXAMPLES

pytestmark = pytest.mark.system
PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "acme-segmenting"
version = "1.0"

[tool.setuptools]
py-modules = ["acme_segmenting"]

[project.entry-points."segengine.segmenters"]
acme-brightest = "acme_segmenting:Brightest"
[project.entry-points."segengine.sources"]
acme-npy = "acme_segmenting:NpySource"
[project.entry-points."segengine.metrics"]
acme-right = "acme_segmenting:Right"
[project.entry-points."segengine.exports"]
acme-counts = "acme_segmenting:counts"
"""
MODULE = '''
"""The brightest pixels around, from arrays of NumPy."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import segengine
from segengine.errors import CorruptInputError, JobError
from segengine.types import Prediction, Probe, Tile, Truth, Unreadable


@dataclass(frozen=True)
class Brightest:
    """Pixels that are the brightest within a radius."""

    radius: int = 1
    classes = ("other", "brightest")
    stride = 1
    outputs = ("labels",)

    def __post_init__(self):
        if not isinstance(self.radius, int) or self.radius < 0:
            raise ValueError(f"radius: must be a whole number from 0, got {self.radius!r}")

    @property
    def halo(self):
        return self.radius

    def segment(self, pixels):
        gray = pixels.astype(np.int64).sum(axis=-1)
        r, (_, h, w) = self.radius, gray.shape
        near = np.pad(gray, ((0, 0), (r, r), (r, r)))
        side = range(2 * r + 1)
        best = np.max([near[:, y : y + h, x : x + w] for y in side for x in side], axis=0)
        return Prediction((gray == best).astype(np.uint8))


@dataclass(frozen=True)
class NpySource:
    """Arrays (y, x, band) as `numpy.save` writes them."""

    def probe(self, entry):
        try:
            height, width, bands = (array := self._array(entry.uri)).shape
        except (OSError, ValueError, EOFError) as error:
            raise CorruptInputError(f"is no array: {error}") from error
        return Probe("acme-npy", height, width, bands, str(array.dtype), windowed=True)

    def read(self, frames, rows, cols):
        for frame in frames:
            try:
                yield Tile(np.array(self._array(frame.uri)[rows, cols]))
            except (OSError, ValueError, EOFError) as error:
                yield Unreadable("corrupt", f"is no array: {error}")

    def _array(self, uri):
        return np.load(uri, mmap_mode="r", allow_pickle=False)


@dataclass(frozen=True)
class Right:
    """Share of pixels that are right."""

    classes: tuple
    truth_classes: tuple = ()

    def empty(self):
        return 0, 0

    def update(self, state, prediction, truth):
        true = truth.labels if isinstance(truth, Truth) else truth
        known = true != np.iinfo(true.dtype).max
        right = int((prediction.labels == true)[known].sum())
        return self.merge(state, (right, int(known.sum())))

    def merge(self, a, b):
        return a[0] + b[0], a[1] + b[1]

    def compute(self, state):
        return {"acme-right": state[0] / state[1] if state[1] else None}


def counts(store_path, to):
    """Pixels of each class and scene, as CSV."""
    store = segengine.open_store(store_path)
    if not store.scenes:
        raise JobError(f"{store_path}: has no scenes; run a job first")
    path = Path(to) / "counts.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("scene", *store.classes))
        for name, scene in store.scenes.items():
            found = np.bincount(np.asarray(scene.mask).ravel(), minlength=256)
            rows.writerow((name, *found[: len(store.classes)]))
    return [str(path)]
'''
TESTS = """
import numpy as np
from acme_segmenting import Brightest, NpySource, Right, counts

from segengine.testing import ExportTests, MetricTests, SegmenterTests, SourceTests


class TestBrightest(SegmenterTests):
    refused = {"radius": [-1, "wide"]}

    def make(self):
        return Brightest(radius=3)


class TestNpySource(SourceTests):
    def make(self, folder):
        frames = {}
        for i in range(2):
            pixels = np.random.default_rng(i).integers(0, 9999, (37 + i, 50, 2), np.uint16)
            np.save(folder / f"{i}.npy", pixels)
            frames[f"{i}.npy"] = pixels
        return {"kind": "acme-npy", "paths": [str(folder / "*.npy")]}, frames


class TestRight(MetricTests):
    def make(self):
        return Right(("a", "b"))


class TestCounts(ExportTests):
    def make(self):
        return counts
"""


PRINTED = {
    "segmenter": ("segmenters", "mine-bright", "Bright"),
    "source": ("sources", "mine-npy", "Npy"),
    "metric": ("metrics", "mine-right", "Right"),
    "export": ("exports", "mine-arrays", "arrays"),
}
"""By kind, the group, the name and the object of the chapter's example."""


def installed(project: Path, site: Path) -> Path:
    """Where pip has installed it."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    command = [*pip, "--no-build-isolation", "--target", str(site), str(project)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("acme")
    (project / "pyproject.toml").write_text(PROJECT)
    (project / "acme_segmenting.py").write_text(MODULE)
    return installed(project, tmp_path_factory.mktemp("site"))


def started(site: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A module of Python, with the package beside segengine."""
    unset = ("PREFECT_API_URL", "PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST")
    env = {name: value for name, value in os.environ.items() if name not in unset}
    env |= {"PYTHONPATH": str(site), "PREFECT_HOME": str(folder / "prefect")}
    return subprocess.run(
        [sys.executable, "-m", *command],
        env=env, cwd=folder, capture_output=True, text=True, timeout=600,
    )  # fmt: skip


CLI = "segengine_flows.start"


def write_job(
    folder: Path,
    package: str,
    inputs: Sequence[Any],
    truth: Sequence[Any],
    classes: list[str],
    segmenter: dict[str, Any],
) -> None:
    """A job over inputs (y, x, band) with labels (y, x), by a package's source, metric and segmenter."""
    for name in ("arrays", "labels"):
        (folder / name).mkdir()
    for i, (pixels, labels) in enumerate(zip(inputs, truth, strict=True)):
        np.save(folder / f"arrays/{i}.npy", pixels)
        assert cv2.imwrite(str(folder / f"labels/{i}.png"), labels)
    job = {
        "source": {"kind": f"{package}-npy", "paths": ["arrays/*.npy"]},
        "truth": {"paths": ["labels/{stem}.png"], "classes": classes},
        "segmenter": segmenter,
        "evaluate": {"metrics": [f"{package}-right"]},
        "store": {"path": "masks.zarr", "chunk": 16, "shard": 32},
        "cluster": {"workers": 1},
    }
    (folder / "job.yaml").write_text(json.dumps(job))


def run_and_export(site: Path, folder: Path, to: str) -> dict[str, Any]:
    """Run the job, export its store to the folder `o`; the store's figures."""
    for command in (("run", "job.yaml"), ("export", "masks.zarr", "--to", to, "--out", "o")):
        done = started(site, folder, CLI, *command)
        assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((folder / "masks.zarr/metrics.json").read_text())
    return found


def test_its_own_suites_pass(site: Path, tmp_path: Path) -> None:
    (tmp_path / "test_acme.py").write_text(TESTS)
    done = started(site, tmp_path, "pytest", "-q", "-p", "no:cacheprovider", "test_acme.py")
    assert done.returncode == 0, done.stdout + done.stderr
    passed = int(done.stdout.split(" passed")[0].split()[-1])
    assert passed >= 30


def test_a_suite_says_in_one_line_what_is_wrong(site: Path, tmp_path: Path) -> None:
    wrong = TESTS.replace("return Brightest(radius=3)", "return Near(radius=3)").replace(
        "class TestBrightest",
        "class Near(Brightest):\n    halo = 1\n\n\nclass TestBrightest",
    )
    (tmp_path / "test_acme.py").write_text(wrong)
    done = started(site, tmp_path, "pytest", "-q", "-p", "no:cacheprovider", "test_acme.py")
    assert done.returncode == 1
    assert "1 failed" in done.stdout
    assert "AssertionError: Near labels rows " in done.stdout
    assert "its halo 1 or stride 1 is too small" in done.stdout


def test_a_job_uses_all_of_it_by_name(site: Path, tmp_path: Path) -> None:
    inputs = [picture(i, (70, 45 + i)) for i in range(2)]
    truth = [np.zeros(pixels.shape[:2], np.uint8) for pixels in inputs]
    segmenter = {"kind": "acme-brightest", "radius": 2}
    write_job(tmp_path, "acme", inputs, truth, ["other", "brightest"], segmenter)
    metrics = run_and_export(site, tmp_path, "acme-counts")
    frames = segengine.open_store(tmp_path / "masks.zarr").frames
    assert frames.column("status").to_pylist() == ["done", "done"]
    share = metrics["overall"]["acme-right"]
    rows = (tmp_path / "o/counts.csv").read_text().splitlines()
    assert rows[0] == "scene,other,brightest"
    other, brightest = (sum(int(row.split(",")[k]) for row in rows[1:]) for k in (1, 2))
    assert other + brightest == 70 * 45 + 70 * 46
    assert brightest > 0
    assert share == pytest.approx(other / (other + brightest))
    typo = started(site, tmp_path, CLI, "run", "job.yaml", "--set", "segmenter.radius=-1")
    assert typo.returncode == 2
    assert "segmenter.radius: must be a whole number from 0, got -1" in typo.stderr


def test_each_example_of_the_chapter_is_one_file_and_one_line_away_from_a_job(
    tmp_path: Path,
) -> None:
    """A segmenter, a source, a metric and an export, as they are printed."""
    package = tmp_path / "project" / "mine"
    package.mkdir(parents=True)
    lines = PROJECT.partition("[project.entry-points")[0].splitlines()
    lines[lines.index('py-modules = ["acme_segmenting"]')] = 'packages = ["mine"]'
    for kind, (group, name, attribute) in PRINTED.items():
        (package / f"{kind}.py").write_text(EXAMPLES[kind])
        lines += [
            f'[project.entry-points."segengine.{group}"]',
            f'{name} = "mine.{kind}:{attribute}"',
        ]
    (package.parent / "pyproject.toml").write_text("\n".join(lines))
    site = installed(package.parent, tmp_path / "site")

    pixels = picture(1, (70, 45))
    bright = pixels.mean(axis=-1) > 100
    segmenter = {"kind": "mine-bright", "level": 100}
    truth = bright.astype(np.uint8)
    write_job(tmp_path, "mine", [pixels], [truth], ["dark", "bright"], segmenter)
    metrics = run_and_export(site, tmp_path, "mine-arrays")
    assert metrics["overall"]["mine-right"]["right"] == 1.0
    (written,) = (tmp_path / "o").iterdir()
    assert 0 < bright.sum() < bright.size
    np.testing.assert_array_equal(np.load(written).reshape(-1, 70, 45)[0], bright)
