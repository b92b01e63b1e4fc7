"""Confidence: a byte a pixel, the same however a scene is cut, carried, verified and repaired."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segengine
from segengine.commands.verify import verify
from segengine.errors import JobError
from tests.segengine.segmenters.onnxes import convolution

SCALE = {"divide": 255}


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = convolution(tmp_path_factory.mktemp("m") / "m.onnx", side=16, sharp=2)
    return {"kind": "model", "path": path, "scale": SCALE}


def rounded(labels: Any, probabilities: Any) -> Any:
    """By the definition, in float64; probabilities (..., class)."""
    own = np.take_along_axis(probabilities.astype(np.float64), labels[..., None].astype(int), -1)
    return np.rint(254 * own[..., 0])


@pytest.mark.parametrize("shard", [32, 128])
def test_it_is_the_labels_probability_wherever_scenes_are_cut(
    new_bench: Any, noise: Any, block: Any, shard: int
) -> None:
    pixels = noise(1, (70, 61, 3), "float32")
    pixels[10:20, 5:50] = np.nan
    found = segengine.predict(pixels, block)
    wanted = rounded(np.minimum(found.labels, 2), found.probabilities)
    wanted[10:20, 5:50] = 255
    trees = []
    for also in (False, True):
        bench = new_bench()
        bench.put("scene.zarr", pixels)
        store = {"shard": shard, "confidence": True, "probabilities": also}
        bench.run(block, store=store)
        (scene,) = bench.open().scenes.values()
        assert scene.confidence.dtype == np.uint8
        np.testing.assert_array_equal(scene.confidence[0], wanted)
        trees.append({k: v for k, v in bench.tree().items() if "confidence/0/c/" in k})
        report = verify(str(bench.store))
        assert not report.problems
    assert trees[0] == trees[1]
    assert len(trees[0]) == (6 if shard == 32 else 1)


def test_one_channel_tells_the_confidence_of_what_it_labels(
    tmp_path: Path, bench: Any, noise: Any
) -> None:
    path = convolution(tmp_path / "m.onnx", 1, side=16, sharp=2)
    bench.put("scene.zarr", noise(2, (40, 40, 3)))
    options = {"kind": "model", "path": path, "scale": SCALE, "threshold": 0.7}
    bench.run(options, store={"shard": 32, "confidence": True})
    (scene,) = bench.open().scenes.values()
    found = segengine.predict(noise(2, (40, 40, 3)), options)
    np.testing.assert_array_equal(scene.confidence[0], rounded(found.labels, found.probabilities))
    assert scene.confidence[0].min() < 127  # labelled 0 where 1 is likelier


def test_an_object_has_the_mean_of_its_pixels_wherever_it_is_cut(
    new_bench: Any, noise: Any, block: Any
) -> None:
    pixels = noise(3, (70, 61, 3))
    tables = []
    for shard in (32, 128):
        bench = new_bench()
        bench.put("scene.zarr", pixels)
        named = {**block, "classes": ["background", "a", "b"], "instances": "components"}
        bench.run(named, store={"shard": shard, "confidence": True})
        store = bench.open()
        (scene,) = store.scenes.values()
        rows = store.table("instances")
        ids, sure = scene.instances[0], scene.confidence[0].astype(np.int64)
        for row in rows.to_pylist():
            mine = ids == row["id"]
            mean = sure[mine].sum() / (254 * mine.sum())
            assert row["score"] == np.float32(mean)
        tables.append(rows.select(["id", "class", "score", "area"]).to_pylist())
        assert len(tables[-1]) > 10
    assert tables[0] == tables[1]


def test_what_gives_no_probabilities_is_one_line(bench: Any, noise: Any) -> None:
    bench.put("a.png", noise(0, (16, 16, 3)))
    with pytest.raises(JobError, match=r"store\.confidence: kmeans predicts no probabilities") as e:
        bench.run({"kind": "kmeans", "clusters": 2}, store={"confidence": True})
    assert e.value.exit_code == 2


def test_a_changed_byte_is_found_and_mended(bench: Any, noise: Any, block: Any) -> None:
    bench.put("scene.zarr", noise(4, (50, 50, 3)))
    bench.run(block, store={"shard": 32, "confidence": True})
    before = bench.tree()
    key = next(k for k in before if "confidence/0/c/" in k)
    file = bench.store / "scenes" / key
    file.write_bytes(before[key][:-1] + bytes([before[key][-1] ^ 1]))
    assert [d.object for d in verify(str(bench.store)).problems] == [f"scenes/{key}"]
    job = segengine.job.parse_job(bench.job(block, store={"shard": 32, "confidence": True}))
    with segengine.runs.Run(job, in_process=True, repair=True) as run:
        for name in run.STAGES:
            for _ in run.stage(name):
                pass
    assert bench.tree() == before


def test_a_vanished_frame_keeps_its_confidence(bench: Any, noise: Any, block: Any) -> None:
    for i in range(3):
        bench.put(f"{i}.png", noise(i, (32, 32, 3)))
    store = {"shard": 64, "confidence": True}
    bench.run(block, store=store)
    (scene,) = bench.open().scenes.values()
    kept = scene.confidence[1]
    (bench.inputs / "1.png").unlink()
    bench.put("2.png", noise(9, (32, 32, 3)))
    bench.run(block, store=store)
    (scene,) = bench.open().scenes.values()
    np.testing.assert_array_equal(scene.confidence[1], kept)
    assert (scene.confidence[2][:32, :32] != 255).all()
