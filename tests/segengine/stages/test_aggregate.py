"""Truth: found, mapped, misaligned, corrected; figures against numpy and scipy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image
from scipy.optimize import linear_sum_assignment

import segengine
from segengine.commands.evaluate import evaluate
from segengine.errors import JobError
from segengine.job import TruthSpec
from segengine.measuring.measures import Asked, MeasureSpec
from segengine.measuring.paths import candidates
from segengine.measuring.truth import map_labels, unknown_values
from segengine.planning.layout import Cut, Probed, place
from segengine.stages.aggregate import _told
from segengine.stages.metrics_json import unknown_labels
from segengine.store.values import encode
from segengine.types import Entry, FrameRef, Probe, TruthRef
from segengine_flows.terminal import result

pytestmark = pytest.mark.usefixtures("plain_report")
FIXED = {"kind": "threshold", "method": "fixed", "levels": 110}


@pytest.fixture(autouse=True)
def evaluate_without_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segengine.commands.evaluate.build", lambda *_, **__: None)


def label(bench: Any, name: str, values: np.ndarray) -> Path:
    path = bench.root / "truth" / name
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(values).save(path)
    return Path(path)


def truth(bench: Any, **keys: Any) -> dict[str, Any]:
    return {"paths": [f"{bench.root}/truth/{{stem}}.png"], **keys}


def table(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int) -> np.ndarray:
    """(prediction, truth) counts; void in either is left out."""
    found = np.zeros((classes, classes), int)
    for mask, labels in pairs:
        np.add.at(found, (mask[labels < classes], labels[labels < classes]), 1)
    return found


def test_figures_of_known_masks(bench: Any, noise: Any) -> None:
    pairs = []
    for i, size in enumerate([(40, 50), (64, 64), (30, 300)]):
        image = noise(i, (*size, 3))
        bench.put(f"{i}.png", image)
        values = (noise(50 + i, (*size, 1))[..., 0] > 100).astype(np.uint8)
        values[:5] = 255
        label(bench, f"{i}.png", values)
        pairs.append((segengine.segment(image, FIXED), values))
    summary = bench.run(FIXED, truth=truth(bench), store={"shard": 64})
    counts = table(pairs, 2)
    overall = summary.metrics["overall"]
    assert overall["pixel_accuracy"] == pytest.approx(np.trace(counts) / counts.sum(), abs=1e-12)
    for i, name in enumerate(["background", "object"]):
        tp, row, column = counts[i, i], counts[i].sum(), counts[:, i].sum()
        figures = overall["classes"][name]
        assert figures["iou"] == pytest.approx(tp / (row + column - tp), abs=1e-12)
        assert figures["dice"] == pytest.approx(2 * tp / (row + column), abs=1e-12)
        assert figures["precision"] == pytest.approx(tp / row, abs=1e-12)
        assert figures["recall"] == pytest.approx(tp / column, abs=1e-12)
    document = json.loads((bench.store / "metrics.json").read_text())
    assert document["overall"] == overall
    assert len(document["frames"]) == 3
    ious = [row["iou"] for row in document["frames"]]
    assert ious == sorted(ious)  # the worst first
    for name in bench.open().scenes:
        assert "pixel_accuracy" in document["scenes"][name]


def test_figures_do_not_depend_on_the_cuts(new_bench: Any, noise: Any) -> None:
    found = []
    for shard, frames in [(64, None), (256, None), (512, 2), (128, 1)]:
        bench = new_bench()
        for i in range(3):
            bench.put(f"{i}.png", noise(i, (90, 80, 3)))
            label(bench, f"{i}.png", (noise(9 + i, (90, 80, 1))[..., 0] > 90).astype(np.uint8))
        store = {"shard": shard, "frames": frames}
        metrics = bench.run(FIXED, truth=truth(bench), store=store).metrics
        found.append((metrics["overall"], metrics["frames"], metrics["confusion"]))
    assert all(f == found[0] for f in found)


def test_missing_and_misaligned_truth_is_counted_by_name(bench: Any, noise: Any) -> None:
    for i in range(4):
        bench.put(f"{i}.png", noise(i, (40, 50, 3)))
    good = (noise(9, (40, 50, 1))[..., 0] > 90).astype(np.uint8)
    label(bench, "0.png", good)
    label(bench, "1.png", good[:-1])
    (bench.root / "truth/3.png").write_bytes(b"no image")
    metrics = bench.run(FIXED, truth=truth(bench)).metrics
    missing = {m["name"]: m["reason"] for m in metrics["missing_truth"]}
    assert sorted(missing) == ["1.png", "2.png", "3.png"]
    assert "39 x 50 pixels, its frame 40 x 50" in missing["1.png"]
    assert f"no truth at {bench.root}/truth/2.png" in missing["2.png"]
    assert "cannot be read" in missing["3.png"]
    mask = segengine.segment(noise(0, (40, 50, 3)), FIXED)
    assert metrics["overall"]["pixel_accuracy"] == pytest.approx((mask == good).mean(), abs=1e-12)
    assert np.sum(metrics["confusion"]["counts"]) == good.size


def test_objects_of_label_images(bench: Any, noise: Any) -> None:
    """Two frames with images of ids, one without: its classes count, its objects are left out."""
    from skimage import measure

    masks = [segengine.segment(noise(i, (60, 70, 3)), FIXED) for i in range(3)]
    (bench.root / "ids").mkdir()
    for i, mask in enumerate(masks):
        bench.put(f"{i}.png", noise(i, (60, 70, 3)))
        label(bench, f"{i}.png", mask)
        ids = measure.label(mask, connectivity=2).astype(np.uint16)
        if i < 2:
            Image.fromarray(ids).save(bench.root / f"ids/{i}.png")
    done = bench.run(
        FIXED | {"instances": "components"},
        truth=truth(bench, instances=f"{bench.root}/ids/{{stem}}.png"),
        evaluate={"metrics": ["confusion", "panoptic_quality", "coco"]},
    )
    metrics = done.metrics
    (missing,) = metrics["missing_truth"]
    assert missing["name"] == "2.png"
    assert missing["reason"] == "its truth has only classes; figures of instances leave it out"
    assert np.sum(metrics["confusion"]["counts"]) == 3 * 60 * 70
    panoptic = metrics["overall"]["panoptic_quality"]
    assert panoptic["mean_pq"] == 1
    count = sum(len(np.unique(measure.label(mask, connectivity=2))) - 1 for mask in masks[:2])
    assert [row["tp"] for row in panoptic["classes"].values()] == [count]
    assert count > 10
    assert metrics["overall"]["coco"]["ap"] == pytest.approx(1)


def test_values_and_classes(bench: Any, noise: Any) -> None:
    image = noise(0, (40, 50, 3))
    bench.put("0.png", image)
    values = np.full((40, 50), 7, np.uint8)
    values[10:] = 200
    values[30:] = 255  # void
    values[29, :20] = 9  # no class, but no more than 1 %
    label(bench, "0.png", values)
    spec = truth(bench, classes=["background", "object"], values=[200, 7])
    metrics = bench.run(FIXED, truth=spec).metrics
    mask = segengine.segment(image, FIXED)
    known = values < 255
    known &= values != 9
    wanted = np.where(values == 7, 1, 0)
    found = metrics["overall"]["pixel_accuracy"]
    assert found == pytest.approx((mask == wanted)[known].mean(), abs=1e-12)
    assert metrics["missing_truth"] == []
    (scene,) = bench.open().scenes
    row = {"scene": scene, "frame": 0, "name": "0.png"}
    assert metrics["unknown_labels"] == [row | {"value": 9, "pixels": 20, "share": 0.01}]
    assert unknown_labels(metrics)[1:] == ["  0.png: 1.00%: values 9 (1.00%)"]


def blurred(size: tuple[int, int]) -> np.ndarray:
    """A disc of 255 on 0 whose edge was blurred."""
    y, x = np.indices(size)
    far = np.hypot(y - size[0] / 2, x - size[1] / 2) - size[0] / 4
    return np.clip(128 - 40 * far, 0, 255).astype(np.uint8)


def test_a_blurred_label_is_not_scored_and_its_values_are_named(new_bench: Any, noise: Any) -> None:
    """As the cut at 128 has it, or not at all: never 1.0 of what is left of it."""
    values = blurred((90, 80))
    strange = {int(v): int(n) for v, n in zip(*np.unique(values, return_counts=True), strict=True)}
    strange = {v: n for v, n in strange.items() if v not in (0, 255)}
    share = sum(strange.values()) / values.size
    found = []
    for shard in (256, 64):  # the share is of the frame, wherever it is cut
        bench = new_bench()
        for i in range(2):
            bench.put(f"{i}.png", noise(i, (90, 80, 3)))
        label(bench, "0.png", values)
        label(bench, "1.png", (values > 128).astype(np.uint8) * 255)
        spec = truth(bench, classes=["background", "object"], values=[0, 255])
        summary = bench.run(
            FIXED,
            truth=spec,
            store={"shard": shard},
            evaluate={"metrics": ["confusion", "iou", "boundary_f1"]},
        )
        metrics = summary.metrics
        (missing,) = metrics["missing_truth"]
        assert missing["name"] == "0.png"
        assert missing["reason"].startswith(f"{share:.2%} of its label is no class, more than 1%: ")
        rows = metrics["unknown_labels"]
        assert {row["value"]: row["pixels"] for row in rows} == strange
        assert sum(row["share"] for row in rows) == pytest.approx(share, abs=1e-12)
        assert {row["name"] for row in rows} == {"0.png"}
        assert np.sum(metrics["confusion"]["counts"]) == values.size
        assert [row["name"] for row in metrics["frames"]] == ["1.png"]
        text = "\n".join(result(summary))
        assert f"  0.png: {share:.2%}: values " in text
        assert f"  0.png: {missing['reason']}" in text
        found.append({key: metrics[key] for key in ("overall", "frames", "confusion")})
    assert found[0] == found[1]


def test_labels_beyond_the_segmenters_classes_are_no_class(bench: Any, noise: Any) -> None:
    bench.put("0.png", noise(0, (40, 50, 3)))
    values = np.zeros((40, 50), np.uint8)
    values[0, :3] = 2
    label(bench, "0.png", values)
    (row,) = bench.run(FIXED, truth=truth(bench)).metrics["unknown_labels"]
    assert (row["value"], row["pixels"]) == (2, 3)


def test_clusters_are_matched_to_classes(bench: Any, noise: Any) -> None:
    spec = {"kind": "kmeans", "clusters": 4, "attempts": 1, "scope": "run"}
    pairs = []
    for i in range(2):
        image = noise(i, (60, 60, 3))
        bench.put(f"{i}.png", image)
        values = (noise(70 + i, (60, 60, 1))[..., 0] // 60).clip(0, 2).astype(np.uint8)
        label(bench, f"{i}.png", values)
        pairs.append(values)
    metrics = bench.run(spec, truth=truth(bench, classes=["a", "b", "c"])).metrics
    scene = bench.open()["256x256-uint8-3"]
    counts = np.zeros((4, 3), int)
    for i, values in enumerate(pairs):
        np.add.at(counts, (np.asarray(scene.mask[i])[:60, :60], values), 1)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    best = counts[rows, columns].sum()
    assert metrics["overall"]["pixel_accuracy"] == pytest.approx(best / counts.sum(), abs=1e-12)


def test_a_corrected_label_changes_figures_without_segmenting(
    bench: Any, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [noise(i, (40, 50, 3)) for i in range(2)]
    for i, image in enumerate(images):
        bench.put(f"{i}.png", image)
        label(bench, f"{i}.png", np.zeros((40, 50), np.uint8))
    before = bench.run(FIXED, truth=truth(bench)).metrics["overall"]["pixel_accuracy"]
    tree = bench.tree()

    def refuse(task: Any) -> None:
        pytest.fail("segmented again")

    monkeypatch.setattr("segengine.stages.segment.compute_shard", refuse)
    masks = [segengine.segment(image, FIXED) for image in images]
    for i, mask in enumerate(masks):
        label(bench, f"{i}.png", mask.astype(np.uint8))
    summary = bench.run(FIXED, truth=truth(bench))
    assert before < 1
    assert (summary.computed, summary.metrics["overall"]["pixel_accuracy"]) == (0, 1.0)
    assert bench.tree() == tree
    # The same figures, and nothing to measure, the next time.
    monkeypatch.setattr("segengine.stages.aggregate.measure", refuse)
    assert bench.run(FIXED, truth=truth(bench)).metrics["overall"]["pixel_accuracy"] == 1.0


def test_evaluate_a_finished_store(bench: Any, noise: Any) -> None:
    image = noise(0, (40, 50, 3))
    bench.put("0.png", image)
    bench.run(FIXED)
    assert bench.open().metrics["overall"] == {}
    label(bench, "0.png", segengine.segment(image, FIXED).astype(np.uint8))
    spec = TruthSpec(paths=[f"{bench.root}/truth/{{stem}}.png"])
    first = evaluate(str(bench.store), spec)
    assert (first.metrics["overall"]["pixel_accuracy"], first.measured) == (1.0, 1)
    assert evaluate(str(bench.store), spec).measured == 0
    assert bench.open().metrics["overall"]["pixel_accuracy"] == 1.0
    assert any("pixel_accuracy" in line for line in first.lines())
    other = TruthSpec(paths=[f"{bench.root}/nowhere/{{stem}}.png"])
    report = evaluate(str(bench.store), other)
    assert report.exit_code == 0
    assert any("0.png: no truth at" in line for line in report.lines())
    assert not (bench.store / "run.lock").exists()


def test_metrics_that_are_not_installed(bench: Any, noise: Any) -> None:
    bench.put("0.png", noise(0, (40, 50, 3)))
    with pytest.raises(JobError, match=r"evaluate\.metrics: 'confusoin' .* did you mean confusion"):
        bench.run(FIXED, truth=truth(bench), evaluate={"metrics": ["confusoin"]})


def test_candidates() -> None:
    ref = FrameRef(3, "a/b/photo.x.png", "/data/a/b/photo.x.png", "f", 1, 1)
    spec = TruthSpec(
        paths=["/t/{stem}.png", "/t/{path}_{index}.png", "/t/{parent}/{name}", "/t/{{x}}-{scene}"]
    )
    assert candidates(spec, ref, "s") == [
        "/t/photo.x.png",
        "/t/a/b/photo.x_3.png",
        "/t/a/b/photo.x.png",
        "/t/{x}-s",
    ]
    clip = FrameRef(1, "clip.mp4#40", "/data/clip.mp4", "f", 1, 1, position=40)
    assert candidates(TruthSpec(paths=["{stem}/{frame}.png"]), clip, "s") == ["clip/40.png"]
    with pytest.raises(ValueError, match=r"\{steam\} is unknown"):
        TruthSpec(paths=["{steam}.png"])


@given(
    npst.arrays(
        st.sampled_from([np.uint8, np.uint16, np.int32, np.float32]),
        (3, 4),
        elements=st.sampled_from([0, 1, 2, 5, 100, 120]),
    ),
    st.none() | st.permutations([0, 2, 100]),
    st.sampled_from([None, 1, 5, 100]),
    st.sampled_from([None, 120.0]),
)
def test_map_labels(
    values: np.ndarray, codes: list[int] | None, void: int | None, nodata: float | None
) -> None:
    spec = TruthSpec(paths=["x"], classes=["a", "b", "c"], values=codes, void=void)
    found = map_labels(values, spec)
    strange: dict[Any, int] = {}
    for value, label in zip(values.ravel().tolist(), found.ravel().tolist(), strict=True):
        if codes is not None:
            wanted = codes.index(value) if value in codes else 255
        else:
            wanted = int(value) if value < 3 and value != void else 255
        assert label == wanted
        if wanted == 255 and value not in (void, nodata):
            strange[value] = strange.get(value, 0) + 1
    assert unknown_values(values, spec, found, nodata) == strange


def test_void_of_16_bits_and_many_classes() -> None:
    names = [str(i) for i in range(300)]
    spec = TruthSpec(paths=["x"], classes=names, void=299)
    values = np.array([[0, 255, 298, 299, 300, 65535]], np.uint16)
    found = map_labels(values, spec)
    assert found.tolist() == [[0, 255, 298, 65535, 65535, 65535]]
    assert unknown_values(values, spec, found) == {300: 1, 65535: 1}


def test_what_is_no_whole_number_is_no_class() -> None:
    spec = TruthSpec(paths=["x"], classes=["a", "b"], values=[-1, 1])
    values = np.array([[-1, 1, 0.5, np.nan]], np.float32)
    found = map_labels(values, spec)
    assert found.tolist() == [[0, 1, 255, 255]]
    assert unknown_values(values, spec, found) == {0.5: 1}  # NaN is nodata


def test_pixels_are_counted_exactly_beyond_what_opencv_holds() -> None:
    values = np.full((5000, 4000), 7, np.uint8)
    values[0, 0] = 1
    spec = TruthSpec(paths=["x"], classes=["a", "b"])
    assert unknown_values(values, spec, map_labels(values, spec)) == {7: 5000 * 4000 - 1}


def test_other_pixel_values_of_the_truth_are_measured_anew(bench: Any, noise: Any) -> None:
    image = noise(1, (40, 50, 3))
    bench.put("0.png", image)
    mask = segengine.segment(image, FIXED)
    label(bench, "0.png", (mask * 200).astype(np.uint8))
    figures = []
    for codes in ([0, 200], [200, 0], [0, 200]):
        spec = truth(bench, classes=["background", "object"], values=codes)
        figures.append(bench.run(FIXED, truth=spec).metrics["overall"]["pixel_accuracy"])
        found = evaluate(str(bench.store), TruthSpec.model_validate(spec))
        assert (found.measured, found.metrics["overall"]["pixel_accuracy"]) == (0, figures[-1])
    assert figures == [1.0, 0.0, 1.0]
    half = truth(bench, classes=["background", "object"], values=[0, 200], void=0)
    assert evaluate(str(bench.store), TruthSpec.model_validate(half)).measured == 1


def test_seams_are_measured_unasked_unless_the_job_says_how() -> None:
    def labels(metrics: list[Any]) -> list[str]:
        also = (Asked("metrics", "seams", '{"every": 64}'),)
        spec = MeasureSpec.of({"metrics": metrics}, ("a", "b"), None, {"labels"}, also)
        return [one.label for one in spec.asked]

    assert labels([]) == ["seams(every=64)"]
    assert labels(["seams"]) == ["seams(every=64)"]
    assert labels([{"metric": "seams", "every": 8}]) == ["seams(every=8)"]
    assert labels(["all"]).count("seams(every=64)") == 1


def test_frames_that_share_a_file_of_labels_are_told_by_their_map() -> None:
    item = Probed(
        Entry("a.tif", "/a.tif", "f"),
        Probe("raster", 8, 8, 1, "uint8", positions=np.arange(3)),
    )
    (layout,) = place({}, {"a.tif": item.entry}, [item], Cut(16, 16)).values()

    def told(truths: list[TruthRef]) -> list[str]:
        return [each.told for each in _told(layout.frames(), truths)]

    shared = [TruthRef("/t.tif", "t", "")] * 3
    assert told(shared) == ["t", "t#1", "t#2"]
    own = [TruthRef(f"/{i}.png", "t", "") for i in range(3)]
    assert told(own) == ["t", "t", "t"]
    assert told([TruthRef("", "", "looked")] * 3) == ["-", "-", "-"]


@pytest.mark.parametrize(
    ("old", "jobs"),
    [
        (False, [["confusion"], ["hausdorff", "confusion"]]),
        (True, [["hausdorff", "confusion"], ["confusion"], ["confusion", "hausdorff"]]),
    ],
)
def test_metrics_of_whole_frames_come_and_go_where_frames_are_cut(
    bench: Any, noise: Any, monkeypatch: pytest.MonkeyPatch, old: bool, jobs: list[list[str]]
) -> None:
    """What is kept of shards has no place for what sees whole frames, wherever the job names it.

    Release 0.2 wrote None in its place.
    """
    bench.put("0.png", noise(0, (70, 40, 3)))
    label(bench, "0.png", (noise(9, (70, 40, 1))[..., 0] > 90).astype(np.uint8))
    now: list[str] = []

    def in_full(value: Any) -> bytes:
        if old and len(now) > 1:
            for frame, (part,) in value["states"].items():
                kind = "confusion" if isinstance(part, np.ndarray) else "hausdorff"
                value["states"][frame] = [part if name == kind else None for name in now]
        return encode(value)

    monkeypatch.setattr("segengine.worker.measure.encode", in_full)
    shown = []
    for names in jobs:
        now[:] = names
        found = bench.run(
            FIXED, truth=truth(bench), store={"shard": 64}, evaluate={"metrics": names}
        ).metrics
        shown.append({name: found["overall"].get(name) for name in ("mean_iou", "hausdorff")})
    whole = next(one for one in shown if None not in one.values())
    alone = {"mean_iou": whole["mean_iou"], "hausdorff": None}
    assert shown == [whole if len(names) > 1 else alone for names in jobs]
