"""Two stores side by side: against NumPy, scikit-learn, SciPy, rasterio, and what each store says."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
import scipy.stats
from rasterio.features import rasterize
from rasterio.warp import transform_geom
from sklearn.metrics import confusion_matrix

import segengine
from segengine.commands.diff import diff
from segengine.errors import JobError
from segengine_flows.cli import main

pytestmark = pytest.mark.usefixtures("plain_report")
NAMES = ["background", "object"]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, noise: Any) -> tuple[Path, Path]:
    """The same photos with truth, by two thresholds; one of them corrupt, one transparent in part."""
    folder = tmp_path_factory.mktemp("diff")
    for name in ("in", "labels"):
        (folder / name).mkdir()
    for i in range(7):
        pixels = noise(i, (40 + i, 60, 3))
        truth = (pixels.mean(axis=2) > 120).astype(np.uint8)
        if i == 3:
            pixels = np.dstack([pixels, np.where(np.arange(60) < 20, 0, 255)[None].repeat(43, 0)])
        cv2.imwrite(str(folder / f"in/{i}.png"), pixels.astype(np.uint8))
        cv2.imwrite(str(folder / f"labels/{i}.png"), truth)
    for name, spec in (("a", {"method": "mean"}), ("b", {"method": "mean", "offset": 9})):
        run(folder, name, spec)
    return folder / "a.zarr", folder / "b.zarr"


def run(folder: Path, name: str, spec: dict[str, Any], **blocks: Any) -> Any:
    truth = {"paths": [str(folder / "labels/{stem}.png")], "classes": NAMES}
    job = {
        "source": {"paths": [str(folder / "in/*")]},
        "segmenter": {"kind": "threshold", **spec},
        "store": {"path": str(folder / f"{name}.zarr"), "chunk": 16, "shard": 32},
        "truth": truth,
        **blocks,
    }
    return segengine.run({key: value for key, value in job.items() if value is not None})


def labels(store: Path) -> dict[str, np.ndarray]:
    found = {}
    for scene in segengine.open_store(store).scenes.values():
        for ref in scene.frames:
            found[ref.name] = np.asarray(scene.mask[ref.index])[: ref.height, : ref.width]
    return found


def test_counts_are_those_of_numpy(stores: Any) -> None:
    found = diff(*map(str, stores)).as_json()
    one, other = map(labels, stores)
    a, b = (np.concatenate([side[name].ravel() for name in sorted(one)]) for side in (one, other))
    valid = (a != 255) & (b != 255)
    assert 0 < (~valid).sum() < valid.sum()
    table = confusion_matrix(a[valid], b[valid], labels=[0, 1])
    assert found["agreement"] == np.trace(table) / valid.sum()
    assert found["transitions"] == {
        name: {NAMES[j]: int(n) for j, n in enumerate(row) if n}
        for name, row in zip(NAMES, table, strict=True)
    }
    for i, name in enumerate(NAMES):
        union = table[i].sum() + table[:, i].sum() - table[i, i]
        assert found["classes"][name] == {
            "a": table[i].sum(),
            "b": table[:, i].sum(),
            "iou": table[i, i] / union,
        }
        scenes = [scene[name] for scene in found["scenes"].values()]
        assert sum(s["gained"] for s in scenes) == table[1 - i, i]
        assert sum(s["lost"] for s in scenes) == table[i, 1 - i]
    shares = {f["name"]: f["agreement"] for f in found["frames"]}
    for name, mask in one.items():
        both = (mask != 255) & (other[name] != 255)
        assert shares[name] == (mask == other[name])[both].mean()
    assert list(shares.values()) == sorted(shares.values())  # the worst first
    assert found["compared"] == 7


def test_figures_and_their_intervals(stores: Any) -> None:
    found = diff(*map(str, stores), seed=5).as_json()
    for side, store in zip("ab", stores, strict=True):
        overall = segengine.open_store(store).metrics["overall"]
        for name in ("mean_iou", "pixel_accuracy", "kappa"):
            assert found["figures"][name][side] == pytest.approx(overall[name], rel=1e-12)
        assert found["figures"]["classes.object.iou"][side] == overall["classes"]["object"]["iou"]
    assert found["scored"] == 7
    # Per frame, of pixels whose truth is known: how many are right, and how many there are.
    folder = stores[0].parent
    counts = []
    for side in map(labels, stores):
        rows = []
        for name in sorted(side):
            truth = cv2.imread(str(folder / "labels" / name), cv2.IMREAD_UNCHANGED)
            rows.append(((side[name] == truth).sum(), truth.size))
        counts.append(np.array(rows))

    def difference(rows: np.ndarray) -> float:
        one, other = (side[rows.astype(int)].sum(axis=0) for side in counts)
        return float(other[0] / other[1] - one[0] / one[1])

    expected = scipy.stats.bootstrap(
        (np.arange(7),), difference, n_resamples=999, vectorized=False, method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval  # fmt: skip
    accuracy = found["figures"]["pixel_accuracy"]
    assert accuracy["difference"] == pytest.approx(difference(np.arange(7)), rel=1e-9)
    assert (accuracy["low"], accuracy["high"]) == pytest.approx(tuple(expected), rel=1e-9)
    assert found["figures"] == diff(*map(str, stores), seed=5).as_json()["figures"]
    assert found["figures"] != diff(*map(str, stores), seed=6).as_json()["figures"]


@pytest.mark.parametrize(
    ("condition", "code", "words"),
    [
        ("agreement > 0.5", 0, "agreement > 0.5: holds"),
        ("mean_iou > +0.5 or agreement > 0.9999", 4, "does not hold"),
        ("mean_io > 0.5", 2, "did you mean mean_iou?"),
        ("mean_iou > ", 2, "a number after mean_iou >"),
    ],
)
def test_promotion_is_the_exit_code(
    condition: str, code: int, words: str, stores: Any, capsys: Any
) -> None:
    assert main(["diff", *map(str, stores), "--promote-if", condition]) == code
    shown = capsys.readouterr()
    assert words in (shown.err if code == 2 else shown.out)
    assert len(shown.err.splitlines()) == (code == 2)


def test_a_page_without_a_script(stores: Any, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    assert main(["diff", *map(str, stores), "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["written"] == [str(out / "index.html")]
    page = (out / "index.html").read_text()
    assert "<script" not in page
    assert "http" not in page.split("</style>")[1]
    assert page.count('class="flicker"') == sum(f["changed"] > 0 for f in found["frames"]) > 3
    for word in (found["frames"][0]["name"], "mean_iou", "object"):
        assert word in page
    # Its own page is written again; another's is not, nor anything into a store.
    assert main(["diff", *map(str, stores), "--out", str(out)]) == 0
    (out / "index.html").write_text("mine")
    for place in (out, stores[1]):
        assert main(["diff", *map(str, stores), "--out", str(place)]) == 2
    assert (out / "index.html").read_text() == "mine"


def test_what_differs_in_size_or_name(stores: Any, tmp_path: Path, noise: Any) -> None:
    (tmp_path / "in").mkdir()
    for name, shape in (("0.png", (40, 60, 3)), ("1.png", (10, 60, 3)), ("other.png", (20, 20, 3))):
        cv2.imwrite(str(tmp_path / "in" / name), noise(0, shape)[..., ::-1])
    run(tmp_path, "c", {"method": "otsu"}, truth=None)
    found = diff(str(stores[0]), str(tmp_path / "c.zarr"))
    assert [f.pair.name for f in found.found.frames] == ["0.png"]
    assert (found.matches.only_a, found.matches.only_b) == (5, 1)
    assert any("of another size or place in B: 1.png" in line for line in found.lines())
    assert found.as_json()["figures"]["mean_iou"]["b"] is None
    with pytest.raises(JobError, match="no segengine store"):
        diff(str(stores[0]), str(tmp_path / "in"))
    for name in ("0.png", "1.png"):
        (tmp_path / "in" / name).unlink()
    run(tmp_path, "d", {"method": "otsu"}, truth=None)
    with pytest.raises(JobError, match="no frame of one has the name of a frame of the other"):
        diff(str(stores[0]), str(tmp_path / "d.zarr"))


def test_two_states_of_a_store(tmp_path: Path, noise: Any) -> None:
    """A copy by links keeps its state: a run replaces files, and writes into none."""
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in/a.png"), noise(1, (40, 60, 3)))
    run(tmp_path, "now", {"method": "mean"}, truth=None)
    before, now = tmp_path / "before.zarr", tmp_path / "now.zarr"
    shutil.copytree(now, before, copy_function=os.link)
    held = {path: path.read_bytes() for path in before.rglob("*") if path.is_file()}
    first = labels(now)["a.png"]
    run(tmp_path, "now", {"method": "mean", "offset": 9}, truth=None)
    assert {path: path.read_bytes() for path in before.rglob("*") if path.is_file()} == held
    report = diff(str(before), str(now))
    assert report.found.agreement == (first == labels(now)["a.png"]).mean() < 1


def test_two_dates_of_a_place(tmp_path: Path, noise: Any, capsys: Any) -> None:
    """Gains and losses as COG and polygons."""
    place = rasterio.Affine(10, 0, 300_000, 0, -10, 5_000_000)
    for date in ("may", "june"):
        (tmp_path / date).mkdir()
        pixels = noise(len(date), (90, 70, 1))[..., 0].astype(np.float32)
        pixels[:10, :10] = np.nan
        with rasterio.open(
            tmp_path / date / f"{date}.tif", "w", "GTiff", crs="EPSG:32633", transform=place,
            height=90, width=70, count=1, dtype="float32",
        ) as file:  # fmt: skip
            file.write(pixels, 1)
        paths = [str(tmp_path / date / "*.tif")]
        run(tmp_path, date, {"method": "mean"}, source={"paths": paths}, truth=None)
    a, b, out = tmp_path / "may.zarr", tmp_path / "june.zarr", tmp_path / "out"
    assert main(["diff", str(a), str(b), "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (one,), (other,) = labels(a).values(), labels(b).values()
    expected = np.where(one == other, 0, 1 + one.astype(int) * 2 + other)
    expected[(one == 255) | (other == 255)] = 255
    with rasterio.open(out / "changes/may.tif") as file:
        np.testing.assert_array_equal(file.read(1), expected)
        assert (file.crs.to_epsg(), file.transform, file.nodata) == (32633, place, 255)
        assert json.loads(file.tags()["changes"]) == {
            "2": "background -> object",
            "3": "object -> background",
        }
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    document = json.loads((out / "changes/may.geojson").read_text())
    drawn = np.zeros(expected.shape, np.uint8)
    for feature in document["features"]:
        own = feature["properties"]
        value = 1 + NAMES.index(own["from"]) * 2 + NAMES.index(own["to"])
        shape = transform_geom("OGC:CRS84", "EPSG:32633", feature["geometry"])
        drawn += rasterize([(shape, value)], expected.shape, transform=place).astype(np.uint8)
        assert own["square_metres"] == pytest.approx(own["pixels"] * 100, rel=2e-3)
    np.testing.assert_array_equal(drawn, np.where(expected == 255, 0, expected))
    pixels = [f["properties"]["pixels"] for f in document["features"]]
    assert sum(pixels) == found["frames"][0]["changed"] == ((expected > 0) & (expected < 255)).sum()
