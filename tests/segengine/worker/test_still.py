"""Still frames keep a mask: exact where they are equal, the same for any cut, and counted."""

import importlib
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import segengine
from segengine.commands.verify import verify
from segengine.errors import JobError
from segengine.job import load_job
from segengine.worker.still import EVERY, is_still
from tests.segengine.moving import passing, write_video

BRIGHT = {"kind": "threshold", "method": "fixed", "levels": [190]}
QUICK = {"faults": {"fsync": False}}
COUNTING = '''
import numpy as np

from segengine.types import Prediction

SEEN = []


class Counting:
    """Labels what is bright; says how many frames it was asked about."""

    classes = ("dark", "bright")
    halo, stride = 0, 1
    outputs = ("labels",)

    def segment(self, pixels):
        SEEN.append(len(pixels))
        return Prediction((pixels[..., 0] > 190).astype(np.uint8))
'''


def standing(count=72, noise=0):
    """Frames that move now and then, with noise of so many grey levels in between."""
    rng = np.random.default_rng(3)
    steps = passing(6, 64, 96)
    places = [min(5, i // 13) for i in range(count)]
    pictures = [steps[place].astype(np.int64) for place in places]
    return [
        np.clip(p + rng.integers(-noise, noise + 1, p.shape), 0, 255).astype(np.uint8)
        for p in pictures
    ]


def cut(frames, **sides):
    return {"chunk": 32, "shard": 96, "frames": frames, **sides}


@pytest.fixture
def counting(tmp_path, monkeypatch):
    file = tmp_path / "counting_frames.py"
    file.write_text(COUNTING)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module(file.stem)
    module.SEEN.clear()
    yield module.SEEN
    monkeypatch.delitem(sys.modules, file.stem)


def test_equal_frames_are_segmented_once_and_no_mask_changes(new_bench, counting, plain_report):
    trees, asked = [], []
    kind = {"kind": "counting_frames:Counting"}
    for skip in ({}, {"still": 0.0}):
        bench = new_bench()
        write_video(bench.inputs / "a.mkv", standing(), codec="ffv1", pixels="bgr0")
        bench.run(kind, source={"skip": skip}, store=cut(24), trust=True, **QUICK)
        trees.append(bench.tree())
        asked.append(sum(counting))
        counting.clear()
    assert trees[0] == trees[1]
    assert asked[0] == 72
    # six pictures, three times the 32nd frame; once more where a shard begins amid a run
    assert asked[1] <= 6 + 3 + 2
    found = json.loads((bench.store / "metrics.json").read_text())["still_frames"]
    assert found == {"frames": 72 - 8, "of": 72}
    assert not verify(str(bench.store), trust=True).problems
    # what changes no mask computes none
    again = bench.run(kind, store=cut(24), trust=True, **QUICK)
    assert again.computed == 0


def test_masks_of_frames_that_hardly_differ_are_the_same_for_any_cut(new_bench, plain_report):
    trees = []
    pictures = standing(44, noise=3)
    for store in (cut(1), cut(5), cut(44), cut(1, shard=64)):
        bench = new_bench()
        write_video(bench.inputs / "a.mkv", pictures, codec="ffv1", pixels="bgr0")
        job = {"source": {"skip": {"still": 3.0}}, "store": store, **QUICK}
        job["segmenter"] = {"kind": "threshold", "method": "fixed", "levels": [120]}
        if len(trees) == 3:
            job["segmenter"]["instances"] = "components"  # drafted, and joined
        bench.run(job.pop("segmenter"), **job)
        mask = bench.open()["a"].mask[:]
        trees.append(mask[:, :64, :96])
    for other in trees[1:]:
        assert (other == trees[0]).all()
    own = np.stack([p[..., 0] > 120 for p in pictures])  # what each frame would have by itself
    same = [bool((a == b).all()) for a, b in zip(trees[0], own, strict=True)]
    assert sum(same) < 20
    runs = {i for i in range(1, 44) if (trees[0][i] != trees[0][i - 1]).any()}
    assert runs <= {i for i in range(44) if i % 13 == 0 or i % EVERY == 0}
    assert len(runs) >= 3


def test_what_moves_anywhere_is_not_still_and_noise_everywhere_is():
    rng = np.random.default_rng(0)
    a = rng.integers(50, 200, (50, 70, 3), np.uint8)
    noisy = (a + rng.integers(-2, 3, a.shape)).astype(np.uint8)
    assert is_still(a, noisy, 2.0)
    assert not is_still(a, noisy, 0.0)
    assert is_still(a, a.copy(), 0.0)
    moved = a.copy()
    moved[48:, 64:] += 40  # in the smallest block, at the corner
    assert not is_still(a, moved, 2.0)
    assert abs(moved.astype(int) - a).mean() < 0.2
    assert is_still(a, moved, 40.0)


def test_what_cannot_be_skipped_is_refused_by_its_key(bench):
    bench.put("photos/a.png", np.zeros((32, 32), np.uint8))
    with pytest.raises(JobError, match=r"^source\.skip\.still: source\.paths has no video"):
        bench.run(BRIGHT, source={"skip": {"still": 0}})
    write_video(bench.inputs / "a.mkv", passing(2, 48, 64), codec="ffv1")
    with pytest.raises(JobError, match=r"^source\.skip\.still: kmeans .* only 0 is possible"):
        bench.run(
            {"kind": "kmeans", "clusters": 2, "scope": "frame"}, source={"skip": {"still": 1}}
        )
    with pytest.raises(JobError, match=r"source\.skip\.still: .*greater than or equal to 0"):
        bench.run(BRIGHT, source={"skip": {"still": -1}})


def test_frame_fits_and_objects_of_still_frames_are_those_they_would_have(new_bench, plain_report):
    made = []
    for skip in ({}, {"still": 0}):
        bench = new_bench()
        write_video(bench.inputs / "a.mkv", standing(30), codec="ffv1", pixels="bgr0")
        kind = {"kind": "threshold", "method": "otsu", "instances": "components"}
        bench.run(kind, source={"skip": skip}, store=cut(16), **QUICK)
        made.append((bench.tree(), (bench.store / "tables/instances.parquet").read_bytes()))
    assert made[0] == made[1]


def test_the_worked_example(tmp_path, plain_report):
    """deployments/jobs/still.yaml: the masks are those of every frame, most of which were kept."""
    example = Path(__file__).parents[3] / "deployments/jobs/still.yaml"
    job = tmp_path / "job.yaml"
    job.write_text(example.read_text().replace("/srv/segengine", str(tmp_path)))
    (tmp_path / "night").mkdir()
    frames = standing()
    write_video(tmp_path / "night/a.mkv", frames, codec="ffv1", pixels="gray")
    summary = segengine.run(load_job(job))
    assert summary.exit_code == 0
    (scene,) = segengine.open_store(tmp_path / "masks/still.zarr").scenes.values()
    for shown, mask in zip(frames, np.asarray(scene.mask[:]), strict=True):
        gray = cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY) if shown.ndim == 3 else shown
        np.testing.assert_array_equal(mask[: gray.shape[0], : gray.shape[1]], gray > 190)
