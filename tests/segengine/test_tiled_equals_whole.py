"""The mask does not depend on the cuts: every classical segmenter, every option, bit for bit.

The engine runs on files cut at random into chunks, shards and frames; the statement is the segmenter
called once on the whole, uncut image.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import segengine

some = st.sampled_from
FAMILIES: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "threshold": st.fixed_dictionaries(
        {
            "kind": st.just("threshold"),
            "method": some(["mean", "otsu", "triangle", "li"]),
            "object": some(["dark", "bright"]),
            "offset": some([0, 0.0, 3.5, -7]),
            "scope": some(["frame", "scene", "run"]),
        }
    ),
    "multiotsu": st.fixed_dictionaries(
        {
            "kind": st.just("threshold"),
            "method": st.just("multiotsu"),
            "classes": some([2, 3, 4]),
            "scope": some(["frame", "scene", "run"]),
        }
    ),
    "local": st.fixed_dictionaries(
        {
            "kind": st.just("threshold"),
            "method": st.just("local"),
            "window": some([3, 7, 21]),
            "weighting": some(["mean", "gaussian"]),
            "offset": some([0, 2.5]),
            "object": some(["dark", "bright"]),
        }
    ),
    "fixed": st.fixed_dictionaries(
        {
            "kind": st.just("threshold"),
            "method": st.just("fixed"),
            "levels": some([100, 0.5, [0.2, 0.6], [40, 90.5, 180]]),
        }
    ),
    "gradient": st.fixed_dictionaries(
        {
            "kind": st.just("edges"),
            "operator": some(["sobel", "prewitt", "roberts", "scharr", "log"]),
            "direction": some(["horizontal", "vertical", "both"]),
            "scope": some(["dtype", "frame", "scene", "run"]),
        },
        optional={"sigma": some([0.8, 1.5]), "threshold": some([0.02, 0.3])},
    ),
    "canny": st.fixed_dictionaries(
        {
            "kind": st.just("edges"),
            "operator": st.just("canny"),
            "direction": some(["horizontal", "vertical", "both"]),
            "scope": some(["dtype", "frame", "scene", "run"]),
            "low": some([0.01, 0.05]),
            "high": some([0.08, 0.3]),
        },
        optional={"sigma": some([0.8, 2.0])},
    ),
    "regions": st.fixed_dictionaries(
        {
            "kind": st.just("edges"),
            "operator": some(["sobel", "prewitt", "scharr", "roberts", "canny"]),
            "output": st.just("regions"),
            "scope": some(["dtype", "frame", "scene", "run"]),
            "min_size": some([1, 16]),
        }
    ),
    "meanshift": st.fixed_dictionaries(
        {
            "kind": st.just("meanshift"),
            "spatial": some([1, 4]),
            "range": some([0.3, 40, 9000]),
            "iterations": some([1, 5]),
            "min_size": some([1, 7, 60]),
            "small": some(["merge", "drop"]),
        }
    ),
    "grown": st.fixed_dictionaries(
        {
            "kind": st.just("regions"),
            "distance": some([0.03, 0.1, 0.3]),
            "spacing": some([3, 5]),
            "merge": some([0.0, 0.05, 0.3]),
        },
        optional={"reach": some([2, 4])},
    ),
    "slic": st.fixed_dictionaries(
        {
            "kind": st.just("superpixels"),
            "size": some([2, 3, 5]),
            "compactness": some([0.5, 10, 100]),
            "iterations": some([1, 2]),
        },
        optional={"min_size": some([1, 9])},
    ),
    "kmeans": st.fixed_dictionaries(
        {
            "kind": st.just("kmeans"),
            "clusters": some([1, 2, 3, 5]),
            "space": some(["rgb", "hsv", "lab", "bands"]),
            "scope": some(["frame", "scene", "run"]),
            "seed": some([0, 9]),
            "attempts": some([1, 3]),
        }
    ),
}


def bands_of(spec: dict[str, Any], wanted: int, dtype: str) -> tuple[int, str]:
    """Bands and dtype that the segmenter takes, close to what was drawn."""
    if spec.get("space") in ("hsv", "lab"):
        return 3, "uint8" if dtype == "float32" else dtype
    return wanted, dtype


def whole(frames: list[np.ndarray], spec: dict[str, Any]) -> list[segengine.Prediction]:
    """Each frame (y, x, band) uncut, by one fit over all frames where the scope says so."""
    segmenter = segengine.create_segmenter(spec)
    if getattr(segmenter, "scope", "frame") != "frame":
        states = [
            segmenter.survey(f[None], ~np.isnan(f.astype(np.float32)).any(axis=-1)[None])
            for f in frames
        ]
        segmenter = segmenter.fit(reduce(segmenter.merge, states))
    return [segengine.predict(frame, segmenter) for frame in frames]


def with_nodata(image: np.ndarray, seed: int) -> np.ndarray:
    """NaN in a box and in single pixels of a float image."""
    if image.dtype != np.float32:
        return image
    rng = np.random.default_rng(seed)
    y, x = image.shape[-3:-1]
    image = image.copy()
    image[..., rng.integers(0, y) : y // 2, rng.integers(0, x) :, :] = np.nan
    image[rng.random(image.shape[:-1]) < 0.02] = np.nan
    return image


def assert_equal(mask: Any, instances: Any, wanted: list[segengine.Prediction]) -> None:
    """Labels and ids of every frame; void outside of it."""
    void = np.iinfo(mask.dtype).max
    for index, prediction in enumerate(wanted):
        height, width = prediction.labels.shape
        found = np.asarray(mask[index])
        np.testing.assert_array_equal(found[:height, :width], prediction.labels)
        assert (found[height:] == void).all()
        assert (found[:, width:] == void).all()
        if prediction.instances is not None:
            ids = np.where(prediction.labels == void, 0, prediction.instances)
            np.testing.assert_array_equal(np.asarray(instances[index])[:height, :width], ids)


def settled(examples: int) -> Any:
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@pytest.mark.usefixtures("plain_report")
@pytest.mark.parametrize("family", FAMILIES)
@settled(12)
@given(data=st.data())
def test_a_scene_cut_at_random_equals_the_whole(
    family: str, data: st.DataObject, new_bench: Any, noise: Any
) -> None:
    spec = data.draw(FAMILIES[family])
    dtype = data.draw(some(["uint8", "uint16", "float32"]))
    bands, dtype = bands_of(spec, data.draw(some([1, 3])), dtype)
    shape = (
        data.draw(some([1, 1, 2])),
        data.draw(st.integers(1, 75)),
        data.draw(st.integers(1, 75)),
        bands,
    )
    seed = data.draw(st.integers(0, 1000))
    image = with_nodata(noise(seed, shape, dtype), seed)
    chunk = data.draw(some([16, 16, 17, 24]))
    store = {"chunk": chunk, "shard": chunk * data.draw(st.integers(1, 3))}
    store["frames"] = data.draw(some([None, 1, 2]))
    bench = new_bench()
    if shape[0] == 1 and data.draw(st.booleans()):
        path = bench.put("a.tif", image[0] if bands == 3 else image[0, ..., 0])
        kind = "raster"
    else:
        path, kind = bench.put("a.zarr", image), "auto"
    summary = bench.run(spec, source={"paths": [str(path)], "kind": kind}, store=store)
    scene = bench.open()["a"]
    wanted = whole(list(image), spec)
    assert_equal(scene.mask, scene.instances, wanted)
    if not np.isnan(image.astype(np.float32)).any(axis=-1).all():
        assert summary.failed == ()
    again = segengine.segment(image, spec)
    np.testing.assert_array_equal(np.asarray(scene.mask), again)


@pytest.mark.usefixtures("plain_report")
@pytest.mark.parametrize("family", FAMILIES)
@settled(5)
@given(data=st.data())
def test_photos_of_mixed_sizes_equal_each_photo_alone(
    family: str, data: st.DataObject, new_bench: Any, noise: Any
) -> None:
    spec = data.draw(FAMILIES[family])
    suffix = data.draw(some([".png", ".tif"]))
    floats = suffix == ".tif" and data.draw(st.booleans())
    bands, dtype = bands_of(
        spec, data.draw(some([1, 3])), "float32" if floats else data.draw(some(["uint8", "uint16"]))
    )
    sizes = data.draw(st.lists(st.tuples(*[st.integers(3, 90)] * 2), min_size=1, max_size=3))
    if spec.get("scope") != "scene" and data.draw(st.booleans()):
        sizes.append((70, 270))  # a bucket of its own
    bench = new_bench()
    images = {}
    for i, (height, width) in enumerate(sizes):
        image = with_nodata(noise(i, (height, width, bands), dtype), i)
        images[f"{i}{suffix}"] = image
        bench.put(f"{i}{suffix}", image[..., 0] if bands == 1 else image)
    store = {"shard": data.draw(some([64, 128, 256, 512])), "chunk": data.draw(some([16, 32]))}
    store["frames"] = data.draw(some([None, 1, 2, 3]))
    summary = bench.run(spec, source={"kind": "images"}, store=store)
    assert {f.name for f in summary.failed} == set()
    wanted = dict(zip(images, whole(list(images.values()), spec), strict=True))
    seen = set()
    for name, scene in bench.open().scenes.items():
        names = [f.name for f in scene.frames]
        assert_equal(scene.mask, scene.instances, [wanted[n] for n in names])
        seen.update(names)
        assert name.startswith(f"{scene.layout.shape[1]}x{scene.layout.shape[2]}-{dtype}-{bands}")
    assert seen == set(images)


@pytest.mark.usefixtures("plain_report")
@settled(25)
@given(data=st.data())
def test_stride_and_halo_of_a_strangers_segmenter(
    toys: str, data: st.DataObject, new_bench: Any, noise: Any
) -> None:
    side, radius = data.draw(some([1, 4, 8, 32])), data.draw(some([0, 1, 5]))
    spec = {"kind": f"{toys}:Blocks", "side": side, "radius": radius}
    if data.draw(st.booleans()):
        scope = data.draw(some(["frame", "scene", "run"]))
        spec = {**spec, "kind": f"{toys}:FittedBlocks", "scope": scope}
    size = data.draw(st.tuples(*[st.integers(1, 70)] * 2))
    image = noise(data.draw(st.integers(0, 99)), (*size, 3))
    bench = new_bench()
    bench.put("a.zarr", image)
    store = {"shard": 16 * data.draw(st.integers(1, 5)), "probabilities": True}
    bench.run(spec, source={"paths": [str(bench.inputs / "a.zarr")]}, store=store)
    scene, wanted = bench.open()["a"], segengine.predict(image, spec)
    np.testing.assert_array_equal(np.asarray(scene.mask)[0], wanted.labels)
    found = np.moveaxis(np.asarray(scene.probabilities)[0], 0, -1)
    np.testing.assert_array_equal(found, wanted.probabilities)


@pytest.mark.usefixtures("plain_report")
@pytest.mark.system
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "threshold", "method": "otsu", "scope": "run"},
        {"kind": "edges", "operator": "canny", "scope": "frame"},
        {"kind": "edges", "operator": "scharr", "output": "regions"},
        {"kind": "kmeans", "clusters": 4, "scope": "scene"},
        {"kind": "regions", "spacing": 4},
        {"kind": "superpixels", "size": 4, "iterations": 2},
    ],
    ids=lambda s: s["kind"] + s.get("output", s.get("operator", "")),
)
def test_on_dask(workers: int, spec: dict[str, Any], clients: Any, bench: Any, noise: Any) -> None:
    frames = noise(5, (2, 71, 58, 3))
    bench.put("a.zarr", frames)
    job = bench.job(spec, store={"shard": 32})
    job["source"]["paths"] = [str(bench.inputs / "a.zarr")]
    summary = segengine.run(job, client=clients(workers))
    assert summary.computed == summary.shards
    group = zarr.open_group(bench.store / "scenes", mode="r")
    np.testing.assert_array_equal(group["a/mask/0"][:], segengine.segment(frames, spec))
