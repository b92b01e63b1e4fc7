import base64
import hashlib
import io
import json
import os
import re

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import segengine
from segengine.errors import JobError, StoreError
from segengine.pictures import draw
from segengine.reader import Store, open_store
from segengine.report import _charts, _content, _gallery, build
from segengine.store.blobs import open_objects
from segengine.store.root import write_root
from segengine.store.seals import SealedObjects
from tests.segengine.report._page import URI, Page, run

EVIL = "<script>alert(1)</script>&\"'.png"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Three photos, two of them with truth, one file that is none; threshold."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "in").mkdir()
    (folder / "truth").mkdir()
    rng = np.random.default_rng(5)
    segmenter = segengine.create_segmenter({"kind": "threshold"})
    wrong = {"good.png": 0.01, "poor.png": 0.3, "lone.png": None}
    for name, share in wrong.items():
        image = rng.integers(0, 90, (150, 200, 3)).astype(np.uint8)
        image[30:100, 40:160] += 140
        Image.fromarray(image).save(folder / "in" / name)
        if share is not None:
            truth = segengine.segment(image, segmenter)
            flipped = rng.random(truth.shape) < share
            truth[flipped] = 1 - truth[flipped]
            truth[:9] = 255
            Image.fromarray(truth).save(folder / "truth" / name)
    (folder / "in" / EVIL.replace("/", "_")).write_bytes(b"no image")
    (folder / "in" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"none")
    truth = {"paths": [str(folder / "truth" / "{name}")], "classes": ["<b>ground</b>", "thing"]}
    return run(folder, {"kind": "threshold"}, truth=truth, name="a <i>job</i> & more")


def test_the_page_needs_nothing_from_outside(measured):
    page = Page(build(measured))
    assert "://" not in page.source
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "object", "base", "form")]
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "action"):
            value = attributes.get(name) or "#"
            assert value.startswith("#") or URI.fullmatch(value)
    style = page.source.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_the_only_script_is_the_one_that_the_page_allows(measured):
    page = Page(build(measured))
    (script,) = re.findall("<script>(.*?)</script>", page.source, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = (a["content"] for _, a in page.tags if a.get("http-equiv"))
    assert "default-src 'none';" in policy
    assert f"script-src 'sha256-{digest}';" in policy


def test_names_from_files_and_jobs_are_escaped(measured):
    page = Page(build(measured))
    assert "a <i>job</i> & more" in page.text
    assert EVIL.replace("/", "_") in page.text
    assert "<b>ground</b>" in page.words
    assert "caf\\xe9.png" in page.words
    assert not {"i", "b"} & {tag for tag, a in page.tags if not a and tag == "i"}
    assert page.source.count("<script") == 1  # our own


def test_the_first_screen_says_what_ran_and_how_it_went(measured):
    page = Page(build(measured))
    top = page.words.partition("What was asked")[0]
    metrics = open_store(measured).metrics
    for words in (
        "threshold on 5 frames in",
        "3 frames done of 5",
        "2 quarantined",
        "90.0 k pixels labelled",
        f"{metrics['overall']['mean_iou']:.3f} mean IoU",
        f"{100 * metrics['overall']['pixel_accuracy']:.1f} % pixel accuracy",
    ):
        assert words in top


def test_metrics_confusion_and_missing_truth_are_in_the_page(measured):
    page = Page(build(measured))
    metrics = open_store(measured).metrics
    for figures in metrics["overall"]["classes"].values():
        for ratio in ("precision", "recall", "iou", "dice"):
            assert f"{figures[ratio]:.3f}" in page.text
        assert f"{figures['pixels']:,}" in page.text
    for row in metrics["confusion"]["counts"]:
        for cell in row:
            assert f"{100 * cell / sum(row):.1f} %" in page.text
    assert "1 frame without usable truth: not scored" in page.words
    assert "lone.png" in page.text


@pytest.mark.parametrize(("frames", "said"), [(1, "1 frame,"), (1200, "1,200 frames,")])
def test_it_says_in_how_many_frames_corrections_prevail(measured, monkeypatch, frames, said):
    assert "put right by hand" not in Page(build(measured)).words
    real = open_store(measured).metrics
    monkeypatch.setattr(Store, "metrics", {**real, "corrected_frames": frames})
    assert f"put right by hand, in {said} prevails" in Page(build(measured)).words


def test_every_quarantined_frame_is_listed_with_its_reason(measured):
    page = Page(build(measured))
    rows = [r for r in open_store(measured).frames.to_pylist() if r["status"] == "corrupt"]
    assert len(rows) == 2
    for row in rows:
        assert row["reason"]
        assert row["name"] in page.text
        assert row["reason"] in page.text


def test_the_gallery_shows_the_worst_frames_first_with_their_errors(measured):
    page = Page(build(measured))
    titles = [a["alt"] for tag, a in page.tags if tag == "img"]
    assert titles == [
        f"{panel} of {name}"
        for name in ("poor.png", "good.png")
        for panel in ("image", "mask", "errors")
    ]
    image, _, errors = page.pictures()[:3]
    source = np.asarray(Image.open(os.path.join(measured, "..", "in", "poor.png")))
    shown, real = (cv2.blur(i, (9, 9)).astype(int) for i in (image, source))  # JPEG
    assert np.abs(shown - real).max() < 12
    red = (np.abs(errors[9:].astype(int) - draw.WRONG) < 50).all(-1)
    assert red.mean() == pytest.approx(0.3, abs=0.02)
    assert np.array_equal(errors[:9], draw.stripes(150, 200)[:9])


def test_without_truth_the_gallery_is_spread_and_clusters_have_their_colours(tmp_path):
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(6)
    for i in range(15):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)).save(
            tmp_path / "in" / f"{i:02d}.png"
        )
    store = run(tmp_path, {"kind": "kmeans", "clusters": 4, "scope": "run", "seed": 3})
    page = Page(build(store))
    alts = [a["alt"] for tag, a in page.tags if tag == "img"]
    names = [a.partition(" of ")[2] for a in alts if a.startswith("mask")]
    assert len(names) == _gallery.FRAMES
    assert names[0] == "00.png"
    assert names[-1] == "14.png"
    mask = page.pictures()[2]
    scene = next(iter(open_store(store).scenes.values()))
    assert np.array_equal(mask, scene.colors()[scene.mask[0, :20, :30]])
    fit = open_store(store).metrics["fits"][0]
    assert fit["name"] in page.text
    assert "Against the truth" not in page.words
    assert "inertia of the clusters" in page.words


def test_nothing_done_and_images_gone(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"no")
    page = Page(build(run(tmp_path, {"kind": "threshold"})))
    assert "0 frames done of 1" in page.words
    assert "not an image" in page.words
    assert not page.pictures()
    Image.effect_noise((40, 30), 90).save(tmp_path / "in" / "b.png")
    store = run(tmp_path, {"kind": "threshold"})
    (tmp_path / "in" / "b.png").unlink()
    page = Page(build(store))
    assert "1 frames done of 2" in page.words
    assert "image cannot be read now" in page.words
    (mask,) = page.pictures()
    scene = next(iter(open_store(store).scenes.values()))
    assert np.array_equal(mask, draw.colorize(scene.mask[0, :30, :40], scene.colors()))


def test_ten_thousand_scenes_make_a_page_of_five_hundred(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    Image.effect_noise((40, 30), 90).save(tmp_path / "in" / "b.png")
    path = run(tmp_path, {"kind": "threshold"})
    store, objects = open_store(path), SealedObjects(open_objects(path))
    (row,) = store.frames.to_pylist()
    rows = [{**row, "scene": f"s{i:05d}", "status": "done"} for i in range(10_000)]
    rows[7777] |= {"status": "hang", "reason": "600 s"}
    metrics = store.metrics
    metrics["scenes"] = {r["scene"]: metrics["scenes"][row["scene"]] for r in rows}
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=store.frames.schema), sink)
    objects.put("tables/frames.parquet", sink.getvalue())
    objects.put("metrics.json", json.dumps(metrics).encode())
    objects.commit()
    monkeypatch.setattr(_gallery, "_chosen", lambda metrics, frames: [row])  # the one there is
    page = Page(build(path))
    table = page.words.partition("Scenes 500 of 10,000;")[2]
    assert table.index("s07777") < table.index("s00000") < table.index("s00100")
    assert "s00498" in table
    assert "s00499" not in table
    assert len(page.source) < 2_000_000


def test_throughput_over_time_holds_all_pixels_of_the_last_run():
    rng = np.random.default_rng(8)
    ends = np.sort(rng.uniform(1e9, 1e9 + 300, 500))
    shards = pa.table(
        {
            "finished": np.concatenate([ends - 86_400, ends]),
            "seconds": rng.uniform(0.1, 2, 1000),
            "pixels": rng.integers(1, 1 << 20, 1000),
        }
    )
    chart = _charts.throughput(shards)
    assert (chart["shards"], chart["earlier"]) == (500, 500)
    last = shards.slice(500)
    pixels = sum(last["pixels"].to_pylist())
    assert chart["mean"] * chart["seconds"] == pytest.approx(pixels)
    points = np.array([p.split(",") for p in chart["line"][1:].split(" L")], float)
    height = chart["height"] - points[::2, 1]
    rate = height * chart["peak"] / height.max()
    assert rate.mean() * chart["seconds"] == pytest.approx(pixels, rel=0.01)
    assert _charts.throughput(shards.slice(0, 0)) is None


def test_the_matrix_puts_matched_columns_on_the_diagonal():
    confusion = {
        "rows": ["a", "b"],
        "columns": ["cluster 0", "cluster 1", "cluster 2", "void"],
        "counts": [[1, 2, 7, 0], [0, 0, 0, 0]],
    }
    matrix = _content._matrix(confusion, {0: 1, 1: None, 2: 0})
    assert matrix["columns"] == ["cluster 2", "cluster 0", "cluster 1", "void"]
    first, second = matrix["rows"]
    assert [c["share"] for c in first["cells"]] == [0.7, 0.1, 0.2, 0.0]
    assert [c["right"] for c in first["cells"]] == [True, False, False, False]
    assert [c["share"] for c in second["cells"]] == [None] * 4


def test_a_store_without_tables_or_no_store_is_said_so(tmp_path):
    with pytest.raises(JobError, match="no segengine store"):
        build(str(tmp_path / "nothing"))
    objects = open_objects(str(tmp_path / "s.zarr"))
    job = {"name": "n", "segmenter": {"kind": "threshold"}}
    write_root(objects, {"version": 1, "job": job, "classes": ["a"], "colors": [[0, 0, 0]]})
    with pytest.raises(StoreError, match="not there yet; finish the run"):
        build(str(tmp_path / "s.zarr"))
