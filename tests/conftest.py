"""What many tests need: a folder with inputs and a store, and segmenters of a stranger."""

from __future__ import annotations

import gc
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.strategies import none

import segengine
from segengine.progress import Summary
from segengine.store.blobs import open_objects
from segengine.store.sealbook import sealed_report
from tests.needs import lacking
from tests.slurm import Account, Slurm

# A busy machine is no failure, and what passed passes again. To look for more: --hypothesis-profile=explore
settings.register_profile("repeat", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("repeat")
# Prefect's own server of a flow without an API has 20 s to start, which a busy machine may take.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
# Tests run beside each other: libraries that spin for threads of their own take the others' cores.
for _threads in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(_threads, "1")

SLOW = (
    "deployments",
    "flows/test_cli.py",
    "flows/test_foreign_code.py",
    "flows/test_guard.py",
    "segengine/commands/test_area.py",
    "segengine/commands/test_evaluate.py",
    "segengine/commands/test_prune.py",
    "segengine/commands/test_sample.py",
    "segengine/commands/test_verify.py",
    "segengine/commands/test_zones.py",
    "segengine/datasets/test_cityscapes_scores.py",
    "segengine/datasets/test_coco.py",
    "segengine/datasets/test_review.py",
    "segengine/dispatch/test_forked.py",
    "segengine/export/test_antimeridian.py",
    "segengine/export/test_edges.py",
    "segengine/export/test_export.py",
    "segengine/export/test_instances.py",
    "segengine/export/test_regions.py",
    "segengine/export/test_stac.py",
    "segengine/export/test_vectors.py",
    "segengine/export/test_volumes.py",
    "segengine/export/test_video.py",
    "segengine/guards/test_foreign_models.py",
    "segengine/guards/test_good_models.py",
    "segengine/guards/test_tflite.py",
    "segengine/instances/test_across_borders.py",
    "segengine/instances/test_polygons.py",
    "segengine/losses/test_fit.py",
    "segengine/losses/test_training.py",
    "segengine/measuring/test_corrected.py",
    "segengine/measuring/test_label_formats.py",
    "segengine/models",
    "segengine/networks/test_crf.py",
    "segengine/pictures/test_draw_instances.py",
    "segengine/planning/test_layout.py",
    "segengine/review",
    "segengine/segmenters/test_blend.py",
    "segengine/segmenters/test_cloudmask.py",
    "segengine/segmenters/test_engines.py",
    "segengine/segmenters/test_keras2.py",
    "segengine/segmenters/test_kerashub.py",
    "segengine/segmenters/test_kmeans.py",
    "segengine/segmenters/test_miscnn.py",
    "segengine/segmenters/test_model.py",
    "segengine/segmenters/test_outputs.py",
    "segengine/segmenters/test_proposals.py",
    "segengine/sources/test_authority.py",
    "segengine/sources/test_damaged_headers.py",
    "segengine/sources/test_damaged_photos.py",
    "segengine/sources/test_gdal.py",
    "segengine/sources/test_jpeg.py",
    "segengine/sources/test_odd_photos.py",
    "segengine/sources/test_pillow.py",
    "segengine/sources/test_video_damage.py",
    "segengine/sources/test_video_ending.py",
    "segengine/sources/test_video_files.py",
    "segengine/sources/test_video_sure.py",
    "segengine/sources/test_slides.py",
    "segengine/sources/test_volume.py",
    "segengine/sources/test_zarr.py",
    "segengine/stages/test_aggregate.py",
    "segengine/stages/test_precision.py",
    "segengine/stages/test_pyramid.py",
    "segengine/stages/test_quarantine.py",
    "segengine/stages/test_tracks.py",
    "segengine/store/test_conventions.py",
    "segengine/store/test_lock.py",
    "segengine/store/test_owners.py",
    "segengine/store/test_tags.py",
    "segengine/test_byte_identity.py",
    "segengine/test_lazy.py",
    "segengine/test_nights.py",
    "segengine/test_resume.py",
    "segengine/test_tiled_equals_whole.py",
    "segengine/test_xarrays.py",
    "segengine/testing/test_our_data_sets.py",
    "segengine/training",
    "segengine/worker/test_fits.py",
    "segengine/worker/test_still.py",
    "test_packaging.py",
)
"""Folders and files of tests that take long: networks, servers, whole runs by the dozen."""
HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not load what has no test of the kind that is asked for: it takes as long as many tests."""
    asked, path = config.option.markexpr, collection_path
    if asked == "quick" and path in {HERE / name for name in SLOW}:
        return True
    marks = {name: f"mark.{name}" for name in ("system", "slurm", "month")}
    marks["system and not (slurm or month)"] = "mark.system"
    if asked not in ("quick", *marks) or not (path.match("test_*.py") and path.is_file()):
        return None
    text = path.read_text(encoding="utf-8")
    if asked == "quick":
        return "\npytestmark = pytest.mark.system\n" in text or None
    return marks[asked] not in text or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as quick what is neither of the system nor takes long: `pytest -m quick` has four minutes.

    Skip what needs a tool that is not there.
    """
    slow, without = [HERE / name for name in SLOW], lacking()
    for item in items:
        for marker, reason in without.items():
            if item.get_closest_marker(marker) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))
        lies = {item.path, *item.path.parents}
        if item.get_closest_marker("system") is None and lies.isdisjoint(slow):
            item.add_marker("quick")


TOYS = '''
"""Segmenters that another package could bring."""

from dataclasses import dataclass

import numpy as np

from segengine.types import Prediction


class Blocks:
    """Needs whole blocks of `side` pixels and sums in a radius: stride and halo."""

    classes = tuple("abcde")
    outputs = ("labels", "probabilities")
    version = 1

    def __init__(self, side=8, radius=3):
        self.stride, self.halo = side, radius

    def segment(self, pixels):
        n, h, w, _ = pixels.shape
        s, r = self.stride, self.halo
        if h % s or w % s:
            raise ValueError(f"{h} x {w} is not aligned to {s}")
        gray = pixels.astype(np.int64).sum(axis=-1)
        blocks = gray.reshape(n, h // s, s, w // s, s).sum(axis=(2, 4))
        coarse = blocks.repeat(s, axis=1).repeat(s, axis=2)
        near = np.pad(gray, ((0, 0), (r, r), (r, r)))
        near = sum(near[:, y : y + h, x : x + w] for y in range(2 * r + 1) for x in range(2 * r + 1))
        labels = ((coarse + near) % 5).astype(np.uint8)
        probabilities = np.stack([(labels == i) * 0.5 + 0.1 for i in range(5)], axis=-1)
        return Prediction(labels, probabilities.astype(np.float32))


class FittedBlocks:
    """The same, fitted: its sums are taken from a survey's least value on."""

    classes = Blocks.classes
    outputs = Blocks.outputs

    def __init__(self, side=8, radius=3, scope="frame"):
        self.side, self.radius, self.scope = side, radius, scope

    def survey(self, pixels, valid):
        return int(pixels[valid].min()) if valid.any() else 255

    def merge(self, a, b):
        return min(a, b)

    def fit(self, state):
        return Above(self.side, self.radius, state)


@dataclass
class Above:
    side: int
    radius: int
    least: int
    classes = Blocks.classes
    outputs = Blocks.outputs

    @property
    def stride(self):
        return self.side

    @property
    def halo(self):
        return self.radius

    def segment(self, pixels):
        return Blocks(self.side, self.radius).segment(pixels - np.uint8(self.least))


class Fussy:
    """Refuses frames whose first pixel is `bad`."""

    classes = ("no", "yes")
    halo, stride = 0, 1
    outputs = ("labels",)

    def __init__(self, bad=7):
        self.bad = bad

    def segment(self, pixels):
        if (pixels[:, 0, 0, 0] == self.bad).any():
            raise RuntimeError("I do not like it")
        return Prediction((pixels[..., 0] > 100).astype(np.uint8))


class Silent:
    """Does not say what it predicts."""

    classes = ("no", "yes")
    halo, stride = 0, 1

    def segment(self, pixels):
        labels = (pixels[..., 0] > 100).astype(np.uint8)
        return Prediction(labels, instances=labels.astype(np.uint32))


class Many:
    """More classes than a byte holds."""

    halo, stride = 0, 1
    outputs = ("labels",)

    def __init__(self, count=300):
        self.classes = tuple(f"class {i}" for i in range(count))

    def segment(self, pixels):
        return Prediction((pixels[..., 0].astype(np.uint16) * 2) % len(self.classes))


class Shares:
    """As many classes as it is told, and how sure it is of each."""

    halo, stride = 0, 1
    outputs = ("labels", "probabilities")

    def __init__(self, count=2):
        self.classes = tuple(f"class {i}" for i in range(count))

    def segment(self, pixels):
        labels = pixels[..., 0] % len(self.classes)
        return Prediction(labels, np.eye(len(self.classes), dtype=np.float32)[labels])


class Unsure:
    """Surer of bright pixels than of dark ones."""

    classes = ("dark", "bright")
    halo, stride = 0, 1
    outputs = ("labels", "probabilities")

    def segment(self, pixels):
        bright = pixels[..., 0] > 100
        sure = np.where(bright, np.float32(0.95), np.float32(0.55))
        shares = np.where(bright[..., None], [[0, 1]], [[1, 0]]) * sure[..., None]
        shares = shares + np.where(bright[..., None], [[1, 0]], [[0, 1]]) * (1 - sure[..., None])
        return Prediction(bright.astype(np.uint8), shares.astype(np.float32))


class NoSegmenter:
    classes = ("a",)
'''


@pytest.fixture(autouse=True, scope="session")
def first_example() -> None:
    """Hypothesis makes its random numbers now, and asks who refers to them: it sees nothing frozen."""
    given(none())(lambda _: None)()


LOADED = 200
"""Modules of a library that is worth freezing."""


@pytest.fixture(scope="session")
def libraries() -> list[int]:
    """How many modules there were each time that what was there was frozen."""
    return [0]


@pytest.fixture(autouse=True, scope="module")
def without_old_networks(libraries: list[int]) -> Iterator[None]:
    """Let the networks of one file's tests go before the next file's are built."""
    yield
    if "keras" in sys.modules:
        sys.modules["keras"].backend.clear_session()
        gc.collect()
        if len(sys.modules) > libraries[-1] + LOADED:
            gc.freeze()  # libraries stay: to look at them again takes two seconds each time
            libraries.append(len(sys.modules))


@dataclass(frozen=True, slots=True)
class Bench:
    """A folder of inputs, and a store beside it."""

    root: Path

    @property
    def inputs(self) -> Path:
        return self.root / "in"

    @property
    def store(self) -> Path:
        return self.root / "masks.zarr"

    def put(self, name: str, image: np.ndarray) -> Path:
        """Write an image (y, x), (y, x, 3) as RGB, or for `.zarr` any array with named axes."""
        path = self.inputs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".zarr":
            import zarr

            axes = {2: ("y", "x"), 3: ("y", "x", "band"), 4: ("frame", "y", "x", "band")}
            chunk = tuple(min(n, 32) for n in image.shape)
            array = zarr.create_array(
                path, data=image, chunks=chunk, dimension_names=axes[image.ndim], overwrite=True
            )
            assert array.shape == image.shape
        else:
            assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)
        return path

    def job(self, segmenter: Mapping[str, Any], **blocks: Any) -> dict[str, Any]:
        """A job on all inputs; `store` and `source` take further keys."""
        store = {"path": str(self.store), "chunk": 16, "shard": 256, **blocks.pop("store", {})}
        source = {"paths": [str(self.inputs)], **blocks.pop("source", {})}
        return {"source": source, "segmenter": dict(segmenter), "store": store, **blocks}

    def run(self, segmenter: Mapping[str, Any], **blocks: Any) -> Summary:
        """Run a job in this process."""
        return segengine.run(self.job(segmenter, **blocks))

    def open(self) -> Any:
        return segengine.open_store(self.store)

    def tree(self) -> dict[str, bytes]:
        return tree(self.store / "scenes")


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def noise(seed: int, shape: tuple[int, ...], dtype: str = "uint8") -> np.ndarray:
    """Random pixels with flat parts, so that ties, edges and flat ground occur."""
    rng = np.random.default_rng(seed)
    y, x = shape[-3:-1] if len(shape) > 2 else shape
    coarse = rng.integers(0, 6, (*shape[:-3], y // 5 + 1, x // 5 + 1, *shape[2:][-1:]))
    axis = len(shape[:-3])
    image = coarse.repeat(5, axis).repeat(5, axis + 1)
    image = image[(slice(None),) * axis + (slice(0, y), slice(0, x))] * 40
    image = image + rng.integers(0, 25, shape)
    scale = {"uint8": 1, "uint16": 257, "float32": 1 / 255}[dtype]
    return (image * scale).astype(dtype)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture(scope="session")
def new_bench(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Bench]:
    """Another bench, for tests that need several or one an example."""
    return lambda: Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="session", name="noise")
def _noise() -> Callable[..., np.ndarray]:
    return noise


@pytest.fixture(scope="session", name="tree")
def _tree() -> Callable[[Path], dict[str, bytes]]:
    return tree


@pytest.fixture
def toys(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an importable module with segmenters of a stranger: Blocks, Fussy ..."""
    folder = tmp_path_factory.mktemp("toys")
    name = f"toys_{folder.name}"
    (folder / f"{name}.py").write_text(textwrap.dedent(TOYS))
    monkeypatch.syspath_prepend(folder)
    return name


@pytest.fixture
def plain_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report of one line, where runs are many and the report is not what is tested."""

    def build(store: str, *_: Any, **__: Any) -> None:
        open_objects(store).put("report/index.html", sealed_report("<!doctype html>"))

    monkeypatch.setattr("segengine.runs.build_report", build)


@pytest.fixture(scope="session")
def cache(request: pytest.FixtureRequest) -> Path:
    """Where the packages of tests of `real` are kept from one run to the next."""
    found: Path = request.config.cache.mkdir("real")
    return found


@pytest.fixture(scope="session")
def slurm_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A Slurm of one node, started once."""
    site = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        site.start()
        yield site
    finally:
        site.end()


@pytest.fixture
def slurm(slurm_site: Slurm) -> Iterator[Account]:
    """An account of one's own there, without a job before and after."""
    account = Account(slurm_site)
    yield account
    account.clear()


@pytest.fixture(scope="session")
def clients() -> Iterator[Callable[[int], Any]]:
    """A Dask client of a local cluster with so many workers of one thread, started once."""
    from segengine.dispatch import clusters
    from segengine.job import ClusterSpec

    found: dict[int, Any] = {}
    from contextlib import ExitStack

    with ExitStack() as stack:

        def client(workers: int) -> Any:
            if workers not in found:
                spec = ClusterSpec(workers=workers)
                pool = stack.enter_context(clusters.open_pool(spec, 1 << 20))
                found[workers] = pool.client  # type: ignore[attr-defined]
            return found[workers]

        yield client
