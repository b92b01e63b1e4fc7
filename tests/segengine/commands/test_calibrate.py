"""`calibrate`: the demo's network is as sure as it is right on scenes it never saw; wrong use is a line."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import segengine
from segengine.commands.calibrate import CalibrateReport, calibrate
from segengine.errors import JobError
from segengine.job import load_job
from segengine.networks import bundles
from segengine.networks.temperature import Temperature, fit
from segengine.training.synthetic import CLASSES, write_scenes
from segengine_flows.cli import main
from tests.segengine.segmenters.onnxes import convolution

BUNDLE = files("segengine") / "data/fields-unet"
SCALE = {"divide": 255}
Array = np.ndarray[Any, np.dtype[Any]]


def read(folder: Path) -> tuple[Array, Array]:
    """Images and labels of scenes."""
    names = sorted(p.stem for p in (folder / "labels").iterdir())
    images = (next((folder / "images").glob(f"{name}.*")) for name in names)
    labels = (folder / "labels" / f"{name}.png" for name in names)
    return tuple(np.stack([np.asarray(Image.open(p)) for p in some]) for some in (images, labels))  # type: ignore[return-value]


def ece(probabilities: Array, true: Array) -> float:
    """Guo et al. 2017, 15 bins."""
    p = probabilities.reshape(-1, probabilities.shape[-1]).astype(np.float64)
    right = p.argmax(-1) == true.reshape(-1)
    place = np.clip(np.ceil(p.max(-1) * 15).astype(int) - 1, 0, None)
    gaps = np.bincount(place, right, 15) - np.bincount(place, p.max(-1), 15)
    return float(np.abs(gaps).sum() / len(p))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CalibrateReport]:
    """The demo's network on four scenes that are not the demo's, and calibrated there."""
    folder = tmp_path_factory.mktemp("fields")
    write_scenes(folder / "fit", range(8000, 8004))
    segengine.run(
        {
            "source": {"paths": [str(folder / "fit/images")]},
            "truth": {
                "paths": [str(folder / "fit/labels/{stem}.png")],
                "classes": list(CLASSES),
            },
            "segmenter": {"kind": "model", "path": str(BUNDLE)},
            "store": {"path": str(folder / "fit.zarr"), "probabilities": True},
        }
    )
    return folder, calibrate(str(folder / "fit.zarr"), str(folder / "calibrated"))


def test_on_scenes_it_never_saw_its_error_is_at_most_half(
    fitted: tuple[Path, CalibrateReport],
) -> None:
    folder, report = fitted
    assert report.after["nll"] < report.before["nll"]
    write_scenes(folder / "unseen", range(9000, 9004))
    images, labels = read(folder / "unseen")
    plain, calibrated = (
        segengine.predict(images, {"kind": "model", "path": str(path)})
        for path in (BUNDLE, folder / "calibrated")
    )
    np.testing.assert_array_equal(plain.labels, calibrated.labels)
    assert ece(calibrated.probabilities, labels) <= 0.5 * ece(plain.probabilities, labels)


def test_figures_that_become_worse_are_told() -> None:
    before = {"ece": 0.05, "mce": 0.1, "brier": 0.2, "label_brier": 0.1, "nll": 0.3}
    after = {**before, "ece": 0.01, "mce": 0.25, "brier": 0.2001, "nll": 0.2}
    report = CalibrateReport("a.zarr", None, Temperature(1.2, 0.1), 10, 1, before, after)
    assert report.worse == ("mce",)
    assert report.as_json()["worse"] == ["mce"]
    (line,) = (line for line in report.lines() if line.startswith("worse"))
    assert "mce (0.1000 -> 0.2500)" in line
    better = CalibrateReport("a.zarr", None, Temperature(1.2, 0.1), 10, 1, after, before)
    assert better.worse == ("ece", "nll")
    assert not any("mce (" in line for line in better.lines())


def test_the_figures_are_those_of_the_pixels_it_saw(fitted: tuple[Path, CalibrateReport]) -> None:
    folder, report = fitted
    images, labels = read(folder / "fit")
    found = segengine.predict(images, {"kind": "model", "path": str(BUNDLE)}).probabilities
    assert found is not None
    assert report.before["ece"] == pytest.approx(ece(found, labels), abs=1e-9)
    again = report.temperature.apply(found)
    assert report.after["ece"] == pytest.approx(ece(again, labels), abs=1e-9)
    assert report.pixels == labels.size
    kept = bundles.read(folder / "calibrated")
    assert kept.inference["temperature"] == report.temperature.as_json()
    assert kept.metrics["calibrated_ece"] == report.after["ece"]
    assert kept.classes == bundles.read(Path(str(BUNDLE))).classes


@pytest.mark.parametrize("augment", [None, "flips"])
def test_any_cut_and_any_way_to_the_probabilities_give_the_same(
    new_bench: Any, noise: Any, tmp_path: Path, augment: str | None
) -> None:
    """Stored or segmented again, in shards of any size; a temperature that is there is replaced."""
    path = convolution(tmp_path / "m.onnx", side=16, sharp=3)
    pixels, rng = noise(1, (70, 61, 3)), np.random.default_rng(0)
    block = {"kind": "model", "path": path, "scale": SCALE, "augment": augment}
    whole = segengine.predict(pixels, block).probabilities
    assert whole is not None
    flat = whole.reshape(-1, 3).astype(np.float64)
    likely = flat ** (1 / 2.5) / (flat ** (1 / 2.5)).sum(-1, keepdims=True)
    truth = np.array([rng.choice(3, p=p) for p in likely]).reshape(70, 61).astype(np.uint8)
    truth[:9, :30] = 255
    wanted = fit(whole[truth < 255], truth[truth < 255].astype(np.intp))
    found = []
    for shard, also, more in ((32, True, {}), (128, False, {}), (32, True, {"temperature": 2.0})):
        bench = new_bench()
        bench.put("scene.zarr", pixels)
        labels = tmp_path / "scene.png"
        Image.fromarray(truth).save(labels)
        bench.run(
            {**block, **more},
            truth={"paths": [str(labels)], "classes": ["class 0", "class 1", "class 2"]},
            store={"shard": shard, "probabilities": also, "confidence": True},
        )
        found.append(calibrate(str(bench.store)))
    assert [one.temperature for one in found] == [wanted] * 3
    assert found[0].after == found[1].after == found[2].after
    assert found[0].before == found[1].before != found[2].before
    assert wanted.scale > 1.5
    calibrated = segengine.predict(pixels, {**block, "temperature": wanted.as_json()})
    np.testing.assert_allclose(calibrated.probabilities, wanted.apply(whole), atol=1e-7)
    bundle = str(tmp_path / "bundle")
    with pytest.raises(JobError, match=r"^--out: .*m\.onnx is no bundle of `segengine train`"):
        calibrate(str(bench.store), bundle)
    said = " ".join(found[0].lines())
    assert f"temperature: {{scale: {wanted.scale:.6g}, entropy: {wanted.entropy:.6g}}}" in said


def test_wrong_use_is_one_line(
    bench: Any, noise: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.put("a.png", noise(0, (16, 16, 3)))
    bench.run({"kind": "kmeans", "clusters": 2})
    assert main(["calibrate", str(bench.store), "--out", str(tmp_path / "b")]) == 2
    said = capsys.readouterr().err
    assert "segmenter.kind: kmeans takes no temperature" in said
    assert said.count("\n") == 1
    path = convolution(tmp_path / "m.onnx", side=16)
    store = {"path": str(tmp_path / "other.zarr")}
    bench.run({"kind": "model", "path": path, "scale": SCALE}, store=store)
    assert main(["calibrate", store["path"]]) == 2
    assert "has no truth; name label images under `truth`" in capsys.readouterr().err
    convolution(tmp_path / "m.onnx", side=16, seed=8)
    truth = {"paths": [str(tmp_path / "{stem}.png")], "classes": ["class 0", "class 1", "class 2"]}
    with pytest.raises(JobError, match="temperature: scale must be from"):
        bench.run({"kind": "model", "path": path, "temperature": 1000}, store=store, truth=truth)


def test_the_worked_example_runs(
    fitted: tuple[Path, CalibrateReport], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = fitted
    job = Path(__file__).parents[3] / "deployments/jobs/confidence.yaml"
    write_scenes(folder / "scenes", range(9000, 9002))
    sets = [
        f"source.paths=['{folder / 'scenes/images'}']",
        f"truth.paths=['{folder / 'scenes/labels/{stem}.png'}']",
        f"store.path={folder / 'example.zarr'}",
        f"segmenter.path={folder / 'calibrated'}",
    ]
    summary = segengine.run(load_job(job, sets))
    assert summary.exit_code == 0
    metrics = json.loads((folder / "example.zarr/metrics.json").read_text())
    figures = metrics["overall"]["calibration"]
    assert 0 < figures["ece"] < 0.05
    order = [row["confidence"] for row in metrics["confidence"]["frames"]]
    assert order == sorted(order)
    report = (folder / "example.zarr/report/index.html").read_text()
    assert "<h2>Reliability</h2>" in report
    first = metrics["confidence"]["frames"][0]["name"]
    cards = report[report.index('<div class="cards">') :]
    assert cards.index(f"<h3>{first}</h3>") < 200
