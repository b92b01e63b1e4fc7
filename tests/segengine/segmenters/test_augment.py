"""Frames that a network sees turned: against a plain loop, bit for bit under flips, and cut anywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segengine
from segengine.errors import JobError
from segengine.segmenters._augment import TURNS, Augmented
from segengine.segmenters._network import Anchored, Blended, Exact, Resized, Valid
from segengine.segmenters.model import create
from segengine.testing import SegmenterTests
from tests.segengine.segmenters.onnxes import convolution, run

SCALE = {"divide": 255}
Image = np.ndarray[Any, np.dtype[Any]]
FLIPS: dict[str, Callable[[Image], Image]] = {
    "x": lambda a: a[:, :, ::-1],
    "y": lambda a: a[:, ::-1],
    "both": lambda a: a[:, ::-1, ::-1],
}
TURNED = FLIPS | {
    "transposed": lambda a: a.swapaxes(1, 2),
    "quarter": lambda a: np.rot90(a, axes=(1, 2)),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Augmented]:
    folder = tmp_path_factory.mktemp("models")

    def augmented(kind: str, augment: str) -> Augmented:
        file = folder / f"{kind}.onnx"
        options: dict[str, Any] = {"scale": SCALE, "augment": augment}
        if kind == "blended":
            path = convolution(file, side=16)
        elif kind == "single":
            path = convolution(file, 1, side=16)
            options["threshold"] = 0.7
        elif kind == "valid":
            path = convolution(file, side=16, pad=False)
        else:
            path = convolution(file, down=2 if kind == "exact" else 1)
            options["resize" if kind == "resized" else "window"] = (
                [16, 16] if kind == "resized" else 16
            )
        found = create(path, **options)
        assert isinstance(found, Augmented)
        if kind == "exact":
            return replace(found, network=replace(found.network, cut=Exact(4, 2, 24)))
        if kind == "anchored":
            taper = np.concatenate([np.arange(1, 9), np.arange(8, 0, -1)]) / 8
            return replace(found, network=replace(found.network, cut=Anchored(taper, 8, 8)))
        return found

    return augmented


KINDS = {
    "blended": Blended,
    "single": Blended,
    "valid": Valid,
    "anchored": Anchored,
    "resized": Resized,
    "exact": Exact,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("augment", TURNS)
def test_a_turned_frame_has_the_turned_mask(made: Any, noise: Any, kind: str, augment: str) -> None:
    segmenter = made(kind, augment)
    assert type(segmenter.network.cut) is KINDS[kind]
    frames = noise(1, (2, 43, 34, 3))
    found = segengine.predict(frames, segmenter)
    assert len(np.unique(found.labels)) > 1
    for name, turn in (FLIPS if augment == "flips" else TURNED).items():
        other = segengine.predict(turn(frames), segmenter)
        np.testing.assert_array_equal(other.labels, turn(found.labels), err_msg=name)
        np.testing.assert_array_equal(other.probabilities, turn(found.probabilities), name)
    plain = segengine.predict(frames, segmenter.network)
    assert (plain.probabilities != found.probabilities).any()


@pytest.mark.parametrize("augment", TURNS)
def test_it_is_the_mean_of_what_the_runtime_gives(tmp_path: Path, noise: Any, augment: str) -> None:
    path = convolution(tmp_path / "m.onnx", side=16)
    frames = noise(2, (1, 16, 16, 3))
    turns = 4 if augment == "flips" else 8
    values = np.zeros((1, 16, 16, 3))
    for k in range(turns // 2):
        for flipped in (False, True):
            # d4 as quarter turns, each mirrored or not; flips as none or both axes, mirrored or not
            steps = k if augment == "d4" else 2 * k
            turned = np.rot90(frames, steps, (1, 2))
            turned = turned[:, :, ::-1] if flipped else turned
            own = run(path, turned)
            own = own[:, :, ::-1] if flipped else own
            values += np.rot90(own, -steps, (1, 2)) / turns
    found = segengine.predict(frames, create(path, scale=SCALE, augment=augment))
    np.testing.assert_allclose(found.probabilities, values, atol=1e-6)
    np.testing.assert_array_equal(found.labels, values.argmax(-1))


def test_a_cut_store_of_a_flipped_frame_is_the_flipped_store(
    tmp_path: Path, new_bench: Any, noise: Any
) -> None:
    path = convolution(tmp_path / "m.onnx", side=16)
    frame = noise(3, (1, 90, 75, 3))
    options = {"kind": "model", "path": path, "scale": SCALE, "augment": "flips"}
    masks = []
    for pixels in (frame[0], frame[0, ::-1, ::-1]):
        bench = new_bench()
        bench.put("scene.zarr", pixels)
        bench.run(options, store={"chunk": 16, "shard": 32, "probabilities": True})
        (scene,) = bench.open().scenes.values()
        masks.append((scene.mask[0], scene.probabilities[0]))
    np.testing.assert_array_equal(masks[0][0], masks[1][0][::-1, ::-1])
    np.testing.assert_array_equal(masks[0][1], masks[1][1][:, ::-1, ::-1])
    whole = segengine.predict(frame, options)
    np.testing.assert_array_equal(masks[0][0], whole.labels[0])


@pytest.mark.parametrize("kind", ["blended", "valid", "anchored", "exact"])
def test_augmented_networks_keep_the_laws(made: Any, kind: str) -> None:
    class Suite(SegmenterTests):
        tolerance = 1e-5
        sent = False

        def make(self) -> Any:
            return made(kind, "d4")

        def pixels(self) -> Image:
            return np.random.default_rng(5).integers(0, 256, (2, 53, 46, 3), np.uint8)

    suite = Suite()
    for name in (
        "test_tiled_equals_whole",
        "test_labels_alone_are_the_labels",
        "test_the_ends_of_the_range_are_labelled",
    ):
        getattr(suite, name)()


def test_what_cannot_be_turned_is_one_line(tmp_path: Path, noise: Any, bench: Any) -> None:
    path = convolution(tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=r"^augment: must be one of flips, d4, not 'rot90'"):
        create(path, augment="rot90")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^augment: d4 transposes frames.* 16 x 8; use flips"):
        create(path, augment="d4", resize=[16, 8])
    bench.put("a.png", noise(0, (16, 16, 3)))
    with pytest.raises(JobError, match=r"segmenter\.augment: must be one of"):
        bench.run({"kind": "model", "path": path, "augment": "all"})
