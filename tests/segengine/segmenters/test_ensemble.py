"""Several networks as one: against a plain loop over each model's own runtime, and cut anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import segengine
from segengine.errors import JobError
from segengine.segmenters.ensemble import create
from segengine.testing import SegmenterTests
from tests.segengine.segmenters.onnxes import convolution, run

SCALE = {"divide": 255}
Image = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Windows of 16 and of 24 by unlike engines, and one that takes two bands of another order."""
    folder = tmp_path_factory.mktemp("models")
    paths = [
        convolution(folder / "a.onnx", seed=1, side=16),
        convolution(folder / "b.onnx", seed=2, side=24),
        convolution(folder / "c.onnx", seed=3, bands=2, side=16),
    ]
    common = {"kind": "model", "scale": SCALE}
    return [
        {**common, "path": paths[0], "augment": "flips"},
        {**common, "path": paths[1], "engine": "openvino"},
        {**common, "path": paths[2], "bands": [3, 1]},
    ]


def each(members: list[dict[str, Any]], frames: Image) -> list[Image]:
    """What each member gives of whole frames, by itself."""
    found = [segengine.predict(frames, one).probabilities for one in members]
    return [p for p in found if p is not None]


@pytest.mark.parametrize("size", [(48, 48), (41, 53), (9, 100)])
def test_the_mean_is_that_of_the_members(
    members: list[dict[str, Any]], noise: Any, size: tuple[int, int]
) -> None:
    frames = noise(1, (2, *size, 3))
    found = segengine.predict(frames, {"kind": "ensemble", "members": members})
    mean = np.mean(each(members, frames), axis=0, dtype=np.float64)
    np.testing.assert_allclose(found.probabilities, mean, atol=1e-6)
    best = np.sort(mean, axis=-1)
    sure = best[..., -1] - best[..., -2] > 1e-6
    np.testing.assert_array_equal(found.labels[sure], mean.argmax(-1)[sure])


def test_a_vote_goes_to_the_most_and_of_equals_to_the_lowest(
    members: list[dict[str, Any]], noise: Any
) -> None:
    frames = noise(2, (1, 40, 36, 3))
    for some in (members, members[:2]):
        found = segengine.predict(frames, {"kind": "ensemble", "members": some, "combine": "vote"})
        votes = np.stack([p.argmax(-1) for p in each(some, frames)])
        counts = np.stack([(votes == k).sum(0) for k in range(3)], -1)
        np.testing.assert_array_equal(found.labels, counts.argmax(-1))
        np.testing.assert_allclose(found.probabilities, counts / len(some), atol=1e-7)
    assert (counts.max(-1) == 1).any()  # there were ties


def test_a_plain_loop_over_both_runtimes_agrees(tmp_path: Path, noise: Any) -> None:
    """ONNX Runtime and Keras together, each by itself on a frame of one window."""
    import keras

    keras.utils.set_random_seed(5)
    image = keras.Input((16, 16, 3))
    made = keras.layers.Conv2D(3, 5, padding="same", activation="softmax")(image)
    model = keras.Model(image, made)
    model.save(tmp_path / "k.keras")
    path = convolution(tmp_path / "o.onnx", side=16)
    frames = noise(3, (1, 16, 16, 3))
    theirs = run(path, frames), np.asarray(model(frames.astype(np.float32) / np.float32(255)))
    block = {
        "kind": "ensemble",
        "members": [
            {"kind": "model", "path": path, "scale": SCALE},
            {"kind": "model", "path": str(tmp_path / "k.keras"), "scale": SCALE},
        ],
    }
    found = segengine.predict(frames, block)
    mean = (theirs[0].astype(np.float64) + theirs[1]) / 2
    np.testing.assert_allclose(found.probabilities, mean, atol=1e-6)
    np.testing.assert_array_equal(found.labels, mean.argmax(-1))


def test_ensembles_keep_the_laws(members: list[dict[str, Any]]) -> None:
    class Suite(SegmenterTests):
        tolerance = 1e-5
        sent = False

        def make(self) -> Any:
            return create(members)

        def pixels(self) -> Image:
            return np.random.default_rng(5).integers(0, 256, (2, 53, 46, 3), np.uint8)

    made = create(members)
    alone = [segengine.create_segmenter(one) for one in members]
    assert made.halo == max(one.halo for one in alone)  # type: ignore[union-attr]
    assert made.stride == 24
    suite = Suite()
    suite.test_tiled_equals_whole()


def test_a_job_runs_one_with_paths_beside_it(tmp_path: Path, new_bench: Any, noise: Any) -> None:
    """The members' paths are taken against the job file; where the files lie is no matter."""
    bench = new_bench()
    bench.put("scene.zarr", noise(4, (70, 61, 3)))
    keys = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for i, side in enumerate((16, 24)):
            convolution(tmp_path / folder / f"{i}.onnx", seed=i, side=side)
        block = {
            "kind": "ensemble",
            "members": [{"kind": "model", "path": f"./{i}.onnx", "scale": SCALE} for i in (0, 1)],
        }
        data = bench.job(block, store={"chunk": 16, "shard": 32, "confidence": True})
        job = tmp_path / folder / "job.yaml"
        job.write_text(json.dumps(data))
        summary = segengine.run(segengine.load_job(job))
        keys.append(bench.open().attributes["fingerprints"]["keys"])
    assert summary.computed == 0  # the second time
    assert keys[0] == keys[1]
    whole = segengine.predict(noise(4, (70, 61, 3)), segengine.load_job(job).plugin)
    (scene,) = bench.open().scenes.values()
    np.testing.assert_array_equal(scene.mask[0], whole.labels)


WRONG: list[tuple[Any, str]] = [
    (lambda m: [], r"members: 0 are named; give 2 to 31"),
    (lambda m: "a.onnx", r"members: must be a list of segmenter blocks, not 'a.onnx'"),
    (lambda m: [{"path": "a"}, m], r"members\[0\]\.kind: this key is needed"),
    (lambda m: [{"kind": "kmeans", "clusters": 3}, m], r"members\[0\]\.kind: kmeans must see"),
    (lambda m: [{"kind": "edges", "operator": "canny"}, m], r"members\[0\]\.kind: edges"),
    (lambda m: [m, m | {"path": "gone.onnx"}], r"members\[1\]\.path: gone.onnx: there is no such"),
    (lambda m: [m, m | {"clases": ["a"]}], r"members\[1\]\.clases: model has no such option"),
    (lambda m: [m, m | {"classes": list("abc")}], r"members\[1\]\.classes: a, b, c, and those of"),
    (lambda m: [m, m | {"instances": "components"}], r"members\[1\]\.instances: belongs to the"),
]


@pytest.mark.parametrize(("wrong", "said"), WRONG)
def test_what_is_wrong_is_one_line(members: list[dict[str, Any]], wrong: Any, said: str) -> None:
    with pytest.raises(JobError, match=rf"^{said}") as error:
        segengine.create_segmenter({"kind": "ensemble", "members": wrong(members[1])})
    assert "\n" not in str(error.value)


def test_an_unknown_way_to_combine_is_one_line(members: list[dict[str, Any]]) -> None:
    with pytest.raises(JobError, match=r"^combine: must be one of mean, vote, not 'median'"):
        segengine.create_segmenter({"kind": "ensemble", "members": members, "combine": "median"})


def test_code_among_the_members_is_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGENGINE_ALLOW_CODE", "0")
    block = {"kind": "ensemble", "members": [{"kind": "antigravity:Fly"}, {"kind": "model"}]}
    with pytest.raises(JobError, match="names code, which this deployment forbids"):
        segengine.create_segmenter(block)
    with pytest.raises(JobError, match=r"segmenter\.members\.kind: antigravity:Fly names code"):
        segengine.run({"source": {"paths": ["."]}, "segmenter": block, "store": {"path": "m.zarr"}})


def test_the_worked_example(tmp_path: Path, noise: Any) -> None:
    """deployments/jobs/ensemble.yaml: the labels and the confidence of the mean."""
    example = Path(__file__).parents[3] / "deployments/jobs/ensemble.yaml"
    job = tmp_path / "job.yaml"
    job.write_text(example.read_text().replace("/srv/segengine", str(tmp_path)))
    for folder in ("photos", "models"):
        (tmp_path / folder).mkdir()
    for name, seed, side in (("first", 1, 16), ("second", 2, 24)):
        convolution(tmp_path / f"models/{name}.onnx", seed=seed, side=side)
    image = noise(6, (50, 70, 3))
    cv2.imwrite(str(tmp_path / "photos/a.png"), image[..., ::-1])
    assert segengine.run(segengine.load_job(job)).exit_code == 0
    (scene,) = segengine.open_store(tmp_path / "masks/ensemble.zarr").scenes.values()
    whole = segengine.predict(image, segengine.load_job(job).plugin)
    np.testing.assert_array_equal(scene.mask[0, :50, :70], whole.labels)
    assert whole.probabilities is not None
    sure = np.rint(whole.probabilities.max(-1) * 254)
    found = np.asarray(scene.confidence[0, :50, :70], np.int64)
    assert np.abs(found - sure).max() <= 1
