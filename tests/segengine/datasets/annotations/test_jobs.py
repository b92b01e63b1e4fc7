"""Jobs against drawn truth: the same figures in every format, and exports that are truth again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from scipy import ndimage

import segengine
from segengine import registry
from segengine.commands.evaluate import evaluate
from segengine.errors import JobError
from segengine.job import TruthSpec, load_job
from segengine.reader import open_store

from .files import WRITERS, Object

CLASSES = ["background", "cell"]
METRICS = ["confusion", "panoptic_quality", "counting", "coco"]
SIZE = (70, 90)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures of rings and blobs, their cells in every format, and a store of one cut."""
    folder = tmp_path_factory.mktemp("drawn")
    (folder / "in" / "sub").mkdir(parents=True)
    (folder / "ids").mkdir()
    drawn: dict[str, list[Object]] = {}
    for seed, name in enumerate(("a.png", "sub/b.png")):
        rng = np.random.default_rng(seed)
        noise = ndimage.gaussian_filter(rng.normal(size=SIZE), 3)
        cells, count = ndimage.label(noise > 0.03)
        ids = np.where(rng.random(SIZE) < 0.04, 0, cells)
        gray = np.where(ids > 0, 200, 40) + rng.integers(-9, 9, SIZE)
        Image.fromarray(gray.astype(np.uint8)).save(folder / "in" / name)
        drawn[name] = [("cell", cells == i) for i in range(1, count + 1)]
        Image.fromarray(cells.astype(np.uint16)).save(folder / "ids" / f"{name[-5]}.png")
        np.save(folder / "ids" / f"{name[-5]}.npy", cells)
        for kind in ("labelme", "qupath"):
            write, template = WRITERS[kind]
            write(folder / template.replace("{stem}", name[-5]), name, SIZE, drawn[name])
    _write_shared(folder, drawn)
    segengine.run(
        {
            "source": {"paths": [str(folder / "in")]},
            "segmenter": {"kind": "threshold", "method": "otsu", "instances": "components"},
            "store": {"path": str(folder / "masks.zarr"), "chunk": 16, "shard": 256},
        },
    )
    return folder


def _write_shared(folder: Path, drawn: dict[str, list[Object]]) -> None:
    """Files of both pictures, from those of one."""
    single = {}
    for name, objects in drawn.items():
        for kind in ("coco", "cvat", "label-studio"):
            write, template = WRITERS[kind]
            write(folder / template, name, SIZE, objects)
            single[kind, name] = (folder / template).read_text()
    texts = [single["cvat", name] for name in drawn]
    (folder / "annotations.xml").write_text(
        texts[0].replace("</annotations>", "") + texts[1][texts[1].index("<image") :]
    )
    tasks = [json.loads(single["label-studio", name])[0] for name in drawn]
    (folder / "tasks.json").write_text(json.dumps(tasks))
    files = [json.loads(single["coco", name]) for name in drawn]
    for number, one in enumerate(files):
        one["images"][0]["id"] = number
        for i, each in enumerate(one["annotations"]):
            each |= {"image_id": number, "id": 1000 * number + i}
    whole = {key: files[0][key] + files[1][key] for key in ("images", "annotations")}
    (folder / "all.json").write_text(json.dumps(files[0] | whole))


def figures(folder: Path, **truth: Any) -> dict[str, Any]:
    spec = TruthSpec(classes=CLASSES, **truth)
    report = evaluate(str(folder / "masks.zarr"), spec, {"metrics": METRICS})
    assert not report.metrics["missing_truth"], report.metrics["missing_truth"]
    assert not report.metrics["unknown_labels"]
    overall: dict[str, Any] = report.metrics["overall"]
    return overall


def test_every_format_gives_the_figures_of_the_ids(made: Path) -> None:
    expected = figures(made, instances=str(made / "ids" / "{stem}.png"))
    assert 0.3 < expected["panoptic_quality"]["all"]["pq"] < 1
    assert figures(made, instances=str(made / "ids" / "{stem}.npy")) == expected
    for _, template in WRITERS.values():
        assert figures(made, paths=[str(made / template)]) == expected, template


@pytest.mark.parametrize("kind", ["ids", "labelme", "cvat", "label-studio", "qupath", "coco"])
def test_an_export_is_truth_again(made: Path, tmp_path: Path, kind: str) -> None:
    """All that was found is found: what was written has every pixel of every object."""
    written = registry.load("exports", kind)(str(made / "masks.zarr"), to=str(tmp_path / "out"))
    assert all(Path(path).is_file() for path in written)
    template = {
        "ids": "{path}.png",
        "labelme": "{path}.json",
        "qupath": "{path}.geojson",
        "cvat": "annotations.xml",
        "label-studio": "tasks.json",
        "coco": "instances.json",
    }[kind]
    path = str(tmp_path / "out" / template)
    spec = TruthSpec(
        classes=["background", "object"],
        **({"instances": path} if kind == "ids" else {"paths": [path]}),
    )
    found = evaluate(str(made / "masks.zarr"), spec, {"metrics": METRICS}).metrics
    assert not found["missing_truth"]
    assert found["overall"]["panoptic_quality"]["all"]["pq"] == 1
    assert found["overall"]["coco"]["mask"]["ap"] == 1
    assert found["overall"]["counting"]["mean_mae"] == 0
    assert found["overall"]["mean_iou"] == 1


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_ids_beyond_16_bits_go_to_tiffs(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segengine.export import ids

    monkeypatch.setattr(ids, "_MOST", 3)
    written = ids.export(str(made / "masks.zarr"), str(tmp_path / "out"))
    assert [path.rpartition("/")[2] for path in written] == ["a.tif", "b.tif"]
    with rasterio.open(written[0]) as file:
        assert file.dtypes == ("uint32",)
        (scene,) = open_store(str(made / "masks.zarr")).scenes.values()
        np.testing.assert_array_equal(file.read(1), scene.instances[0, : SIZE[0], : SIZE[1]])


def test_a_job_says_what_goes_together(tmp_path: Path) -> None:
    for block, says in (
        ({}, "name at least one"),
        ({"paths": ["a.png", "a.json"]}, "not some of both"),
        ({"paths": ["a.json"], "instances": "b.png"}, "tell objects apart"),
        ({"paths": ["a.json"], "classes": ["a"], "values": [1]}, "name their classes"),
    ):
        with pytest.raises(ValueError, match=says):
            TruthSpec(**block)


def test_ids_without_classes_need_one_class(made: Path) -> None:
    spec = TruthSpec(instances=str(made / "ids" / "{stem}.png"), classes=["background", "a", "b"])
    found = evaluate(str(made / "masks.zarr"), spec, {"metrics": ["confusion"]}).metrics
    assert "list background and one class" in found["missing_truth"][0]["reason"]


@pytest.mark.parametrize("value", [-1, 1 << 32])
def test_ids_beyond_32_bits_are_one_line(made: Path, tmp_path: Path, value: int) -> None:
    for stem in "ab":
        ids = np.zeros(SIZE, np.int64)
        ids[3, 4] = value
        np.save(tmp_path / f"{stem}.npy", ids)
    spec = TruthSpec(instances=str(tmp_path / "{stem}.npy"), classes=CLASSES)
    found = evaluate(str(made / "masks.zarr"), spec, {"metrics": ["confusion"]}).metrics
    (reason, _) = [row["reason"] for row in found["missing_truth"]]
    assert f"holds {value}, which is no object's number" in reason
    assert "\n" not in reason


def test_colours_are_ids_as_in_panoptic_files(made: Path, tmp_path: Path) -> None:
    for stem in "ab":
        ids = np.asarray(Image.open(made / "ids" / f"{stem}.png")).astype(np.uint32) * 70_000
        colors = np.stack([ids >> shift & 255 for shift in (0, 8, 16)], axis=-1)
        Image.fromarray(colors.astype(np.uint8)).save(tmp_path / f"{stem}.png")
    expected = figures(made, instances=str(made / "ids" / "{stem}.png"))
    assert figures(made, instances=str(tmp_path / "{stem}.png")) == expected


def test_a_store_without_objects_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "in" / "a.png")
    segengine.run(
        {
            "source": {"paths": [str(tmp_path / "in")]},
            "segmenter": {"kind": "threshold", "method": "otsu"},
            "store": {"path": str(tmp_path / "m.zarr")},
        }
    )
    for kind in ("ids", "labelme", "cvat", "label-studio", "qupath"):
        with pytest.raises(JobError, match="has no instances to export"):
            registry.load("exports", kind)(str(tmp_path / "m.zarr"), to=str(tmp_path / "out"))
        assert not (tmp_path / "out").exists()


def test_the_command_line_takes_images_of_ids_alone_and_a_prefix(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from segengine_flows.cli import main

    ids = str(made / "ids" / "{stem}.png")
    store = str(made / "masks.zarr")
    assert main(["evaluate", store, "--instances", ids, "--classes", *CLASSES]) == 0
    out = str(tmp_path / "out")
    prefix = "/data/local-files/?d="
    assert main(["export", store, "--to", "label-studio", "--prefix", prefix, "--out", out]) == 0
    tasks = json.loads(Path(out, "tasks.json").read_text())
    assert [task["data"]["image"] for task in tasks] == [f"{prefix}a.png", f"{prefix}sub/b.png"]
    assert main(["export", store, "--to", "cvat", "--prefix", "x", "--out", out]) == 2
    assert "cvat takes no such option" in capsys.readouterr().err


@pytest.mark.usefixtures("plain_report")
def test_the_worked_example(made: Path, tmp_path: Path) -> None:
    """deployments/jobs/annotated.yaml: cells against what Label Studio holds of them."""
    example = Path(__file__).parents[4] / "deployments/jobs/annotated.yaml"
    paths = {
        "source.paths": [str(made / "in/*.png")],
        "truth.paths": [str(made / WRITERS["label-studio"][1])],
        "truth.classes": CLASSES,
        "store.path": str(tmp_path / "m.zarr"),
        "segmenter.instances": {"kind": "components", "min_area": 4},
        "segmenter.window": 31,
    }
    job = load_job(example, [f"{key}={json.dumps(value)}" for key, value in paths.items()])
    assert segengine.run(job).exit_code == 0
    found = open_store(tmp_path / "m.zarr").metrics["overall"]
    assert found["panoptic_quality"]["all"]["pq"] > 0.3
    assert {"classes", "matching", "seg", "coco", "counting"} <= set(found)
