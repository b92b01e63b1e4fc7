"""Clean components in runs: maps, tables, figures, and what is said of a wrong option."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco
from scipy import ndimage

import segengine
from segengine.commands.verify import verify
from segengine.errors import JobError
from segengine.instances import cleaning as cleaning_module
from segengine.instances import parts as parts_module
from segengine.job import load_job
from segengine.store.keys import work_folder

pytestmark = [
    pytest.mark.usefixtures("plain_report"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # pycocotools
]

JOB = Path(__file__).parents[3] / "deployments/jobs/nuclei.yaml"
FIXED = {"kind": "threshold", "method": "fixed", "levels": 128}
SPLIT = {
    "kind": "components", "smooth": 1.0, "holes": 30, "min_area": 12, "split": "watershed",
    "min_distance": 4,
}  # fmt: skip


def nuclei(seed: int, side: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture like a fluorescence microscope's, and the number of the nucleus of each pixel."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((side, side))
    ids = np.zeros((side, side), np.uint16)
    light = 18 + 10 * np.sin(x / 90) * np.cos(y / 70)
    for number in range(1, count + 1):
        for _ in range(50):
            v, u = rng.integers(0, side, 2)
            a, b, turn = rng.uniform(9, 13), rng.uniform(7, 10), rng.uniform(0, np.pi)
            here = slice(max(0, v - 13), v + 14), slice(max(0, u - 13), u + 14)
            down, along = y[here] - v, x[here] - u
            one = (down * np.cos(turn) + along * np.sin(turn)) ** 2 / a**2
            one += (along * np.cos(turn) - down * np.sin(turn)) ** 2 / b**2
            inside, taken = one < 1, ids[here] > 0
            if np.count_nonzero(taken & inside) < 0.08 * np.count_nonzero(inside):
                fresh = inside & ~taken
                ids[here][fresh] = number
                light[here] += fresh * rng.uniform(25, 60) * (1.1 - 0.4 * one)
                break
    blurred = ndimage.gaussian_filter(light, 1.0)
    noisy = rng.poisson(np.maximum(blurred, 0) * 2) / 2
    return np.clip(noisy, 0, 255).astype(np.uint8), ids


def of_frame(store: Any, size: tuple[int, int]) -> np.ndarray:
    (scene,) = store.scenes.values()
    found: np.ndarray = np.asarray(scene.instances[0])[: size[0], : size[1]]
    return found


def test_the_job_that_ships_tells_touching_nuclei_apart(tmp_path: Path) -> None:
    picture, ids = nuclei(4, 320, 130)
    for name, image in (("in", picture), ("ids", ids), ("labels", (ids > 0).astype(np.uint8))):
        (tmp_path / name).mkdir()
        assert cv2.imwrite(str(tmp_path / name / "a.png"), image)
    truth = f"{{paths: ['{tmp_path}/labels/{{stem}}.png'], classes: [background, object], "
    settings = [
        f"source.paths=['{tmp_path}/in/']",
        f"truth={truth}instances: '{tmp_path}/ids/{{stem}}.png'}}",
        "evaluate.metrics=[panoptic_quality, counting]",
    ]
    figures = {}
    for shard in (512, 128):
        path = tmp_path / f"{shard}.zarr"
        cut = [f"store.path={path}", f"store.shard={shard}", "store.chunk=64"]
        assert segengine.run(load_job(JOB, [*settings, *cut])).exit_code == 0
        store = segengine.open_store(path)
        figures[shard] = store.metrics["overall"]["panoptic_quality"], of_frame(store, ids.shape)
    assert figures[512][0]["mean_pq"] >= 0.70, figures[512][0]
    assert figures[128][0] == figures[512][0]
    np.testing.assert_array_equal(figures[128][1], figures[512][1])
    count = len(np.unique(ids)) - 1
    assert abs(int(figures[512][1].max()) - count) < 0.12 * count


@pytest.mark.parametrize("split", ["watershed", "distance", "hmaxima"])
def test_maps_and_rows_of_a_cut_frame_are_those_of_the_whole(split: str, bench: Any) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(8).random((150, 190)), 2.5)
    image = np.where(noise > np.quantile(noise, 0.5), 200, 20).astype(np.uint8)
    bench.put("a.png", image)
    spec = SPLIT | {"split": split}
    if split == "hmaxima":
        spec = {k: v for k, v in spec.items() if k != "min_distance"} | {"h": 0.5}
    segmenter = FIXED | {"instances": spec}
    whole = segengine.predict(image, segmenter)
    assert whole.objects is not None
    columns = ["id", "class", "score", "bbox", "area", "rle"]
    for shard in (256, 48):
        store = {"shard": shard, "chunk": 16, "path": str(bench.root / f"{shard}.zarr")}
        assert bench.run(segmenter, store=store).exit_code == 0
        made = segengine.open_store(store["path"])
        ids = of_frame(made, image.shape)
        np.testing.assert_array_equal(ids, whole.instances)
        rows = made.table("instances").select(columns)
        assert rows.to_pylist() == whole.objects.select(columns).to_pylist()
        assert made.metrics["unsplit_instances"]["count"] == 0
        for row in rows.to_pylist()[::5]:
            mask = coco.decode({"size": list(image.shape), "counts": row["rle"]})
            np.testing.assert_array_equal(mask, ids == row["id"])
        (scene,) = made.scenes.values()
        mask = np.asarray(scene.mask[0])[:150, :190]
        np.testing.assert_array_equal(mask, image > 128)  # the mask keeps its specks and holes
        assert (mask[ids == 0] == 1).any()
        assert (mask[ids > 0] == 0).any()
        assert not (Path(store["path"]) / work_folder(scene.name)).exists()
    report = verify(store["path"], sample=3)
    assert (report.problems, report.sampled) == ((), 3)


def test_changed_options_make_the_masks_stale_and_equal_ones_do_not(bench: Any) -> None:
    bench.put("a.zarr", np.kron(np.eye(4, dtype=np.uint8), np.full((12, 12), 200, np.uint8)))
    store = {"shard": 32, "chunk": 32}
    spec = {"kind": "components", "min_area": 3}
    assert bench.run(FIXED | {"instances": "components"}, store=store).computed == 4
    joined = of_frame(bench.open(), (48, 48)).max()
    assert bench.run(FIXED | {"instances": spec}, store=store).computed == 4
    assert (joined, of_frame(bench.open(), (48, 48)).max()) == (1, 4)  # corners
    assert bench.run(FIXED | {"instances": spec | {"holes": 0}}, store=store).computed == 0
    assert bench.run(FIXED | {"instances": spec | {"connectivity": 2}}, store=store).computed == 4
    assert of_frame(bench.open(), (48, 48)).max() == 1


def test_what_is_too_large_to_be_split_is_counted(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (cleaning_module, parts_module):
        monkeypatch.setattr(module, "LARGEST", 900)
    image = np.zeros((100, 100), np.uint8)
    image[10:90, 20:40] = image[10:90, 60:62] = image[5:25, 70:95] = 200
    bench.put("a.png", image)
    for shard in (32, 128):
        path = str(bench.root / f"{shard}.zarr")
        cut = {"shard": shard, "chunk": 32, "path": path}
        assert bench.run(FIXED | {"instances": SPLIT}, store=cut).exit_code == 0
        store = segengine.open_store(path)
        found, number = store.metrics["unsplit_instances"], of_frame(store, (100, 100))[50, 30]
        assert (found["count"], [row["id"] for row in found["listed"]]) == (1, [number])


def test_classes_and_void_and_probabilities(bench: Any) -> None:
    rng = np.random.default_rng(2)
    image = (ndimage.gaussian_filter(rng.random((70, 90)), 2) * 255).astype(np.float32)
    image[20:30, 30:50] = np.nan
    bench.put("a.zarr", image)
    segmenter = {
        "kind": "threshold", "method": "fixed", "levels": [120.0, 128.0],
        "instances": {"kind": "components", "classes": ["class 2"], "holes": 9, "min_area": 4},
    }  # fmt: skip
    names = segengine.create_segmenter(segmenter).classes
    segmenter["instances"]["classes"] = [names[2]]
    whole = segengine.predict(image, segmenter)
    assert bench.run(segmenter, store={"shard": 32, "chunk": 32}).exit_code == 0
    np.testing.assert_array_equal(of_frame(bench.open(), image.shape), whole.instances)
    assert set(bench.open().table("instances").column("class").to_pylist()) == {2}
    assert not whole.instances[np.isnan(image)].any()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"min_are": 3}, r"segmenter\.instances\.min_are: unknown key; did you mean min_area\?"),
        ({"min_area": -1}, r"segmenter\.instances\.min_area: .*greater than or equal to 0, got -1"),
        (
            {"split": "snake"},
            r"segmenter\.instances\.split: .*'watershed', 'distance' or 'hmaxima'",
        ),
        ({"smooth": 1e9}, r"segmenter\.instances\.smooth: .*less than or equal to 64"),
        ({"h": 2.0, "split": "watershed"}, r"segmenter\.instances\.h: is of split: hmaxima"),
        ({"min_distance": 2}, r"segmenter\.instances\.min_distance: is of split"),
        ({"kind": "regions"}, r"segmenter\.instances\.kind: .*'components'"),
        (
            {"classes": ["nucleus"]},
            r"segmenter\.instances\.classes: 'nucleus' is no class; .*object",
        ),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(options: Any, said: str, bench: Any) -> None:
    image = np.zeros((20, 20), np.uint8)
    bench.put("a.png", image)
    spec = {"kind": "components", **options} if isinstance(options, dict) else options
    segmenter = FIXED | {"instances": spec}
    with pytest.raises(JobError, match=said) as raised:
        bench.run(segmenter)
    assert "\n" not in str(raised.value)
    with pytest.raises(JobError, match=said):
        segengine.predict(image, segmenter)
