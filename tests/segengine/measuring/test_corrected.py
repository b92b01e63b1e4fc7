"""What was put right by hand counts as truth: over the job's own, pixel by pixel, and without it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segengine import corrections
from segengine.commands.evaluate import evaluate
from segengine.commands.verify import verify
from segengine.errors import MissingTruthError
from segengine.export.png import export as to_png
from segengine.job import TruthSpec
from segengine.registry import reader
from segengine.store.blobs import open_objects
from tests.conftest import Bench
from tests.segengine.sources.mutations import with_stream

pytestmark = pytest.mark.usefixtures("plain_report")
SEGMENTER = {"kind": "threshold", "method": "fixed", "levels": 100, "instances": "components"}


@pytest.fixture(autouse=True)
def evaluate_without_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segengine.commands.evaluate.build", lambda *_, **__: None)


def correct(bench: Bench, name: str, labels: np.ndarray, ids: np.ndarray | None = None) -> None:
    row = next(r for r in bench.open().frames.to_pylist() if r["name"] == name)
    place = corrections.files_of(row["scene"], row["frame"])
    objects = open_objects(str(bench.store))
    save = {"who": "Ada", "when": "2026-01-01T00:00:00Z"}
    old = corrections.tag_of(objects.get(place.labels))
    corrections.write(objects, place, place.labels, labels, old, {}, save)
    if ids is not None:
        kinds = {"objects": {str(i): 1 for i in np.unique(ids).tolist() if i}}
        corrections.write(objects, place, str(place.objects), ids, "none", kinds, save)


def images(bench: Bench) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    found = {}
    for name, size in (("a.png", (40, 56)), ("b.png", (33, 70))):
        found[name] = rng.integers(0, 255, size).astype(np.uint8)
        bench.put(name, found[name])
    return found


def truth_of(bench: Bench, labels: dict[str, np.ndarray], folder: str = "truth") -> dict[str, Any]:
    (bench.root / folder).mkdir(exist_ok=True)
    for name, values in labels.items():
        assert cv2.imwrite(str(bench.root / folder / name), values)
    return {"paths": [str(bench.root / folder / "{stem}.png")]}


def figures(metrics: Any) -> tuple[Any, ...]:
    return tuple(metrics[key] for key in ("overall", "confusion", "scenes", "losses", "frames"))


@pytest.mark.parametrize("shard", [256, 32])
def test_corrections_prevail_where_somebody_touched(bench: Bench, shard: int) -> None:
    """As the same labels put into the job's own images by hand."""
    pictures = images(bench)
    rng = np.random.default_rng(5)
    own = {n: rng.integers(0, 2, p.shape).astype(np.uint8) for n, p in pictures.items()}
    everything = {"metrics": ["confusion", "boundary_f1"], "losses": ["dice"]}
    blocks = {"truth": truth_of(bench, own), "evaluate": everything}
    bench.run(SEGMENTER, store={"shard": shard}, **blocks)
    before = figures(bench.open().metrics)
    drawn = np.full(pictures["b.png"].shape, 255, np.uint8)
    drawn[5:20, 3:60] = rng.integers(0, 2, (15, 57))
    correct(bench, "b.png", drawn)
    report = evaluate(str(bench.store))
    assert (report.metrics["corrected"], report.metrics["corrected_frames"]) == (True, 1)
    together = {**own, "b.png": np.where(drawn == 255, own["b.png"], drawn)}
    spec = TruthSpec(**truth_of(bench, together, "together"))
    wanted = evaluate(str(bench.store), spec)
    assert "corrected" not in wanted.metrics
    assert figures(report.metrics) == figures(wanted.metrics)
    assert figures(report.metrics) != before


def test_only_what_was_corrected_is_measured_again(bench: Bench) -> None:
    pictures = images(bench)
    bench.run(SEGMENTER, truth=truth_of(bench, {n: p // 128 for n, p in pictures.items()}))
    assert evaluate(str(bench.store)).measured == 0
    drawn = np.ones(pictures["b.png"].shape, np.uint8)
    correct(bench, "b.png", drawn)
    shards = {tuple(r.shard) for r in bench.open().records()}
    first = evaluate(str(bench.store)).measured
    assert 0 < first < len(shards) + 1
    assert evaluate(str(bench.store)).measured == 0
    drawn[0, 0] = 0
    correct(bench, "b.png", drawn)
    assert evaluate(str(bench.store)).measured == first


def test_a_job_without_truth_has_that_of_its_corrections(bench: Bench) -> None:
    pictures = images(bench)
    bench.run(SEGMENTER)
    assert not bench.open().metrics.get("confusion")
    wrong = np.where(pictures["a.png"] > 100, 0, 1).astype(np.uint8)
    correct(bench, "a.png", wrong)
    report = evaluate(str(bench.store))
    assert report.metrics["overall"]["pixel_accuracy"] == 0
    assert [row["name"] for row in report.metrics["missing_truth"]] == ["b.png"]
    assert "are not scored: nobody" in "\n".join(report.lines())
    again = bench.run(SEGMENTER)  # the next night keeps to it
    assert again.metrics["overall"]["pixel_accuracy"] == 0


def test_objects_put_right_are_the_true_ones(bench: Bench) -> None:
    image = np.zeros((40, 60), np.uint8)
    image[10:30, 10:30] = 200
    bench.put("a.png", image)
    bench.run(SEGMENTER)
    ids = np.zeros(image.shape, np.uint16)
    ids[10:30, 10:20] = 1
    ids[10:30, 20:30] = 2
    correct(bench, "a.png", np.full(image.shape, 255, np.uint8), ids)
    asked = {"metrics": ["panoptic_quality", "object_counts"]}
    found = evaluate(str(bench.store), evaluate=asked).metrics
    assert not found["not_measured"]
    # one object found, two true, each of half its size: IoU 0.5 is no match
    assert found["overall"]["panoptic_quality"]["mean_pq"] == 0
    correct_again = np.where(ids > 0, 1, 0).astype(np.uint16)
    row = bench.open().frames.to_pylist()[0]
    place = corrections.files_of(row["scene"], row["frame"])
    objects = open_objects(str(bench.store))
    tag = corrections.tag_of(objects.get(str(place.objects)))
    facts = {"objects": {"1": 1}}
    corrections.write(objects, place, str(place.objects), correct_again, tag, facts, {})
    found = evaluate(str(bench.store), evaluate=asked).metrics
    assert found["overall"]["panoptic_quality"]["mean_pq"] == 1


def test_a_class_that_the_truth_lacks_is_said(bench: Bench) -> None:
    pictures = images(bench)
    block = truth_of(bench, {n: np.zeros_like(p) for n, p in pictures.items()})
    bench.run(SEGMENTER, truth={**block, "classes": ["background", "tree", "road"]})
    correct(bench, "a.png", np.ones(pictures["a.png"].shape, np.uint8))
    missing = evaluate(str(bench.store)).metrics["missing_truth"]
    assert [row["name"] for row in missing] == ["a.png"]
    assert "'object'" in missing[0]["reason"]


def beside(path: Path) -> None:
    path.with_suffix(".json").write_text('{"a":')


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def too_much(path: Path) -> None:
    """What a decoder takes, and warns of on the terminal: the stream of a larger image."""
    data = path.read_bytes()
    path.write_bytes(with_stream(data, zlib.compress(bytes(100_000))[:-20]))


def too_little(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(with_stream(data, zlib.compress(bytes(900))))


def strange(path: Path) -> None:
    path.write_bytes(corrections.encoded(np.full((40, 56), 7, np.uint8)))


@pytest.mark.parametrize("damage", [cut, beside, too_much, too_little, strange])
def test_a_damaged_correction_is_named_and_not_used(
    damage: Callable[[Path], None], bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    """By all that use it, each in the same words."""
    pictures = images(bench)
    bench.run(SEGMENTER, truth=truth_of(bench, {n: p // 128 for n, p in pictures.items()}))
    for name in ("a.png", "b.png"):
        correct(bench, name, np.ones(pictures[name].shape, np.uint8))
    evaluate(str(bench.store))  # what was measured of it does not last
    (path,) = (p for p in bench.store.glob("review/*/*.png") if cv2.imread(str(p)).shape[0] == 40)
    damage(path)
    missing = evaluate(str(bench.store)).metrics["missing_truth"]
    assert [row["name"] for row in missing] == ["a.png"]
    (problem,) = verify(str(bench.store), sample=0).problems
    said: list[str] = []
    written = to_png(str(bench.store), str(bench.root / "png"), corrected=True, say=said.append)
    assert [Path(file).name for file in written] == ["b.png"]
    reason = f"{bench.store}/{problem.object}: {problem.what}"
    assert said == [f"left out: {reason}"]
    assert missing[0]["reason"] == reason
    source: Any = reader("review", {"paths": [str(bench.store)]})
    frames = bench.open()[path.parent.name].frames
    ref = replace(frames[int(path.stem)], uri=str(path))
    (truth,) = source.find_truth([ref])
    with pytest.raises(MissingTruthError, match=re.escape(reason)):
        source.load_truth(ref, truth, slice(0, 40), slice(0, 56))
    assert capfd.readouterr().err == ""


@given(arrays(st.sampled_from([np.uint8, np.uint16]), (5, 7)))
def test_a_label_image_comes_back(labels: np.ndarray) -> None:
    data = corrections.encoded(labels)
    found = corrections.decoded(data, (5, 7), "x")
    assert found.dtype == labels.dtype
    np.testing.assert_array_equal(found, labels)
