"""Every plug-in that is registered passes the suite of its kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
import rasterio
import zarr

import segengine
from segengine import registry
from segengine.dispatch import clusters
from segengine.errors import JobError
from segengine.job import ClusterSpec
from segengine.reference import create_segmenter
from segengine.testing import (
    ClusterTests,
    ExportTests,
    LossTests,
    MetricTests,
    SegmenterTests,
    SourceTests,
    SurveyorTests,
)
from segengine.testing._pictures import picture
from tests.gateway import Gateway
from tests.kube import IMAGE, Cluster
from tests.segengine.moving import passing, write_video
from tests.segengine.sources.stac_scenes import make_item, pixels, save
from tests.segengine.sources.volumes import body, write_series
from tests.slurm import Account

SEGMENTERS: dict[str, dict[str, Any]] = {
    "fixed": {"kind": "threshold", "method": "fixed", "levels": [60, 150]},
    "local": {"kind": "threshold", "method": "local", "window": 7},
    "edges": {"kind": "edges", "operator": "sobel", "threshold": 0.2, "scope": "dtype"},
    "canny": {"kind": "edges", "operator": "canny", "low": 0.05, "high": 0.2, "scope": "dtype"},
    "regions": {"kind": "edges", "output": "regions", "threshold": 0.2, "scope": "dtype"},
    "meanshift": {"kind": "meanshift", "spatial": 3, "range": 60, "iterations": 3, "min_size": 9},
    "meanshift-drop": {"kind": "meanshift", "spatial": 2, "iterations": 2, "small": "drop"},
    "grown-regions": {"kind": "regions", "spacing": 4, "distance": 0.15},
    "seeded-regions": {"kind": "regions", "seeds": [[3, 5], [40, 60]], "distance": 0.3},
    "slic": {"kind": "superpixels", "size": 3, "iterations": 2},
    "felzenszwalb": {"kind": "superpixels", "method": "felzenszwalb"},
    "background": {"kind": "background", "warmup": 3, "shadows": True},
    "background-long": {"kind": "background", "warmup": 9, "segment": 4},
}
SURVEYORS: dict[str, dict[str, Any]] = {
    "mean": {"kind": "threshold", "method": "mean"},
    "otsu": {"kind": "threshold", "method": "otsu", "scope": "run"},
    "multiotsu": {"kind": "threshold", "method": "multiotsu", "scope": "scene"},
    "kmeans": {"kind": "kmeans", "clusters": 3, "attempts": 1},
    "contrast": {"kind": "edges", "operator": "scharr", "scope": "run"},
    "contrast-canny": {"kind": "edges", "operator": "canny", "scope": "frame"},
    "contrast-regions": {"kind": "edges", "output": "regions", "scope": "scene"},
}
REFUSED: dict[str, dict[str, list[Any]]] = {
    "threshold": {"method": ["best"], "scope": ["all"]},
    "edges": {"operator": ["none"], "direction": ["up"], "threshold": [-1]},
    "kmeans": {"clusters": [0, "many"], "space": ["cmyk"]},
    "meanshift": {
        "spatial": [0, 2.5, 65, True],
        "range": [0, "wide", float("inf"), 1e-300, 1e308],
        "iterations": [0, 1.5, 1001],
        "convergence": [-1, "slow"],
        "join_spatial": [0, -1, 1e-308, 1e308],
        "join_range": [0, "half", 1e-308, 1e308],
        "min_size": [0, 2.5, 10**30],
        "small": ["keep"],
    },
    "regions": {
        "top": [0, "white", 1e-308, 1e308],
        "distance": [-1, "near", 1e308, 10**400],
        "seeds": ["minima", [], [[1]], [[1, -2]], [[2**31, 1]], [[5, 5], [1, 10**30]]],
        "spacing": [1, 2.5],
        "reach": [0, True],
        "merge": [-1, float("nan"), 1e308],
    },
    "superpixels": {
        "top": [0, "white", 1e-308, 1e308],
        "method": ["quickshift"],
        "size": [1, 16.5],
        "compactness": [-1, "much", 1e308],
        "iterations": [0, 1000],
        "space": ["hsv"],
        "min_size": [0, True],
    },
    "background": {
        "history": [0, 2.5, True],
        "threshold": [0, "much", float("nan")],
        "shadows": ["yes"],
        "warmup": [0, 20_000],
        "segment": [0, "long"],
    },
}
NEEDED = {"kmeans": {"clusters": 3}}


def suite(base: type, name: str, **parts: Any) -> None:
    """A class of tests, as if it were written here."""
    found = type(f"Test_{name.replace('-', '_')}", (base,), parts)
    found.__module__ = __name__
    globals()[f"{found.__name__}_{base.__name__}"] = found


def made(spec: dict[str, Any]) -> Any:
    return lambda self: create_segmenter(dict(spec))


def loaded(group: str, name: str) -> Any:
    return lambda self: registry.load(group, name)


for base, specs in ((SegmenterTests, SEGMENTERS), (SurveyorTests, SURVEYORS)):
    for name, spec in specs.items():
        kind = spec["kind"]
        suite(
            base,
            name,
            make=made(spec),
            factory=loaded("segmenters", kind),
            refused=REFUSED[kind],
            options=NEEDED.get(kind, {}),
        )

SIDES = {"classes": ("sky", "tree", "car"), "truth_classes": ("car", "sky", "tree")}
METRICS: dict[str, dict[str, Any]] = {"seams": {"every": 5}}
for name in registry.names("metrics"):
    own = METRICS.get(name, {})
    suite(
        MetricTests,
        name,
        make=lambda self, name=name, own=own: registry.create("metrics", name, {**SIDES, **own}),
        factory=loaded("metrics", name),
        refused={"classes": [()]},
        options=own,
    )

suite(
    MetricTests,
    "across-slices",
    make=lambda self: registry.create("metrics", "hd95", {**SIDES, "spacing": "volume"}),
    factory=loaded("metrics", "hd95"),
    refused={"spacing": ["slices", [1, 1, 0]]},
    options={"spacing": "volume"},
)

LOSSES: dict[str, dict[str, Any]] = {
    "compound": {"losses": [{"loss": "dice", "weight": 0.5}, {"loss": "bce"}]}
}
for name in registry.names("losses"):
    own = LOSSES.get(name, {})
    suite(
        LossTests,
        name,
        make=lambda self, name=name, own=own: registry.create("losses", name, own),
        factory=loaded("losses", name),
        refused={"label_smoothing": [2, "much"]} if name != "compound" else {},
        options=own,
    )


def store_of_volumes(_: Any, folder: Path) -> str:
    """A finished store below `folder`: a CT series."""
    write_series(folder / "in/ct", body())
    path = str(folder / "masks.zarr")
    segengine.run(
        {
            "source": {"kind": "volume", "paths": [str(folder / "in")]},
            "segmenter": {"kind": "threshold", "scope": "scene"},
            "store": {"path": path, "chunk": 16, "shard": 32},
        }
    )
    return path


def store_of_videos(_: Any, folder: Path) -> str:
    """A finished store below `folder`: a video of a few frames, with instances."""
    write_video(folder / "in/a.mkv", passing(4, 48, 64), codec="ffv1")
    path = str(folder / "masks.zarr")
    segengine.run(
        {
            "source": {"kind": "video", "paths": [str(folder / "in/a.mkv")]},
            "segmenter": {"kind": "threshold", "instances": "components"},
            "store": {"path": path, "chunk": 16, "shard": 32},
        }
    )
    return path


STORES = {"nifti": store_of_volumes, "dicom-seg": store_of_volumes, "video": store_of_videos}
"""Of exports that take nothing else."""
for name in registry.names("exports"):
    more = {"store": STORES[name]} if name in STORES else {}
    suite(ExportTests, name, make=loaded("exports", name), **more)


class TestPng(ExportTests):
    refused: ClassVar[Any] = {"level": [10]}

    def make(self) -> Any:
        return registry.load("exports", "png")


@pytest.mark.system
class TestLocal(ClusterTests):
    def make(self) -> Any:
        return clusters.local


@pytest.mark.system
class TestAddress(ClusterTests):
    starts: ClassVar[bool] = False

    @pytest.fixture(autouse=True)
    def _scheduler(self, clients: Any) -> None:
        client = clients(2)
        client.wait_for_workers(2)  # one that a law before has ended comes back
        type(self).address = client.scheduler.address

    def make(self) -> Any:
        return clusters.address


@pytest.mark.system
@pytest.mark.slurm
class TestJobqueue(ClusterTests):
    options: ClassVar[Any] = {"system": "slurm", "memory": "1GB"}
    refused: ClassVar[Any] = {"system": ["cron"], "memory": ["much"], "cores": [0]}

    @pytest.fixture(autouse=True)
    def _site(self, slurm: Account, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name, value in {**slurm.environment, "XDG_STATE_HOME": str(tmp_path)}.items():
            monkeypatch.setenv(name, value)

    def make(self) -> Any:
        return registry.load("clusters", "jobqueue")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, str]]:
    """A server, and the name of a cluster that runs there."""
    server = Gateway(tmp_path_factory.mktemp("gateway"), [str(Path(__file__).parents[3])])
    try:
        yield server, server.new_cluster(2)
    finally:
        server.end()


@pytest.mark.system
class TestGateway(ClusterTests):
    """On a cluster that runs there, which all of its laws share."""

    starts: ClassVar[bool] = False
    refused: ClassVar[Any] = {"auth": ["letter"], "threads": [1]}  # it has its options

    @pytest.fixture(autouse=True)
    def _let_in(self, gateway: tuple[Gateway, str], monkeypatch: pytest.MonkeyPatch) -> None:
        server, name = gateway
        type(self).address, type(self).options = server.address, {"name": name}
        for variable, value in server.environment.items():
            monkeypatch.setenv(variable, value)

    def make(self) -> Any:
        return registry.load("clusters", "gateway")


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    found = Cluster(tmp_path_factory.mktemp("kube"), [str(Path(__file__).parents[3])])
    yield found
    found.end()


@pytest.mark.system
class TestKubernetes(ClusterTests):
    options: ClassVar[Any] = {"image": IMAGE, "resources": {"memory": "1GB"}}
    refused: ClassVar[Any] = {"image": [""], "threads": [1], "resources": [{}]}

    @pytest.fixture(autouse=True)
    def _let_in(self, kube: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        for variable, value in kube.environment().items():
            monkeypatch.setenv(variable, value)

    def make(self) -> Any:
        return registry.load("clusters", "kubernetes")


class TestImages(SourceTests):
    refused: ClassVar[Any] = {"color": ["blue"]}

    def make(self, folder: Path) -> Any:
        frames = {}
        for i, (name, size) in enumerate((("a/b.png", (40, 52)), ("c.tif", (33, 47)))):
            pixels = picture(i, size)
            (folder / name).parent.mkdir(exist_ok=True)
            assert cv2.imwrite(str(folder / name), pixels[..., ::-1])
            frames[name] = pixels
        return {"kind": "images", "paths": [str(folder)]}, frames


class TestRaster(SourceTests):
    refused: ClassVar[Any] = {"bands": [[0]]}

    def make(self, folder: Path) -> Any:
        pixels = picture(3, (70, 45), 4, "float32")
        about = {"driver": "GTiff", "height": 70, "width": 45, "count": 4, "dtype": "float32"}
        where = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
        with rasterio.open(folder / "s.tif", "w", **about, **where) as file:
            file.write(np.moveaxis(pixels, -1, 0))
        block = {"kind": "raster", "paths": [str(folder / "*.tif")], "bands": [4, 1]}
        return block, {"s.tif": pixels[..., [3, 0]]}


class TestStac(SourceTests):
    """A catalog of two items with two bands each."""

    def make(self, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        held = {f"night.{i}": {"red": pixels(i), "nir": pixels(i + 10)} for i in range(2)}
        path = save(folder, *(make_item(folder, name, bands) for name, bands in held.items()))
        frames = {name: np.dstack([b["nir"], b["red"]]) for name, b in held.items()}
        return {"kind": "stac", "paths": [path], "assets": ["nir", "red"]}, frames


class TestVideo(SourceTests):
    refused: ClassVar[Any] = {"every": [0]}

    def make(self, folder: Path) -> Any:
        import av

        pixels = [picture(i, (48, 64), 1) for i in range(7)]
        with av.open(str(folder / "v.mkv"), "w") as container:
            stream = container.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "gray"
            for i, image in enumerate(pixels):
                frame = av.VideoFrame.from_ndarray(image[..., 0], format="gray")
                frame.pts = i
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        block = {"kind": "video", "paths": [str(folder)], "every": 2}
        return block, {f"v.mkv#{i}": pixels[i] for i in (0, 2, 4, 6)}


class TestZarr(SourceTests):
    def make(self, folder: Path) -> Any:
        pixels = np.stack([picture(i, (40, 52), 3, "uint16") for i in range(3)])
        zarr.create_array(
            folder / "z.zarr",
            data=pixels,
            chunks=(1, 16, 16, 3),
            dimension_names=("frame", "y", "x", "band"),
        )
        return {"kind": "zarr", "paths": [str(folder / "z.zarr")]}, {
            f"z.zarr#{i}": frame for i, frame in enumerate(pixels)
        }


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (clusters.local, "local has no such option; it takes dashboard"),
        (clusters.address, "address has no such option; it takes ca, cert, key"),
    ],
)
def test_no_cluster_takes_options_that_it_does_not_know(kind: Any, said: str) -> None:
    opened = kind(ClusterSpec.model_construct(kind="mine", options={"queue": "long"}), 1)
    with pytest.raises(JobError, match=f"^cluster.options: queue: {said}"):
        opened.__enter__()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize(
    "block",
    [
        {"kind": "regions", "distance": 1e6, "merge": 1e6, "top": 1e20},
        {"kind": "regions", "seeds": [[2**31 - 1, 1], [5, 5]], "distance": 1e6, "top": 1e-12},
        {"kind": "regions", "seeds": [[2**31 - 1, 1]]},
        {"kind": "superpixels", "compactness": 1e6, "top": 1e20},
        {"kind": "superpixels", "space": "bands", "top": 1e-12},
        {"kind": "superpixels", "method": "felzenszwalb", "space": "bands", "top": 1e-12},
        {"kind": "superpixels", "method": "felzenszwalb", "scale": 1e12, "sigma": 1e-3},
        {"kind": "meanshift", "range": 1 / 32, "join_range": 1e12, "iterations": 2},
        {"kind": "meanshift", "range": 1e12, "join_range": 1e-12, "iterations": 2},
    ],
)
def test_numbers_at_their_bounds_are_computed_with(block: dict[str, Any], dtype: str) -> None:
    pixels = picture(1, (40, 52), 3, dtype)
    made: Any = create_segmenter(block)
    made.check_pixels(3, dtype)
    ids = made.segment(pixels[None]).instances
    nothing = block.get("seeds") == [[2**31 - 1, 1]]  # which lies outside
    assert (ids.max() == 0) == nothing


def test_a_radius_that_integers_cannot_be_told_in_is_refused() -> None:
    made: Any = create_segmenter({"kind": "meanshift", "range": 0.03})
    made.check_pixels(3, "uint8")
    made.check_pixels(3, "float32")
    with pytest.raises(ValueError, match=r"^range: 0\.03 is too small for uint16"):
        made.check_pixels(3, "uint16")


FED = [n for n in registry.names("segmenters") if "bands" in registry.parameters("segmenters", n)]
"""Segmenters that choose among the bands."""
FILES = ("encoder", "decoder", "path", "weights")


@pytest.mark.parametrize("bands", [[0, 1, 2], [-1, 1, 2], [True, 1, 2], ["a", 1, 2], [1.5, 1, 2],
                                   [], {"a": 1}, "123", 0, True, 2.5])  # fmt: skip
@pytest.mark.parametrize("kind", FED)
def test_bands_are_numbers_from_1_on(kind: str, bands: Any) -> None:
    needed = {name: "none" for name in FILES if name in registry.parameters("segmenters", kind)}
    level = {"level": "l1c"} if kind == "cloudmask" else {}
    with pytest.raises(JobError, match=r"^(segmenter[.])?bands[:.]") as error:
        create_segmenter({"kind": kind, "bands": bands} | needed | level)
    assert "\n" not in str(error.value)


def test_every_plug_in_that_is_installed_is_tried() -> None:
    here = {name for name in globals() if name.startswith("Test_")}
    for group, base in (("metrics", MetricTests), ("losses", LossTests), ("exports", ExportTests)):
        for name in registry.names(group):
            assert f"Test_{name.replace('-', '_')}_{base.__name__}" in here
