"""Metrics and losses of a run and of a finished store: cut or whole, killed, corrected, misspelt."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segengine import registry
from segengine.commands.evaluate import evaluate
from segengine.errors import JobError
from segengine.job import checked_evaluate
from segengine.measuring.measures import Asked, MeasureSpec
from segengine.report import build
from segengine_flows.cli import main
from tests.segengine.datasets import (
    standins,
    test_camvid,
    test_cityscapes,
    test_openimages,
    test_pets,
    test_voc,
)
from tests.segengine.report.test_report import Page

pytestmark = [
    pytest.mark.usefixtures("plain_report"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # pycocotools
]
EVERYTHING = {"metrics": ["all"], "losses": ["all"]}
BRIGHT = {"kind": "threshold", "method": "fixed", "levels": 110, "instances": "components"}
MEASURED = ("overall", "scenes", "losses", "frames", "worst", "confusion", "not_measured")
EVIL = "<i>a</i>"


@pytest.fixture(autouse=True)
def evaluate_without_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segengine.commands.evaluate.build", lambda *_, **__: None)


@pytest.fixture
def soft(toys: str) -> dict[str, Any]:
    """A segmenter of five classes with probabilities."""
    return {"kind": f"{toys}:Blocks"}


def label(bench: Any, name: str, seed: int, size: tuple[int, int]) -> None:
    """True labels of five classes, some pixels void."""
    values = np.random.default_rng(seed).integers(0, 6, size).astype(np.uint8)
    values[values == 5] = 255
    path = bench.root / "truth" / name
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(values).save(path)


def photos(bench: Any, noise: Any, count: int = 2, size: tuple[int, int] = (40, 56)) -> Any:
    """Pictures with truth; the job's block of it."""
    for i in range(count):
        bench.put(f"{i}.png", noise(i, (*size, 3)))
        label(bench, f"{i}.png", i, size)
    return {"paths": [f"{bench.root}/truth/{{stem}}.png"], "classes": [*"abcd", EVIL]}


def coco(bench: Any, images: int = 2) -> dict[str, Any]:
    """A data set whose first class is what `BRIGHT` calls an object."""
    standins.coco(bench.root / "set", standins.coco_document(3, images))
    return {"kind": "coco", "paths": [str(bench.root / "set")], "classes": ["dog", "background"]}


def test_objects_and_boundaries_do_not_depend_on_the_cuts(new_bench: Callable[[], Any]) -> None:
    found = []
    for shard in (256, 48):
        bench = new_bench()
        source = coco(bench)
        metrics = bench.run(BRIGHT, source=source, store={"shard": shard}, evaluate=EVERYTHING)
        found.append({key: metrics.metrics[key] for key in MEASURED})
    assert found[0] == found[1]
    overall = found[0]["overall"]
    for name in ("coco", "panoptic_quality", "counting", "hausdorff", "boundary_f1", "regions"):
        assert name in overall
    assert overall["coco"]["mask"]["classes"]["dog"]["truths"] > 0
    assert overall["object_counts"]["objects"] > 0
    lacking = {"losses": registry.names("losses"), "metrics": ("calibration", "threshold_curves")}
    keys = {Asked(group, name).key for group, names in lacking.items() for name in names}
    assert set(found[0]["not_measured"]) == keys - {"compound"}
    assert "loss dice" in keys


def test_losses_do_not_depend_on_the_cuts(
    new_bench: Callable[[], Any], noise: Any, soft: dict[str, Any]
) -> None:
    compound = {"compound": [{"loss": "dice", "weight": 0.5}, {"loss": "hausdorff"}]}
    wanted = {"metrics": ["all"], "losses": ["all", compound]}
    found = []
    for shard, frames in ((256, None), (48, None), (256, 1)):
        bench = new_bench()
        store = {"shard": shard, "frames": frames, "probabilities": True}
        truth = photos(bench, noise)
        found.append(bench.run(soft, truth=truth, store=store, evaluate=wanted).metrics)
    for other in found[1:]:
        assert {k: other[k] for k in MEASURED} == {k: found[0][k] for k in MEASURED}
    losses = found[0]["losses"]
    assert {*losses} == {*registry.names("losses")}
    worst = found[0]["worst"]
    assert worst["dice"] != worst["loss dice"]
    parts = losses["dice"]["loss"] / 2 + losses["hausdorff"]["loss"]
    assert losses["compound"]["loss"] == pytest.approx(parts, abs=1e-12)


def test_a_figure_named_as_its_metric_is_one_number(
    bench: Any, noise: Any, soft: dict[str, Any]
) -> None:
    asked = {"metrics": ["kappa", "confusion", "iou", "mcc"]}
    overall = bench.run(soft, truth=photos(bench, noise), evaluate=asked).metrics["overall"]
    assert isinstance(overall["kappa"], float)
    assert isinstance(overall["mcc"], float)
    assert overall["iou"]["mean_iou"] == overall["mean_iou"]


def test_afterwards_is_as_at_once(
    new_bench: Callable[[], Any], noise: Any, soft: dict[str, Any]
) -> None:
    at_once, later = new_bench(), new_bench()
    store = {"probabilities": True, "frames": 1}
    metrics = at_once.run(soft, truth=photos(at_once, noise), store=store, evaluate=EVERYTHING)
    later.run(soft, truth=photos(later, noise), store=store)
    tree = later.tree()
    report = evaluate(str(later.store), None, EVERYTHING)
    assert report.measured == 2
    assert {k: report.metrics[k] for k in MEASURED} == {k: metrics.metrics[k] for k in MEASURED}
    assert json.loads((later.store / "metrics.json").read_text()) == report.metrics
    assert later.tree() == tree
    assert evaluate(str(later.store), None, EVERYTHING).measured == 0


def test_a_killed_evaluate_goes_on_and_a_corrected_truth_is_measured_alone(
    bench: Any, noise: Any, soft: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from segengine.stages import aggregate

    truth = photos(bench, noise, 5)
    bench.run(soft, truth=truth, store={"probabilities": True, "frames": 1})
    calls, real = [], aggregate.measure

    def dying(task: Any) -> Any:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(task.place)
        return real(task)

    with monkeypatch.context() as patch:
        patch.setattr(aggregate, "measure", dying)
        with pytest.raises(KeyboardInterrupt):
            evaluate(str(bench.store), None, EVERYTHING)
    assert evaluate(str(bench.store), None, EVERYTHING).measured == 3
    before = bench.open().metrics
    label(bench, "3.png", 99, (40, 56))
    assert evaluate(str(bench.store), None, EVERYTHING).measured == 1
    changed = bench.open().metrics
    rows = [{r["frame"]: r for r in document["frames"]} for document in (before, changed)]
    assert [i for i in range(5) if rows[0][i] != rows[1][i]] == [3]


def test_losses_without_probabilities_are_one_line(
    bench: Any, noise: Any, soft: dict[str, Any]
) -> None:
    bench.run(soft, truth=photos(bench, noise, 1))
    report = evaluate(str(bench.store), None, {"losses": ["dice", "focal"]})
    (line,) = [line for line in report.lines() if "not measured" in line]
    assert line.startswith("loss dice, focal are not measured: needs probabilities; set")
    assert report.exit_code == 0
    assert report.metrics["losses"] == {}
    assert report.metrics["overall"]["pixel_accuracy"] > 0


def spec(**block: Any) -> MeasureSpec:
    classes = ("background", "object")
    there = {"labels", "truth", "probabilities"}
    return MeasureSpec.of({"metrics": [], "losses": [], **block}, classes, None, there)


@pytest.mark.parametrize(
    "item",
    [
        {"metric": "boundary_f1", "tolerances": [2]},
        {"name": "boundary_f1", "tolerances": [2]},
        {"boundary_f1": {"tolerances": [2]}},
    ],
)
def test_options_of_a_metric(item: dict[str, Any]) -> None:
    (aggregate,) = spec(metrics=[item]).measures
    assert aggregate.metric.tolerances == (2.0,)
    assert aggregate.asked.label == "boundary_f1(tolerances=[2])"


def test_options_of_losses() -> None:
    items = [
        {"loss": "tversky", "alpha": 0.7, "beta": 0.3},
        {"tversky": {"alpha": 0.3}},
        {"compound": [{"loss": "dice", "weight": 0.5}, {"loss": "bce"}]},
        {"loss": "compound", "losses": [{"loss": "dice"}]},
        "dice",
        "dice",
    ]
    asked = [m for m in spec(losses=items).measures if m.asked.group == "losses"]
    assert [m.asked.label for m in asked] == [
        "tversky(alpha=0.7, beta=0.3)",
        "tversky(alpha=0.3)",
        "compound",
        "compound",
        "dice",
    ]
    assert (asked[0].metric.loss.alpha, asked[0].metric.loss.beta) == (0.7, 0.3)
    assert asked[2].metric.names == ("dice", "bce")


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"metrics": ["boundery_f1"]}, r"evaluate\.metrics: 'boundery_f1' .* mean boundary_f1\?"),
        ({"losses": ["dise"]}, r"evaluate\.losses: 'dise' is not one of .* mean dice\?"),
        ({"losses": [{"loss": "tversky", "alfa": 1}]}, r"evaluate\.losses: alfa: .* mean alpha\?"),
        ({"losses": [{"loss": "tversky", "alpha": -1}]}, r"evaluate\.losses: alpha: "),
        ({"metrics": [{"metric": "boundary_f1", "tolerances": []}]}, r"\.metrics: tolerances: "),
        ({"metrics": [{"metric": 3}]}, r"evaluate\.metrics: .* write `metric: NAME`"),
        ({"losses": ["compound"]}, r"evaluate\.losses: losses: at least one is needed"),
    ],
)
def test_what_cannot_be_asked_for(block: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message) as caught:
        spec(**block)
    assert "\n" not in str(caught.value)


NAN = float("nan")


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (
            {"metrics": [{"metric": "hd95", "spacing": [1, NAN]}]},
            "spacing: must be a finite number",
        ),
        ({"losses": [{"tversky": {"alpha": NAN}}]}, "alpha: must be a finite number, not nan"),
        ({"metrics": [{1: 2}]}, "evaluate.metrics"),
        ({"metrics": [3]}, "evaluate.metrics"),
        ({"metric": ["iou"]}, "unknown key; did you mean metrics"),
    ],
)
def test_a_block_beside_a_store_is_checked_as_a_jobs(block: Any, message: str) -> None:
    with pytest.raises(JobError, match=r"^evaluate\.") as caught:
        checked_evaluate(block)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_words_of_the_command_line(bench: Any, noise: Any, capsys: Any) -> None:
    """A block has options; what is wrong, or cannot be measured, leaves the figures as they were."""
    bench.run(BRIGHT, truth=photos(bench, noise, 1) | {"classes": ["background", *"abcd"]})
    assert (
        main(["evaluate", str(bench.store), "--metrics", "{metric: hd95, spacing: 2}", "iou"]) == 0
    )
    figures = bench.store / "metrics.json"
    before = figures.read_bytes()
    assert "hd95(spacing=2)" in json.loads(before)["overall"]
    capsys.readouterr()
    for flag, word, message in (
        ("--metrics", "{metric: hd95, spacing: 0}", "spacing: must be above 0"),
        ("--metrics", "{metric: hd95, spacing: [1, .nan]}", "spacing: must be a finite number"),
        ("--metrics", "{metric: hd95, spacin: 2}", "did you mean spacing?"),
        ("--metrics", "{metric: hd95", "is not valid YAML"),
        ("--metrics", "[hd95]", "is no block; write '{metric: NAME, OPTION: value}'"),
        ("--metrics", "{1: 2}", "evaluate.metrics"),
        ("--metrics", "{metric: &a hd95}", "aliases"),
        ("--metrics", "hd 95:2", "is no name"),
        ("--metrics", "{metric: 'hd 95:2'}", "nothing that was asked for can be measured: hd 95:2"),
        ("--metrics", "{metric: hd95, spacing: volume}", "can be measured: hd95(spacing=volume)"),
        ("--metrics", "nonsense", "'nonsense' is not one of the metrics"),
        ("--losses", "{loss: tversky, alpha: -1}", "alpha: "),
        ("--losses", "{loss: tversky, alfa: 1}", "did you mean alpha?"),
        ("--losses", "tversky: [", "is not valid YAML"),
    ):
        code = main(["evaluate", str(bench.store), flag, word])
        out, err = capsys.readouterr()
        assert (code, out, err.count("\n")) == (2, "", 1), (word, err)
        assert message in err
        assert figures.read_bytes() == before


SETS: dict[str, Callable[[Path], Any]] = {
    "voc": test_voc.voc,
    "cityscapes": test_cityscapes.cityscapes,
    "camvid": test_camvid.camvid,
    "pets": test_pets.pets,
    "openimages": test_openimages.openimages,
}


@pytest.mark.parametrize("kind", SETS)
def test_data_sets_bring_their_own_truth(kind: str, bench: Any) -> None:
    root = bench.root / "set"
    SETS[kind](root)
    source = registry.create("sources", kind, {"paths": (str(root),)})
    refs = standins.refs_of(source, root)
    truths = [
        source.load_truth(ref, truth, standins.WHOLE, standins.WHOLE)
        for ref, truth in zip(refs, source.find_truth(refs), strict=True)
        if truth.uri
    ]
    scored = sum(int((t.labels < len(source.truth_classes)).sum()) for t in truths)
    block = {"kind": kind, "paths": [str(root)]}
    metrics = bench.run(BRIGHT, source=block, evaluate={"metrics": ["all"]}).metrics
    assert np.sum(metrics["confusion"]["counts"]) == scored > 0
    assert {name.partition("(")[0] for name in (*metrics["overall"], *metrics["not_measured"])} >= {
        *registry.names("metrics")
    } - {"confusion"}


def test_the_report_shows_all_that_was_measured(
    bench: Any, noise: Any, soft: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = {"probabilities": True}
    bench.run(soft, truth=photos(bench, noise), store=store, evaluate=EVERYTHING)
    page = Page(build(str(bench.store)))
    words = page.words
    for title in ("Metrics and losses", "Precision over recall", "Worst frames", "Not measured"):
        assert title in words
    metrics = bench.open().metrics
    for name, figures in metrics["losses"].items():
        assert f"{name} {figures['loss']:.3f}" in words
    paths = [a["d"] for tag, a in page.tags if tag == "path" and "d" in a]
    areas = metrics["overall"]["threshold_curves"]["classes"]
    assert sum("L" in path and "Z" not in path for path in paths) >= len(areas)
    for row in metrics["worst"]["dice"]:
        assert row["name"] in words
    assert EVIL in words
    assert EVIL not in page.source
    assert [tag for tag, _ in page.tags if tag in ("script", "link", "iframe")] == [
        "script"
    ]  # ours


def test_the_reason_of_a_broken_label_is_the_same_each_time(bench: Any, noise: Any) -> None:
    truth = photos(bench, noise, 1)
    (bench.root / "truth/0.png").write_bytes(b"broken")
    (missing,) = bench.run(BRIGHT, truth=truth).metrics["missing_truth"]
    path = f"{bench.root}/truth/0.png"
    said = "not an image: it begins as none of the formats that are known"
    assert missing["reason"] == f"{path}: cannot be read: {said}"
