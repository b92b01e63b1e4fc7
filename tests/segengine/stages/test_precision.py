"""The share of labels that bfloat16 leaves as they are, against two networks run by Keras alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import segengine
from segengine.commands.evaluate import evaluate
from segengine.engines.tensorflow import library
from segengine.report import build
from segengine.stages import precision
from tests.segengine.report.test_report import Page

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
CLASSES = 6


def network(policy: str) -> Any:
    library()
    import keras
    from keras import layers

    keras.utils.set_random_seed(5)
    image = keras.Input((None, None, 3))
    x = layers.Conv2D(16, 3, padding="same", activation="relu", dtype=policy)(image)
    x = layers.Conv2D(16, 3, padding="same", activation="relu", dtype=policy)(x)
    return keras.Model(image, layers.Conv2D(CLASSES, 1, activation="softmax", dtype=policy)(x))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "six.keras"
    network("float32").save(path)
    return path


def labels(policy: str, image: np.ndarray) -> np.ndarray:
    """By Keras alone; the weights follow from the seed."""
    values = network(policy)(image[None].astype(np.float32) / np.float32(255))
    return np.asarray(values)[0].astype(np.float32).argmax(-1)


def photo(bench: Any, noise: Any, name: str, seed: int, size: tuple[int, int]) -> np.ndarray:
    image: np.ndarray = noise(seed, (*size, 3))
    bench.put(name, image)
    return image


def job(bench: Any, saved: Path, **options: Any) -> Any:
    segmenter = {"kind": "model", "path": str(saved), "scale": {"divide": 255}, **options}
    return bench.job(segmenter, store={"shard": 512})


def test_the_figure_is_that_of_two_networks(bench: Any, noise: Any, saved: Path) -> None:
    images = [
        photo(bench, noise, "0.png", 1, (120, 140)),
        photo(bench, noise, "1.png", 2, (70, 300)),
    ]
    segengine.run(job(bench, saved, precision="bfloat16"))
    found = bench.open().metrics["label_agreement"]
    alike = [labels("float32", i) == labels("mixed_bfloat16", i) for i in images]
    same, pixels = (sum(int(n) for n in ns) for ns in zip(*((a.sum(), a.size) for a in alike)))  # noqa: B905
    assert 0 < pixels - same < pixels / 20
    assert found == {
        "precision": "bfloat16",
        "reference": "float32",
        "pixels": pixels,
        "same": same,
        "share": same / pixels,
    }
    words = Page(build(str(bench.store))).words
    shown = re.search(r"bfloat16: (\d+\.\d\d) % of ([\d,]+) sampled pixels labelled as in", words)
    assert shown is not None
    assert shown[2] == f"{pixels:,}"
    assert 0 <= 100 * same / pixels - float(shown[1]) < 0.01


def test_a_window_of_a_large_frame_is_sampled(bench: Any, noise: Any, saved: Path) -> None:
    image = photo(bench, noise, "0.png", 3, (700, 600))
    spec = job(bench, saved, precision="bfloat16")
    spec["store"] |= {"shard": 1024}
    segengine.run(spec)
    inner = (slice(94, 606), slice(44, 556))
    alike = (labels("float32", image) == labels("mixed_bfloat16", image))[inner]
    found = bench.open().metrics["label_agreement"]
    assert (found["pixels"], found["same"]) == (512 * 512, int(alike.sum()))


def test_nodata_is_not_counted(bench: Any, noise: Any, saved: Path) -> None:
    image = np.dstack([noise(4, (90, 80, 3)), np.full((90, 80), 255, np.uint8)])
    image[:30, :, 3] = 0
    assert cv2.imwrite(str(bench.put("0.png", image[..., :3])), image)
    segengine.run(job(bench, saved, precision="bfloat16"))
    assert bench.open().metrics["label_agreement"]["pixels"] == 60 * 80


@pytest.mark.usefixtures("plain_report")
def test_what_was_measured_is_not_measured_again(
    bench: Any, noise: Any, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []

    def counting(task: Any) -> Any:
        compared.append(task.shard.scene)
        return compare(task)

    compare = precision.compare
    monkeypatch.setattr(precision, "compare", counting)
    for i in range(2):
        photo(bench, noise, f"{i}.png", i, (40, 300 * i + 40))
    spec = job(bench, saved, precision="bfloat16")
    segengine.run(spec)
    first = bench.open().metrics["label_agreement"]
    assert len(compared) == 2
    segengine.run(spec)
    spec["name"] = "published anew"
    segengine.run(spec)
    assert len(compared) == 2
    evaluate(str(bench.store), evaluate={"metrics": ["regions"]})
    assert bench.open().metrics["label_agreement"] == first

    photo(bench, noise, "1.png", 7, (40, 340))  # its shard is done again, and so is what follows
    segengine.run(spec)
    assert len(compared) == 3
    assert bench.open().metrics["label_agreement"]["pixels"] == first["pixels"]

    segengine.run(job(bench, saved))
    assert len(compared) == 3
    assert "label_agreement" not in json.loads((bench.store / "metrics.json").read_text())


@pytest.mark.usefixtures("plain_report")
def test_a_few_scenes_stand_for_many(
    bench: Any, noise: Any, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "SCENES", 2)
    for i in range(3):
        photo(bench, noise, f"{i}.png", i, (40, 256 * i + 40))
    segengine.run(job(bench, saved, precision="bfloat16"))
    pixels = bench.open().metrics["label_agreement"]["pixels"]
    assert pixels in {
        40 * (256 * i + 40) + 40 * (256 * j + 40) for i, j in [(0, 1), (0, 2), (1, 2)]
    }


def test_what_cannot_be_read_any_more_stops_nothing(
    bench: Any, noise: Any, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(bench, noise, "0.png", 1, (40, 40))
    compare = precision.compare

    def gone(task: Any) -> Any:
        (bench.inputs / "0.png").write_bytes(b"no image")
        return compare(task)

    monkeypatch.setattr(precision, "compare", gone)
    monkeypatch.setattr("segengine.worker.reading._CACHE.frames", {})
    spec = job(bench, saved, precision="bfloat16", batch=1) | {"faults": {"retries": 0}}
    assert segengine.run(spec).failed == ()
    found = bench.open().metrics["label_agreement"]
    assert (found["pixels"], found["share"]) == (0, None)
    words = Page(build(str(bench.store))).words
    assert "not compared with float32: no sampled window could be read" in words
