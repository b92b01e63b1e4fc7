"""Deep segmenters in any number of workers and cuts, killed, poisoned and changed: the same bytes.

One network with a finite view, whose windows are cut hard (the demo's U-Net), and one that sees all
of its window, so that windows fade into one another.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import psutil
import pytest
from harness import Job, differing, kill, tree

import segengine
from segengine.commands.demo import BUNDLE
from segengine.engines.tensorflow import library
from segengine.job import parse_job
from segengine.progress import Summary
from segengine.runs import Run
from segengine.training.synthetic import scene

pytestmark = [
    pytest.mark.system,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
SIDE = 200
FRAMES = 3
SHARDS = 4 * FRAMES
TIE = 2e-5
"""Twice what a cut may change a probability by."""
NETWORKS = ("unet", "pooled")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(FRAMES):
        assert cv2.imwrite(str(folder / f"{i}.png"), scene(9000 + i, SIDE)[0][..., ::-1])
    return folder


@pytest.fixture(scope="module")
def segmenters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    library()
    import keras
    from keras import layers

    folder = tmp_path_factory.mktemp("networks")
    bundle = shutil.copytree(str(files("segengine") / BUNDLE), folder / "unet")
    keras.utils.set_random_seed(3)
    image = keras.Input((None, None, 3))
    x = layers.Conv2D(12, 3, padding="same", activation="relu")(image)
    x = layers.Conv2D(12, 3, padding="same", activation="relu", dilation_rate=3)(x)
    gate = layers.Dense(12, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.Multiply()([x, gate])
    network = keras.Model(image, layers.Conv2D(4, 1, activation="softmax")(x))
    network.save(folder / "pooled.keras")
    scale = {"mean": 110, "std": 40}
    return {
        "unet": {"kind": "model", "path": str(bundle)},
        "pooled": {
            "kind": "model", "path": str(folder / "pooled.keras"), "window": 96, "scale": scale,
        },
    }  # fmt: skip


def job_on(photos: Path, segmenter: dict[str, Any], store: Path, shard: int = 128) -> Any:
    return {
        "source": {"paths": [str(photos)]},
        "segmenter": segmenter,
        "store": {"path": str(store), "chunk": 64, "shard": shard},
        "cluster": {"workers": 2},
    }


def labels_of(store: Path) -> np.ndarray:
    (only,) = segengine.open_store(str(store)).scenes.values()
    return np.asarray(only.mask[:])


@pytest.fixture(scope="module")
def clean(
    photos: Path, segmenters: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The store of an undisturbed run in this process."""

    @cache
    def run(name: str) -> Path:
        store = tmp_path_factory.mktemp(name) / "masks.zarr"
        summary = segengine.run(job_on(photos, segmenters[name], store))
        assert (summary.computed, summary.failed) == (SHARDS, ())
        assert len(np.unique(labels_of(store)[:, :SIDE, :SIDE])) > 2
        return store

    return run


@pytest.mark.parametrize("name", NETWORKS)
def test_the_number_of_workers_changes_no_byte(
    name: str, photos: Path, segmenters: Any, clean: Any, clients: Any, tmp_path: Path
) -> None:
    for workers in (1, 2):
        store = tmp_path / f"{workers}.zarr"
        segengine.run(job_on(photos, segmenters[name], store), client=clients(workers))
        assert differing(tree(str(store)), tree(str(clean(name)))) == []


@pytest.mark.parametrize("name", NETWORKS)
def test_the_cut_decides_nothing_but_ties(
    name: str, photos: Path, segmenters: Any, clean: Any, tmp_path: Path
) -> None:
    found = [labels_of(clean(name))]
    for shard in (64, 256):
        segengine.run(job_on(photos, segmenters[name], tmp_path / f"{shard}.zarr", shard))
        found.append(labels_of(tmp_path / f"{shard}.zarr"))
    for i in range(FRAMES):
        image = cv2.imread(str(photos / f"{i}.png"))[..., ::-1]
        whole = segengine.predict(image, segmenters[name])
        second, first = np.sort(whole.probabilities, axis=-1)[..., -2:].transpose(2, 0, 1)
        tied = first - second < TIE
        assert tied.mean() < 1e-3
        for labels in found:
            same = labels[i, :SIDE, :SIDE] == whole.labels
            assert (same | tied).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_worker_killed_amid_its_work(
    name: str, photos: Path, segmenters: Any, clean: Any, clients: Any, tmp_path: Path
) -> None:
    client = clients(2)
    store = tmp_path / "masks.zarr"
    with Run(parse_job(job_on(photos, segmenters[name], store)), client=client) as run:
        for stage in Run.STAGES:
            for progress in run.stage(stage):
                if stage == "segment" and progress.done == 3:
                    pid, *_ = client.run(os.getpid).values()
                    assert kill(psutil.Process(pid))
    client.wait_for_workers(2, timeout=60)
    assert run.summary().failed == ()
    assert differing(tree(str(store)), tree(str(clean(name)))) == []


@pytest.mark.parametrize(("name", "flags"), [("unet", ()), ("pooled", ("--in-process",))])
def test_a_run_killed_goes_on_where_it_was(
    name: str, flags: tuple[str, ...], photos: Path, segmenters: Any, clean: Any,
    make_job: Callable[..., Job], tmp_path: Path,
) -> None:  # fmt: skip
    store = tmp_path / "masks.zarr"
    job = make_job(job_on(photos, segmenters[name], store))
    run = job.start("segment:progress:4:0", *flags)
    assert run.wait() == -9, run.stderr
    run.assert_nobody_left()
    before = {key: record.finished for key, record in job.records().items()}
    assert 4 <= len(before) < SHARDS
    assert segengine.run(job.job).computed == SHARDS - len(before)
    after = job.records()
    assert {key: after[key].finished for key in before} == before
    assert differing(tree(str(store)), tree(str(clean(name)))) == []


@pytest.mark.parametrize("name", NETWORKS)
def test_a_truncated_image_is_void_and_costs_no_other(
    name: str, photos: Path, segmenters: Any, clean: Any, tmp_path: Path
) -> None:
    poisoned = shutil.copytree(photos, tmp_path / "photos")
    data = (poisoned / "1.png").read_bytes()
    (poisoned / "1.png").write_bytes(data[: len(data) // 2])
    summary = segengine.run(job_on(poisoned, segmenters[name], tmp_path / "m.zarr"))
    assert [(f.name, f.kind) for f in summary.failed] == [("1.png", "corrupt")]
    expected = labels_of(clean(name)).copy()
    expected[1] = 255
    np.testing.assert_array_equal(labels_of(tmp_path / "m.zarr"), expected)


def test_what_changes_is_redone_and_said(photos: Path, segmenters: Any, tmp_path: Path) -> None:
    inputs = shutil.copytree(photos, tmp_path / "photos")
    bundle = shutil.copytree(segmenters["unet"]["path"], tmp_path / "unet")
    plain = {"kind": "model", "path": str(bundle)}

    def run(**options: Any) -> Summary:
        return segengine.run(job_on(inputs, plain | options, tmp_path / "m.zarr"))

    def assert_redone(summary: Summary, why: str, shards: int = SHARDS) -> None:
        assert summary.computed == shards
        (notice,) = summary.messages
        notice, _, scenes = notice.rpartition(" (")
        assert notice == f"{shards} of {SHARDS} shards are stale and will be done again: {why}"
        assert scenes.startswith(("scene ", "2 scenes: "))

    assert run().computed == SHARDS
    with open(bundle / "README.md", "a", encoding="utf-8") as card:
        card.write("\nA word more.\n")
    assert run().computed == 0
    moved = bundle.rename(tmp_path / "elsewhere")
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", moved)
    assert run(path=str(moved)).computed == 0
    assert run(path=packed).computed == 0
    plain["path"] = str(moved)

    first = labels_of(tmp_path / "m.zarr")
    with h5py.File(moved / "model.weights.h5", "r+") as file:
        found: list[h5py.Dataset] = []
        file.visititems(lambda _, node: found.append(node) if hasattr(node, "shape") else None)
        last = next(f for f in found if f.shape == (5,))
        last[...] = last[...] + np.array([0, 3, 0, 0, 0], np.float32)
    assert_redone(run(), "the weights changed")
    assert (labels_of(tmp_path / "m.zarr") != first).any()

    shutil.copy(inputs / "0.png", inputs / "2.png")
    assert_redone(run(), "inputs or the fit changed", SHARDS // FRAMES)
    assert_redone(run(precision="bfloat16"), "segmenter.precision: default -> bfloat16")
    assert_redone(
        run(engine="openvino"),
        "segmenter.engine: default -> openvino; segmenter.precision: bfloat16 -> default",
    )
    assert run(engine="openvino").computed == 0
